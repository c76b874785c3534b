//! The recent changes of a store, read once and shown to everyone who follows it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use ledger_core::{
    Change, ChangeLog, Cursor, Error, ErrorKind, Item as _, Result, Store, StoreName,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The most changes that are handed over at a time.
const TAKE: usize = 256;

/// How long to wait before the log is opened again after an error.
const RETRY: Duration = Duration::from_millis(500);

/// The feeds of the stores that are followed now.
#[derive(Debug)]
pub(crate) struct Feeds {
    bytes: usize,
    open: Mutex<HashMap<StoreName, Weak<Feed>>>,
}

impl Feeds {
    /// Each feed keeps about this many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            open: Mutex::default(),
        }
    }

    /// The feed of a store; the first who follows it starts it, and it ends with the last. None for
    /// a store without a log.
    pub(crate) async fn of(&self, store: &Arc<dyn Store>) -> Result<Option<Arc<Feed>>> {
        if let Some(feed) = self.running(store) {
            return Ok(Some(feed));
        }
        let Some(log) = store.log() else {
            return Ok(None);
        };
        let head = log.head().await?;
        let mut open = lock(&self.open);
        // Somebody else may have been faster.
        if let Some(feed) = running(&open, store) {
            return Ok(Some(feed));
        }
        open.retain(|_, feed| feed.strong_count() > 0);
        let feed = Feed::start(Arc::clone(store), head, self.bytes);
        open.insert(store.name().clone(), Arc::downgrade(&feed));
        Ok(Some(feed))
    }

    fn running(&self, store: &Arc<dyn Store>) -> Option<Arc<Feed>> {
        running(&lock(&self.open), store)
    }
}

fn running(open: &HashMap<StoreName, Weak<Feed>>, store: &Arc<dyn Store>) -> Option<Arc<Feed>> {
    let feed = open.get(store.name())?.upgrade()?;
    // A store that was opened anew has a feed of its own.
    Arc::ptr_eq(&feed.store, store).then_some(feed)
}

/// The newest changes of one store.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    ring: Arc<Ring>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Ring {
    kept: Mutex<Kept>,
    /// The number of the change that will come next; whoever waits for it watches this.
    next: watch::Sender<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// The number of the first change that is kept.
    first: u64,
    /// The position before that change.
    before: Cursor,
    /// The position of the newest change.
    end: Cursor,
}

/// A place in a feed: behind a position of the log, at the number of a change.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    next: u64,
    after: Cursor,
}

/// What a feed has for a place.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Changes; an empty row where there are none yet.
    Changes(Vec<Arc<Change>>),
    /// The place is no longer in the feed: read from the store itself.
    Lagged,
}

impl Feed {
    fn start(store: Arc<dyn Store>, head: Cursor, bytes: usize) -> Arc<Self> {
        let ring = Arc::new(Ring {
            kept: Mutex::new(Kept {
                changes: VecDeque::new(),
                bytes: 0,
                first: 0,
                before: head.clone(),
                end: head,
            }),
            next: watch::Sender::new(0),
            bytes,
        });
        let task = tokio::spawn(fill(Arc::clone(&store), Arc::clone(&ring)));
        Arc::new(Self {
            store,
            ring,
            task: task.abort_handle(),
        })
    }

    /// The place behind every change that the feed has seen.
    pub(crate) fn end(&self) -> Place {
        let kept = lock(&self.ring.kept);
        Place {
            next: kept.next(),
            after: kept.end.clone(),
        }
    }

    /// The place behind a position that the feed has met, and behind which it still has every
    /// change. Any other position, be it older, ahead of the feed or of another history, is the
    /// store's to judge.
    fn behind(&self, after: &Cursor) -> Option<Place> {
        let kept = lock(&self.ring.kept);
        let index = if *after == kept.before {
            0
        } else {
            let met = kept
                .changes
                .binary_search_by(|change| change.cursor.cmp(after));
            met.ok()? + 1
        };
        Some(Place {
            next: kept.first + index as u64,
            after: after.clone(),
        })
    }

    /// Takes what there is behind a place, and moves it.
    pub(crate) fn take(&self, place: &mut Place) -> Taken {
        let kept = lock(&self.ring.kept);
        let Some(index) = place.next.checked_sub(kept.first) else {
            return Taken::Lagged;
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let changes: Vec<_> = kept
            .changes
            .iter()
            .skip(index)
            .take(TAKE)
            .cloned()
            .collect();
        drop(kept);
        place.next += changes.len() as u64;
        if let Some(last) = changes.last() {
            place.after = last.cursor.clone();
        }
        Taken::Changes(changes)
    }

    /// Waits until there is something to take. May wake for nothing.
    pub(crate) async fn wait(&self, place: &Place) {
        let mut watching = self.ring.next.subscribe();
        // The sender lives as long as this feed.
        let _ = watching.wait_for(|next| *next > place.next).await;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }
}

impl Ring {
    fn push(&self, change: Change) {
        let mut kept = lock(&self.kept);
        kept.bytes += change.size();
        kept.end = change.cursor.clone();
        kept.changes.push_back(Arc::new(change));
        // The newest always stays, however large it is.
        while kept.bytes > self.bytes && kept.changes.len() > 1 {
            if let Some(oldest) = kept.changes.pop_front() {
                kept.bytes -= oldest.size();
                kept.first += 1;
                kept.before = oldest.cursor.clone();
            }
        }
        let next = kept.next();
        drop(kept);
        self.next.send_replace(next);
    }

    /// Begins anew at another position: whoever follows falls out, and learns from the store why.
    fn reset(&self, head: Cursor) {
        let mut kept = lock(&self.kept);
        kept.first = kept.next() + 1;
        kept.changes.clear();
        kept.bytes = 0;
        kept.before = head.clone();
        kept.end = head;
        let next = kept.next();
        drop(kept);
        self.next.send_replace(next);
    }

    fn end(&self) -> Cursor {
        lock(&self.kept).end.clone()
    }
}

/// Reads the log for as long as anyone follows.
async fn fill(store: Arc<dyn Store>, ring: Arc<Ring>) {
    let Some(log) = store.log() else { return };
    loop {
        let mut changes = log.changes(ring.end());
        let failure = loop {
            match changes.next().await {
                Some(Ok(change)) => ring.push(change),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        if let Some(error) = failure {
            tracing::warn!(store = %store, error = %error.chain(), "the feed of a store is interrupted");
            // What waiting does not mend, everyone who follows is to hear from the store itself.
            if !error.is_retryable() {
                let head = log.head().await;
                ring.reset(head.unwrap_or_else(|_| ring.end()));
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows a log from a position: from the store itself while it is behind, from the feed once it
/// has caught up.
pub(crate) struct Follow {
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    at: Followed,
}

enum Followed {
    Store(Cursor, futures::stream::BoxStream<'static, Result<Change>>),
    Feed(Place),
}

impl Follow {
    /// `Unsupported` for a store without a log.
    pub(crate) async fn new(feeds: &Feeds, store: &Arc<dyn Store>, after: Cursor) -> Result<Self> {
        let Some(feed) = feeds.of(store).await? else {
            return Err(no_log(&**store));
        };
        let mut follow = Self {
            store: Arc::clone(store),
            at: Followed::Feed(feed.end()),
            feed,
        };
        follow.seek(after)?;
        Ok(follow)
    }

    fn seek(&mut self, after: Cursor) -> Result<()> {
        self.at = match self.feed.behind(&after) {
            Some(place) => Followed::Feed(place),
            None => Followed::Store(after.clone(), self.log()?.changes(after)),
        };
        Ok(())
    }

    fn log(&self) -> Result<&dyn ChangeLog> {
        self.store.log().ok_or_else(|| no_log(&*self.store))
    }

    /// The position of the last change that was given.
    pub(crate) fn after(&self) -> &Cursor {
        match &self.at {
            Followed::Store(after, _) => after,
            Followed::Feed(place) => &place.after,
        }
    }

    /// The next changes, at least one, in log order. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Change>>> {
        loop {
            match &mut self.at {
                Followed::Store(after, changes) => {
                    let Some(change) = changes.next().await else {
                        let after = after.clone();
                        self.seek(after)?;
                        continue;
                    };
                    let change = change?;
                    *after = change.cursor.clone();
                    // From here the feed can go on, once it has what comes next.
                    if let Some(place) = self.feed.behind(&change.cursor) {
                        self.at = Followed::Feed(place);
                    }
                    return Ok(vec![Arc::new(change)]);
                }
                Followed::Feed(place) => match self.feed.take(place) {
                    Taken::Changes(changes) if changes.is_empty() => self.feed.wait(place).await,
                    Taken::Changes(changes) => return Ok(changes),
                    Taken::Lagged => {
                        let after = place.after.clone();
                        self.at = Followed::Store(after.clone(), self.log()?.changes(after));
                    }
                },
            }
        }
    }
}

pub(crate) fn no_log(store: &dyn Store) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "follow store",
        format!("{store} keeps no log of its changes"),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
