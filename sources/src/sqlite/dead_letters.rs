//! What consumers could not deliver.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ledger_core::{Cursor, DeadLetter, DeadLetters, PipelineId, Result, StreamKey};
use ledger_layout::sqlite::{Database, Tables, failed, from_micros, int_in, read_column, uint};

/// The dead letters of a store's consumers.
#[derive(Debug)]
pub(super) struct SqliteDeadLetters {
    pub(super) database: Database,
    pub(super) tables: Arc<Tables>,
}

impl SqliteDeadLetters {
    fn store(&self) -> &str {
        self.tables.store.as_str()
    }
}

#[async_trait]
impl DeadLetters for SqliteDeadLetters {
    async fn park(&self, letters: Vec<DeadLetter>) -> Result<()> {
        let fail = |error| failed("park dead letters", error);
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        for letter in letters {
            sqlx::query(
                "INSERT INTO ledger_dead_letters (store, pipeline, cursor, stream_key, description,
                   reason, item, parked_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT DO NOTHING",
            )
            .bind(self.store())
            .bind(letter.pipeline.as_str())
            .bind(letter.cursor.as_bytes())
            .bind(int_in(letter.key.0))
            .bind(letter.description)
            .bind(letter.reason)
            .bind(&letter.item[..])
            .bind(letter.parked_at.as_micros())
            .execute(&mut *transaction)
            .await
            .map_err(fail)?;
        }
        transaction.commit().await.map_err(fail)
    }

    async fn list(
        &self,
        pipeline: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let mut reader = self.database.reader().await?;
        let rows = sqlx::query(
            "SELECT cursor, stream_key, description, reason, item, parked_at
             FROM ledger_dead_letters WHERE store = ?1 AND pipeline = ?2 AND cursor > ?3
             ORDER BY cursor LIMIT ?4",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .bind(after.map_or(&[][..], Cursor::as_bytes))
        .bind(int_in(u64::try_from(limit).unwrap_or(u64::MAX)))
        .fetch_all(&mut *reader)
        .await
        .map_err(|error| failed("list dead letters", error));
        let rows = reader.done(rows)?;
        rows.iter()
            .map(|row| {
                Ok(DeadLetter {
                    pipeline: pipeline.clone(),
                    cursor: Cursor::from_bytes(read_column::<Vec<u8>>(row, 0)?)?,
                    key: StreamKey(uint(row, 1)?),
                    description: read_column(row, 2)?,
                    reason: read_column(row, 3)?,
                    item: Bytes::from(read_column::<Vec<u8>>(row, 4)?),
                    parked_at: from_micros(read_column(row, 5)?),
                })
            })
            .collect()
    }

    async fn parked_keys(&self, pipeline: &PipelineId) -> Result<Vec<StreamKey>> {
        let mut reader = self.database.reader().await?;
        let rows = sqlx::query(
            "SELECT stream_key FROM ledger_dead_letters WHERE store = ?1 AND pipeline = ?2
             GROUP BY stream_key ORDER BY min(cursor)",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .fetch_all(&mut *reader)
        .await
        .map_err(|error| failed("list parked streams", error));
        let rows = reader.done(rows)?;
        rows.iter().map(|row| uint(row, 0).map(StreamKey)).collect()
    }

    async fn count(&self, pipeline: &PipelineId) -> Result<u64> {
        let mut reader = self.database.reader().await?;
        let row = sqlx::query(
            "SELECT count(*) FROM ledger_dead_letters WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .fetch_one(&mut *reader)
        .await
        .map_err(|error| failed("count dead letters", error));
        uint(&reader.done(row)?, 0)
    }

    async fn remove(&self, pipeline: &PipelineId, cursors: &[Cursor]) -> Result<()> {
        let fail = |error| failed("remove dead letters", error);
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        for cursor in cursors {
            sqlx::query(
                "DELETE FROM ledger_dead_letters
                 WHERE store = ?1 AND pipeline = ?2 AND cursor = ?3",
            )
            .bind(self.store())
            .bind(pipeline.as_str())
            .bind(cursor.as_bytes())
            .execute(&mut *transaction)
            .await
            .map_err(fail)?;
        }
        transaction.commit().await.map_err(fail)
    }
}
