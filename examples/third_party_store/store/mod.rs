//! A store as a third party would write it: everything in memory, every rule in plain sight.
//!
//! It is the reference for who implements [`Store`] for a database of their own, and the proof
//! that the conformance suite can be passed by a store that knows nothing of Ledger's backends.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the handle, and [`Store`] |
//! | `state.rs` | the data, and every mutation of it with its place in the log |
//! | `query.rs` | pages and searching |
//! | `log.rs` | [`ChangeLog`]: following, heads, snapshots |
//! | `position.rs` | cursors |
//! | `contents.rs` | the content for verification |
//! | `consumers.rs` | consumers, leases, dead letters |
//! | `harness.rs` | what the conformance suite needs |

mod consumers;
mod contents;
mod harness;
mod log;
mod position;
mod query;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ledger_core::{
    Appended, ChangeLog, EntryId, Error, ErrorKind, ExpectedVersion, Labels, NewEntry, Page, Pairs,
    ReadOptions, Result, Search, Stat, Store, StoreName, StreamName, check_text, checked_tags,
};
use tokio::sync::watch;

pub(crate) use harness::MemoryHarness;
use state::State;

/// The data of one store, which all its handles share.
#[derive(Debug)]
struct Shared {
    /// What is committed.
    state: Mutex<State>,
    /// Held by who writes, for as long as a transaction lasts; readers do not need it. It is what
    /// makes the order of ids, of the log and of effects one order.
    writer: Arc<tokio::sync::Mutex<()>>,
    /// Wakes those who wait for changes.
    committed: watch::Sender<()>,
}

impl Shared {
    fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            writer: Arc::default(),
            committed: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A mutation checks everything before it changes anything, so a panic leaves no half.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on a store in memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    name: StoreName,
    shared: Arc<Shared>,
    /// Whether this handle was closed; its readers watch it.
    closed: watch::Sender<bool>,
}

impl MemoryStore {
    fn new(name: StoreName, shared: Arc<Shared>) -> Self {
        Self {
            name,
            shared,
            closed: watch::Sender::new(false),
        }
    }

    /// Reads what is committed.
    fn view<T>(&self, view: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        self.check_open()?;
        view(&self.shared.lock())
    }

    /// Mutates the state, all or nothing, and wakes the readers.
    async fn mutate<T>(&self, mutate: impl FnOnce(&mut State) -> Result<T> + Send) -> Result<T> {
        self.check_open()?;
        let _writer = self.shared.writer.lock().await;
        let done = mutate(&mut self.shared.lock());
        self.shared.committed.send_replace(());
        done
    }

    fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(
                ErrorKind::Closed,
                "use store",
                self.name.as_str(),
            ));
        }
        Ok(())
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory:{}", self.name)
    }
}

/// The checks that every backend shares; nothing is written before they are done.
fn checked(entries: Vec<NewEntry>) -> Result<Vec<NewEntry>> {
    entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| entry.checked(index))
        .collect()
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &StoreName {
        &self.name
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let entries = checked(entries)?;
        self.mutate(|state| state.append(stream, entries, expected))
            .await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        self.view(|state| Ok(query::page(state, Some(stream), options, |_| true)))
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        self.view(|state| {
            Ok(state
                .stream(stream)
                .map(state::Stream::stat)
                .unwrap_or_default())
        })
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        self.mutate(|state| Ok(state.trim(stream, through))).await
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        self.view(|state| Ok(query::streams(state, after, limit)))
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        self.mutate(|state| state.rename(from, to)).await
    }

    fn labels(&self) -> Option<&dyn Labels> {
        Some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        Some(self)
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

#[async_trait]
impl Labels for MemoryStore {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        let tags = checked_tags("tags", tags)?;
        self.mutate(|state| state.set_tags(stream, id, tags)).await
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        for text in set.iter().flat_map(|(key, value)| [key, value]) {
            check_text("annotations", text)?;
        }
        self.mutate(|state| state.set_annotations(stream, id, set, &delete))
            .await
    }
}
