//! What is noted of captured tables: the table `ledger_tables`, shared by all pipelines of a
//! database.

use clickhouse::Row;
use ledger_core::{Error, ErrorKind, PipelineId, Result};
use serde::{Deserialize, Serialize};

use super::schema::{STATE_SETTINGS, Shape, open_shapes};
use super::{Connection, Dedup};
use crate::tables::Note;

// The newest note of the newest fence is the maximum, and so is the boundary: whoever writes late
// changes nothing. Views read the boundary by the target's name.
const CAPTURED: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "pipeline, table_id, target",
    columns: &[
        ("pipeline", "String"),
        ("table_id", "UInt64"),
        ("target", "String"),
        ("boundary", "SimpleAggregateFunction(max, UInt128)"),
        (
            "note",
            "SimpleAggregateFunction(max, Tuple(UInt64, UInt64, String))",
        ),
    ],
    settings: STATE_SETTINGS,
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
    /// Rows with a lower version are not shown.
    pub boundary: u128,
    /// The fence under which the newest note was written.
    pub fence: u64,
    /// Which of the fence's notes that is.
    pub written: u64,
    /// The note; none of a table that was given up.
    pub note: Option<Note>,
}

#[derive(Debug, Row, Deserialize)]
struct StoredRow {
    table_id: u64,
    target: String,
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
    boundary: u128,
    note: (u64, u64, &'a str),
}

#[derive(Debug, Row, Deserialize)]
struct OwnerRow {
    pipeline: String,
    text: String,
}

impl CapturedTables {
    /// The table's name.
    pub const NAME: &'static str = "ledger_tables";

    /// Opens the table, creating it where it is absent. `InvalidInput` where it has another shape.
    pub async fn open(connection: Connection) -> Result<Self> {
        open_shapes(&connection, &[(Self::NAME, CAPTURED)]).await?;
        Ok(Self { connection })
    }

    /// What is noted of a pipeline's tables, in order of their numbers.
    pub async fn load(&self, operation: &'static str, pipeline: &PipelineId) -> Result<Vec<Noted>> {
        let sql = format!(
            "SELECT table_id, target, b AS newest, tupleElement(n, 1) AS fence, \
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
                boundary: row.newest,
                fence: row.fence,
                written: row.written,
                note,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Which other pipeline has noted that it fills `target`.
    pub async fn other_owner(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        target: &str,
    ) -> Result<Option<String>> {
        let sql = format!(
            "SELECT pipeline, tupleElement(n, 3) AS text FROM (SELECT pipeline, table_id, \
             max(note) AS n FROM {} WHERE target = ? AND pipeline != ? \
             GROUP BY pipeline, table_id) WHERE text != '' LIMIT 1",
            Self::NAME
        );
        let query = self.connection.client().query(&sql);
        let query = query.bind(target).bind(pipeline.as_str());
        let rows: Vec<OwnerRow> = self.connection.fetch_all(operation, query).await?;
        Ok(rows
            .into_iter()
            .find(|row| !row.text.is_empty())
            .map(|row| row.pipeline))
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
            boundary: noted.boundary,
            note: (fence, noted.written, text),
        });
        self.connection
            .insert::<NoteRow<'static>, _>(operation, Self::NAME, rows, notes.len(), Dedup::Off)
            .await
    }
}
