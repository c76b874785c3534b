//! The cursors of pipelines, in PostgreSQL.

use async_trait::async_trait;
use ledger_core::{Claim, Cursor, CursorStore, Error, ErrorKind, PipelineId, Result, SourceId};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{Tables, failed};

/// The cursors of pipelines, in the table `ledger_cursors`.
#[derive(Debug, Clone)]
pub struct PostgresCursors {
    pool: PgPool,
    tables: Tables,
}

impl PostgresCursors {
    /// Uses the table beside `tables`, which a migration has made.
    pub fn new(pool: PgPool, tables: Tables) -> Self {
        Self { pool, tables }
    }

    /// Advances within the caller's transaction, so that data and cursor commit together. The row
    /// stays locked until then: another process's claim waits for it.
    pub async fn advance_in(
        &self,
        conn: &mut PgConnection,
        pipeline: &PipelineId,
        fence: u64,
        to: &Cursor,
    ) -> Result<Cursor> {
        let sql = self.tables.sql(
            "UPDATE {ledger.cursors} SET cursor = greatest(cursor, $3), \
             updated_at = clock_timestamp() WHERE store = $4 AND pipeline = $1 AND fence = $2 RETURNING cursor",
        );
        let stored: Option<Vec<u8>> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(pipeline.as_str())
            .bind(signed(fence))
            .bind(to.as_bytes())
            .bind(self.tables.store().as_str())
            .fetch_optional(conn)
            .await
            .map_err(|error| failed("store cursor", pipeline.to_string(), error))?;
        stored.map_or_else(|| Err(fenced(pipeline)), Cursor::from_bytes)
    }

    /// Claims within the caller's transaction.
    pub async fn claim_in(
        &self,
        conn: &mut PgConnection,
        pipeline: &PipelineId,
        source: &SourceId,
    ) -> Result<Claim> {
        const OPERATION: &str = "claim pipeline";
        let failed = |error| failed(OPERATION, pipeline.to_string(), error);
        let store = self.tables.store().as_str();
        let sql = self.tables.sql(
            "INSERT INTO {ledger.cursors} AS c (store, pipeline, fence) VALUES ($1, $2, 1) \
             ON CONFLICT (store, pipeline) DO UPDATE SET fence = c.fence + 1 \
             RETURNING fence, source, cursor",
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(store)
            .bind(pipeline.as_str())
            .fetch_one(&mut *conn)
            .await
            .map_err(failed)?;
        if let Some(bound) = bound(row.get("source"))?.filter(|bound| !bound.continues(source)) {
            return Err(Error::new(
                ErrorKind::SourceDiverged,
                OPERATION,
                format!(
                    "pipeline {pipeline} follows source {bound}, this is {source}; \
                     run it once with --resync to copy the new source from its beginning"
                ),
            ));
        }
        let sql = self
            .tables
            .sql("UPDATE {ledger.cursors} SET source = $3 WHERE store = $1 AND pipeline = $2");
        sqlx::query(AssertSqlSafe(sql))
            .bind(store)
            .bind(pipeline.as_str())
            .bind(source.to_string())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        let fence = u64::try_from(row.get::<i64, _>("fence")).unwrap_or(0);
        let cursor: Option<Vec<u8>> = row.get("cursor");
        Ok(Claim {
            fence,
            cursor: cursor.map(Cursor::from_bytes).transpose()?,
        })
    }

    /// Forgets the cursors and sources of every pipeline into this store, within the caller's
    /// transaction, and fences them all.
    pub async fn forget_all_in(&self, conn: &mut PgConnection) -> Result<()> {
        let sql = self.tables.sql(
            "UPDATE {ledger.cursors} SET cursor = NULL, source = NULL, fence = fence + 1 \
             WHERE store = $1",
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.tables.store().as_str())
            .execute(conn)
            .await
            .map(drop)
            .map_err(|error| failed("reset cursors", String::new(), error))
    }

    /// The source that a pipeline was claimed for, within the caller's transaction.
    pub async fn source_in(
        &self,
        conn: &mut PgConnection,
        pipeline: &PipelineId,
    ) -> Result<Option<SourceId>> {
        let sql = self
            .tables
            .sql("SELECT source FROM {ledger.cursors} WHERE store = $1 AND pipeline = $2");
        let source: Option<Option<String>> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .fetch_optional(conn)
            .await
            .map_err(|error| failed("read cursor", pipeline.to_string(), error))?;
        bound(source.flatten().as_deref())
    }

    /// Checks the fence and holds it until the transaction ends, where there is no cursor to store.
    pub async fn hold_in(
        &self,
        conn: &mut PgConnection,
        pipeline: &PipelineId,
        fence: u64,
    ) -> Result<()> {
        let sql = self.tables.sql(
            "SELECT 1 FROM {ledger.cursors} WHERE store = $3 AND pipeline = $1 AND fence = $2 \
             FOR NO KEY UPDATE",
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(pipeline.as_str())
            .bind(signed(fence))
            .bind(self.tables.store().as_str())
            .fetch_optional(conn)
            .await
            .map_err(|error| failed("check fence", pipeline.to_string(), error))?;
        row.map(drop).ok_or_else(|| fenced(pipeline))
    }
}

/// The source a pipeline is bound to.
fn bound(source: Option<&str>) -> Result<Option<SourceId>> {
    source.map(str::parse).transpose()
}

fn signed(fence: u64) -> i64 {
    i64::try_from(fence).unwrap_or(i64::MAX)
}

fn fenced(pipeline: &PipelineId) -> Error {
    Error::new(
        ErrorKind::Fenced,
        "store cursor",
        format!("another process has taken pipeline {pipeline} over"),
    )
}

#[async_trait]
impl CursorStore for PostgresCursors {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        let failed = |error| failed("claim pipeline", pipeline.to_string(), error);
        let mut tx = super::begin_in(&self.pool).await.map_err(failed)?;
        let claim = self.claim_in(&mut tx, pipeline, source).await?;
        tx.commit().await.map_err(failed)?;
        Ok(claim)
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        let mut conn = self
            .pool
            .acquire()
            .await
            .map_err(|error| failed("store cursor", pipeline.to_string(), error))?;
        self.advance_in(&mut conn, pipeline, fence, to).await
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        let sql = self
            .tables
            .sql("SELECT cursor FROM {ledger.cursors} WHERE store = $1 AND pipeline = $2");
        let stored: Option<Option<Vec<u8>>> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| failed("read cursor", pipeline.to_string(), error))?;
        stored.flatten().map(Cursor::from_bytes).transpose()
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        let sql = self.tables.sql(
            "UPDATE {ledger.cursors} SET cursor = NULL, source = NULL, fence = fence + 1 \
             WHERE store = $1 AND pipeline = $2",
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(|error| failed("reset cursor", pipeline.to_string(), error))
    }
}
