//! Reading the replica's content for verification, and repairing it.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use ledger_core::{
    Contents, Entry, EntryKey, Error, ErrorKind, PipelineId, Record, Replica, Result, StreamKey,
    StreamState,
};
use ledger_layout::sqlite::{Role, Tables, failed, followers, load, rejected, streams_at};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::apply;
use super::sink::{SqliteSink, commit};

const OPERATION: &str = "repair replica";

#[async_trait]
impl Contents for SqliteSink {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.contents.entries(after, through, limit).await
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        self.contents.entries_at(keys).await
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        self.contents.streams(after, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        self.contents.streams_at(keys).await
    }
}

#[async_trait]
impl Replica for SqliteSink {
    async fn repair(
        &self,
        streams: &[StreamState],
        delete: &[EntryKey],
        insert: &[Record],
    ) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let (conn, tables) = (&mut *transaction, &*self.tables);
        check_replica(conn, tables).await?;
        put_streams(conn, tables, streams).await?;
        name_streams(conn, tables, insert).await?;
        let trimmed = boundaries(conn, tables, insert).await?;
        let below = |key: &EntryKey| trimmed.get(&key.stream).is_some_and(|at| key.id.0 <= *at);
        let insert: Vec<(EntryKey, &Entry)> = insert
            .iter()
            .filter(|record| !below(&record.key))
            .map(|record| (record.key, &record.entry))
            .collect();
        // What is inserted replaces what is there.
        let replaced = insert.iter().map(|(key, _)| *key);
        let gone: Vec<EntryKey> = delete.iter().copied().chain(replaced).collect();
        remove(conn, tables, &gone).await?;
        apply::insert(conn, tables, &insert).await?;
        let touched = gone.iter().map(|key| key.stream);
        let touched = touched.chain(streams.iter().map(|state| state.stream.key));
        count_again(conn, tables, touched.collect()).await?;
        commit(transaction, OPERATION).await
    }

    async fn remove_streams(&self, keys: &[StreamKey]) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        check_replica(&mut transaction, &self.tables).await?;
        let keys = apply::rows(keys)?;
        for (table, column) in [
            (&self.tables.entries, "stream_key"),
            (&self.tables.streams, "key"),
        ] {
            let sql =
                format!("DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?1))");
            sqlx::query(AssertSqlSafe(sql))
                .bind(&keys)
                .execute(&mut *transaction)
                .await
                .map_err(|error| failed(OPERATION, error))?;
        }
        commit(transaction, OPERATION).await
    }

    async fn followers(&self) -> Result<Vec<PipelineId>> {
        let mut reader = self.database.reader().await?;
        let found = followers(&mut reader, &self.tables.store).await;
        let names = reader.done(found)?;
        names.iter().map(PipelineId::new).collect()
    }
}

/// A promoted replica is nobody's any more.
async fn check_replica(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    match load(conn, &tables.store).await? {
        Some(row) if row.role == Role::Replica => Ok(()),
        _ => Err(Error::new(
            ErrorKind::ReadOnly,
            OPERATION,
            format!(
                "store {} was promoted and is no replica any more",
                tables.store
            ),
        )),
    }
}

/// Writes states of streams as they are.
async fn put_streams(
    conn: &mut SqliteConnection,
    tables: &Tables,
    streams: &[StreamState],
) -> Result<()> {
    let sql = format!(
        "INSERT INTO {} (key, name, name_version, version, trimmed_through, live, created_at)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, 0,
           CAST(unixepoch('subsec') * 1000000 AS INTEGER)
         FROM json_each(?1) WHERE true
         ON CONFLICT (key) DO UPDATE SET name = excluded.name,
           name_version = excluded.name_version, version = excluded.version,
           trimmed_through = excluded.trimmed_through",
        tables.streams
    );
    let states: Vec<_> = streams
        .iter()
        .map(|state| {
            let stream = &state.stream;
            (
                stream.key,
                &stream.name,
                stream.name_version,
                state.version,
                state.trimmed_through,
            )
        })
        .collect();
    execute(conn, sql, apply::rows(&states)?).await
}

/// Makes the streams of entries where they do not exist, with a name that any other replaces.
async fn name_streams(
    conn: &mut SqliteConnection,
    tables: &Tables,
    records: &[Record],
) -> Result<()> {
    let sql = format!(
        "INSERT INTO {} (key, name, name_version, version, trimmed_through, live, created_at)
         SELECT value ->> 0, value ->> 1, 0, 0, 0, 0,
           CAST(unixepoch('subsec') * 1000000 AS INTEGER)
         FROM json_each(?1) WHERE true ON CONFLICT (key) DO NOTHING",
        tables.streams
    );
    let names: BTreeMap<_, _> = records
        .iter()
        .map(|record| (record.key.stream, &record.entry.stream))
        .collect();
    let names: Vec<_> = names.into_iter().collect();
    execute(conn, sql, apply::rows(&names)?).await
}

/// How far the streams of these entries are trimmed.
async fn boundaries(
    conn: &mut SqliteConnection,
    tables: &Tables,
    records: &[Record],
) -> Result<BTreeMap<StreamKey, u64>> {
    let keys: Vec<StreamKey> = records.iter().map(|record| record.key.stream).collect();
    let states = streams_at(conn, tables, &keys).await?;
    Ok(states
        .into_iter()
        .map(|state| (state.stream.key, state.trimmed_through))
        .collect())
}

async fn remove(conn: &mut SqliteConnection, tables: &Tables, keys: &[EntryKey]) -> Result<()> {
    let sql = format!(
        "DELETE FROM {} WHERE (id, stream_key) IN
           (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
        tables.entries
    );
    let keys: Vec<_> = keys.iter().map(|key| (key.id, key.stream)).collect();
    execute(conn, sql, apply::rows(&keys)?).await
}

/// Counts the entries of streams: whoever altered rows by hand has not kept the count.
async fn count_again(
    conn: &mut SqliteConnection,
    tables: &Tables,
    keys: BTreeSet<StreamKey>,
) -> Result<()> {
    let sql = format!(
        "UPDATE {} AS s SET live = (SELECT count(*) FROM {} WHERE stream_key = s.key)
         WHERE key IN (SELECT value FROM json_each(?1))",
        tables.streams, tables.entries
    );
    let keys: Vec<_> = keys.into_iter().collect();
    execute(conn, sql, apply::rows(&keys)?).await
}

async fn execute(conn: &mut SqliteConnection, sql: String, rows: String) -> Result<()> {
    sqlx::query(AssertSqlSafe(sql))
        .bind(rows)
        .execute(conn)
        .await
        .map_err(|error| rejected(OPERATION, error))?;
    Ok(())
}
