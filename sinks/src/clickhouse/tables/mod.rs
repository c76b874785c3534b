//! The sink of captured tables for ClickHouse.
//!
//! A source's table becomes a `ReplacingMergeTree` with the source's columns, `_version` and
//! `_deleted`, sorted by the source's key, and the view `<table>_current`, which shows what the
//! source holds. `docs/tables.md` tells the types, and what a reader has to know.

mod block;
mod content;
mod decode;
mod deliver;
mod destination;
mod images;
mod kind;
mod rows;
mod schema;
mod statements;
mod walk;
mod work;

use std::fmt;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use ledger_core::{
    Claim, Cursor, CursorStore, Error, ErrorKind, PipelineId, Result, RowChange, SourceId,
    TableName, TableReplica, TableSink, TableState,
};
use ledger_layout::clickhouse::{
    CapturedTables, ClickHouseConfig, Connection, Cursors, Pacer, Tables,
};
pub use ledger_layout::tables::ClusterOptions;
use ledger_layout::tables::TableRoutes;
use tokio::sync::Mutex;

use super::sink::BatchBounds;
use work::Work;

const OPEN: &str = "open ClickHouse tables";
const DELIVER: &str = "deliver to ClickHouse";

/// Captured tables in a ClickHouse database.
///
/// - A batch becomes one insert a table, side by side, each one block, written wholly or not at all
///   and synced to disk; then what is noted of the tables, and the cursor last. A batch that fails
///   half-way is delivered again, and comes to the same content, whatever its borders are then: a
///   row is replaced only by one with a higher version.
/// - A shape that adds or widens columns is followed by `ALTER TABLE` at its place among the rows.
/// - A value that the destination's type does not hold exactly is `Rejected`, with table, column and
///   key; nothing of its batch is written by then, unless a change of shape stands before it.
/// - A truncation, and an earlier copy of a table without a key, is a boundary below which the view
///   shows nothing. Rows stay on disk.
/// - The fence is checked before anything is written; see [`Cursors`] for what that holds.
pub struct ClickHouseTables {
    connection: Connection,
    captured: CapturedTables,
    cursors: TableCursors,
    routes: TableRoutes,
    pacer: Pacer,
    /// What the last delivery has left, for the next one of the same claim.
    work: Mutex<Option<Work>>,
    /// How many rows whose values have to be looked up are written at once.
    lookups: AtomicUsize,
}

impl ClickHouseTables {
    /// Opens a database for captured tables; the tables themselves are created when their first
    /// change arrives. `NotFound` where the database does not exist.
    pub async fn open(config: &ClickHouseConfig, routes: TableRoutes) -> Result<Self> {
        let connection = Connection::new(config.clone());
        Tables::open_shared(&connection).await?;
        Ok(Self {
            captured: CapturedTables::open(connection.clone()).await?,
            cursors: TableCursors {
                connection: connection.clone(),
            },
            connection,
            routes,
            pacer: Pacer::of_deliveries(),
            work: Mutex::default(),
            lookups: AtomicUsize::new(images::LOOKUPS),
        })
    }

    /// Large and rare batches: a part costs the server the same whatever its size.
    pub const fn recommended_batch() -> BatchBounds {
        BatchBounds {
            items: 100_000,
            bytes: 24 << 20,
            wait: std::time::Duration::from_millis(200),
        }
    }

    /// Forgets the pipeline's cursor and gives up all its tables, so that the next run copies
    /// everything anew, from whichever source. An instance that works on the pipeline is fenced.
    pub async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        let mut work = self.work.lock().await;
        *work = None;
        let cursors = self.cursors.of(pipeline);
        cursors.reset(pipeline).await?;
        for noted in self.captured.load("resync tables", pipeline).await? {
            self.drop_table(pipeline, noted).await?;
        }
        cursors.release(pipeline).await
    }

    /// Drops one table and its view and forgets what was noted of it: the next change of it makes it
    /// anew. `NotFound` where the pipeline has no such table. To be called between deliveries.
    pub async fn forget(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        const OPERATION: &str = "give up a table";
        let mut work = self.work.lock().await;
        *work = None;
        let noted = self.captured.load(OPERATION, pipeline).await?;
        let mut found = false;
        for noted in noted {
            if noted
                .note
                .as_ref()
                .is_some_and(|note| note.table.name == *table)
            {
                self.drop_table(pipeline, noted).await?;
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            OPERATION,
            format!("pipeline {pipeline} has no table {table} here"),
        ))
    }
}

/// The cursors of pipelines of captured tables.
#[derive(Debug)]
struct TableCursors {
    connection: Connection,
}

impl TableCursors {
    fn of(&self, pipeline: &PipelineId) -> Cursors {
        Cursors::of_tables(self.connection.clone(), pipeline)
    }
}

#[async_trait]
impl CursorStore for TableCursors {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        self.of(pipeline).claim(pipeline, source).await
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        self.of(pipeline).advance(pipeline, fence, to).await
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        self.of(pipeline).stored(pipeline).await
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        self.of(pipeline).reset(pipeline).await
    }
}

#[async_trait]
impl TableSink for ClickHouseTables {
    async fn tables(&self, pipeline: &PipelineId) -> Result<Vec<TableState>> {
        let noted = self.captured.load("read noted tables", pipeline).await?;
        let notes = noted.into_iter().filter_map(|noted| noted.note);
        Ok(notes.filter_map(|note| note.state()).collect())
    }

    fn is_versioned(&self) -> bool {
        true
    }

    async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        Self::resync(self, pipeline).await
    }

    async fn forget(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        Self::forget(self, pipeline, table).await
    }

    fn column_name(&self, name: &str) -> Option<String> {
        // What the server calls the parts of a column that may be NULL.
        const PARTS: [&str; 2] = [".null", ".size"];
        let taken = destination::OWN.contains(&name) || PARTS.iter().any(|end| name.ends_with(end));
        (!taken && !name.is_empty()).then(|| name.to_owned())
    }

    fn content(&self) -> &dyn TableReplica {
        self
    }
}

impl fmt::Debug for ClickHouseTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseTables")
            .field("connection", &self.connection)
            .field("routes", &self.routes)
            .field("cluster", &self.routes.cluster)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ClickHouseTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tables", self.connection.config())
    }
}

/// A batch of rows.
type Batch = ledger_core::Batch<RowChange>;
