//! The slot that keeps a store's log from being forgotten.

use std::time::Duration;

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::postgres::wal;
use sqlx::{Connection as _, PgConnection, Row as _};
use xxhash_rust::xxh3::xxh3_64;

use super::position::Position;
use crate::postgres::capture::slot;
use crate::postgres::read::safe;
use crate::postgres::store::Inner;

const OPERATION: &str = "keep the write-ahead log";

/// How long it is waited for the transactions that are open when a slot is made.
const PATIENCE: Duration = Duration::from_mins(1);

/// Makes the slot where it is still to be made, or was lost; afterwards the log is kept from a position
/// on that is noted. Of several that come at once one does it.
pub(super) async fn prepare(inner: &Inner) -> Result<()> {
    let failed = |error| inner.failed(OPERATION, error);
    let mut conn = inner.connection(OPERATION).await?;
    if is_ready(inner, &mut conn).await? {
        return Ok(());
    }
    let mut tx = conn.begin().await.map_err(failed)?;
    lock(inner, &mut tx).await?;
    if is_ready(inner, &mut tx).await? {
        return Ok(());
    }
    let row = wal::find(&mut tx, &inner.tables).await?;
    // One that nobody has noted, or that the server has given up.
    slot::drop_slot(&mut tx, &row.slot).await?;
    let patience = format!("SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
    for sql in [
        patience.as_str(),
        "SET LOCAL idle_in_transaction_session_timeout = 0",
    ] {
        sqlx::query(safe(sql.to_owned()))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    let from = slot::create(&mut tx, &row.slot, true).await;
    let from = match from {
        // `query_canceled`
        Err(error) if error.chain().contains("statement timeout") => {
            return Err(waiting(inner, error).await);
        }
        from => from?,
    };
    let sql = inner
        .tables
        .sql("SELECT coalesce(max(id), 0), EXISTS (SELECT FROM {streams}) FROM {entries}");
    let found = sqlx::query(safe(sql)).fetch_one(&mut *tx).await;
    let found = found.map_err(failed)?;
    let id = found.get::<i64, _>(0).cast_unsigned();
    // Nothing can have been written before: who opens the store waits for this.
    let kept_after = if row.kept_after.is_none() && !found.get::<bool, _>(1) {
        Position::START
    } else {
        Position::before(from, id)
    };
    let cursor = kept_after.to_cursor(&inner.row.uuid);
    let sql = inner.tables.sql(
        "UPDATE {ledger.wal_logs} SET kept_after = $2, last = $2, through = $3 WHERE store = $1",
    );
    sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(cursor.as_bytes())
        .bind(from.cast_signed())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let sql = inner
        .tables
        .sql("DELETE FROM {ledger.wal_marks} WHERE store = $1");
    sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// Only one process works on a store's slot at a time.
pub(super) async fn lock(inner: &Inner, conn: &mut PgConnection) -> Result<()> {
    let locked = sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(xxh3_64(inner.row.uuid.as_bytes()).cast_signed())
        .execute(conn)
        .await;
    locked
        .map(drop)
        .map_err(|error| inner.failed(OPERATION, error))
}

async fn is_ready(inner: &Inner, conn: &mut PgConnection) -> Result<bool> {
    let row = wal::find(conn, &inner.tables).await?;
    if row.kept_after.is_none() {
        return Ok(false);
    }
    let slot = slot::find(conn, &row.slot).await?;
    Ok(slot.is_some_and(|slot| !slot.lost))
}

/// The error that tells who is waited for.
async fn waiting(inner: &Inner, source: Error) -> Error {
    const SQL: &str = "SELECT string_agg(pid::text, ', ') FROM pg_stat_activity \
         WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";
    let who = async {
        let mut conn = inner.connection(OPERATION).await.ok()?;
        let who: Option<String> = sqlx::query_scalar(SQL).fetch_one(&mut *conn).await.ok()?;
        who
    };
    let who = who.await.unwrap_or_else(|| "prepared ones".to_owned());
    Error::new(
        ErrorKind::Unavailable,
        OPERATION,
        format!("the slot can be made once transactions that are open have ended: processes {who}"),
    )
    .with_source(source)
}
