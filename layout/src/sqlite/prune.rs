//! Removing log rows that nobody needs any more.

use std::time::Duration;

use ledger_core::{Result, Timestamp};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::error::failed;
use super::schema::Tables;
use crate::Retention;

/// How many rows one call of [`prune`] removes.
pub const PRUNE_ROWS: i64 = 256;

/// Removes up to [`PRUNE_ROWS`] of the oldest rows that nobody may need any more, and tells how many
/// it removed. The newest row always stays, and so does the row that a consumer's cursor points at:
/// by them cursors are told from those of another history.
pub async fn prune(
    conn: &mut SqliteConnection,
    tables: &Tables,
    retention: Retention,
    now: Timestamp,
) -> Result<u64> {
    const OPERATION: &str = "prune the mutation log";
    let fail = |error| failed(OPERATION, error);
    let Tables { store, log, .. } = tables;
    let before = |age: Duration| {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        now.as_micros().saturating_sub(age)
    };
    // The oldest rows up to the first that is young enough to stay, but for the last of them: the
    // cursor of a reader that has read all but the young ones points to it.
    let sql = format!(
        "WITH oldest AS (SELECT seq, at FROM {log}
           WHERE seq < (SELECT max(seq) FROM {log}) ORDER BY seq LIMIT ?4 + 1),
         bounds AS (SELECT
           coalesce((SELECT min(seq) - 2 FROM oldest WHERE at > ?2), max(seq) - (count(*) > ?4))
             AS expired,
           coalesce((SELECT min(seq) - 2 FROM oldest WHERE ?3 IS NULL OR at > ?3),
             max(seq) - (count(*) > ?4)) AS overdue
           FROM oldest)
         SELECT max(overdue, min(expired, coalesce(
           (SELECT min(confirmed_seq) - 1 FROM ledger_consumers WHERE store = ?1), expired)))
         FROM bounds"
    );
    let through: Option<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(store.as_str())
        .bind(before(retention.min))
        .bind(retention.max.map(before))
        .bind(PRUNE_ROWS)
        .fetch_one(&mut *conn)
        .await
        .map_err(fail)?;
    let Some(through) = through.filter(|through| *through > 0) else {
        return Ok(0);
    };
    let removed = sqlx::query(AssertSqlSafe(format!("DELETE FROM {log} WHERE seq <= ?1")))
        .bind(through)
        .execute(&mut *conn)
        .await
        .map_err(fail)?
        .rows_affected();
    if removed > 0 {
        sqlx::query(
            "UPDATE ledger_stores SET pruned_through = max(pruned_through, ?2) WHERE name = ?1",
        )
        .bind(store.as_str())
        .bind(through)
        .execute(conn)
        .await
        .map_err(fail)?;
    }
    Ok(removed)
}
