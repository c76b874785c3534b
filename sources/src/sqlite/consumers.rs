//! The registered consumers of the log, and their leases.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ledger_core::{
    Consumer, Consumers, Cursor, Error, ErrorKind, Lease, PipelineId, Result, Timestamp,
};
use ledger_layout::log::Position;
use ledger_layout::sqlite::{Database, LOG_TAG, Tables, failed, from_micros, load, read_column};
use sqlx::SqliteConnection;

/// The consumers of a store's log.
#[derive(Debug)]
pub(super) struct SqliteConsumers {
    pub(super) database: Database,
    pub(super) tables: Arc<Tables>,
}

impl SqliteConsumers {
    fn store(&self) -> &str {
        self.tables.store.as_str()
    }

    /// Runs a statement on one consumer; `NotFound` where there is none.
    async fn update(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        query: sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let done = query
            .execute(&mut *writer)
            .await
            .map_err(|error| failed(operation, error))?;
        if done.rows_affected() == 0 {
            return Err(unknown(operation, pipeline));
        }
        Ok(())
    }
}

fn unknown(operation: &'static str, pipeline: &PipelineId) -> Error {
    let what = format!("consumer {pipeline} is not registered");
    Error::new(ErrorKind::NotFound, operation, what)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[async_trait]
impl Consumers for SqliteConsumers {
    async fn register(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "register consumer";
        let seq = Position::from_cursor(at, LOG_TAG)?.seq;
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let row = load(&mut transaction, &self.tables.store).await?;
        let inserted = sqlx::query(
            "INSERT INTO ledger_consumers (store, pipeline, confirmed, confirmed_seq, confirmed_at)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .bind(at.as_bytes())
        .bind(seq)
        .bind(Timestamp::now().as_micros())
        .execute(&mut *transaction)
        .await
        .map_err(|error| failed(OPERATION, error))?
        .rows_affected();
        if inserted > 0
            && let Some(pruned) = row.map(|row| row.pruned_through)
            && pruned > 0
            && seq <= pruned
        {
            return Err(Error::new(
                ErrorKind::CursorExpired,
                OPERATION,
                format!(
                    "consumer {pipeline}: the log was pruned through row {pruned}; start it at \
                         the log's head, with a snapshot"
                ),
            ));
        }
        transaction
            .commit()
            .await
            .map_err(|error| failed(OPERATION, error))
    }

    async fn confirm(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        let seq = Position::from_cursor(at, LOG_TAG)?.seq;
        let query = sqlx::query(
            "UPDATE ledger_consumers SET confirmed = max(confirmed, ?3),
               confirmed_seq = max(confirmed_seq, ?4), confirmed_at = ?5
             WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(self.store().to_owned())
        .bind(pipeline.as_str().to_owned())
        .bind(at.as_bytes().to_vec())
        .bind(seq)
        .bind(Timestamp::now().as_micros());
        self.update("confirm", pipeline, query).await
    }

    async fn reset(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        let seq = Position::from_cursor(at, LOG_TAG)?.seq;
        let query = sqlx::query(
            "UPDATE ledger_consumers SET confirmed = ?3, confirmed_seq = ?4, confirmed_at = ?5
             WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(self.store().to_owned())
        .bind(pipeline.as_str().to_owned())
        .bind(at.as_bytes().to_vec())
        .bind(seq)
        .bind(Timestamp::now().as_micros());
        self.update("reset consumer", pipeline, query).await
    }

    async fn unregister(&self, pipeline: &PipelineId) -> Result<()> {
        let fail = |error| failed("unregister consumer", error);
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        for sql in [
            "DELETE FROM ledger_consumers WHERE store = ?1 AND pipeline = ?2",
            "DELETE FROM ledger_dead_letters WHERE store = ?1 AND pipeline = ?2",
        ] {
            sqlx::query(sql)
                .bind(self.store())
                .bind(pipeline.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(fail)?;
        }
        transaction.commit().await.map_err(fail)
    }

    async fn list(&self) -> Result<Vec<Consumer>> {
        let mut reader = self.database.reader().await?;
        let rows = sqlx::query(
            "SELECT pipeline, confirmed, confirmed_at,
               CASE WHEN leased_until > ?2 THEN holder END, paused
             FROM ledger_consumers WHERE store = ?1 ORDER BY pipeline",
        )
        .bind(self.store())
        .bind(Timestamp::now().as_micros())
        .fetch_all(&mut *reader)
        .await
        .map_err(|error| failed("list consumers", error));
        let rows = reader.done(rows)?;
        rows.iter()
            .map(|row| {
                Ok(Consumer {
                    pipeline: PipelineId::new(read_column::<&str>(row, 0)?)?,
                    confirmed: Cursor::from_bytes(read_column::<Vec<u8>>(row, 1)?)?,
                    confirmed_at: from_micros(read_column(row, 2)?),
                    holder: read_column(row, 3)?,
                    paused: read_column(row, 4)?,
                })
            })
            .collect()
    }

    async fn lease(&self, pipeline: &PipelineId, holder: &str, ttl: Duration) -> Result<Lease> {
        const OPERATION: &str = "take lease";
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let lease = self.take(&mut transaction, pipeline, holder, ttl).await?;
        transaction
            .commit()
            .await
            .map_err(|error| failed(OPERATION, error))?;
        Ok(lease)
    }

    async fn release(&self, pipeline: &PipelineId, holder: &str) -> Result<()> {
        let mut writer = self.database.writer().await?;
        sqlx::query(
            "UPDATE ledger_consumers SET holder = NULL, leased_until = 0
             WHERE store = ?1 AND pipeline = ?2 AND holder = ?3",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .bind(holder)
        .execute(&mut *writer)
        .await
        .map_err(|error| failed("release lease", error))?;
        Ok(())
    }

    async fn set_paused(&self, pipeline: &PipelineId, paused: bool) -> Result<()> {
        let query = sqlx::query(
            "UPDATE ledger_consumers SET paused = ?3 WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(self.store().to_owned())
        .bind(pipeline.as_str().to_owned())
        .bind(paused);
        self.update("pause pipeline", pipeline, query).await
    }
}

impl SqliteConsumers {
    async fn take(
        &self,
        conn: &mut SqliteConnection,
        pipeline: &PipelineId,
        holder: &str,
        ttl: Duration,
    ) -> Result<Lease> {
        const OPERATION: &str = "take lease";
        let fail = |error| failed(OPERATION, error);
        let now = Timestamp::now().as_micros();
        let taken: Option<bool> = sqlx::query_scalar(
            "UPDATE ledger_consumers SET holder = ?3, leased_until = ?5
             WHERE store = ?1 AND pipeline = ?2
               AND (holder IS NULL OR holder = ?3 OR leased_until <= ?4)
             RETURNING paused",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .bind(holder)
        .bind(now)
        .bind(now.saturating_add(micros(ttl)))
        .fetch_optional(&mut *conn)
        .await
        .map_err(fail)?;
        if let Some(paused) = taken {
            return Ok(Lease::Held { paused });
        }
        let other: Option<String> = sqlx::query_scalar(
            "SELECT holder FROM ledger_consumers WHERE store = ?1 AND pipeline = ?2",
        )
        .bind(self.store())
        .bind(pipeline.as_str())
        .fetch_optional(conn)
        .await
        .map_err(fail)?;
        other
            .map(|holder| Lease::HeldBy { holder })
            .ok_or_else(|| unknown(OPERATION, pipeline))
    }
}
