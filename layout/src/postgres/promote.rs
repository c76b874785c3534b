//! Turning a replica's tables into those of a store that takes writes.

use ledger_core::{Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use super::schema::{PLAIN, SOURCE_INDEXES};
use super::{Tables, failed, find_store};

/// Makes names and dedup keys unique, moves the sequences above everything seen, gives the store an
/// identity of its own and fences its bridge off, in one transaction. A relay keeps its identity, and
/// its log goes on.
pub async fn promote(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    const OPERATION: &str = "promote replica";
    let store = tables.store();
    let failed = |error| failed(OPERATION, format!("store {store}"), error);
    let mut tx = conn.begin().await.map_err(failed)?;
    // In the order that deliveries lock in: the store's row, for which the bridge's next delivery
    // waits to then find another role; the cursors; the tables.
    for lock in [
        "SELECT 1 FROM {ledger.stores} WHERE name = '{store}' FOR UPDATE",
        "UPDATE {ledger.cursors} SET fence = fence + 1 WHERE store = '{store}'",
        "LOCK TABLE {entries}, {streams} IN ACCESS EXCLUSIVE MODE",
    ] {
        let lock = tables.sql(&lock.replace("{store}", store.as_str()));
        sqlx::query(AssertSqlSafe(lock))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    for (what, sql) in [
        (
            "streams share the name",
            "SELECT name FROM {streams} GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 5",
        ),
        (
            "entries of one stream share the dedup key",
            "SELECT s.name || '/' || e.dedup_key FROM {entries} e \
             JOIN {streams} s ON s.key = e.stream_key WHERE e.dedup_key <> '' \
             GROUP BY s.name, e.dedup_key HAVING count(*) > 1 ORDER BY 1 LIMIT 5",
        ),
    ] {
        let shared: Vec<String> = sqlx::query_scalar(AssertSqlSafe(tables.sql(sql)))
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
        if !shared.is_empty() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                OPERATION,
                format!("store {store}: {what} {}", shared.join(", ")),
            ));
        }
    }
    let before = find_store(&mut tx, tables).await?.filter(|row| row.relay);
    let continue_after = [
        "SELECT setval('{ids}', greatest(1, \
         (SELECT max(id) FROM {entries}), (SELECT max(trimmed_through) FROM {streams})))",
        "SELECT setval(pg_get_serial_sequence('{streams}', 'key'), \
         greatest(1, (SELECT max(key) FROM {streams})))",
    ];
    let begin_log = [
        // What the replica holds is not in its log, so a reader must not begin before the log: its
        // first row is pruned, and its second one repeats a name, which changes nothing.
        "SELECT nextval('{log_seq}') FROM {streams} LIMIT 1",
        "INSERT INTO {log} (at, stream_key, stream_name, name_version, kind, ids, version, body) \
         SELECT clock_timestamp(), key, name, name_version, 5, '{}', 0, '' \
         FROM {streams} ORDER BY key LIMIT 1",
        "UPDATE {ledger.stores} SET pruned_through = (SELECT min(seq) - 1 FROM {log}) \
         WHERE name = '{store}' AND EXISTS (SELECT 1 FROM {log})",
    ];
    let begin_log = begin_log.iter().filter(|_| before.is_none());
    for statement in SOURCE_INDEXES
        .iter()
        .chain(&continue_after)
        .chain(begin_log)
    {
        let statement = statement.replace("{store}", store.as_str());
        sqlx::query(AssertSqlSafe(tables.sql(&statement)))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    let sql = tables.sql(
        "UPDATE {ledger.stores} SET role = 'source', uuid = $2, source = NULL, log = true, \
         schema_version = $3 WHERE name = $1",
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(store.as_str())
        .bind(before.map_or_else(Uuid::new_v4, |row| row.uuid))
        .bind(PLAIN)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}
