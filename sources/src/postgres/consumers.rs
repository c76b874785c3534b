//! The registered consumers of the log, and their leases.

use std::time::Duration;

use async_trait::async_trait;
use ledger_core::{Consumer, Consumers, Cursor, Error, ErrorKind, Lease, PipelineId, Result};
use ledger_layout::postgres::{Micros, begin};
use sqlx::Row as _;
use sqlx::postgres::PgQueryResult;

use super::read::safe;
use super::registry::Registry;

impl Registry {
    fn unregistered(&self, operation: &'static str, pipeline: &PipelineId) -> Error {
        let store = self.tables.store();
        Error::new(
            ErrorKind::NotFound,
            operation,
            format!("pipeline {pipeline} is not registered at store {store}"),
        )
    }

    async fn write_position(
        &self,
        operation: &'static str,
        template: &str,
        pipeline: &PipelineId,
        at: &Cursor,
    ) -> Result<PgQueryResult> {
        let seq = (self.position)(at)?;
        let mut conn = self.connection(operation).await?;
        sqlx::query(safe(self.tables.sql(template)))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .bind(at.as_bytes())
            .bind(seq)
            .execute(&mut *conn)
            .await
            .map_err(|error| self.failed(operation, error))
    }
}

#[async_trait]
impl Consumers for Registry {
    async fn register(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const SQL: &str = "INSERT INTO {ledger.consumers} (store, pipeline, confirmed, seq) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (store, pipeline) DO NOTHING";
        self.write_position("register consumer", SQL, pipeline, at)
            .await
            .map(drop)
    }

    async fn confirm(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "confirm";
        const SQL: &str = "UPDATE {ledger.consumers} SET confirmed = greatest(confirmed, $3), \
             seq = greatest(seq, $4), confirmed_at = clock_timestamp() \
             WHERE store = $1 AND pipeline = $2";
        match self
            .write_position(OPERATION, SQL, pipeline, at)
            .await?
            .rows_affected()
        {
            0 => Err(self.unregistered(OPERATION, pipeline)),
            _ => Ok(()),
        }
    }

    async fn reset(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "reset consumer";
        const SQL: &str = "UPDATE {ledger.consumers} SET confirmed = $3, seq = $4, \
             confirmed_at = clock_timestamp() WHERE store = $1 AND pipeline = $2";
        match self
            .write_position(OPERATION, SQL, pipeline, at)
            .await?
            .rows_affected()
        {
            0 => Err(self.unregistered(OPERATION, pipeline)),
            _ => Ok(()),
        }
    }

    async fn unregister(&self, pipeline: &PipelineId) -> Result<()> {
        const OPERATION: &str = "unregister consumer";
        let failed = |error| self.failed(OPERATION, error);
        let conn = self.connection(OPERATION).await?;
        let mut tx = begin(conn).await.map_err(failed)?;
        for table in ["consumers", "dead_letters"] {
            let table = self.tables.shared(table);
            sqlx::query(safe(format!(
                "DELETE FROM {table} WHERE store = $1 AND pipeline = $2"
            )))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    async fn list(&self) -> Result<Vec<Consumer>> {
        const OPERATION: &str = "list consumers";
        let mut conn = self.connection(OPERATION).await?;
        let sql = self.tables.sql(
            "SELECT pipeline, confirmed, confirmed_at, \
             CASE WHEN held_until > clock_timestamp() THEN holder END, paused \
             FROM {ledger.consumers} WHERE store = $1 ORDER BY pipeline",
        );
        let rows = sqlx::query(safe(sql))
            .bind(self.tables.store().as_str())
            .fetch_all(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        rows.iter()
            .map(|row| {
                Ok(Consumer {
                    pipeline: PipelineId::new(row.get::<&str, _>(0))?,
                    confirmed: Cursor::from_bytes(row.get::<Vec<u8>, _>(1))?,
                    confirmed_at: row.get::<Micros, _>(2).0,
                    holder: row.get(3),
                    paused: row.get(4),
                })
            })
            .collect()
    }

    async fn lease(&self, pipeline: &PipelineId, holder: &str, ttl: Duration) -> Result<Lease> {
        const OPERATION: &str = "lease pipeline";
        let mut conn = self.connection(OPERATION).await?;
        // One statement takes or renews; who does not get it reads who has it.
        let sql = self.tables.sql(
            "UPDATE {ledger.consumers} SET holder = $3, \
             held_until = clock_timestamp() + $4 * interval '1 microsecond' \
             WHERE store = $1 AND pipeline = $2 AND (holder IS NULL OR holder = $3 \
             OR held_until <= clock_timestamp()) RETURNING paused",
        );
        let paused: Option<bool> = sqlx::query_scalar(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .bind(holder)
            .bind(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX))
            .fetch_optional(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        if let Some(paused) = paused {
            return Ok(Lease::Held { paused });
        }
        let sql = self
            .tables
            .sql("SELECT coalesce(holder, '') FROM {ledger.consumers} WHERE store = $1 AND pipeline = $2");
        let holder: Option<String> = sqlx::query_scalar(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .fetch_optional(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        holder
            .map(|holder| Lease::HeldBy { holder })
            .ok_or_else(|| self.unregistered(OPERATION, pipeline))
    }

    async fn release(&self, pipeline: &PipelineId, holder: &str) -> Result<()> {
        const OPERATION: &str = "release pipeline";
        let mut conn = self.connection(OPERATION).await?;
        let sql = self.tables.sql(
            "UPDATE {ledger.consumers} SET holder = NULL, held_until = NULL \
             WHERE store = $1 AND pipeline = $2 AND holder = $3",
        );
        sqlx::query(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .bind(holder)
            .execute(&mut *conn)
            .await
            .map(drop)
            .map_err(|error| self.failed(OPERATION, error))
    }

    async fn set_paused(&self, pipeline: &PipelineId, paused: bool) -> Result<()> {
        const OPERATION: &str = "pause pipeline";
        let mut conn = self.connection(OPERATION).await?;
        let sql = self
            .tables
            .sql("UPDATE {ledger.consumers} SET paused = $3 WHERE store = $1 AND pipeline = $2");
        let updated = sqlx::query(safe(sql))
            .bind(self.tables.store().as_str())
            .bind(pipeline.as_str())
            .bind(paused)
            .execute(&mut *conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        match updated.rows_affected() {
            0 => Err(self.unregistered(OPERATION, pipeline)),
            _ => Ok(()),
        }
    }
}
