//! What a case works with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::TryStreamExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Ability, Ending, Harness};
use crate::{
    Appended, ChangeLog, Entry, EntryId, Error, ExpectedVersion, Labels, NewEntry, ReadOptions,
    Result, Search, Store, StoreExt as _, StoreName, StreamName,
};

/// One case at work: the harness, and a store name that was never used before.
#[derive(Clone)]
pub struct Case {
    harness: Arc<dyn Harness>,
    name: StoreName,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("store", &self.name)
            .finish_non_exhaustive()
    }
}

impl Case {
    /// The case of this name, as in [`CASES`](super::CASES).
    pub fn new(name: &str, harness: impl Harness) -> Self {
        // Two runs may share a database, so the name alone would not do; and it may be too long.
        let readable: String = name.replace("::", "_").chars().take(30).collect();
        let unique = Uuid::new_v4().as_u64_pair().0;
        let name = StoreName::new(format!("{readable}_{unique:016x}")).unwrap();
        Self {
            harness: Arc::new(harness),
            name,
        }
    }

    /// The case's store; called again, another handle on it.
    pub(super) async fn open(&self) -> Arc<dyn Store> {
        self.harness.open(&self.name).await.expect("open the store")
    }

    /// Another store.
    pub(super) async fn open_other(&self) -> Arc<dyn Store> {
        let name = StoreName::new(format!("o{}", self.name)).unwrap();
        self.harness.open(&name).await.expect("open another store")
    }

    /// The name of the case's store.
    pub(super) fn store_name(&self) -> &StoreName {
        &self.name
    }

    /// Whether the ability is there; prints why where it is not.
    pub(super) fn has(&self, ability: Ability) -> bool {
        let reason = self.harness.lacks(ability);
        if let Some(reason) = reason {
            println!("{ability:?} is declared as lacking: {reason}");
        }
        reason.is_none()
    }

    /// The store's labels; none where they are declared as lacking, and are.
    pub(super) fn labels<'a>(&self, store: &'a Arc<dyn Store>) -> Option<&'a dyn Labels> {
        self.agreed(Ability::Labels, store.labels())
    }

    /// The store's search; none where it is declared as lacking, and is.
    pub(super) fn search<'a>(&self, store: &'a Arc<dyn Store>) -> Option<&'a dyn Search> {
        self.agreed(Ability::Search, store.search())
    }

    /// The store's log; none where it is declared as lacking, and is.
    pub(super) fn log<'a>(&self, store: &'a Arc<dyn Store>) -> Option<&'a dyn ChangeLog> {
        self.agreed(Ability::Log, store.log())
    }

    fn agreed<T>(&self, ability: Ability, found: Option<T>) -> Option<T> {
        let declared = self.has(ability);
        assert_eq!(
            declared,
            found.is_some(),
            "{ability:?}: what the harness declares (left) and what the store offers (right)"
        );
        found
    }

    /// Prunes the log; false where that is declared as lacking, and is.
    pub(super) async fn prune(&self, store: &Arc<dyn Store>) -> bool {
        let pruned = self.harness.prune(store).await;
        self.agreed(Ability::Pruning, pruned)
            .map(|done| done.expect("prune the log"))
            .is_some()
    }

    /// An append in a transaction of the caller's own; none where that is declared as lacking, and
    /// is.
    pub(super) async fn transact(
        &self,
        store: &Arc<dyn Store>,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        ending: BoxFuture<'static, Ending>,
    ) -> Option<Result<Vec<Appended>>> {
        let done = self
            .harness
            .append_in_transaction(store, stream, entries, ending)
            .await;
        self.agreed(Ability::Transactions, done)
    }

    /// Begins a transaction in a task of its own, and comes back when its append was made. None
    /// where transactions are declared as lacking, and are.
    pub(super) async fn begin(
        &self,
        store: &Arc<dyn Store>,
        stream: &StreamName,
        entries: Vec<NewEntry>,
    ) -> Option<Open> {
        let (made, was_made) = oneshot::channel();
        let (end, ending) = oneshot::channel();
        let (case, store, stream) = (self.clone(), Arc::clone(store), stream.clone());
        let task = tokio::spawn(async move {
            let ending = async move {
                let _ = made.send(());
                ending.await.unwrap_or(Ending::RollBack)
            };
            case.transact(&store, &stream, entries, Box::pin(ending))
                .await
        });
        if was_made.await.is_err() {
            // It ended without polling the ending: it failed, or there are no transactions.
            let done = task.await.expect("the transaction");
            assert!(
                done.is_none(),
                "a transaction ended before it was told to: {done:?}"
            );
            return None;
        }
        Some(Open { end, task })
    }
}

/// A transaction that has appended and not ended.
pub(super) struct Open {
    end: oneshot::Sender<Ending>,
    task: JoinHandle<Option<Result<Vec<Appended>>>>,
}

impl Open {
    /// Ends it.
    pub(super) async fn end(self, ending: Ending) -> Vec<Appended> {
        self.end
            .send(ending)
            .expect("the transaction waits for its ending");
        let done = self.task.await.expect("the transaction");
        done.expect("transactions").expect("end the transaction")
    }
}

/// A stream name.
pub(super) fn name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

/// An entry with this text.
pub(super) fn entry(payload: &str) -> NewEntry {
    NewEntry::new(payload.to_owned())
}

/// Entries with these texts.
pub(super) fn entries(payloads: &[&str]) -> Vec<NewEntry> {
    payloads.iter().map(|payload| entry(payload)).collect()
}

/// Entries numbered from 0.
pub(super) fn numbered(count: usize) -> Vec<NewEntry> {
    (0..count)
        .map(|number| entry(&number.to_string()))
        .collect()
}

/// Appends, whatever the version.
pub(super) async fn append(
    store: &Arc<dyn Store>,
    stream: &StreamName,
    entries: Vec<NewEntry>,
) -> Vec<Appended> {
    store
        .append(stream, entries, ExpectedVersion::Any)
        .await
        .expect("append")
}

/// Appends entries of which none is a duplicate; their ids.
pub(super) async fn append_ids(
    store: &Arc<dyn Store>,
    stream: &StreamName,
    entries: Vec<NewEntry>,
) -> Vec<EntryId> {
    let appended = append(store, stream, entries).await;
    assert!(
        appended.iter().all(|appended| !appended.duplicate),
        "no duplicates: {appended:?}"
    );
    ids_of(&appended)
}

/// The ids of what was appended.
pub(super) fn ids_of(appended: &[Appended]) -> Vec<EntryId> {
    appended.iter().map(|appended| appended.id).collect()
}

/// All entries that fulfil the conditions, read page by page.
pub(super) async fn read(
    store: &Arc<dyn Store>,
    stream: &StreamName,
    options: ReadOptions,
) -> Vec<Entry> {
    store
        .read(stream, options)
        .try_collect()
        .await
        .expect("read")
}

/// All entries of a stream.
pub(super) async fn read_all(store: &Arc<dyn Store>, stream: &StreamName) -> Vec<Entry> {
    read(store, stream, ReadOptions::all()).await
}

/// The payloads as text.
pub(super) fn texts(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.payload).into_owned())
        .collect()
}

/// The ids.
pub(super) fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.id).collect()
}

/// Calls until it no longer fails for a passing reason such as a deadlock.
pub(super) async fn settled<T, F: Future<Output = Result<T>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Error> {
    const ATTEMPTS: usize = 100;
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            done => return done,
        }
    }
    call().await
}
