//! What is noted of captured tables: the table `ledger_tables`, shared by all pipelines of a
//! database.

use clickhouse::Row;
use ledger_core::{Error, ErrorKind, Item as _, PipelineId, Result, RowChange, Version};
use serde::{Deserialize, Serialize};

use super::schema::STATE_SETTINGS;
use super::shape::{Shape, open_shapes};
use super::{Connection, Dedup, literal};
use crate::tables::Note;

// The newest note of the newest fence is the maximum: whoever writes late changes nothing. So is the
// highest boundary of the newest epoch, which begins when a target's table is made: positions of
// another source's log may be lower than those before. Views read it by the target's name.
const CAPTURED: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "pipeline, table_id, target",
    columns: &[
        ("pipeline", "String"),
        ("table_id", "UInt64"),
        ("target", "String"),
        (
            "boundary",
            "SimpleAggregateFunction(max, Tuple(UInt64, UInt128))",
        ),
        (
            "note",
            "SimpleAggregateFunction(max, Tuple(UInt64, UInt64, String))",
        ),
    ],
    settings: STATE_SETTINGS,
    indexes: &[],
    by_stream: false,
};

// Changes that wait for the copy of their table, once each whatever was delivered twice.
const DEFERRED: Shape = Shape {
    engine: "ReplacingMergeTree",
    sorting_key: "pipeline, table_id, point, version",
    columns: &[
        ("pipeline", "String"),
        ("table_id", "UInt64"),
        ("point", "UInt64"),
        ("version", "UInt128"),
        ("change", "String"),
    ],
    settings: STATE_SETTINGS,
    indexes: &[],
    by_stream: false,
};

/// The notes of captured tables.
#[derive(Debug, Clone)]
pub struct CapturedTables {
    connection: Connection,
}

/// A note as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The source's number for the table.
    pub table_id: u64,
    /// The destination's table.
    pub target: String,
    /// How many tables of the target's name were made before.
    pub epoch: u64,
    /// Rows with a lower version are not shown.
    pub boundary: u128,
    /// The fence under which the newest note was written.
    pub fence: u64,
    /// Which of the fence's notes that is.
    pub written: u64,
    /// The note; none of a table that was given up.
    pub note: Option<Note>,
}

/// A change that waits for the copy of its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deferred {
    /// The change as it came.
    pub change: RowChange,
    /// The same with what it does not tell, as it was held when it came: of use where the copy turns
    /// out to have ended before.
    pub told: Option<RowChange>,
}

#[derive(Debug, Row, Deserialize)]
struct StoredRow {
    table_id: u64,
    target: String,
    epoch: u64,
    newest: u128,
    fence: u64,
    written: u64,
    text: String,
}

#[derive(Debug, Row, Serialize)]
struct NoteRow<'a> {
    pipeline: &'a str,
    table_id: u64,
    target: &'a str,
    boundary: (u64, u128),
    note: (u64, u64, &'a str),
}

#[derive(Debug, Row, Serialize)]
struct DeferredRow<'a> {
    pipeline: &'a str,
    table_id: u64,
    point: u64,
    version: u128,
    #[serde(with = "serde_bytes")]
    change: Vec<u8>,
}

#[derive(Debug, Row, Deserialize)]
struct WaitingRow {
    #[serde(with = "serde_bytes")]
    change: Vec<u8>,
}

#[derive(Debug, Row, Deserialize)]
struct OwnerRow {
    pipeline: String,
    epoch: u64,
    text: String,
}

impl CapturedTables {
    /// The table's name.
    pub const NAME: &'static str = "ledger_tables";
    /// The name of the table beside it, of changes that wait for the copy of their table.
    pub const DEFERRED: &'static str = "ledger_deferred";

    /// Opens both tables, creating them where they are absent. `InvalidInput` where one has another
    /// shape.
    pub async fn open(connection: Connection) -> Result<Self> {
        let shapes = [(Self::NAME, CAPTURED), (Self::DEFERRED, DEFERRED)];
        open_shapes(&connection, &shapes).await?;
        Ok(Self { connection })
    }

    /// What is noted of a pipeline's tables, in order of their numbers.
    pub async fn load(&self, operation: &'static str, pipeline: &PipelineId) -> Result<Vec<Noted>> {
        let sql = format!(
            "SELECT table_id, target, tupleElement(b, 1) AS epoch, tupleElement(b, 2) AS newest, tupleElement(n, 1) AS fence, \
             tupleElement(n, 2) AS written, \
             tupleElement(n, 3) AS text FROM (SELECT table_id, target, max(boundary) AS b, \
             max(note) AS n FROM {} WHERE pipeline = ? GROUP BY table_id, target) \
             ORDER BY table_id, target",
            Self::NAME
        );
        let query = self.connection.client().query(&sql).bind(pipeline.as_str());
        let rows: Vec<StoredRow> = self.connection.fetch_all(operation, query).await?;
        let read = |row: StoredRow| {
            let note = if row.text.is_empty() {
                None
            } else {
                let note = serde_json::from_str(&row.text).map_err(|error| {
                    let what = format!("note of table {} in {}", row.table_id, Self::NAME);
                    Error::new(ErrorKind::Corrupt, operation, what).with_source(error)
                });
                Some(note?)
            };
            Ok(Noted {
                table_id: row.table_id,
                target: row.target,
                epoch: row.epoch,
                boundary: row.newest,
                fence: row.fence,
                written: row.written,
                note,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Which other pipeline has noted that it fills `target`, and how many tables of that name were
    /// made so far.
    pub async fn owner(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        target: &str,
    ) -> Result<(Option<String>, u64)> {
        let sql = format!(
            "SELECT pipeline, tupleElement(b, 1) AS epoch, tupleElement(n, 3) AS text \
             FROM (SELECT pipeline, table_id, max(boundary) AS b, max(note) AS n FROM {} \
             WHERE target = ? GROUP BY pipeline, table_id)",
            Self::NAME
        );
        let query = self.connection.client().query(&sql).bind(target);
        let rows: Vec<OwnerRow> = self.connection.fetch_all(operation, query).await?;
        let made = rows.iter().map(|row| row.epoch).max().unwrap_or(0);
        let owner = rows
            .into_iter()
            .find(|row| !row.text.is_empty() && row.pipeline != pipeline.as_str());
        Ok((owner.map(|row| row.pipeline), made))
    }

    /// Notes tables under a fence, as one block.
    pub async fn note(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        fence: u64,
        notes: &[&Noted],
    ) -> Result<()> {
        let mut texts = Vec::with_capacity(notes.len());
        for noted in notes {
            let text = match &noted.note {
                Some(note) => serde_json::to_string(note).map_err(|error| {
                    let what = format!("note of table {}", noted.table_id);
                    Error::new(ErrorKind::Internal, operation, what).with_source(error)
                })?,
                None => String::new(),
            };
            texts.push(text);
        }
        let rows = notes.iter().zip(&texts).map(|(noted, text)| NoteRow {
            pipeline: pipeline.as_str(),
            table_id: noted.table_id,
            target: &noted.target,
            boundary: (noted.epoch, noted.boundary),
            note: (fence, noted.written, text),
        });
        self.connection
            .insert::<NoteRow<'static>, _>(operation, Self::NAME, rows, notes.len(), Dedup::Off)
            .await
    }

    /// Keeps changes of a table until its copy from `point` is complete.
    pub async fn defer(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        point: u64,
        changes: &[Deferred],
    ) -> Result<()> {
        let mut rows = Vec::with_capacity(changes.len());
        for deferred in changes {
            let change = &deferred.change;
            rows.push(DeferredRow {
                pipeline: pipeline.as_str(),
                table_id: change.table.id,
                point,
                version: change.version.as_u128(),
                change: rmp_serde::to_vec(deferred).map_err(|error| {
                    Error::new(ErrorKind::Internal, operation, change.describe()).with_source(error)
                })?,
            });
        }
        let (rows, count) = (rows.into_iter(), changes.len());
        self.connection
            .insert::<DeferredRow<'static>, _>(operation, Self::DEFERRED, rows, count, Dedup::Off)
            .await
    }

    /// Up to `limit` of the changes that were kept, in order, from behind `after`.
    pub async fn deferred(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        (table_id, point): (u64, u64),
        after: Version,
        limit: usize,
    ) -> Result<Vec<Deferred>> {
        let sql = format!(
            "SELECT change FROM {} FINAL WHERE pipeline = ? AND table_id = ? AND point = ? \
             AND version > toUInt128(?) ORDER BY version LIMIT ?",
            Self::DEFERRED
        );
        let query = self.connection.client().query(&sql);
        let query = query
            .bind(pipeline.as_str())
            .bind(table_id)
            .bind(point)
            .bind(after.as_u128().to_string())
            .bind(limit);
        let rows: Vec<WaitingRow> = self.connection.fetch_all(operation, query).await?;
        let read = |row: WaitingRow| {
            rmp_serde::from_slice(&row.change).map_err(|error| {
                let what = format!("change of table {table_id} in {}", Self::DEFERRED);
                Error::new(ErrorKind::Corrupt, operation, what).with_source(error)
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Removes the changes of a table that were kept; whether they are gone already when it returns
    /// is not said.
    pub async fn forget_deferred(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        table_id: u64,
    ) -> Result<()> {
        let sql = format!(
            "DELETE FROM {} WHERE pipeline = {} AND table_id = {table_id}",
            Self::DEFERRED,
            literal(pipeline.as_str())
        );
        let query = self.connection.client().query_raw(&sql);
        let query = query.with_setting("lightweight_deletes_sync", "0");
        self.connection.timed(operation, query.execute()).await
    }
}
