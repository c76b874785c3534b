//! The content, for verification.

use async_trait::async_trait;
use ledger_core::{Contents, Entry, EntryKey, Record, Result, StreamKey, StreamState};

use futures::TryStreamExt as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder};

use super::{ENTRY_COLUMNS, Tables, entry_from_row, failed, stream_state_from_row};

/// The payload bytes after which a chunk ends.
const CHUNK_BYTES: usize = 16 << 20;
/// The most rows that one query asks for.
const CHUNK_ROWS: usize = 500;

/// What the tables of a store or a replica hold.
#[derive(Debug, Clone)]
pub struct PostgresContents {
    pool: PgPool,
    tables: Tables,
}

impl PostgresContents {
    /// Reads these tables.
    pub fn new(pool: PgPool, tables: Tables) -> Self {
        Self { pool, tables }
    }

    async fn connection(&self, operation: &'static str) -> Result<PoolConnection<Postgres>> {
        let store = self.tables.store();
        self.pool
            .acquire()
            .await
            .map_err(|error| failed(operation, format!("store {store}"), error))
    }
}

/// A query of [`ENTRY_COLUMNS`] from entries joined with their streams, open behind its WHERE.
pub fn select_entries(tables: &Tables) -> QueryBuilder<Postgres> {
    QueryBuilder::new(tables.sql(&format!(
        "SELECT {ENTRY_COLUMNS} FROM {{entries}} e JOIN {{streams}} s ON s.key = e.stream_key WHERE "
    )))
}

/// Runs a query of [`ENTRY_COLUMNS`] and reads rows until they hold `budget` payload bytes.
pub async fn fetch_entries(
    conn: &mut PgConnection,
    query: &mut QueryBuilder<Postgres>,
    budget: usize,
) -> Result<Vec<(StreamKey, Entry)>> {
    let mut rows = query.build().fetch(conn);
    let mut entries = Vec::new();
    let mut bytes = 0;
    while bytes < budget {
        let Some(row) = rows
            .try_next()
            .await
            .map_err(|e| failed("read entries", "", e))?
        else {
            break;
        };
        let (key, entry) = entry_from_row(&row)?;
        bytes += entry.payload.len();
        entries.push((key, entry));
    }
    Ok(entries)
}

/// The states of up to `limit` streams with keys above `after`.
pub async fn streams_after(
    tables: &Tables,
    conn: &mut PgConnection,
    after: u64,
    limit: i64,
) -> Result<Vec<StreamState>> {
    let sql = tables.sql(
        "SELECT key, name, name_version, version, trimmed_through FROM {streams} \
         WHERE key > $1 ORDER BY key LIMIT $2",
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(signed(after))
        .bind(limit)
        .fetch_all(conn)
        .await
        .map_err(|error| failed("read streams", format!("store {}", tables.store()), error))?;
    rows.iter().map(stream_state_from_row).collect()
}

#[async_trait]
impl Contents for PostgresContents {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let mut conn = self.connection("read entries").await?;
        let mut query = select_entries(&self.tables);
        query.push("true");
        for (bound, operator) in [(after, ">"), (through, "<=")] {
            if let Some(bound) = bound {
                query.push(format!(" AND (e.stream_key, e.id) {operator} ("));
                query.push_bind(signed(bound.stream.0)).push(", ");
                query.push_bind(signed(bound.id.0)).push(")");
            }
        }
        query.push(format!(
            " ORDER BY e.stream_key, e.id LIMIT {}",
            limit.min(CHUNK_ROWS)
        ));
        Ok(records(
            fetch_entries(&mut conn, &mut query, CHUNK_BYTES).await?,
        ))
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        let mut conn = self.connection("read entries").await?;
        let mut found = Vec::new();
        for keys in keys.chunks(100) {
            let mut query = select_entries(&self.tables);
            let streams: Vec<i64> = keys.iter().map(|key| signed(key.stream.0)).collect();
            let ids: Vec<i64> = keys.iter().map(|key| signed(key.id.0)).collect();
            query.push("(e.stream_key, e.id) IN (SELECT * FROM unnest(");
            query.push_bind(streams).push("::bigint[], ");
            query
                .push_bind(ids)
                .push("::bigint[])) ORDER BY e.stream_key, e.id");
            found.extend(fetch_entries(&mut conn, &mut query, usize::MAX).await?);
        }
        let mut found = records(found);
        found.sort_by_key(|record| record.key);
        Ok(found)
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        let mut conn = self.connection("read streams").await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        streams_after(&self.tables, &mut conn, after.map_or(0, |key| key.0), limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        let mut conn = self.connection("read streams").await?;
        let sql = self.tables.sql(
            "SELECT key, name, name_version, version, trimmed_through FROM {streams} \
             WHERE key = ANY($1) ORDER BY key",
        );
        let keys: Vec<i64> = keys.iter().map(|key| signed(key.0)).collect();
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(keys)
            .fetch_all(&mut *conn)
            .await
            .map_err(|error| failed("read streams", "", error))?;
        rows.iter().map(stream_state_from_row).collect()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn records(rows: Vec<(StreamKey, Entry)>) -> Vec<Record> {
    rows.into_iter()
        .map(|(stream, entry)| Record {
            key: EntryKey {
                stream,
                id: entry.id,
            },
            entry,
        })
        .collect()
}
