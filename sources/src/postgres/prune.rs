//! Pruning the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_core::Result;
use ledger_layout::postgres::begin;
use tokio::sync::Mutex;

use super::PostgresStore;
use super::read::safe;
use super::store::Inner;

/// How often writing looks whether there is something to prune.
const EVERY: Duration = Duration::from_mins(1);
/// The most rows that one transaction removes.
const CHUNK_ROWS: i64 = 10_000;

/// When the log was pruned last, in this process.
#[derive(Default)]
pub(super) struct Pruner {
    last: Mutex<Option<Instant>>,
    running: AtomicBool,
}

impl Pruner {
    /// Prunes in the background where it is time to.
    pub(super) fn after_write(&self, inner: &Arc<Inner>) {
        if !inner.row.log || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let due = self.last.try_lock().is_ok_and(|mut last| {
            let due = last.is_none_or(|last| last.elapsed() >= EVERY);
            if due {
                *last = Some(Instant::now());
            }
            due
        });
        if !due {
            self.running.store(false, Ordering::Release);
            return;
        }
        let inner = Arc::clone(inner);
        tokio::spawn(async move {
            if let Err(error) = prune(&inner).await {
                tracing::warn!(
                    error = error.chain(),
                    "could not prune the log; trying again later"
                );
            }
            inner.pruner.running.store(false, Ordering::Release);
        });
    }
}

impl PostgresStore {
    /// Removes what the retention no longer keeps from the log, and tells how many rows went; where the
    /// log is the write-ahead log, how many bytes of it are kept no longer. Happens by itself about
    /// once a minute while the store is written, or open.
    pub async fn prune(&self) -> Result<u64> {
        self.inner.check_writable("prune")?;
        if self.inner.row.wal {
            return super::wal::prune(&self.inner).await;
        }
        prune(&self.inner).await
    }
}

async fn prune(inner: &Inner) -> Result<u64> {
    const OPERATION: &str = "prune the log";
    let failed = |error| inner.failed(OPERATION, error);
    let retention = inner.options.retention;
    let seconds = |time: Duration| time.as_secs_f64();
    // The row a consumer has confirmed stays, since its digest is what proves the cursor. For the
    // same reason the row before the oldest young one stays, to which the cursor of a reader points
    // that has read all but the young ones, and the newest row. Where all are young nothing is old
    // enough (0): a NULL there would not count among the bounds, and a consumer alone would decide.
    let sql = inner.tables.sql(
        "WITH young AS (
            SELECT (SELECT min(seq) FROM {log}
                    WHERE at >= clock_timestamp() - $2 * interval '1 second') AS of_min,
                (SELECT min(seq) FROM {log}
                    WHERE at >= clock_timestamp() - $3::float8 * interval '1 second') AS of_max,
                (SELECT max(seq) FROM {log}) AS newest),
        kept AS (
            SELECT CASE WHEN y.of_min IS NULL THEN y.newest
                    ELSE coalesce((SELECT max(seq) FROM {log} WHERE seq < y.of_min), 0)
                END AS of_min,
                CASE WHEN $3::float8 IS NULL THEN 0 WHEN y.of_max IS NULL THEN y.newest
                    ELSE coalesce((SELECT max(seq) FROM {log} WHERE seq < y.of_max), 0)
                END AS of_max
            FROM young y),
        doomed AS (
            SELECT l.seq FROM {log} l WHERE l.seq < (
                SELECT greatest(k.of_max, least(k.of_min,
                    (SELECT min(seq) FROM {ledger.consumers} WHERE store = $1))) FROM kept k)
            ORDER BY l.seq LIMIT $4),
        gone AS (DELETE FROM {log} WHERE seq IN (SELECT seq FROM doomed) RETURNING seq),
        marked AS (
            UPDATE {ledger.stores} SET pruned_through = greatest(pruned_through,
                (SELECT max(seq) FROM gone)) WHERE name = $1 AND EXISTS (SELECT 1 FROM gone))
        SELECT count(*) FROM gone",
    );
    let mut total = 0;
    loop {
        let conn = inner.connection(OPERATION).await?;
        let mut tx = begin(conn).await.map_err(failed)?;
        let removed: i64 = sqlx::query_scalar(safe(sql.clone()))
            .bind(inner.tables.store().as_str())
            .bind(seconds(retention.min))
            .bind(retention.max.map(seconds))
            .bind(CHUNK_ROWS)
            .fetch_one(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        total += removed.cast_unsigned();
        if removed < CHUNK_ROWS {
            return Ok(total);
        }
    }
}
