//! The slot that keeps a store's log from being forgotten.

use std::time::{Duration, Instant};

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::postgres::{failed, wal};
use sqlx::{Connection as _, PgConnection, Row as _};
use xxhash_rust::xxh3::xxh3_64;

use super::position::Position;
use crate::postgres::capture::slot;
use crate::postgres::read::safe;
use crate::postgres::store::Inner;

const OPERATION: &str = "keep the write-ahead log";

/// How long it is waited for the transactions that are open when a slot is made.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(20);

/// Makes the slot where it is still to be made, or was lost; afterwards the log is kept from a position
/// on that is noted. Of several that come at once one does it.
pub(super) async fn prepare(inner: &Inner) -> Result<()> {
    let failed = |error| inner.failed(OPERATION, error);
    let mut conn = inner.connection(OPERATION).await?;
    if is_ready(inner, &mut conn).await? {
        return Ok(());
    }
    // A slot is made at once, and not with the transaction: until it is noted where it stands, nothing
    // of before is there, whoever dies in between.
    forget(inner, &mut conn).await?;
    let mut tx = conn.begin().await.map_err(failed)?;
    lock(inner, &mut tx).await?;
    if is_ready(inner, &mut tx).await? {
        return Ok(());
    }
    let sql = inner.tables.sql("SELECT EXISTS (SELECT FROM {streams})");
    let used: bool = sqlx::query_scalar(safe(sql))
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    if used {
        // A call that has begun before the log was switched writes as it was then.
        settle(&mut tx).await?;
    }
    let name = inner.slot();
    slot::drop_slot(&mut tx, &name).await?;
    let patience = format!("SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
    sqlx::query(safe(patience))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let from = match slot::create(&mut tx, &name, true).await {
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
    // Without a stream nothing was ever written: who opens a new store waits for this.
    let kept_after = if found.get::<bool, _>(1) {
        Position::before(from, id)
    } else {
        Position::START
    };
    let sql = inner.tables.sql(
        "WITH marks AS (DELETE FROM {ledger.wal_marks} WHERE store = $1) \
         UPDATE {ledger.wal_logs} SET kept_after = $2, last = $2, through = $3, kept_lsn = $3 \
         WHERE store = $1",
    );
    let noted = sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(kept_after.to_cursor(&inner.history).as_bytes())
        .bind(from.cast_signed())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    if noted.rows_affected() == 0 {
        // The log was switched meanwhile.
        slot::drop_slot(&mut tx, &name).await?;
    }
    tx.commit().await.map_err(failed)
}

/// Notes that nothing is kept.
async fn forget(inner: &Inner, conn: &mut PgConnection) -> Result<()> {
    let failed = |error| inner.failed(OPERATION, error);
    let mut tx = conn.begin().await.map_err(failed)?;
    lock(inner, &mut tx).await?;
    if is_ready(inner, &mut tx).await? {
        return Ok(());
    }
    let sql = inner
        .tables
        .sql("UPDATE {ledger.wal_logs} SET kept_after = NULL, slot = $2 WHERE store = $1");
    sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(inner.slot())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// Waits until the transactions of the database that are open now have ended.
pub(super) async fn settle(conn: &mut PgConnection) -> Result<()> {
    const SQL: &str = "SELECT l.virtualtransaction FROM pg_locks l \
         JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'virtualxid' AND l.granted \
         AND a.datname = current_database() AND l.pid <> pg_backend_pid()";
    let ask = async |conn: &mut PgConnection| {
        let open = sqlx::query_scalar(SQL).fetch_all(conn).await;
        open.map_err(|error| failed(OPERATION, "", error))
    };
    let mut open: Vec<String> = ask(&mut *conn).await?;
    let begun = Instant::now();
    while !open.is_empty() {
        if begun.elapsed() > PATIENCE {
            let what = format!("transactions stay open: {}", who(conn).await);
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, what));
        }
        tokio::time::sleep(LOOK).await;
        let now: Vec<String> = ask(&mut *conn).await?;
        open.retain(|transaction| now.contains(transaction));
    }
    Ok(())
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
    // That of a database which this one was copied from is not touched.
    if row.kept_after.is_none() || row.slot != inner.slot() {
        return Ok(false);
    }
    let slot = slot::find(conn, &row.slot).await?;
    Ok(slot.is_some_and(|slot| !slot.lost && slot.confirmed <= row.kept_lsn))
}

/// The error that tells who is waited for.
async fn waiting(inner: &Inner, source: Error) -> Error {
    let who = match inner.connection(OPERATION).await {
        Ok(mut conn) => who(&mut conn).await,
        Err(_) => String::new(),
    };
    let what = format!("the slot can be made once transactions that are open have ended: {who}");
    Error::new(ErrorKind::Unavailable, OPERATION, what).with_source(source)
}

/// Whose transactions have been open for a while.
async fn who(conn: &mut PgConnection) -> String {
    const SQL: &str = "SELECT string_agg(pid::text, ', ') FROM pg_stat_activity \
         WHERE xact_start < clock_timestamp() - interval '10 seconds' AND pid <> pg_backend_pid() \
         AND backend_type = 'client backend'";
    let who: Option<Option<String>> = sqlx::query_scalar(SQL).fetch_one(conn).await.ok();
    let pids = who.flatten();
    pids.map_or_else(
        || "prepared ones".to_owned(),
        |pids| format!("processes {pids}"),
    )
}
