//! The store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use ledger_core::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryId, EntryKey,
    Error, ErrorKind, ExpectedVersion, Labels, Lag, NewEntry, Page, Pairs, Query, ReadOptions,
    Record, Result, Search, SourceId, Stat, Store, StoreName, StreamKey, StreamName, StreamState,
    Timestamp, check_text, checked_tags,
};
use ledger_layout::StoreOptions;
use ledger_layout::clickhouse::{
    ClickHouseConfig, ClickHouseContents, Connection, Cursors, LOG_TAG, LogTable, Owner, States,
    Tables,
};
use ledger_layout::log::Position;
use tokio::sync::watch;

use super::append::Prepared;
use super::changes::{self, Reader};
use super::consumers::ClickHouseConsumers;
use super::dead_letters::ClickHouseDeadLetters;
use super::decide::{Done, Work};
use super::group::Sequencer;
use super::prune::Pruning;
use super::read::Reading;
use super::{promote, search, snapshot, streams};

/// How often, in microseconds, appends look for log rows to be pruned.
const PRUNE_EVERY: i64 = 60_000_000;

/// A store in a ClickHouse database, from version 24.8. Clones are handles on the same store, closed
/// together.
///
/// # Behavior
/// - Mutations that come at the same moment share an insert, which is answered when it is durable;
///   each is still accepted or refused by itself.
/// - Any number of processes may write one store; each writer that another one came before decides
///   anew, so that one process writing is by far the fastest. Reading is free of that.
/// - A call that fails as `Unavailable` may have taken effect, wholly; appending again with the same
///   dedup key tells.
/// - Dedup keys are honoured when an entry is appended, so no reader sees a double; rows that a
///   repair wrote twice count once when they are read, and become one when the server merges them.
/// - A trim hides entries at once; their rows stay on disk until [`purge`](Self::purge).
/// - A replica opens and reads like any other store; writing to one is `ReadOnly` until
///   [`promote`](Self::promote). It has no log.
#[derive(Clone)]
pub struct ClickHouseStore(Arc<Inner>);

struct Inner {
    open: Open,
    connection: Connection,
    tables: Arc<Tables>,
    options: StoreOptions,
    /// Whether the store takes writes of its own. It changes once, when a replica is promoted.
    own: AtomicBool,
    cursors: Cursors,
    contents: OpenContents,
    consumers: ClickHouseConsumers,
    dead_letters: ClickHouseDeadLetters,
    states: States,
    log: LogTable,
    sequencer: Arc<Sequencer>,
    /// When an append may look for log rows to be pruned again, in microseconds.
    prune_at: AtomicI64,
}

/// Whether a handle is open still; shared by all that belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Open {
    store: StoreName,
    closed: Arc<watch::Sender<bool>>,
}

impl Open {
    fn new(store: &StoreName) -> Self {
        Self {
            store: store.clone(),
            closed: Arc::new(watch::Sender::new(false)),
        }
    }

    /// `Closed` where it is not.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        if *self.closed.borrow() {
            let what = format!("store {}", self.store);
            return Err(Error::new(ErrorKind::Closed, operation, what));
        }
        Ok(())
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender is part of this.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// The content, as long as the handle is open.
#[derive(Debug, Clone)]
pub(super) struct OpenContents {
    open: Open,
    contents: ClickHouseContents,
}

impl ClickHouseStore {
    /// Opens a store, and creates it where it does not exist.
    ///
    /// `NotFound` where the database does not exist, `InvalidInput` where a table of that name has
    /// another shape, `Unsupported` for options that ClickHouse has nothing for: full-text search,
    /// and doing without a log, which is what commits here.
    pub async fn open(
        config: &ClickHouseConfig,
        name: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::open_or(config, name, options, true).await
    }

    /// As [`open`](Self::open), creating nothing: `NotFound` where there is no such store.
    pub async fn open_existing(
        config: &ClickHouseConfig,
        name: StoreName,
        options: StoreOptions,
    ) -> Result<Self> {
        Self::open_or(config, name, options, false).await
    }

    async fn open_or(
        config: &ClickHouseConfig,
        name: StoreName,
        options: StoreOptions,
        create: bool,
    ) -> Result<Self> {
        const OPERATION: &str = "open store";
        let unsupported = |what| Err(Error::new(ErrorKind::Unsupported, OPERATION, what));
        if options.full_text {
            return unsupported("full_text: ClickHouse stores have no full-text search");
        }
        if !options.log {
            return unsupported("log: a ClickHouse store cannot do without its log");
        }
        let connection = Connection::new(config.clone());
        let tables = Arc::new(Tables::new(&name));
        if !create && !tables.exist(&connection).await? {
            let what = format!("there is no store {name} in database {:?}", config.database);
            return Err(Error::new(ErrorKind::NotFound, OPERATION, what));
        }
        tables.open(&connection).await?;
        let cursors = Cursors::new(connection.clone(), &name);
        let log = LogTable::new(connection.clone(), &tables);
        let mut own = log.identity(OPERATION).await?.is_some();
        if own {
            tables.open_log(&connection).await?;
        } else if create
            // One with content is a replica, also where its promotion was cut short.
            && cursors.owner(OPERATION).await? != Owner::Bridge
            && is_empty(&connection, &tables).await?
        {
            cursors.own(OPERATION).await?;
            tables.open_log(&connection).await?;
            log.begin(OPERATION, 0, 0).await?;
            own = true;
        }
        let open = Open::new(&name);
        let states = States::new(connection.clone(), &name);
        let dead_letters = ClickHouseDeadLetters {
            open: open.clone(),
            connection: connection.clone(),
            store: name,
        };
        Ok(Self(Arc::new(Inner {
            contents: OpenContents {
                open: open.clone(),
                contents: ClickHouseContents::new(connection.clone(), tables.as_ref().clone()),
            },
            consumers: ClickHouseConsumers {
                open: open.clone(),
                states: states.clone(),
                dead_letters: dead_letters.clone(),
            },
            sequencer: Sequencer::of(config, &connection, &tables),
            open,
            connection,
            tables,
            options,
            own: AtomicBool::new(own),
            cursors,
            dead_letters,
            states,
            log,
            prune_at: AtomicI64::new(Timestamp::now().as_micros() + PRUNE_EVERY),
        })))
    }

    /// Whether the store is a replica, as it was when it was opened or promoted.
    pub fn is_replica(&self) -> bool {
        !self.0.own.load(Ordering::Acquire)
    }

    /// Makes a replica a source: it takes writes from now on, under a new identity, and what a bridge
    /// delivers afterwards is `Fenced`. No bridge may be running into it: ClickHouse cannot take back
    /// what one is writing at this moment.
    ///
    /// `AlreadyExists` names stream names and dedup keys that it holds more than once; `InvalidInput`
    /// for a store that is no replica.
    pub async fn promote(&self) -> Result<()> {
        const OPERATION: &str = "promote replica";
        let inner = &*self.0;
        inner.open.check(OPERATION)?;
        if inner.log.identity(OPERATION).await?.is_some() {
            let what = format!("store {} is not a replica", inner.tables.store);
            return Err(Error::invalid(OPERATION, what));
        }
        let Inner {
            connection,
            tables,
            cursors,
            log,
            ..
        } = inner;
        promote::promote(connection, tables, cursors, log).await?;
        inner.own.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes the log rows that nobody may need any more, by the retention of this handle's
    /// options, and tells how many. Appends do the same now and then.
    pub async fn prune(&self) -> Result<u64> {
        let inner = &*self.0;
        inner.open.check("prune the mutation log")?;
        // Nothing is removed that the tables have not followed.
        inner.sequencer.run(Work::Head).await?;
        let pruning = Pruning {
            connection: &inner.connection,
            tables: &inner.tables,
            log: &inner.log,
            states: &inner.states,
        };
        pruning.prune(inner.options.retention).await
    }

    /// Removes entries that were trimmed, and their labels, from disk, and tells how many streams had
    /// any. They were invisible before. It rewrites parts of the tables: call it rarely, at a quiet
    /// time.
    pub async fn purge(&self) -> Result<u64> {
        self.0.open.check("purge trimmed entries")?;
        self.0.contents.contents.purge().await
    }

    /// Prunes where it is time to, beside the caller. What fails here fails again at the next append,
    /// so it fails none.
    fn prune_in_passing(&self) {
        let now = Timestamp::now().as_micros();
        let due = self.0.prune_at.load(Ordering::Relaxed);
        let next = now.saturating_add(PRUNE_EVERY);
        let order = Ordering::Relaxed;
        if now < due
            || self
                .0
                .prune_at
                .compare_exchange(due, next, order, order)
                .is_err()
        {
            return;
        }
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.prune().await {
                tracing::warn!(error = error.chain(), "the mutation log was not pruned");
            }
        });
    }

    /// Has a mutation done in its turn; `ReadOnly` on a replica.
    async fn run(&self, operation: &'static str, work: Work) -> Result<Done> {
        self.check_writable(operation)?;
        self.0.sequencer.run(work).await
    }

    fn check_writable(&self, operation: &'static str) -> Result<()> {
        self.0.open.check(operation)?;
        if self.is_replica() {
            let what = format!(
                "store {} is a replica; `ledger store promote` makes it take writes",
                self.0.tables.store
            );
            return Err(Error::new(ErrorKind::ReadOnly, operation, what));
        }
        Ok(())
    }

    fn check_labels(&self) -> Result<()> {
        if self.0.options.append_only {
            let what = format!("store {} is append-only", self.0.tables.store);
            return Err(Error::new(ErrorKind::Unsupported, "change labels", what));
        }
        Ok(())
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            connection: &self.0.connection,
            tables: &self.0.tables,
            contents: &self.0.contents.contents,
        }
    }

    fn reader(&self) -> Reader {
        Reader {
            open: self.0.open.clone(),
            store: self.0.tables.store.clone(),
            log: self.0.log.clone(),
            states: self.0.states.clone(),
        }
    }
}

/// Whether nothing was ever written to a store's tables.
async fn is_empty(connection: &Connection, tables: &Tables) -> Result<bool> {
    let sql = format!(
        "SELECT sum(rows) AS rows FROM (SELECT count() AS rows FROM {} UNION ALL SELECT count() AS rows FROM {})",
        tables.streams, tables.entries,
    );
    let query = connection.client().query_raw(&sql);
    let rows: Vec<u64> = connection.fetch_all("open store", query).await?;
    Ok(rows.first().is_none_or(|rows| *rows == 0))
}

#[async_trait]
impl Store for ClickHouseStore {
    fn name(&self) -> &StoreName {
        &self.0.tables.store
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        const OPERATION: &str = "append";
        self.check_writable(OPERATION)?;
        let work = Work::Append {
            stream: stream.clone(),
            prepared: Prepared::new(entries)?,
            expected,
        };
        match self.run(OPERATION, work).await? {
            Done::Appended(appended) => {
                self.prune_in_passing();
                Ok(appended)
            }
            other => Err(unexpected(OPERATION, &other)),
        }
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        self.0.open.check("read")?;
        self.reading().page(Some(stream), None, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        self.0.open.check("stat")?;
        streams::stat(&self.0.connection, &self.0.tables, stream).await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        const OPERATION: &str = "trim";
        let stream = stream.clone();
        match self.run(OPERATION, Work::Trim { stream, through }).await? {
            Done::Trimmed(removed) => Ok(removed),
            other => Err(unexpected(OPERATION, &other)),
        }
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        self.0.open.check("list streams")?;
        streams::list(&self.0.connection, &self.0.tables, after, limit).await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        let work = Work::Rename { from, to };
        self.run("rename stream", work).await.map(drop)
    }

    fn labels(&self) -> Option<&dyn Labels> {
        (!self.0.options.append_only).then_some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        (!self.is_replica()).then_some(self)
    }

    async fn close(&self) {
        self.0.open.closed.send_replace(true);
    }
}

fn unexpected(operation: &'static str, done: &Done) -> Error {
    let what = format!("the sequencer answered {done:?}");
    Error::new(ErrorKind::Internal, operation, what)
}

#[async_trait]
impl Labels for ClickHouseStore {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        const OPERATION: &str = "set tags";
        self.0.open.check(OPERATION)?;
        self.check_labels()?;
        let work = Work::SetTags {
            stream: stream.clone(),
            id,
            tags: checked_tags("tags", tags)?,
        };
        self.run(OPERATION, work).await.map(drop)
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        const OPERATION: &str = "set annotations";
        self.0.open.check(OPERATION)?;
        self.check_labels()?;
        for (key, value) in &set {
            check_text("set", key)?;
            check_text("set", value)?;
        }
        let work = Work::SetAnnotations {
            stream: stream.clone(),
            id,
            set,
            delete,
        };
        self.run(OPERATION, work).await.map(drop)
    }
}

#[async_trait]
impl Search for ClickHouseStore {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        self.0.open.check("search")?;
        let payload = search::condition(query)?;
        self.reading().page(stream, Some(&payload), options).await
    }
}

#[async_trait]
impl ChangeLog for ClickHouseStore {
    async fn identity(&self) -> Result<SourceId> {
        const OPERATION: &str = "read the store's identity";
        self.0.open.check(OPERATION)?;
        let store = self.0.log.identity(OPERATION).await?.ok_or_else(|| {
            let what = format!("store {} has no log any more", self.0.tables.store);
            Error::new(ErrorKind::NotFound, OPERATION, what)
        })?;
        // A copy of the tables has the same log; where the two part, the digest in a cursor tells.
        Ok(SourceId {
            store,
            system: "clickhouse".to_owned(),
            timeline: 1,
            origins: Vec::new(),
        })
    }

    fn start(&self) -> Cursor {
        Position::START.to_cursor(LOG_TAG)
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        changes::follow(self.reader(), &self.0.sequencer, &after)
    }

    async fn head(&self) -> Result<Cursor> {
        const OPERATION: &str = "read the log's head";
        match self.run(OPERATION, Work::Head).await? {
            Done::At(seq) => self.reader().position(seq).await,
            other => Err(unexpected(OPERATION, &other)),
        }
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        self.0.open.check("measure lag")?;
        self.reader().lag(&self.0.connection, after).await
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        snapshot::snapshot(self.0.contents.clone(), after.as_ref())
    }

    async fn size(&self) -> Result<u64> {
        const OPERATION: &str = "count entries";
        self.0.open.check(OPERATION)?;
        let sql = format!("SELECT count() AS rows FROM {}", self.0.tables.entries);
        let query = self.0.connection.client().query_raw(&sql);
        let rows: Vec<u64> = self.0.connection.fetch_all(OPERATION, query).await?;
        Ok(rows.first().copied().unwrap_or(0))
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

#[async_trait]
impl Contents for OpenContents {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.open.check("read contents")?;
        self.contents.entries(after, through, limit).await
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        self.open.check("read contents")?;
        self.contents.entries_at(keys).await
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        self.open.check("read contents")?;
        self.contents.streams(after, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        self.open.check("read contents")?;
        self.contents.streams_at(keys).await
    }
}

impl fmt::Display for ClickHouseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}",
            self.0.tables.store,
            self.0.connection.config()
        )
    }
}

impl fmt::Debug for ClickHouseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseStore")
            .field("store", &self.0.tables.store)
            .field("connection", &self.0.connection)
            .finish_non_exhaustive()
    }
}
