//! What consumers of the log could not deliver.

use async_trait::async_trait;
use ledger_core::{Cursor, DeadLetter, DeadLetters, PipelineId, Result, StreamKey};
use ledger_layout::postgres::{Micros, begin, micros};
use sqlx::Row as _;

use super::read::safe;
use super::registry::Registry;

#[async_trait]
impl DeadLetters for Registry {
    async fn park(&self, letters: Vec<DeadLetter>) -> Result<()> {
        const OPERATION: &str = "park dead letters";
        let failed = |error| self.failed(OPERATION, error);
        let sql = self.tables.sql(
            "INSERT INTO {ledger.dead_letters} (store, pipeline, cursor, stream_key, description, \
             reason, item, parked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (store, pipeline, cursor) DO NOTHING",
        );
        let conn = self.connection(OPERATION).await?;
        let mut tx = begin(conn).await.map_err(failed)?;
        // Who parks must not lose it in a crash, whatever the session's setting.
        sqlx::query("SET LOCAL synchronous_commit = on")
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        for letter in &letters {
            sqlx::query(safe(sql.clone()))
                .bind(self.tables.store().as_str())
                .bind(letter.pipeline.as_str())
                .bind(letter.cursor.as_bytes())
                .bind(letter.key.0.cast_signed())
                .bind(letter.description.replace('\0', "\u{fffd}"))
                .bind(letter.reason.replace('\0', "\u{fffd}"))
                .bind(letter.item.as_ref())
                .bind(micros(letter.parked_at))
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    async fn list(
        &self,
        pipeline: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        const OPERATION: &str = "list dead letters";
        let sql = self.tables.sql(
            "SELECT cursor, stream_key, description, reason, item, parked_at \
             FROM {ledger.dead_letters} WHERE store = $1 AND pipeline = $2 \
             AND ($3::bytea IS NULL OR cursor > $3) ORDER BY cursor LIMIT $4",
        );
        let mut conn = self.connection(OPERATION).await?;
        let rows = sqlx::query(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .bind(after.map(Cursor::as_bytes))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        rows.iter()
            .map(|row| {
                Ok(DeadLetter {
                    pipeline: pipeline.clone(),
                    cursor: Cursor::from_bytes(row.get::<Vec<u8>, _>(0))?,
                    key: StreamKey(row.get::<i64, _>(1).cast_unsigned()),
                    description: row.get(2),
                    reason: row.get(3),
                    item: row.get::<Vec<u8>, _>(4).into(),
                    parked_at: row.get::<Micros, _>(5).0,
                })
            })
            .collect()
    }

    async fn parked_keys(&self, pipeline: &PipelineId) -> Result<Vec<StreamKey>> {
        const OPERATION: &str = "read parked streams";
        let sql = self.tables.sql(
            "SELECT DISTINCT stream_key FROM {ledger.dead_letters} \
             WHERE store = $1 AND pipeline = $2",
        );
        let mut conn = self.connection(OPERATION).await?;
        let keys: Vec<i64> = sqlx::query_scalar(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .fetch_all(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        Ok(keys
            .into_iter()
            .map(|key| StreamKey(key.cast_unsigned()))
            .collect())
    }

    async fn count(&self, pipeline: &PipelineId) -> Result<u64> {
        const OPERATION: &str = "count dead letters";
        let sql = self
            .tables
            .sql("SELECT count(*) FROM {ledger.dead_letters} WHERE store = $1 AND pipeline = $2");
        let mut conn = self.connection(OPERATION).await?;
        let count: i64 = sqlx::query_scalar(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        Ok(count.cast_unsigned())
    }

    async fn remove(&self, pipeline: &PipelineId, cursors: &[Cursor]) -> Result<()> {
        const OPERATION: &str = "remove dead letters";
        let sql = self.tables.sql(
            "DELETE FROM {ledger.dead_letters} WHERE store = $1 AND pipeline = $2 \
             AND cursor = ANY($3)",
        );
        let cursors: Vec<&[u8]> = cursors.iter().map(Cursor::as_bytes).collect();
        let mut conn = self.connection(OPERATION).await?;
        sqlx::query(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .bind(cursors)
            .execute(&mut *conn)
            .await
            .map(drop)
            .map_err(|error| self.failed(OPERATION, error))
    }
}
