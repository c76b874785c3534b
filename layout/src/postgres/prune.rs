//! Removing log rows that nobody needs any more.

use std::time::Duration;

use ledger_core::Result;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{Tables, failed};
use crate::Retention;

/// The most rows that one call of [`prune`] removes.
pub const PRUNE_ROWS: u64 = 10_000;

/// Removes up to [`PRUNE_ROWS`] of the oldest rows that the retention no longer keeps, in the caller's
/// transaction, and tells how many.
pub async fn prune(conn: &mut PgConnection, tables: &Tables, retention: Retention) -> Result<u64> {
    let seconds = |time: Duration| time.as_secs_f64();
    // The row a consumer has confirmed stays, since its digest is what proves the cursor. For the
    // same reason the row before the oldest young one stays, to which the cursor of a reader points
    // that has read all but the young ones, and the newest row. Where all are young nothing is old
    // enough (0): a NULL there would not count among the bounds, and a consumer alone would decide.
    let sql = tables.sql(
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
    let removed: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tables.store().as_str())
        .bind(seconds(retention.min))
        .bind(retention.max.map(seconds))
        .bind(PRUNE_ROWS.cast_signed())
        .fetch_one(conn)
        .await
        .map_err(|error| failed("prune the log", format!("store {}", tables.store()), error))?;
    Ok(removed.cast_unsigned())
}
