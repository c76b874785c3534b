//! Rows of ordinary tables: what table capture carries.
//!
//! A capture reads the mutations of a database's tables from its log and hands them on as
//! [`RowChange`]s, in log order, each with a [`Version`]. A sink that keeps, for each key, the
//! change with the highest version holds the source's present content, whichever changes it saw
//! twice or late.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{Cursor, Item, PipelineId, Result, Sink, StreamKey, TableReplica, Timestamp};

/// The place of a row's change in its source's log: the position of the transaction's commit, and
/// the change's number within the transaction. The higher one is the later one. Never made of a
/// clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// The commit's position.
    pub commit: u64,
    /// The number within the transaction. A change that removes one key and writes another has an
    /// odd one, of which the even number below is the removal's; 0 is a copied row's.
    pub ordinal: u64,
}

impl Version {
    /// A version.
    pub const fn new(commit: u64, ordinal: u64) -> Self {
        Self { commit, ordinal }
    }

    /// As one number of 128 bits, which sorts the same.
    pub const fn as_u128(self) -> u128 {
        ((self.commit as u128) << 64) | self.ordinal as u128
    }

    /// The version just below, of the removal that is a part of this change.
    #[must_use]
    pub const fn removal(self) -> Self {
        Self::new(self.commit, self.ordinal.saturating_sub(1))
    }
}

impl fmt::Display for Version {
    /// The position as PostgreSQL writes it, then the ordinal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = (self.commit >> 32, self.commit & 0xffff_ffff);
        write!(f, "{high:X}/{low:X}#{}", self.ordinal)
    }
}

/// The name of a source's table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, as `public`.
    pub schema: String,
    /// The table, as it is written in the catalogue, without quotes.
    pub table: String,
}

impl TableName {
    /// A name.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            schema: schema.into(),
            table: table.into(),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// A table as it was at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The source's own number for it, which a rename does not change.
    pub id: u64,
    /// Its name.
    pub name: TableName,
    /// The columns that are carried, in the source's order.
    pub columns: Vec<Column>,
    /// Whether updates and deletes tell every column of the row as it was before (`REPLICA
    /// IDENTITY FULL`), and not only its key.
    pub full_identity: bool,
}

impl Table {
    /// The places of the key's columns among the columns; empty for a table without a key, whose
    /// rows are told apart by their versions.
    pub fn key(&self) -> impl Iterator<Item = usize> + '_ {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(_, column)| column.key)
            .map(|(index, _)| index)
    }

    /// Whether its rows have a key.
    pub fn is_keyed(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as it is written in the catalogue.
    pub name: String,
    /// What its values are.
    pub kind: ColumnType,
    /// Whether it is a part of the key.
    pub key: bool,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// The type as the source declares it, such as `numeric(12,2)`; for people.
    pub declared: String,
}

/// What the values of a column are. The text that stands for a value is the one that PostgreSQL
/// writes with `DateStyle = ISO`, `IntervalStyle = postgres`, `bytea_output = hex`,
/// `extra_float_digits = 1` or more, and `TimeZone = UTC`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ColumnType {
    /// `t` or `f`.
    Bool,
    /// A 16-bit integer.
    Int16,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// An unsigned 32-bit integer (`oid`).
    UInt32,
    /// Single precision; `NaN`, `Infinity` and `-Infinity` too.
    Float32,
    /// Double precision; `NaN`, `Infinity` and `-Infinity` too.
    Float64,
    /// A decimal of declared size; `NaN` too. A negative scale rounds to the left of the point.
    Decimal {
        /// How many digits at most.
        precision: u16,
        /// How many of them behind the point; it may be negative, or exceed the precision.
        scale: i16,
    },
    /// A decimal of any size; `NaN`, `Infinity`, `-Infinity` too.
    Number,
    /// Any text, and every type for which there is nothing better: as the source writes it.
    Text,
    /// Bytes: `\x` and hexadecimal digits.
    Bytes,
    /// A UUID.
    Uuid,
    /// `YYYY-MM-DD`, perhaps with ` BC`, `infinity` or `-infinity`.
    Date,
    /// Date and time to the microsecond without a zone; the same exceptions.
    Timestamp,
    /// A moment to the microsecond, written in UTC (`+00`); the same exceptions.
    TimestampTz,
    /// A time of day to the microsecond, up to `24:00:00`.
    Time,
    /// A JSON text.
    Json,
    /// An array of any number of dimensions, as `{a,"b c",NULL}`, perhaps with bounds in front.
    Array(Box<ColumnType>),
    /// Numbers of single precision, as `[1,2.5]` (pgvector).
    Vector,
    /// Pairs, as `"a"=>"1", "b"=>NULL` (hstore).
    Pairs,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Value {
    /// NULL.
    Null,
    /// The source does not tell it: in an updated row, a value stored apart that was not changed;
    /// in the row before, a column that is no part of the identity.
    Absent,
    /// The text that stands for it; UTF-8.
    Text(Bytes),
}

/// A row: a value for each column of its [`Table`].
pub type Row = Vec<Value>;

/// One change of a table's content, at its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    /// The position; of two changes of one log the later has the higher cursor.
    pub cursor: Cursor,
    /// When the transaction was committed, by the source's clock; none for a copied row. For
    /// display and lag only, never for order.
    pub committed_at: Option<Timestamp>,
    /// The table, as it was then.
    pub table: Arc<Table>,
    /// The place in the log that decides which of two changes of a row is the later one.
    pub version: Version,
    /// What happened.
    pub op: RowOp,
}

/// What happened to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowOp {
    /// A row was inserted, or is one that the copy found. No value is [`Value::Absent`].
    Insert(Row),
    /// A row was changed.
    Update {
        /// The row afterwards. A value that is [`Value::Absent`] is the one that the row had
        /// before.
        row: Row,
        /// The row before where its key was another (only the key's columns are sure to be there),
        /// and where the source tells all of it (`full_identity`).
        before: Option<Row>,
    },
    /// A row was removed. Only the key's columns are sure to be there.
    Delete(Row),
    /// Every row with a lower version was removed.
    Truncate,
    /// The table has the shape of [`RowChange::table`] from here on.
    Shape,
    /// How far the copy of what the table held has come.
    Copied(CopyState),
}

/// How far the copy of a table has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyState {
    /// The copy begins. Its rows have the version `(point, 0)`. Where the table has no key, all
    /// rows below that version are those of an earlier copy and are removed.
    Begun {
        /// The log's position from which on the log tells every change.
        point: u64,
    },
    /// Every row with a key up to `after` is copied.
    Upto {
        /// As in `Begun`.
        point: u64,
        /// The key, in a form of the source's own.
        after: Bytes,
    },
    /// The copy is complete. The content is the source's once the log has been followed up to
    /// `through`.
    Done {
        /// As in `Begun`.
        point: u64,
        /// The log's position when the copy ended.
        through: u64,
    },
}

impl CopyState {
    /// The log's position from which on the log tells every change.
    pub fn point(&self) -> u64 {
        match self {
            Self::Begun { point } | Self::Upto { point, .. } | Self::Done { point, .. } => *point,
        }
    }
}

/// What a sink has noted of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// The shape that it has there.
    pub table: Arc<Table>,
    /// Where in the log it had that shape first. A shape that is told at a lower version, and has no
    /// columns that this one lacks, is taken for a replay of an older one.
    pub version: Version,
    /// How far its copy is.
    pub copy: CopyState,
}

/// A sink for rows of tables.
///
/// [`Sink::deliver`] MUST apply [`RowOp::Shape`] and [`RowOp::Copied`] in the order of the items, and
/// note them with the data before the cursor: what [`tables`](Self::tables) returns is never ahead
/// of the rows.
#[async_trait]
pub trait TableSink: Sink<RowChange> {
    /// What was noted of the pipeline's tables.
    async fn tables(&self, pipeline: &PipelineId) -> Result<Vec<TableState>>;

    /// Whether changes of a row that come in another order than that of their versions do no harm.
    fn is_versioned(&self) -> bool;

    /// Forgets the pipeline's cursor and its tables with their rows, so that the next run copies
    /// everything anew, from whichever source. An instance that works on the pipeline is fenced.
    async fn resync(&self, pipeline: &PipelineId) -> Result<()>;

    /// Forgets one table and its rows, so that the next run copies it anew beside the others.
    /// `NotFound` where the pipeline has no such table. To be called while no bridge runs.
    async fn forget(&self, pipeline: &PipelineId, table: &TableName) -> Result<()>;

    /// The form of a column's name by which it is told apart from the others of its table, and none
    /// where no column can have that name. For sources that find out the columns as they go; all
    /// others have their columns refused by name.
    fn column_name(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// What the tables hold.
    fn content(&self) -> &dyn TableReplica;
}

/// Reading what a source's tables hold, for verification. Values are the texts that [`ColumnType`]
/// describes, and no value is [`Value::Absent`].
#[async_trait]
pub trait TableContents: Send + Sync {
    /// Up to `limit` rows of a table with a key, in an order of the source's own, behind the row
    /// `after`.
    async fn rows(&self, table: &Table, after: Option<&Row>, limit: usize) -> Result<Vec<Row>>;

    /// Those of the rows with the keys of these rows that exist, in any order.
    async fn rows_at(&self, table: &Table, keys: &[Row]) -> Result<Vec<Row>>;

    /// All rows of a table at one moment, some at a time, in any order.
    fn all(&self, table: Arc<Table>) -> BoxStream<'static, Result<Vec<Row>>>;
}

impl RowChange {
    /// The row that tells the key.
    fn keyed(&self) -> Option<&Row> {
        match &self.op {
            RowOp::Insert(row) | RowOp::Update { row, .. } | RowOp::Delete(row) => Some(row),
            RowOp::Truncate | RowOp::Shape | RowOp::Copied(_) => None,
        }
    }

    /// Whether it writes under another key than the row had before.
    pub fn moves(&self) -> bool {
        match &self.op {
            RowOp::Update {
                row,
                before: Some(before),
            } => self
                .table
                .key()
                .any(|column| row.get(column) != before.get(column)),
            _ => false,
        }
    }

    /// The row's key as people read it: `id=7`; empty where there is none.
    pub fn shown_key(&self) -> String {
        let Some(row) = self.keyed() else {
            return String::new();
        };
        let shown = self.table.key().map(|index| {
            let name = self.table.columns.get(index).map_or("", |c| &c.name);
            let value = match row.get(index) {
                Some(Value::Text(text)) => {
                    let text = String::from_utf8_lossy(text);
                    text.chars().take(64).collect::<String>()
                }
                _ => "NULL".to_owned(),
            };
            format!("{name}={value}")
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

impl Item for RowChange {
    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn committed_at(&self) -> Option<Timestamp> {
        self.committed_at
    }

    /// Rows of one key have one; so have all rows of a table without a key.
    fn key(&self) -> StreamKey {
        let mut hash = Xxh3::new();
        hash.update(&self.table.id.to_le_bytes());
        if let Some(row) = self.keyed() {
            for value in self.table.key().filter_map(|index| row.get(index)) {
                if let Value::Text(text) = value {
                    hash.update(&text.len().to_le_bytes());
                    hash.update(text);
                }
            }
        }
        // Backends keep keys in signed columns.
        StreamKey(hash.digest() >> 1)
    }

    fn size(&self) -> usize {
        let of = |row: &Row| {
            let values = row.iter().map(|value| match value {
                Value::Text(text) => text.len(),
                Value::Null | Value::Absent => 0,
            });
            size_of_val(row.as_slice()) + values.sum::<usize>()
        };
        160 + match &self.op {
            RowOp::Insert(row) | RowOp::Delete(row) => of(row),
            RowOp::Update { row, before } => of(row) + before.as_ref().map_or(0, of),
            RowOp::Truncate | RowOp::Shape | RowOp::Copied(_) => 0,
        }
    }

    fn is_barrier(&self) -> bool {
        match &self.op {
            RowOp::Truncate | RowOp::Shape | RowOp::Copied(_) => true,
            // It concerns two keys.
            RowOp::Update { .. } => self.moves(),
            RowOp::Insert(_) | RowOp::Delete(_) => false,
        }
    }

    fn kind(&self) -> &'static str {
        match &self.op {
            RowOp::Insert(_) => "insert",
            RowOp::Update { .. } => "update",
            RowOp::Delete(_) => "delete",
            RowOp::Truncate => "truncate",
            RowOp::Shape => "shape",
            RowOp::Copied(_) => "copied",
        }
    }

    fn describe(&self) -> String {
        let name = &self.table.name;
        let what = match &self.op {
            RowOp::Insert(_) => "insert into",
            RowOp::Update { .. } => "update",
            RowOp::Delete(_) => "delete from",
            RowOp::Truncate => "truncate",
            RowOp::Shape => "change the columns of",
            RowOp::Copied(_) => "copy",
        };
        match self.shown_key() {
            key if key.is_empty() => format!("{what} {name} at {}", self.version),
            key => format!("{what} {name} ({key}) at {}", self.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Arc<Table> {
        let column = |name: &str, key| Column {
            name: name.to_owned(),
            kind: ColumnType::Int32,
            key,
            nullable: !key,
            declared: "integer".to_owned(),
        };
        Arc::new(Table {
            id: 7,
            name: TableName::new("public", "t"),
            columns: vec![column("id", true), column("n", false)],
            full_identity: false,
        })
    }

    fn change(op: RowOp) -> RowChange {
        RowChange {
            cursor: Cursor::new(b'x', b"1"),
            committed_at: None,
            table: table(),
            version: Version::new(5, 3),
            op,
        }
    }

    fn row(id: &str, n: &str) -> Row {
        [id, n]
            .map(|text| Value::Text(Bytes::copy_from_slice(text.as_bytes())))
            .to_vec()
    }

    #[test]
    fn a_version_sorts_by_commit_then_ordinal_also_as_one_number() {
        let versions = [(1, 0), (1, u64::MAX), (2, 0), (2, 1), (u64::MAX, 0)];
        let versions = versions.map(|(commit, ordinal)| Version::new(commit, ordinal));
        assert!(versions.is_sorted());
        assert!(versions.map(Version::as_u128).is_sorted());
        assert_eq!(Version::new(0x1_0000_0002, 3).to_string(), "1/2#3");
    }

    #[test]
    fn changes_of_one_row_have_one_key_and_those_of_others_another() {
        let insert = change(RowOp::Insert(row("1", "2")));
        let update = change(RowOp::Update {
            row: row("1", "3"),
            before: None,
        });
        let other = change(RowOp::Delete(row("2", "2")));
        assert_eq!(insert.key(), update.key());
        assert_ne!(insert.key(), other.key());
    }

    #[test]
    fn what_concerns_more_than_one_key_is_a_barrier() {
        let moved = |before| {
            change(RowOp::Update {
                row: row("1", "3"),
                before: Some(before),
            })
        };
        assert!(moved(row("2", "3")).is_barrier());
        assert!(!moved(row("1", "4")).is_barrier());
        assert!(change(RowOp::Truncate).is_barrier());
        assert!(!change(RowOp::Delete(row("1", "2"))).is_barrier());
    }

    #[test]
    fn a_description_names_table_key_and_place() {
        let described = change(RowOp::Delete(row("1", "2"))).describe();
        assert_eq!(described, "delete from public.t (id=1) at 0/5#3");
    }
}
