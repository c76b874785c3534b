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
use ledger_layout::sqlite::{
    Database, LOG_TAG, PRUNE_ROWS, Role, SqliteConfig, SqliteContents, Tables, Writer, failed,
    load, open_source, promote, prune, uint,
};
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, Transaction};

use super::append::{self, Prepared};
use super::consumers::SqliteConsumers;
use super::dead_letters::SqliteDeadLetters;
use super::group::Group;
use super::search::Needle;
use super::transaction::SqliteTransaction;
use super::{changes, group, labels, read, snapshot};

/// How often, in microseconds, appends look for log rows to be pruned.
const PRUNE_EVERY: i64 = 60_000_000;

/// A store in an SQLite database. Clones are handles on the same store, closed together.
///
/// # Behavior
/// - Writers take turns, in this process in the order they come, across processes as SQLite lets
///   them; one that waits longer than the busy timeout gets `Unavailable`.
/// - Appends that wait at the same moment share a transaction, and so a wait for the disk; each is
///   still accepted or refused by itself.
/// - A replica opens and reads like any other store; writing to one is `ReadOnly` until
///   [`promote`](Self::promote). It has a log where it is a relay.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    database: Database,
    tables: Arc<Tables>,
    options: StoreOptions,
    /// Whether mutations are logged. It changes once, when a replica is promoted.
    log: AtomicBool,
    contents: SqliteContents,
    consumers: SqliteConsumers,
    dead_letters: SqliteDeadLetters,
    /// When an append may look for log rows to be pruned again, in microseconds.
    prune_at: AtomicI64,
    /// The appends that wait for the write lock.
    group: Group,
}

impl SqliteStore {
    /// Opens a store, and creates file and store where they do not exist and may be created.
    ///
    /// `NotFound`, `InvalidInput` and `Corrupt` name what is wrong with the path; a file that the
    /// Go implementation made is refused untouched, and so is a schema from the future.
    pub async fn open(
        config: SqliteConfig,
        name: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        let database = Database::open(config).await?;
        match Self::open_on(&database, name, options).await {
            Ok(store) => {
                // The store has a handle of its own.
                database.close().await;
                Ok(store)
            }
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    /// Opens a store on the connections of an open database.
    pub async fn open_on(
        database: &Database,
        name: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        if options.full_text {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "open store",
                "full_text: SQLite stores have no full-text search",
            ));
        }
        if options.write_ahead_log {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "open store",
                "write_ahead_log: SQLite's tells no changes; the log is a table",
            ));
        }
        let tables = Tables::of(&name);
        let row = open_source(database, &tables, options.log).await?;
        let database = database.share();
        Ok(Self(Arc::new(Inner {
            log: AtomicBool::new(row.log),
            contents: SqliteContents::new(database.clone(), Arc::clone(&tables)),
            consumers: SqliteConsumers {
                database: database.clone(),
                tables: Arc::clone(&tables),
            },
            dead_letters: SqliteDeadLetters {
                database: database.clone(),
                tables: Arc::clone(&tables),
            },
            prune_at: AtomicI64::new(Timestamp::now().as_micros() + PRUNE_EVERY),
            group: Group::default(),
            database,
            tables,
            options,
        })))
    }

    /// The store's operations on the caller's connection, as part of its open transaction.
    pub fn within<'c>(&self, connection: &'c mut SqliteConnection) -> SqliteTransaction<'c> {
        SqliteTransaction::new(self.clone(), connection)
    }

    /// The database's writing connection, for transactions of the caller's own; other writers of
    /// this process wait until it is dropped. Calling the store itself meanwhile, and not
    /// [`within`](Self::within), waits in vain: `Unavailable` after the busy timeout.
    pub async fn writer(&self) -> Result<Writer> {
        self.0.database.writer().await
    }

    /// The database, for other stores in the same file to share its connections.
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// Whether the store is a replica, as it was when it was opened or promoted.
    pub async fn is_replica(&self) -> Result<bool> {
        let mut reader = self.0.database.reader().await?;
        let row = load(&mut reader, &self.0.tables.store).await;
        Ok(reader
            .done(row)?
            .is_some_and(|row| row.role == Role::Replica))
    }

    /// Makes a replica a source: it takes writes from now on, under a new identity, and its bridge
    /// is fenced off. Mutations are logged if this handle's options say so. A relay keeps its identity,
    /// and its log goes on.
    ///
    /// `AlreadyExists` names stream names and dedup keys that it holds more than once; `InvalidInput`
    /// for a store that is no replica.
    pub async fn promote(&self) -> Result<()> {
        const OPERATION: &str = "promote replica";
        let Inner {
            database,
            tables,
            options,
            ..
        } = &*self.0;
        let mut writer = database.writer().await?;
        let mut transaction = writer.begin().await?;
        let row = load(&mut transaction, &tables.store).await?;
        if row.is_none_or(|row| row.role != Role::Replica) {
            let what = format!("store {} is not a replica", tables.store);
            return Err(Error::invalid(OPERATION, what));
        }
        let row = promote(&mut transaction, tables, options.log).await?;
        commit(transaction, OPERATION).await?;
        self.0.log.store(row.log, Ordering::Release);
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
        let Inner {
            database,
            tables,
            options,
            ..
        } = &*self.0;
        let mut writer = database.writer().await?;
        let mut transaction = writer.begin().await?;
        let now = Timestamp::now();
        let removed = prune(&mut transaction, tables, options.retention, now).await?;
        commit(transaction, "prune the mutation log").await?;
        Ok(removed)
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

    pub(super) fn tables(&self) -> &Tables {
        &self.0.tables
    }

    pub(super) fn logs(&self) -> bool {
        self.0.log.load(Ordering::Acquire)
    }

    pub(super) fn check_labels(&self) -> Result<()> {
        if self.0.options.append_only {
            let what = format!("store {} is append-only", self.0.tables.store);
            return Err(Error::new(ErrorKind::Unsupported, "change labels", what));
        }
        Ok(())
    }
}

pub(super) async fn commit(
    transaction: Transaction<'_, Sqlite>,
    operation: &'static str,
) -> Result<()> {
    transaction
        .commit()
        .await
        .map_err(|error| failed(operation, error))
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &StoreName {
        &self.0.tables.store
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        self.0.database.check_open()?;
        let prepared = Prepared::new(entries, self.logs())?;
        let appended = match self.0.database.free_writer().await? {
            Some(mut writer) => {
                let mut transaction = writer.begin().await?;
                let tables = self.tables();
                let appended =
                    append::append(&mut transaction, tables, stream, prepared, expected).await?;
                commit(transaction, "append").await?;
                appended
            }
            None => group::append(self, stream, prepared, expected).await?,
        };
        self.prune_in_passing().await;
        Ok(appended)
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let mut reader = self.0.database.reader().await?;
        let page = read::page(&mut reader, self.tables(), Some(stream), None, options).await;
        reader.done(page)
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        let mut reader = self.0.database.reader().await?;
        let stat = read::stat(&mut reader, self.tables(), stream).await;
        reader.done(stat)
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let mut writer = self.0.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let removed = labels::trim(&mut transaction, self.tables(), stream, through).await?;
        commit(transaction, "trim").await?;
        Ok(removed)
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        let mut reader = self.0.database.reader().await?;
        let names = read::streams(&mut reader, self.tables(), after, limit).await;
        reader.done(names)
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        let mut writer = self.0.database.writer().await?;
        let mut transaction = writer.begin().await?;
        labels::rename(&mut transaction, self.tables(), from, to).await?;
        commit(transaction, "rename stream").await
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
impl Labels for SqliteStore {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        let mut writer = self.0.database.writer().await?;
        let mut transaction = writer.begin().await?;
        labels::set_tags(&mut transaction, self.tables(), stream, id, tags).await?;
        commit(transaction, "set tags").await
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        let mut writer = self.0.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let tables = self.tables();
        labels::set_annotations(&mut transaction, tables, stream, id, set, &delete).await?;
        commit(transaction, "set annotations").await
    }
}

#[async_trait]
impl Search for SqliteStore {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let needle = Needle::of(query)?;
        let mut reader = self.0.database.reader().await?;
        let page = read::page(&mut reader, self.tables(), stream, Some(&needle), options).await;
        reader.done(page)
    }
}

#[async_trait]
impl ChangeLog for SqliteStore {
    async fn identity(&self) -> Result<SourceId> {
        let mut reader = self.0.database.reader().await?;
        let row = load(&mut reader, &self.0.tables.store).await;
        let row = reader.done(row)?.ok_or_else(|| {
            let what = format!("store {}", self.0.tables.store);
            Error::new(ErrorKind::NotFound, "identify store", what)
        })?;
        // A file has no cluster and no timeline; whether a restored copy is the history that a
        // cursor is of, the digest in the cursor tells.
        Ok(SourceId {
            store: row.uuid,
            system: "sqlite".to_owned(),
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
        changes::follow(self.0.database.clone(), Arc::clone(&self.0.tables), &after)
    }

    async fn head(&self) -> Result<Cursor> {
        let mut reader = self.0.database.reader().await?;
        let head = changes::head(&mut reader, self.tables()).await;
        reader.done(head)
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        let mut reader = self.0.database.reader().await?;
        let lag = changes::lag(&mut reader, self.tables(), after).await;
        reader.done(lag)
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        let database = self.0.database.clone();
        snapshot::snapshot(database, Arc::clone(&self.0.tables), after.as_ref())
    }

    async fn size(&self) -> Result<u64> {
        let mut reader = self.0.database.reader().await?;
        let sql = format!(
            "SELECT coalesce(sum(live), 0) FROM {}",
            self.0.tables.streams
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut *reader)
            .await
            .map_err(|error| failed("count entries", error));
        uint(&reader.done(row)?, 0)
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

impl fmt::Display for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.0.tables.store, self.0.database.config())
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("store", &self.0.tables.store)
            .field("database", &self.0.database)
            .finish_non_exhaustive()
    }
}
