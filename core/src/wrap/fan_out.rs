//! One reading of a log for all who follow it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

use crate::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryId,
    ExpectedVersion, Item as _, Labels, Lag, NewEntry, Page, ReadOptions, Result, Search, SourceId,
    Stat, Store, StoreName, StreamName,
};

/// How long to wait before the log is read again after an error.
const AGAIN: Duration = Duration::from_millis(500);

/// A store whose log is read once for everyone who follows it: several bridges on one such store
/// share one reading.
///
/// The reading keeps the newest changes, up to a number of bytes. A follower that is behind them (it
/// has just begun, or its sink was away for a while) reads from the store itself until it has caught
/// up, and then takes part; so one slow follower holds up none of the others, and costs a bounded
/// amount of memory. What each gets is what it would get from the store: every change behind its
/// cursor, in order, and its own errors.
///
/// The reading begins with the first follower and ends with the wrapper. Everything else passes
/// through; closing closes the store inside.
pub struct FanOut<S> {
    store: Arc<S>,
    ring: Arc<Ring>,
    bytes: usize,
    reading: Mutex<bool>,
}

/// The newest changes.
#[derive(Default)]
struct Ring {
    kept: Mutex<Kept>,
    /// Moves with every change that is kept, and when there are none any more.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// The number of the first change that is kept.
    first: u64,
    /// The position before that change; none while the log is not being read.
    before: Option<Cursor>,
}

/// What the ring has for a follower.
enum Taken {
    Change(Arc<Change>),
    /// Nothing yet.
    Nothing,
    /// Its place is no longer kept.
    Lost,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    /// The number of the change behind a position, where that is a position of the ring's. It has to
    /// be one to the byte: a cursor of another history is not.
    fn place(&self, at: &Cursor) -> Option<u64> {
        if self.before.as_ref() == Some(at) {
            return Some(self.first);
        }
        let found = self
            .changes
            .binary_search_by(|change| change.cursor.cmp(at))
            .ok()?;
        Some(self.first + u64::try_from(found).ok()? + 1)
    }

    fn take(&self, number: u64) -> Taken {
        let Some(at) = number
            .checked_sub(self.first)
            .filter(|_| self.before.is_some())
        else {
            return Taken::Lost;
        };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        match self.changes.get(at) {
            Some(change) => Taken::Change(Arc::clone(change)),
            None if at == self.changes.len() => Taken::Nothing,
            None => Taken::Lost,
        }
    }

    fn push(&mut self, change: Change, bytes: usize) {
        self.bytes += change.size();
        self.changes.push_back(Arc::new(change));
        while self.bytes > bytes {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(oldest.size());
            self.first += 1;
            self.before = Some(oldest.cursor.clone());
        }
    }

    /// Keeps nothing any more; a number that was a place is none from now on.
    fn clear(&mut self, before: Option<Cursor>) {
        self.first += u64::try_from(self.changes.len()).unwrap_or(0) + 1;
        self.changes.clear();
        self.bytes = 0;
        self.before = before;
    }
}

impl<S: Store> FanOut<S> {
    /// Reads the log of `store` once for all, and keeps about this many bytes of its newest changes.
    pub fn new(store: S, bytes: usize) -> Self {
        Self {
            store: Arc::new(store),
            ring: Arc::default(),
            bytes,
            reading: Mutex::new(false),
        }
    }

    /// Begins the reading with the first follower.
    fn read(&self) {
        if std::mem::replace(&mut *lock(&self.reading), true) {
            return;
        }
        let (store, ring) = (Arc::downgrade(&self.store), Arc::downgrade(&self.ring));
        tokio::spawn(read(store, ring, self.bytes));
    }
}

/// Reads the log from its head as long as there is a wrapper.
async fn read<S: Store>(store: Weak<S>, ring: Weak<Ring>, bytes: usize) {
    loop {
        let Some(log) = store.upgrade() else { return };
        let opened = match log.log() {
            Some(log) => log
                .head()
                .await
                .map(|head| (log.changes(head.clone()), head)),
            None => return,
        };
        drop(log);
        let mut changes = match opened {
            Ok((changes, head)) => {
                let Some(ring) = ring.upgrade() else { return };
                lock(&ring.kept).clear(Some(head));
                ring.moved.send_modify(|moved| *moved += 1);
                changes
            }
            Err(error) => {
                tracing::debug!(error = %error.chain(), "the shared reading does not begin yet");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        loop {
            // The wrapper may be gone while nothing comes.
            let next = tokio::time::timeout(AGAIN, changes.next()).await;
            let Some(ring) = ring.upgrade() else { return };
            match next {
                Err(_) => {}
                Ok(Some(Ok(change))) => {
                    lock(&ring.kept).push(change, bytes);
                    ring.moved.send_modify(|moved| *moved += 1);
                }
                Ok(ended) => {
                    // Each follower goes on by itself, and is told what is wrong by the store.
                    lock(&ring.kept).clear(None);
                    ring.moved.send_modify(|moved| *moved += 1);
                    if let Some(Err(error)) = ended {
                        tracing::debug!(error = %error.chain(), "the shared reading broke off");
                    }
                    break;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Somebody who follows.
struct Follower<S> {
    store: Arc<S>,
    ring: Arc<Ring>,
    moved: watch::Receiver<u64>,
    at: Cursor,
    from: From,
}

enum From {
    /// The ring, from the change of this number on.
    Ring(u64),
    /// The store itself, which is behind the ring or ahead of it.
    Store(BoxStream<'static, Result<Change>>),
}

impl<S: Store> Follower<S> {
    fn read_store(&self) -> From {
        match self.store.log() {
            Some(log) => From::Store(log.changes(self.at.clone())),
            None => From::Store(stream::empty().boxed()),
        }
    }

    async fn next(&mut self) -> Option<Result<Change>> {
        loop {
            self.moved.mark_unchanged();
            match &mut self.from {
                From::Ring(number) => {
                    let taken = lock(&self.ring.kept).take(*number);
                    match taken {
                        Taken::Change(change) => {
                            *number += 1;
                            self.at = change.cursor.clone();
                            return Some(Ok(Change::clone(&change)));
                        }
                        // The sender is part of the ring, which this holds.
                        Taken::Nothing => drop(self.moved.changed().await),
                        Taken::Lost => self.from = self.read_store(),
                    }
                }
                From::Store(changes) => {
                    let place = lock(&self.ring.kept).place(&self.at);
                    if let Some(number) = place {
                        self.from = From::Ring(number);
                        continue;
                    }
                    tokio::select! {
                        biased;
                        change = changes.next() => {
                            if let Some(Ok(change)) = &change {
                                self.at = change.cursor.clone();
                            }
                            return change;
                        }
                        _ = self.moved.changed() => {}
                    }
                }
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> ChangeLog for FanOut<S> {
    async fn identity(&self) -> Result<SourceId> {
        inner(&self.store)?.identity().await
    }

    #[allow(
        clippy::expect_used,
        reason = "this is handed out as a log only where there is one, and a store does not lose it"
    )]
    fn start(&self) -> Cursor {
        self.store.log().expect("a log").start()
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        self.read();
        let mut follower = Follower {
            store: Arc::clone(&self.store),
            ring: Arc::clone(&self.ring),
            moved: self.ring.moved.subscribe(),
            at: after,
            from: From::Ring(0),
        };
        follower.from = follower.read_store();
        stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            let change = follower.next().await?;
            let next = change.is_ok().then_some(follower);
            Some((change, next))
        })
        .boxed()
    }

    async fn head(&self) -> Result<Cursor> {
        inner(&self.store)?.head().await
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        inner(&self.store)?.lag(after).await
    }

    #[allow(clippy::expect_used, reason = "as above")]
    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        self.store.log().expect("a log").snapshot(after)
    }

    async fn size(&self) -> Result<u64> {
        inner(&self.store)?.size().await
    }

    #[allow(clippy::expect_used, reason = "as above")]
    fn contents(&self) -> &dyn Contents {
        self.store.log().expect("a log").contents()
    }

    #[allow(clippy::expect_used, reason = "as above")]
    fn consumers(&self) -> &dyn Consumers {
        self.store.log().expect("a log").consumers()
    }

    #[allow(clippy::expect_used, reason = "as above")]
    fn dead_letters(&self) -> &dyn DeadLetters {
        self.store.log().expect("a log").dead_letters()
    }
}

fn inner(store: &impl Store) -> Result<&dyn ChangeLog> {
    store.log().ok_or_else(|| {
        let what = format!("{store} keeps no mutation log");
        crate::Error::new(crate::ErrorKind::Unsupported, "follow store", what)
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for FanOut<S> {
    fn name(&self) -> &StoreName {
        self.store.name()
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        self.store.append(stream, entries, expected).await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        self.store.page(stream, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        self.store.stat(stream).await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        self.store.trim(stream, through).await
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        self.store.streams(after, limit).await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        self.store.rename(from, to).await
    }

    fn labels(&self) -> Option<&dyn Labels> {
        self.store.labels()
    }

    fn search(&self) -> Option<&dyn Search> {
        self.store.search()
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        self.store.log().is_some().then_some(self as &dyn ChangeLog)
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

impl<S: Store> fmt::Display for FanOut<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fan-out({})", self.store)
    }
}

impl<S: Store> fmt::Debug for FanOut<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOut")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
