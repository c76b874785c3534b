//! The stores of the daemon: opened when first asked for, and shared.

mod absent;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use ledger::connect::{DatabaseUrl, Stores as Database};
use ledger::observe::Recorder;
use ledger::{
    Error, ErrorKind, FanOut, Observed, PipelineId, Result, Retention, Store, StoreName,
    StoreOptions,
};
use ledger_server::{Identity, StoreState, StoreStatus, Stores};
use tokio::time::Instant;

use absent::Absent;

/// How long a store's backend is not asked again after it did not answer: calls meanwhile get the
/// same answer at once, instead of each waiting for a connection.
const PAUSE: Duration = Duration::from_secs(1);

/// How long opening may take before the call is `Unavailable`.
const OPENING: Duration = Duration::from_secs(10);

/// How long an open store may take to answer before it counts as away, and how many are asked at a
/// time.
const ANSWER: Duration = Duration::from_secs(2);
const CHECKS: usize = 8;

/// How long the database may take to tell which stores it has.
const LISTING: Duration = Duration::from_secs(1);

/// How many names of stores that do not exist are kept at a time. Beyond it they are forgotten and
/// looked up again: whoever asks for ever new names takes no memory.
const ABSENT: usize = 1_024;

/// How many bytes of a log's newest changes its followers share.
const SHARED: usize = 8 << 20;

/// A store, and what shares the reading of its log as long as somebody follows it.
type Followed = (Arc<dyn Store>, Weak<FanOut<Arc<dyn Store>>>);

/// The stores of the daemon.
#[derive(Debug)]
pub(crate) struct Served {
    database: Database,
    /// Counts the calls to the stores, beside those that only look whether they answer.
    recorder: Arc<dyn Recorder>,
    /// The stores that are opened, where they exist, without being asked for; readiness waits for
    /// them.
    named: Vec<StoreName>,
    /// Whether only those may be used.
    closed: bool,
    known: Mutex<BTreeMap<StoreName, Arc<Entry>>>,
    /// The stores whose logs are followed, each with what shares the reading of its log.
    followed: Mutex<BTreeMap<StoreName, Followed>>,
    /// How long logs are kept.
    retention: Retention,
    /// The stores that the database held when it was asked last.
    present: Mutex<Vec<StoreName>>,
}

/// A store that was asked for.
#[derive(Debug)]
struct Entry {
    name: StoreName,
    /// Held while it is opened, so that this happens once.
    opening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Arc<dyn Store>>,
    /// The same, not observed.
    bare: Option<Arc<dyn Store>>,
    /// Stands in for the store until there is one; with when it was looked for last, since another
    /// process may make it too.
    absent: Option<(Instant, Arc<dyn Store>)>,
    /// Why it could not be opened, and when that was tried.
    failed: Option<(Instant, Failed)>,
    /// Why it does not answer although it is open.
    silent: Option<String>,
}

/// An error that is told more than once.
#[derive(Debug, Clone)]
struct Failed {
    kind: ErrorKind,
    text: String,
}

impl Failed {
    fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            text: error.chain(),
        }
    }

    fn error(&self) -> Error {
        Error::new(self.kind, "open store", self.text.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Served {
    /// The stores of the database at `url`: those that the configuration allows, or where it allows
    /// all, those that there are, `expected` among them.
    pub(crate) fn new(
        (url, options): (DatabaseUrl, StoreOptions),
        allowed: &[StoreName],
        expected: StoreName,
        recorder: Arc<dyn Recorder>,
    ) -> Arc<Self> {
        let closed = !allowed.is_empty();
        Arc::new(Self {
            recorder,
            retention: options.retention,
            database: Database::new(url, options),
            named: if closed {
                allowed.to_vec()
            } else {
                vec![expected]
            },
            closed,
            known: Mutex::default(),
            followed: Mutex::default(),
            present: Mutex::default(),
        })
    }

    /// A store that exists, or one that stands in for it until its first append makes it.
    pub(crate) async fn store(self: &Arc<Self>, name: &StoreName) -> Result<Arc<dyn Store>> {
        let entry = self.entry(name);
        if let Some(store) = entry.opened()? {
            return Ok(store);
        }
        if let Some((at, stand_in)) = &lock(&entry.state).absent
            && at.elapsed() < PAUSE
        {
            return Ok(Arc::clone(stand_in));
        }
        match entry.open(self, false).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut state = lock(&entry.state);
                let stand_in: Arc<dyn Store> = match state.absent.take() {
                    Some((_, stand_in)) => stand_in,
                    None => Arc::new(Absent::new(name.clone(), Arc::clone(self))),
                };
                state.absent = Some((Instant::now(), Arc::clone(&stand_in)));
                Ok(stand_in)
            }
            opened => opened,
        }
    }

    /// The store, created where it does not exist.
    pub(crate) async fn create(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        let entry = self.entry(name);
        if let Some(store) = entry.opened()? {
            return Ok(store);
        }
        entry.open(self, true).await
    }

    /// How long logs are kept.
    pub(crate) fn retention(&self) -> Retention {
        self.retention
    }

    /// As [`create`](Self::create), for somebody who follows the store's log, which is read once for
    /// all who do.
    pub(crate) async fn followed(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        let mut store = self.create(name).await?;
        if store.log().is_none() {
            // A replica that was made a relay, or a store of its own, since it was opened.
            let entry = self.entry(name);
            {
                let mut state = lock(&entry.state);
                (state.open, state.bare) = (None, None);
            }
            store = entry.open(self, true).await?;
        }
        let mut followed = lock(&self.followed);
        if let Some((inner, shared)) = followed.get(name)
            && Arc::ptr_eq(inner, &store)
            && let Some(shared) = shared.upgrade()
        {
            return Ok(shared);
        }
        let shared = Arc::new(FanOut::new(Arc::clone(&store), SHARED));
        followed.insert(name.clone(), (store, Arc::downgrade(&shared)));
        Ok(shared)
    }

    /// What keeps the state of hooks, in the database of the stores.
    pub(crate) async fn hook_state(&self) -> Result<Arc<dyn ledger::hook::State>> {
        let opening = tokio::time::timeout(OPENING, self.database.hook_state());
        opening.await.unwrap_or_else(|_| {
            let what = format!("{} did not answer in {OPENING:?}", self.database.url());
            Err(Error::new(ErrorKind::Unavailable, "open hook state", what))
        })
    }

    /// Takes a consumer's registration, and what it could not deliver, from the logs of all stores but
    /// `except`. Tells from how many.
    pub(crate) async fn unregister(
        self: &Arc<Self>,
        pipeline: &PipelineId,
        except: Option<&StoreName>,
    ) -> Result<usize> {
        self.look().await;
        let mut count = 0;
        for status in self.statuses() {
            if except == Some(&status.name) {
                continue;
            }
            let store = self.store(&status.name).await?;
            let Some(log) = store.log() else { continue };
            let known = match log.consumers().list().await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                known => known?,
            };
            if known.iter().any(|consumer| consumer.pipeline == *pipeline) {
                log.consumers().unregister(pipeline).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The store where it has been opened.
    fn opened(&self, name: &StoreName) -> Option<Arc<dyn Store>> {
        let entry = lock(&self.known).get(name).map(Arc::clone)?;
        let state = lock(&entry.state);
        state.open.clone()
    }

    /// Tries the database: opens what the configuration names, where that exists. An error that
    /// waiting will not mend is returned; another one shows in [`Stores::list`].
    pub(crate) async fn try_named(self: &Arc<Self>) -> Result<()> {
        for name in &self.named {
            match self.store(name).await {
                Ok(_) => {}
                Err(error) if error.is_retryable() || error.kind() == ErrorKind::Unavailable => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks the database which stores there are. One that does not answer has those that it had.
    async fn look(&self) {
        if let Ok(Ok(names)) = tokio::time::timeout(LISTING, self.database.names()).await {
            *lock(&self.present) = names;
        }
    }

    /// Asks the database which stores there are, every open one whether it answers, and tries
    /// again those that could not be opened.
    pub(crate) async fn check(self: &Arc<Self>) {
        self.look().await;
        let known: Vec<_> = lock(&self.known).values().cloned().collect();
        futures::stream::iter(&known)
            .for_each_concurrent(CHECKS, |entry| async move { entry.check().await })
            .await;
        let failed = |entry: &&Arc<Entry>| lock(&entry.state).failed.is_some();
        for entry in known.iter().filter(failed) {
            let tried = self.store(&entry.name).await;
            // The others are on the same database, and would wait as long.
            if tried.is_err() && failed(&entry) {
                return;
            }
        }
    }

    /// Why the daemon is not ready as far as stores are concerned.
    pub(crate) fn waiting(&self) -> Option<String> {
        self.statuses()
            .into_iter()
            .find(|status| status.state == StoreState::Unavailable)
            .map(|status| {
                let error = status.error.unwrap_or_default();
                format!("store {}: {error}", status.name)
            })
    }

    /// Closes everything: what stands in write-ahead logs is written to its place.
    pub(crate) async fn close(&self) {
        let known: Vec<_> = lock(&self.known).values().cloned().collect();
        for entry in known {
            let open = {
                let mut state = lock(&entry.state);
                state.bare = None;
                state.open.take()
            };
            if let Some(store) = open {
                store.close().await;
            }
        }
        self.database.close().await;
    }

    fn entry(&self, name: &StoreName) -> Arc<Entry> {
        let mut known = lock(&self.known);
        if let Some(entry) = known.get(name) {
            return Arc::clone(entry);
        }
        if known.len() >= ABSENT {
            // What nobody holds and what is no store is forgotten.
            known.retain(|name, entry| {
                Arc::strong_count(entry) > 1
                    || self.named.contains(name)
                    || lock(&entry.state).open.is_some()
            });
        }
        let entry = Arc::new(Entry {
            name: name.clone(),
            opening: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        });
        known.insert(name.clone(), Arc::clone(&entry));
        entry
    }

    /// The stores that are known, by name: those that were asked for, and those that were there when
    /// the database was asked last.
    pub(super) fn statuses(&self) -> Vec<StoreStatus> {
        let mut names = self.named.clone();
        names.extend(lock(&self.known).keys().cloned());
        let present = lock(&self.present).clone();
        if !self.closed {
            names.extend(present.iter().cloned());
        }
        names.sort();
        names.dedup();
        let backend = self.database.url().to_string();
        let status = |name: StoreName| {
            let entry = lock(&self.known).get(&name).map(Arc::clone);
            let state = entry.as_ref().map(|entry| lock(&entry.state));
            let (at, error) = match state.as_deref() {
                Some(State {
                    open: Some(_),
                    silent: Some(why),
                    ..
                }) => (StoreState::Unavailable, Some(why.clone())),
                Some(State { open: Some(_), .. }) => (StoreState::Ready, None),
                Some(State {
                    failed: Some((_, failed)),
                    ..
                }) => (StoreState::Unavailable, Some(failed.text.clone())),
                // A name that is no store is none to speak of.
                Some(State {
                    absent: Some(_), ..
                }) if !self.named.contains(&name) && !present.contains(&name) => return None,
                _ => (StoreState::Idle, None),
            };
            drop(state);
            Some(StoreStatus {
                name,
                state: at,
                backend: backend.clone(),
                error,
            })
        };
        names.into_iter().filter_map(status).collect()
    }
}

impl Entry {
    async fn check(&self) {
        let bare = lock(&self.state).bare.clone();
        let Some(store) = bare else { return };
        let answer = tokio::time::timeout(ANSWER, store.streams(None, 1)).await;
        let silent = match answer {
            Err(_) => Some(format!("it did not answer in {ANSWER:?}")),
            Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => Some(error.chain()),
            Ok(_) => None,
        };
        let mut state = lock(&self.state);
        match (&state.silent, &silent) {
            (None, Some(error)) => tracing::warn!(store = %self.name, error, "a store is away"),
            (Some(_), None) => tracing::info!(store = %self.name, "a store is back"),
            _ => {}
        }
        state.silent = silent;
    }

    /// The store where it is open; an error where its backend did not answer a moment ago.
    fn opened(&self) -> Result<Option<Arc<dyn Store>>> {
        let state = lock(&self.state);
        if let Some(store) = &state.open {
            return Ok(Some(Arc::clone(store)));
        }
        match &state.failed {
            Some((at, failed)) if at.elapsed() < PAUSE => Err(failed.error()),
            _ => Ok(None),
        }
    }

    async fn open(&self, served: &Served, create: bool) -> Result<Arc<dyn Store>> {
        let database = &served.database;
        let _opening = self.opening.lock().await;
        // Somebody else may have been faster.
        if let Some(store) = self.opened()? {
            return Ok(store);
        }
        let opening = async {
            if create {
                database.open(&self.name).await
            } else {
                database.open_existing(&self.name).await
            }
        };
        let opened = tokio::time::timeout(OPENING, opening)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Unavailable,
                    "open store",
                    format!("{} did not answer in {OPENING:?}", database.url()),
                ))
            });
        let bare = opened.as_ref().ok().map(Arc::clone);
        let opened = opened.map(|store| -> Arc<dyn Store> {
            let observed = Observed::new(store, database.url().scheme());
            Arc::new(observed.recorded_by(Arc::clone(&served.recorder)))
        });
        let mut state = lock(&self.state);
        match &opened {
            Ok(store) => {
                state.bare = bare;
                if state.failed.take().is_some() {
                    tracing::info!(store = %self.name, "the store is reachable again");
                }
                state.open = Some(Arc::clone(store));
                state.absent = None;
            }
            Err(error) if error.kind() == ErrorKind::Unavailable || error.is_retryable() => {
                if state.failed.is_none() {
                    tracing::warn!(store = %self.name, error = error.chain(), "a store cannot be opened; trying again");
                }
                state.failed = Some((Instant::now(), Failed::of(error)));
            }
            Err(_) => state.failed = None,
        }
        opened
    }
}

/// The handle that the service has.
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub(crate) Arc<Served>);

#[async_trait]
impl Stores for Handle {
    async fn get(&self, name: &StoreName, _: &Identity) -> Result<Arc<dyn Store>> {
        self.0.store(name).await
    }

    async fn list(&self) -> Vec<StoreStatus> {
        self.0.look().await;
        self.0.statuses()
    }
}
