//! Pruning the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_core::Result;
use ledger_layout::postgres::{self, begin};
use tokio::sync::Mutex;

use super::PostgresStore;
use super::store::Inner;

/// How often writing looks whether there is something to prune.
const EVERY: Duration = Duration::from_mins(1);

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
        if !self.inner.row.log {
            self.inner.check_writable("prune")?;
        }
        if self.inner.row.wal {
            return super::wal::prune(&self.inner).await;
        }
        prune(&self.inner).await
    }
}

async fn prune(inner: &Inner) -> Result<u64> {
    const OPERATION: &str = "prune the log";
    let failed = |error| inner.failed(OPERATION, error);
    let mut total = 0;
    loop {
        let conn = inner.connection(OPERATION).await?;
        let mut tx = begin(conn).await.map_err(failed)?;
        let retention = inner.options.retention;
        let removed = postgres::prune(&mut tx, &inner.tables, retention).await?;
        tx.commit().await.map_err(failed)?;
        total += removed;
        if removed < postgres::PRUNE_ROWS {
            return Ok(total);
        }
    }
}
