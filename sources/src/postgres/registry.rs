//! Where it stands who reads a log, and what could not be delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger_core::{Cursor, Error, ErrorKind, Result};
use ledger_layout::postgres::{Tables, failed};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;

/// Tells the place of a cursor as a number that sorts the same.
pub(super) type Number = Arc<dyn Fn(&Cursor) -> Result<i64> + Send + Sync>;

/// The consumers and dead letters of one log, in the tables that all logs of a schema share.
pub(super) struct Registry {
    pub(super) pool: PgPool,
    pub(super) tables: Tables,
    pub(super) position: Number,
    pub(super) closed: Arc<AtomicBool>,
}

impl Registry {
    /// A connection for `operation`.
    pub(super) async fn connection(
        &self,
        operation: &'static str,
    ) -> Result<PoolConnection<Postgres>> {
        if self.closed.load(Ordering::Acquire) {
            let what = format!("store {}", self.tables.store());
            return Err(Error::new(ErrorKind::Closed, operation, what));
        }
        let acquired = self.pool.acquire().await;
        acquired.map_err(|error| self.failed(operation, error))
    }

    pub(super) fn failed(&self, operation: &'static str, error: sqlx::Error) -> Error {
        failed(operation, format!("store {}", self.tables.store()), error)
    }
}
