//! The store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use ledger_core::{
    Appended, ChangeLog, EntryId, Error, ErrorKind, ExpectedVersion, Labels, NewEntry, Page,
    ReadOptions, Result, Search, Stat, Store, StoreName, StreamName,
};
use ledger_layout::StoreOptions;
use ledger_layout::log::Position;
use ledger_layout::postgres::{
    PostgresConfig, PostgresContents, PostgresDatabase, Role, StoreRow, Tables, check_server,
    failed, find_store, open_store,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::append::Prepared;
use super::group::{self, Group};
use super::prune::Pruner;
use super::registry::{Number, Registry};
use super::wake::Wake;
use super::wal::{self, Follower};
use super::{PostgresTransaction, TAG};

/// A ledger store in PostgreSQL 13 or newer. Cloning shares it.
#[derive(Clone)]
pub struct PostgresStore {
    pub(super) inner: Arc<Inner>,
    /// The log, where that is the write-ahead log.
    log: Option<Arc<wal::WalLog>>,
}

pub(super) struct Inner {
    pub(super) pool: PgPool,
    pub(super) tables: Tables,
    pub(super) config: PostgresConfig,
    pub(super) options: StoreOptions,
    pub(super) row: StoreRow,
    /// What the cursors of a write-ahead log are sealed with.
    pub(super) history: Uuid,
    pub(super) statements: super::append::Statements,
    pub(super) contents: PostgresContents,
    pub(super) wake: Wake,
    pub(super) pruner: Pruner,
    pub(super) search: super::search::Collation,
    pub(super) group: Group,
    pub(super) registry: Registry,
    /// What follows the log, where that is the write-ahead log.
    pub(super) follower: Follower,
    closed: Arc<AtomicBool>,
    /// The pool is that of a database with several stores, and not closed with this one.
    shared: bool,
}

impl PostgresStore {
    /// Opens the store, and creates it where it does not exist. A replica opens read-only.
    ///
    /// `options.log` matters at creation only. Refused, untouched: tables that are not Ledger's, a
    /// store of the Go implementation, a store of a newer program.
    pub async fn open(
        config: PostgresConfig,
        store: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::open_as(config, store, options, true).await
    }

    /// Opens a store that exists; `NotFound` where it does not.
    pub async fn open_existing(
        config: PostgresConfig,
        store: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::open_as(config, store, options, false).await
    }

    /// As [`open`](Self::open), on the connections of an open database, which stay open when the
    /// store is closed.
    pub async fn open_on(
        database: &PostgresDatabase,
        store: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::prepare(database, store, options, true, true).await
    }

    /// As [`open_existing`](Self::open_existing), on the connections of an open database, which stay
    /// open when the store is closed.
    pub async fn open_existing_on(
        database: &PostgresDatabase,
        store: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::prepare(database, store, options, false, true).await
    }

    async fn open_as(
        config: PostgresConfig,
        store: StoreName,
        options: StoreOptions,
        create: bool,
    ) -> Result<Self> {
        let database = PostgresDatabase::open(config).await?;
        let opened = Self::prepare(&database, store, options, create, false).await;
        if opened.is_err() {
            database.close().await;
        }
        opened
    }

    async fn prepare(
        database: &PostgresDatabase,
        store: StoreName,
        options: StoreOptions,
        create: bool,
        shared: bool,
    ) -> Result<Self> {
        let pool = database.pool().clone();
        if options.write_ahead_log && database.config().url().is_none() {
            return Err(wal::needs_url(&database.config().target()));
        }
        let (tables, row, search) = Self::find(&pool, &store, &options, create).await?;
        let closed = Arc::new(AtomicBool::new(false));
        let registry = Registry {
            pool: pool.clone(),
            tables: tables.clone(),
            position: position(&row),
            closed: Arc::clone(&closed),
        };
        let inner = Inner {
            statements: super::append::Statements::new(&tables),
            contents: PostgresContents::new(pool.clone(), tables.clone()),
            wake: Wake::new(pool.clone(), &tables),
            pruner: Pruner::default(),
            group: Group::default(),
            registry,
            follower: Follower::new(),
            closed,
            pool,
            tables,
            config: database.config().clone(),
            options,
            history: ledger_layout::postgres::wal::history(&row.uuid, row.database),
            row,
            search,
            shared,
        };
        let inner = Arc::new(inner);
        if inner.row.wal {
            wal::open(&inner).await?;
        }
        let log = wal::WalLog(Self {
            inner: Arc::clone(&inner),
            log: None,
        });
        Ok(Self {
            log: inner.row.wal.then(|| Arc::new(log)),
            inner,
        })
    }

    async fn find(
        pool: &PgPool,
        store: &StoreName,
        options: &StoreOptions,
        create: bool,
    ) -> Result<(Tables, StoreRow, super::search::Collation)> {
        let mut conn = pool
            .acquire()
            .await
            .map_err(|error| failed("open store", format!("store {store}"), error))?;
        check_server(&mut conn).await?;
        let tables = Tables::locate(&mut conn, store).await?;
        let row = if create {
            if options.log && options.write_ahead_log {
                ledger_layout::postgres::wal::check(&mut conn).await?;
            }
            open_store(&mut conn, &tables, Role::Source, options).await?
        } else {
            find_store(&mut conn, &tables).await?.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    "open store",
                    format!("there is no store {store} in this database"),
                )
            })?
        };
        if row.log {
            super::changes::check_sequence(&mut conn, &tables).await?;
        }
        let search = super::search::Collation::choose(&mut conn).await?;
        Ok((tables, row, search))
    }

    /// The operations within the caller's own transaction: they see what it has not committed yet,
    /// and commit or roll back with it.
    ///
    /// Readers of changes see such an append within the configured poll interval of the commit,
    /// not at once, since nothing can be told them before it.
    pub fn within<'c>(
        &self,
        transaction: &'c mut Transaction<'_, Postgres>,
    ) -> PostgresTransaction<'c> {
        self.on(transaction)
    }

    /// The operations over a connection; those of several statements want a transaction on it.
    pub(super) fn on<'c>(&self, conn: &'c mut PgConnection) -> PostgresTransaction<'c> {
        PostgresTransaction::new(Arc::clone(&self.inner), conn)
    }

    /// Whether this is a replica, which only its bridge writes.
    pub fn is_replica(&self) -> bool {
        self.inner.row.role == Role::Replica
    }
}

/// The number that stands for a cursor among the consumers, by the kind of the store's log.
fn position(row: &StoreRow) -> Number {
    let store = ledger_layout::postgres::wal::history(&row.uuid, row.database);
    if row.wal {
        Arc::new(move |cursor| wal::number(cursor, &store))
    } else {
        Arc::new(|cursor| Ok(Position::from_cursor(cursor, TAG)?.seq))
    }
}

impl Inner {
    /// A connection for `operation`.
    pub(super) async fn connection(
        &self,
        operation: &'static str,
    ) -> Result<PoolConnection<Postgres>> {
        if self.is_closed() {
            return Err(self.closed_error(operation));
        }
        self.pool
            .acquire()
            .await
            .map_err(|error| self.failed(operation, error))
    }

    /// Something was committed: wakes the readers of the log, where there is one.
    pub(super) fn committed(&self) {
        // A write-ahead log tells its readers by itself.
        if self.row.log {
            self.wake.committed();
        }
    }

    /// Entries were committed.
    pub(super) fn appended(self: &Arc<Self>) {
        self.committed();
        self.pruner.after_write(self);
    }

    /// The name of the slot of a write-ahead log.
    pub(super) fn slot(&self) -> String {
        ledger_layout::postgres::wal::slot(&self.row.uuid, self.row.database)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn closed_error(&self, operation: &'static str) -> Error {
        Error::new(
            ErrorKind::Closed,
            operation,
            format!("store {}", self.tables.store()),
        )
    }

    pub(super) fn failed(&self, operation: &'static str, error: sqlx::Error) -> Error {
        failed(operation, format!("store {}", self.tables.store()), error)
    }

    pub(super) fn check_writable(&self, operation: &'static str) -> Result<()> {
        match self.row.role {
            Role::Source => Ok(()),
            Role::Replica => Err(Error::new(
                ErrorKind::ReadOnly,
                operation,
                format!(
                    "store {} is a replica; promote it to write",
                    self.tables.store()
                ),
            )),
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &StoreName {
        self.inner.tables.store()
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        const OPERATION: &str = "append";
        self.inner.check_writable(OPERATION)?;
        if entries.is_empty() {
            let mut conn = self.inner.connection(OPERATION).await?;
            return self.on(&mut conn).check_expected(stream, expected).await;
        }
        let append = Prepared::new(stream.clone(), entries, expected, &self.inner.row)?;
        group::append(&self.inner, append).await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let mut conn = self.inner.connection("read").await?;
        self.on(&mut conn).page(stream, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        let mut conn = self.inner.connection("stat").await?;
        self.on(&mut conn).stat(stream).await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let mut conn = self.inner.connection("trim").await?;
        let removed = self.on(&mut conn).trim(stream, through).await?;
        self.inner.committed();
        Ok(removed)
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        let mut conn = self.inner.connection("list streams").await?;
        self.on(&mut conn).streams(after, limit).await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        let mut conn = self.inner.connection("rename stream").await?;
        self.on(&mut conn).rename(from, to).await?;
        self.inner.committed();
        Ok(())
    }

    fn labels(&self) -> Option<&dyn Labels> {
        (!self.inner.options.append_only).then_some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        match &self.log {
            Some(log) => Some(log.as_ref()),
            // What a bridge writes into a replica that is no relay is in the log of its source only.
            None => self.inner.row.log.then_some(self),
        }
    }

    async fn close(&self) {
        if self.inner.row.wal && !self.inner.is_closed() {
            wal::note_end(&self.inner).await;
        }
        self.inner.closed.store(true, Ordering::Release);
        self.inner.wake.close();
        if !self.inner.shared {
            self.inner.pool.close().await;
        }
    }
}

impl fmt::Display for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres store {}", self.inner.tables.store())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("store", self.inner.tables.store())
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
