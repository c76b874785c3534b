//! Reading everything that a store or a replica holds, in order of its keys.

use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use ledger_core::{
    Contents, EntryKey, Error, ErrorKind, Record, Result, StreamKey, StreamName, StreamState,
};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::database::Database;
use super::error::failed;
use super::rows::{ENTRY_COLUMNS, decode_entry, decode_stream, int_in, read_column};
use super::schema::Tables;

const OPERATION: &str = "read contents";
/// How many bytes of payload a chunk may have before it is cut short.
const CHUNK_BYTES: usize = 4 << 20;

/// The content of a store or a replica.
#[derive(Debug, Clone)]
pub struct SqliteContents {
    database: Database,
    tables: Arc<Tables>,
}

impl SqliteContents {
    /// The content of these tables.
    pub fn new(database: Database, tables: Arc<Tables>) -> Self {
        Self { database, tables }
    }
}

#[async_trait]
impl Contents for SqliteContents {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let mut reader = self.database.reader().await?;
        let records = entries(&mut reader, &self.tables, after, through, limit).await;
        reader.done(records)
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        let mut reader = self.database.reader().await?;
        let records = entries_at(&mut reader, &self.tables, keys).await;
        reader.done(records)
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        let mut reader = self.database.reader().await?;
        let states = streams(&mut reader, &self.tables, after, limit).await;
        reader.done(states)
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        let mut reader = self.database.reader().await?;
        let states = streams_at(&mut reader, &self.tables, keys).await;
        reader.done(states)
    }
}

/// See [`Contents::entries`].
pub async fn entries(
    conn: &mut SqliteConnection,
    tables: &Tables,
    after: Option<EntryKey>,
    through: Option<EntryKey>,
    limit: usize,
) -> Result<Vec<Record>> {
    let Tables {
        streams, entries, ..
    } = tables;
    // CROSS JOIN keeps the order of the index and looks the stream up for each entry.
    let sql = format!(
        "SELECT {ENTRY_COLUMNS}, s.name FROM {entries} e CROSS JOIN {streams} s
         WHERE s.key = e.stream_key AND (e.stream_key, e.id) > (?1, ?2)
           AND (e.stream_key, e.id) <= (?3, ?4)
         ORDER BY e.stream_key, e.id LIMIT ?5"
    );
    let bounds = |key: Option<EntryKey>, none| {
        key.map_or((none, none), |key| (int_in(key.stream.0), int_in(key.id.0)))
    };
    let (after, through) = (bounds(after, 0), bounds(through, i64::MAX));
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(after.0)
        .bind(after.1)
        .bind(through.0)
        .bind(through.1)
        .bind(int_in(u64::try_from(limit).unwrap_or(u64::MAX)));
    records(conn, query, CHUNK_BYTES).await
}

/// See [`Contents::entries_at`].
pub async fn entries_at(
    conn: &mut SqliteConnection,
    tables: &Tables,
    keys: &[EntryKey],
) -> Result<Vec<Record>> {
    let Tables {
        streams, entries, ..
    } = tables;
    let sql = format!(
        "SELECT {ENTRY_COLUMNS}, s.name FROM {entries} e JOIN {streams} s ON s.key = e.stream_key
         WHERE e.id IN (SELECT value FROM json_each(?1)) ORDER BY e.stream_key, e.id"
    );
    let ids: Vec<u64> = keys.iter().map(|key| key.id.0).collect();
    let query = sqlx::query(AssertSqlSafe(sql)).bind(numbers(&ids)?);
    let mut found = records(conn, query, usize::MAX).await?;
    found.retain(|record| keys.contains(&record.key));
    Ok(found)
}

async fn records(
    conn: &mut SqliteConnection,
    query: sqlx::query::Query<'_, sqlx::Sqlite, SqliteArguments>,
    max_bytes: usize,
) -> Result<Vec<Record>> {
    let mut rows = query.fetch(conn);
    let (mut records, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows
        .try_next()
        .await
        .map_err(|error| failed(OPERATION, error))?
    {
        let record = record(&row)?;
        bytes += record.entry.payload.len();
        records.push(record);
        if bytes > max_bytes {
            break;
        }
    }
    Ok(records)
}

fn record(row: &SqliteRow) -> Result<Record> {
    let name = StreamName::new(read_column::<&str>(row, 12)?)?;
    let (stream, entry) = decode_entry(row, name)?;
    Ok(Record {
        key: EntryKey {
            stream,
            id: entry.id,
        },
        entry,
    })
}

/// See [`Contents::streams`].
pub async fn streams(
    conn: &mut SqliteConnection,
    tables: &Tables,
    after: Option<StreamKey>,
    limit: usize,
) -> Result<Vec<StreamState>> {
    let sql = format!(
        "SELECT key, name, name_version, version, trimmed_through FROM {}
         WHERE key > ?1 ORDER BY key LIMIT ?2",
        tables.streams
    );
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(after.map_or(0, |key| int_in(key.0)))
        .bind(int_in(u64::try_from(limit).unwrap_or(u64::MAX)));
    let rows = query
        .fetch_all(conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    rows.iter().map(decode_stream).collect()
}

/// See [`Contents::streams_at`].
pub async fn streams_at(
    conn: &mut SqliteConnection,
    tables: &Tables,
    keys: &[StreamKey],
) -> Result<Vec<StreamState>> {
    let sql = format!(
        "SELECT key, name, name_version, version, trimmed_through FROM {}
         WHERE key IN (SELECT value FROM json_each(?1)) ORDER BY key",
        tables.streams
    );
    let keys: Vec<u64> = keys.iter().map(|key| key.0).collect();
    let query = sqlx::query(AssertSqlSafe(sql)).bind(numbers(&keys)?);
    let rows = query
        .fetch_all(conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    rows.iter().map(decode_stream).collect()
}

fn numbers(numbers: &[u64]) -> Result<String> {
    serde_json::to_string(numbers)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "encode").with_source(error))
}
