//! The beginning of a copy: a position behind every transaction that may have written before the
//! table was published. Finding one waits for the transactions that are running.

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::postgres::PostgresConfig;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::catalog::Found;
use super::copy::Copy;
use super::slot;
use crate::postgres::replication::{Replication, parsed, quoted};

/// What a copy begins with.
pub(super) struct Begin {
    pub(super) config: PostgresConfig,
    pub(super) pool: PgPool,
    pub(super) width: usize,
    pub(super) found: Found,
    /// Whether nothing of the table is copied.
    pub(super) left_out: bool,
}

impl Begin {
    /// The copy, of which nothing has been read.
    pub(super) async fn run(self) -> Result<Copy> {
        if self.found.table.is_keyed() || self.left_out {
            let point = self.barrier().await? - 1;
            return Copy::by_key(self.pool, &self.found, point, None, self.width);
        }
        self.snapshot().await
    }

    /// A slot is made, which waits, and is dropped again.
    async fn barrier(&self) -> Result<u64> {
        let failed = |error| ledger_layout::postgres::failed("copy tables", "", error);
        let mut conn = PgConnection::connect_with(self.config.options())
            .await
            .map_err(failed)?;
        let name = format!("ledger_barrier_{}", Uuid::new_v4().simple());
        let point = slot::create(&mut conn, &name, false).await?;
        // A temporary slot goes with its connection.
        conn.close().await.map_err(failed)?;
        Ok(point)
    }

    /// A copy from a snapshot, which is that of the position at which a slot is made.
    async fn snapshot(self) -> Result<Copy> {
        const OPERATION: &str = "export a snapshot";
        let replication = Replication::connect(&self.config).await?;
        let name = format!("ledger_snapshot_{}", Uuid::new_v4().simple());
        let command = format!(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
            quoted(&name)
        );
        let (held, answer) = replication.execute(OPERATION, command).await?;
        let mut columns = answer.into_iter().next().unwrap_or_default().into_iter();
        let (point, snapshot) = (columns.nth(1).flatten(), columns.next().flatten());
        let (Some(point), Some(snapshot)) = (point, snapshot) else {
            let what = "the server told no position";
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, what));
        };
        let point = parsed(&point)? - 1;
        Ok(Copy::of_snapshot(
            self.pool,
            &self.found,
            point,
            snapshot,
            held,
        ))
    }
}
