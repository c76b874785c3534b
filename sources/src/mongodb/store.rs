//! The store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use ledger_core::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryId, Error,
    ErrorKind, ExpectedVersion, Labels, Lag, NewEntry, Page, Pairs, Query, ReadOptions, Result,
    Search, SourceId, Stat, Store, StoreName, StreamName, Timestamp,
};
use ledger_layout::StoreOptions;
use ledger_layout::log::Position;
use ledger_layout::mongodb::{
    Collections, Deployment, LOG_TAG, MongoConfig, MongoContents, MongoDatabase, PRUNE_ROWS, Role,
    failed, load, open_source, promote, prune,
};
use ledger_layout::mongodb_transaction;
use mongodb::bson::doc;
use mongodb::options::IndexOptions;
use mongodb::{ClientSession, IndexModel};
use tokio::sync::{Mutex, MutexGuard};

use super::append::Asked;
use super::consumers::{MongoConsumers, row_of};
use super::dead_letters::MongoDeadLetters;
use super::group::Group;
use super::labels::TRIM_ENTRIES;
use super::search::Needle;
use super::transaction::MongoTransaction;
use super::{changes, group, labels, read, snapshot};

/// How often, in microseconds, appends look for log rows to be pruned.
const PRUNE_EVERY: i64 = 60_000_000;

/// A store in a MongoDB database. Clones are handles on the same store, closed together.
///
/// # Behavior
/// - On a replica set every mutation is one transaction, and durable on the majority. Mutations of
///   one store take turns: those of this process wait for each other, and appends that wait share a
///   transaction; those of other processes are met as conflicts and tried again, for at most
///   [`MongoConfig::acquire_timeout`].
/// - A trim of more than 10,000 entries is several transactions, each with a change of its own.
/// - On a standalone server there are neither transactions nor a log: see
///   [`Deployment::Standalone`]. An append that breaks off in the middle then leaves the first of its
///   entries, and mutations of all processes wait for a lock in the store's document.
/// - A replica opens and reads like any other store; writing to one is `ReadOnly` until
///   [`promote`](Self::promote). It has no log.
#[derive(Clone)]
pub struct MongoStore(Arc<Inner>);

struct Inner {
    database: MongoDatabase,
    collections: Arc<Collections>,
    options: StoreOptions,
    /// Whether mutations are logged. It changes once, when a replica is promoted.
    log: AtomicBool,
    contents: MongoContents,
    consumers: MongoConsumers,
    dead_letters: MongoDeadLetters,
    /// When an append may look for log rows to be pruned again, in microseconds.
    prune_at: AtomicI64,
    /// The appends that wait.
    group: Group,
    /// Whose turn it is in this process.
    turn: Mutex<()>,
}

impl MongoStore {
    /// Opens a store, and creates it where it does not exist and may be created.
    ///
    /// `Unsupported` for a new store with a log on a server that is no member of a replica set.
    pub async fn open(config: MongoConfig, name: StoreName, options: StoreOptions) -> Result<Self> {
        let database = MongoDatabase::open(config).await?;
        Self::open_own(database, name, options).await
    }

    /// Opens a store on the connections of an open database.
    pub async fn open_on(
        database: &MongoDatabase,
        name: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::open_own(database.share(), name, options).await
    }

    async fn open_own(
        database: MongoDatabase,
        name: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        let collections = Collections::of(&name);
        let row = open_source(&database, &collections, options.log).await?;
        Ok(Self(Arc::new(Inner {
            log: AtomicBool::new(row.log),
            contents: MongoContents::new(database.clone(), Arc::clone(&collections)),
            consumers: MongoConsumers {
                database: database.clone(),
                collections: Arc::clone(&collections),
                position: row_of,
            },
            dead_letters: MongoDeadLetters {
                database: database.clone(),
                collections: Arc::clone(&collections),
            },
            prune_at: AtomicI64::new(Timestamp::now().as_micros() + PRUNE_EVERY),
            group: Group::default(),
            turn: Mutex::default(),
            database,
            collections,
            options,
        })))
    }

    /// The store's operations in the caller's session, as part of its open transaction. The session
    /// is one of [`database`](Self::database)'s client.
    pub fn within<'s>(&self, session: &'s mut ClientSession) -> MongoTransaction<'s> {
        MongoTransaction::new(self.clone(), session)
    }

    /// The database, for other stores in it to share its connections, and for sessions.
    pub fn database(&self) -> &MongoDatabase {
        &self.0.database
    }

    /// Whether the store is a replica.
    pub async fn is_replica(&self) -> Result<bool> {
        let row = load(&self.0.database, &self.0.collections.store).await?;
        Ok(row.is_some_and(|row| row.role == Role::Replica))
    }

    /// Makes a replica a source: it takes writes from now on, under a new identity, and its bridge
    /// is fenced off. Mutations are logged if this handle's options say so, on a replica set. A relay
    /// keeps its identity, and its log goes on.
    ///
    /// `AlreadyExists` names stream names and dedup keys that it holds more than once; `InvalidInput`
    /// for a store that is no replica.
    pub async fn promote(&self) -> Result<()> {
        let Inner {
            database,
            collections,
            options,
            ..
        } = &*self.0;
        let row = promote(database, collections, options.log).await?;
        self.0.log.store(row.log, Ordering::Release);
        Ok(())
    }

    /// Makes the text index that full-text search needs, over every text of the entries' documents:
    /// those of payloads, and also their keys, tags, metadata and annotations. It takes as long as
    /// there are entries; made once, MongoDB keeps it. Words are compared without stemming.
    pub async fn ensure_search_index(&self) -> Result<()> {
        let Inner {
            database,
            collections,
            ..
        } = &*self.0;
        database.check_open()?;
        let options = IndexOptions::builder()
            .name("search".to_owned())
            .default_language("none".to_owned())
            // A field of a payload that is called `language` says nothing about the payload.
            .language_override("ledger_language".to_owned())
            .build();
        let index = IndexModel::builder()
            .keys(doc! {"$**": "text"})
            .options(options)
            .build();
        let made = database
            .collection(&collections.entries)
            .create_index(index)
            .await;
        made.map_err(|error| failed("make search index", "", error))?;
        Ok(())
    }

    /// Removes the log rows that nobody may need any more, by the retention of this handle's
    /// options, and tells how many. Appends do the same now and then.
    pub async fn prune(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let chunk = self.prune_chunk().await?;
            removed += chunk;
            if chunk < PRUNE_ROWS.unsigned_abs() {
                return Ok(removed);
            }
        }
    }

    async fn prune_chunk(&self) -> Result<u64> {
        const OPERATION: &str = "prune the mutation log";
        let Inner {
            database,
            collections,
            options,
            ..
        } = &*self.0;
        let _turn = self.turn().await;
        mongodb_transaction!(database, OPERATION, tx => prune(tx, collections, options.retention))
    }

    /// Prunes a chunk where it is time to. What fails here fails again at the next append, so it
    /// fails none.
    async fn prune_in_passing(&self) {
        let now = Timestamp::now().as_micros();
        let due = self.0.prune_at.load(Ordering::Relaxed);
        let next = now.saturating_add(PRUNE_EVERY);
        if !self.logs()
            || now < due
            || self
                .0
                .prune_at
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        match self.prune_chunk().await {
            // There may be more.
            Ok(removed) if removed == PRUNE_ROWS.unsigned_abs() => {
                self.0.prune_at.store(now, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = error.chain(), "the mutation log was not pruned"),
        }
    }

    pub(super) fn group(&self) -> &Group {
        &self.0.group
    }

    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    pub(super) fn committed(&self) {
        self.0.database.committed(&self.0.collections.store);
    }

    pub(super) fn collections(&self) -> &Collections {
        &self.0.collections
    }

    pub(super) fn logs(&self) -> bool {
        self.0.log.load(Ordering::Acquire)
    }

    pub(super) fn check_labels(&self) -> Result<()> {
        if self.0.options.append_only {
            let what = format!("store {} is append-only", self.0.collections.store);
            return Err(Error::new(ErrorKind::Unsupported, "change labels", what));
        }
        Ok(())
    }
}

/// Runs a mutation when it is this process's turn, and wakes readers of the log.
macro_rules! mutate {
    ($store:ident, $operation:expr, $tx:ident => $body:expr) => {{
        let turn = $store.turn().await;
        let done = mongodb_transaction!($store.0.database, $operation, $tx => $body);
        drop(turn);
        $store.committed();
        done
    }};
}

#[async_trait]
impl Store for MongoStore {
    fn name(&self) -> &StoreName {
        &self.0.collections.store
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        self.0.database.check_open()?;
        let asked = Asked::new(stream, entries, expected, self.logs())?;
        let appended = group::append(self, asked).await?;
        self.prune_in_passing().await;
        Ok(appended)
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let (database, collections) = (&self.0.database, self.collections());
        read::page(database, None, collections, Some(stream), None, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        let Inner {
            database,
            collections,
            ..
        } = &*self.0;
        database.check_open()?;
        let mut session = match database.deployment() {
            Deployment::Standalone => None,
            Deployment::ReplicaSet => {
                let session = database.client().start_session().snapshot(true).await;
                Some(session.map_err(|error| failed("stat", "", error))?)
            }
        };
        read::stat(database, session.as_mut(), collections, stream).await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let mut removed = 0;
        loop {
            let most = Some(TRIM_ENTRIES);
            let chunk = mutate!(self, "trim", tx => {
                labels::trim(tx, self.collections(), stream, through, most)
            })?;
            removed += chunk;
            if chunk < TRIM_ENTRIES {
                return Ok(removed);
            }
        }
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        read::streams(&self.0.database, None, self.collections(), after, limit).await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        mutate!(self, "rename stream", tx => labels::rename(tx, self.collections(), from, to))
    }

    fn labels(&self) -> Option<&dyn Labels> {
        (!self.0.options.append_only).then_some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        self.logs().then_some(self)
    }

    async fn close(&self) {
        self.0.database.close().await;
    }
}

#[async_trait]
impl Labels for MongoStore {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        mutate!(self, "set tags", tx => {
            labels::set_tags(tx, self.collections(), stream, id, &tags)
        })
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        mutate!(self, "set annotations", tx => {
            labels::set_annotations(tx, self.collections(), stream, id, &set, &delete)
        })
    }
}

#[async_trait]
impl Search for MongoStore {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let needle = Needle::of(query, self.0.options.full_text)?;
        let (database, collections) = (&self.0.database, self.collections());
        read::page(database, None, collections, stream, Some(&needle), options).await
    }
}

#[async_trait]
impl ChangeLog for MongoStore {
    async fn identity(&self) -> Result<SourceId> {
        let store = &self.0.collections.store;
        let row = load(&self.0.database, store).await?.ok_or_else(|| {
            let what = format!("store {store}");
            Error::new(ErrorKind::NotFound, "identify store", what)
        })?;
        // A replica set may be restored under another name; whether a copy is the history that a
        // cursor is of, the digest in the cursor tells.
        Ok(SourceId {
            store: row.uuid,
            system: "mongodb".to_owned(),
            timeline: 1,
            origins: row
                .source
                .map(|source| source.passed_on())
                .unwrap_or_default(),
        })
    }

    fn start(&self) -> Cursor {
        Position::START.to_cursor(LOG_TAG)
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        let (database, collections) = (self.0.database.clone(), Arc::clone(&self.0.collections));
        changes::follow(database, collections, &after)
    }

    async fn head(&self) -> Result<Cursor> {
        changes::head(&self.0.database, self.collections()).await
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        changes::lag(&self.0.database, self.collections(), after).await
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        let (database, collections) = (self.0.database.clone(), Arc::clone(&self.0.collections));
        snapshot::snapshot(database, collections, after.as_ref())
    }

    async fn size(&self) -> Result<u64> {
        changes::sum(&self.0.database, &self.0.collections.streams, "$live").await
    }

    fn contents(&self) -> &dyn Contents {
        &self.0.contents
    }

    fn consumers(&self) -> &dyn Consumers {
        &self.0.consumers
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.0.dead_letters
    }
}

impl fmt::Display for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}",
            self.0.collections.store,
            self.0.database.config()
        )
    }
}

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore")
            .field("store", &self.0.collections.store)
            .field("database", &self.0.database)
            .finish_non_exhaustive()
    }
}
