//! Verifying and repairing the replica.

use async_trait::async_trait;
use ledger_core::{
    Contents, Entry, EntryKey, PipelineId, Record, Replica, Result, StreamKey, StreamState,
};
use ledger_layout::postgres::{begin_in, followers};
use sqlx::{AssertSqlSafe, PgConnection};

use super::apply::{entries, signed, streams};
use super::{PostgresSink, sink::Inner};

#[async_trait]
impl Contents for PostgresSink {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.inner.contents.entries(after, through, limit).await
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        self.inner.contents.entries_at(keys).await
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        self.inner.contents.streams(after, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        self.inner.contents.streams_at(keys).await
    }
}

#[async_trait]
impl Replica for PostgresSink {
    async fn repair(
        &self,
        states: &[StreamState],
        delete: &[EntryKey],
        insert: &[Record],
    ) -> Result<()> {
        const OPERATION: &str = "repair replica";
        let inner = &self.inner;
        let failed = |error| inner.failed(OPERATION, error);
        let mut tx = begin_in(&inner.pool).await.map_err(failed)?;
        inner.check_role(&mut tx).await?;
        let touched: Vec<StreamKey> = states
            .iter()
            .map(|state| state.stream.key)
            .chain(delete.iter().map(|key| key.stream))
            .chain(insert.iter().map(|record| record.key.stream))
            .collect();
        // The bridge may be writing the same streams.
        let sql = "SELECT key FROM {streams} WHERE key = ANY($1) ORDER BY key FOR UPDATE";
        run(inner, &mut tx, sql, &touched).await?;
        if !states.is_empty() {
            // As they are, not merged: what stands there may be wrong in either direction.
            let keys: Vec<StreamKey> = states.iter().map(|state| state.stream.key).collect();
            run(
                inner,
                &mut tx,
                "DELETE FROM {streams} WHERE key = ANY($1)",
                &keys,
            )
            .await?;
            streams(inner, &mut tx, states).await?;
        }
        let ids: Vec<StreamKey> = delete.iter().map(|key| StreamKey(key.id.0)).collect();
        run(
            inner,
            &mut tx,
            "DELETE FROM {entries} WHERE id = ANY($1)",
            &ids,
        )
        .await?;
        let written: Vec<(EntryKey, &Entry)> = insert
            .iter()
            .map(|record| (record.key, &record.entry))
            .collect();
        entries(inner, &mut tx, &written).await?;
        recount(inner, &mut tx, &touched).await?;
        tx.commit().await.map_err(failed)
    }

    async fn remove_streams(&self, keys: &[StreamKey]) -> Result<()> {
        const OPERATION: &str = "remove streams";
        let inner = &self.inner;
        let failed = |error| inner.failed(OPERATION, error);
        let mut tx = begin_in(&inner.pool).await.map_err(failed)?;
        inner.check_role(&mut tx).await?;
        run(
            inner,
            &mut tx,
            "DELETE FROM {streams} WHERE key = ANY($1)",
            keys,
        )
        .await?;
        run(
            inner,
            &mut tx,
            "DELETE FROM {entries} WHERE stream_key = ANY($1)",
            keys,
        )
        .await?;
        tx.commit().await.map_err(failed)
    }

    async fn followers(&self) -> Result<Vec<PipelineId>> {
        const OPERATION: &str = "read who follows the relay";
        let inner = &self.inner;
        let mut conn = inner
            .pool
            .acquire()
            .await
            .map_err(|error| inner.failed(OPERATION, error))?;
        let names = followers(&mut conn, &inner.tables).await?;
        names.iter().map(PipelineId::new).collect()
    }
}

/// Counts the entries of streams again, since what was changed by hand kept no count.
async fn recount(inner: &Inner, conn: &mut PgConnection, keys: &[StreamKey]) -> Result<()> {
    let sql = "UPDATE {streams} s SET live = (SELECT count(*) FROM {entries} e \
         WHERE e.stream_key = s.key) WHERE s.key = ANY($1)";
    run(inner, conn, sql, keys).await
}

async fn run(
    inner: &Inner,
    conn: &mut PgConnection,
    template: &str,
    keys: &[StreamKey],
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<i64> = keys.iter().map(|key| signed(key.0)).collect();
    sqlx::query(AssertSqlSafe(inner.tables.sql(template)))
        .bind(keys)
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| inner.failed("repair replica", error))
}
