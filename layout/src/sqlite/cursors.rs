//! The cursors of pipelines that deliver here.

use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{Claim, Cursor, CursorStore, Error, ErrorKind, PipelineId, Result, SourceId};
use sqlx::SqliteConnection;

use super::database::Database;
use super::error::failed;
use super::rows::{read_column, uint};
use super::schema::{Role, Tables, load};

/// The cursors of the pipelines that write one replica.
#[derive(Debug, Clone)]
pub struct SqliteCursors {
    database: Database,
    tables: Arc<Tables>,
}

impl SqliteCursors {
    /// The cursors of the pipelines into this replica.
    pub fn new(database: Database, tables: Arc<Tables>) -> Self {
        Self { database, tables }
    }
}

#[async_trait]
impl CursorStore for SqliteCursors {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        const OPERATION: &str = "claim pipeline";
        let fail = |error| failed(OPERATION, error);
        let store = self.tables.store.as_str();
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        self.bind_replica(&mut transaction, pipeline, source)
            .await?;
        let bound: Option<Option<String>> = sqlx::query_scalar(
            "SELECT source FROM ledger_cursors WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(store)
        .bind(pipeline.as_str())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(fail)?;
        if let Some(Some(bound)) = bound
            && !bound.parse::<SourceId>()?.continues(source)
        {
            return Err(diverged(pipeline, &bound, source));
        }
        let row = sqlx::query(
            "INSERT INTO ledger_cursors (store, pipeline, source, fence) VALUES (?1, ?2, ?3, 1)
             ON CONFLICT (store, pipeline)
             DO UPDATE SET fence = fence + 1, source = excluded.source
             RETURNING fence, cursor",
        )
        .bind(store)
        .bind(pipeline.as_str())
        .bind(source.to_string())
        .fetch_one(&mut *transaction)
        .await
        .map_err(fail)?;
        let claim = Claim {
            fence: uint(&row, 0)?,
            cursor: cursor(&row, 1)?,
        };
        transaction.commit().await.map_err(fail)?;
        Ok(claim)
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        let mut writer = self.database.writer().await?;
        let store = self.tables.store.as_str();
        let stored = advance_within(&mut writer, store, pipeline, fence, Some(to)).await?;
        stored.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "advance cursor",
                format!("pipeline {pipeline}"),
            )
        })
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        let mut reader = self.database.reader().await?;
        let row =
            sqlx::query("SELECT cursor FROM ledger_cursors WHERE store = ?1 AND pipeline = ?2")
                .bind(self.tables.store.as_str())
                .bind(pipeline.as_str())
                .fetch_optional(&mut *reader)
                .await
                .map_err(|error| failed("read cursor", error));
        match reader.done(row)? {
            Some(row) => cursor(&row, 0),
            None => Ok(None),
        }
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        let fail = |error| failed("reset pipeline", error);
        let store = self.tables.store.as_str();
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        sqlx::query(
            "UPDATE ledger_cursors SET cursor = NULL, source = NULL, fence = fence + 1
             WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(store)
        .bind(pipeline.as_str())
        .execute(&mut *transaction)
        .await
        .map_err(fail)?;
        sqlx::query(
            "UPDATE ledger_stores SET source = NULL WHERE name = ?1 AND NOT EXISTS
             (SELECT 1 FROM ledger_cursors WHERE store = ?1 AND source IS NOT NULL)",
        )
        .bind(store)
        .execute(&mut *transaction)
        .await
        .map_err(fail)?;
        transaction.commit().await.map_err(fail)
    }
}

impl SqliteCursors {
    /// A replica is of one source only, whichever pipeline writes it.
    async fn bind_replica(
        &self,
        conn: &mut SqliteConnection,
        pipeline: &PipelineId,
        source: &SourceId,
    ) -> Result<()> {
        const OPERATION: &str = "claim pipeline";
        let store = &self.tables.store;
        let row = load(conn, store).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                OPERATION,
                format!("the replica {store} is gone"),
            )
        })?;
        if row.role != Role::Replica {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                OPERATION,
                format!("store {store} was promoted and takes no replication any more"),
            ));
        }
        let place = format!("store {store} in {}", self.database.config());
        source.check_sink(row.uuid, &place)?;
        match row.source {
            Some(bound) if bound == *source => return Ok(()),
            Some(bound) if !bound.continues(source) => {
                return Err(diverged(pipeline, &bound.to_string(), source));
            }
            // What the source's changes came through may be others than before.
            Some(_) | None => {}
        }
        sqlx::query("UPDATE ledger_stores SET source = ?2 WHERE name = ?1")
            .bind(store.as_str())
            .bind(source.to_string())
            .execute(conn)
            .await
            .map_err(|error| failed(OPERATION, error))?;
        Ok(())
    }
}

/// Moves a pipeline's cursor to `to` where that is further, in one statement, and returns what is
/// stored then; without `to` it only checks the fence. `Fenced` where `fence` is not the last claim.
pub async fn advance_within(
    conn: &mut SqliteConnection,
    store: &str,
    pipeline: &PipelineId,
    fence: u64,
    to: Option<&Cursor>,
) -> Result<Option<Cursor>> {
    let row = sqlx::query(
        "UPDATE ledger_cursors
         SET cursor = CASE WHEN ?4 IS NULL OR cursor > ?4 THEN cursor ELSE ?4 END
         WHERE store = ?1 AND pipeline = ?2 AND fence = ?3 RETURNING cursor",
    )
    .bind(store)
    .bind(pipeline.as_str())
    .bind(i64::try_from(fence).unwrap_or(-1))
    .bind(to.map(Cursor::as_bytes))
    .fetch_optional(conn)
    .await
    .map_err(|error| failed("advance cursor", error))?;
    match row {
        Some(row) => cursor(&row, 0),
        None => Err(Error::new(
            ErrorKind::Fenced,
            "advance cursor",
            format!("another process has taken pipeline {pipeline} over"),
        )),
    }
}

pub(super) fn cursor(row: &sqlx::sqlite::SqliteRow, index: usize) -> Result<Option<Cursor>> {
    read_column::<Option<Vec<u8>>>(row, index)?
        .map(Cursor::from_bytes)
        .transpose()
}

fn diverged(pipeline: &PipelineId, bound: &str, source: &SourceId) -> Error {
    Error::new(
        ErrorKind::SourceDiverged,
        "claim pipeline",
        format!(
            "the replica of pipeline {pipeline} was filled from {bound}, not from {source}; start \
             it anew with `ledger bridge run --resync`"
        ),
    )
}
