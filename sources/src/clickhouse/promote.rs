//! Making a replica a store of its own.

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::clickhouse::{Connection, Cursors, LogTable, Tables};

const OPERATION: &str = "promote replica";

/// How many doubles an error names.
const NAMED: usize = 5;

/// Fences the pipelines off, and begins the log above every id and key that the replica has seen.
/// `AlreadyExists` names stream names and dedup keys that it holds more than once; nothing is changed
/// then.
pub(super) async fn promote(
    connection: &Connection,
    tables: &Tables,
    cursors: &Cursors,
    log: &LogTable,
) -> Result<()> {
    check(connection, tables).await?;
    cursors.own(OPERATION).await?;
    // What was delivered before the fence is seen now; its ids are given no more.
    let (last_id, last_key) = highest(OPERATION, connection, tables).await?;
    tables.open_log(connection).await?;
    log.begin(OPERATION, last_id, last_key).await.map(drop)
}

/// The highest id and the highest key that were ever given.
async fn highest(
    operation: &'static str,
    connection: &Connection,
    tables: &Tables,
) -> Result<(u64, u64)> {
    let sql = format!(
        "SELECT max(id) AS last_id, max(key) AS last_key FROM (\
         SELECT max(id) AS id, max(stream_key) AS key FROM {} UNION ALL \
         SELECT max(trimmed_through) AS id, max(stream_key) AS key FROM {streams})",
        tables.entries,
        streams = tables.streams,
    );
    let query = connection.client().query_raw(&sql);
    let rows: Vec<(u64, u64)> = connection.fetch_all(operation, query).await?;
    Ok(rows.first().copied().unwrap_or_default())
}

async fn check(connection: &Connection, tables: &Tables) -> Result<()> {
    let Tables {
        streams, entries, ..
    } = tables;
    let names = format!(
        "SELECT tupleElement(s.name, 2) AS text FROM (SELECT * FROM {streams} FINAL) AS s \
         GROUP BY text HAVING count() > 1 ORDER BY text LIMIT {NAMED}"
    );
    let keys = format!(
        "SELECT e.dedup_key AS text FROM (SELECT stream_key, id, dedup_key FROM {entries} FINAL \
         WHERE dedup_key != '') AS e INNER JOIN (SELECT stream_key, trimmed_through FROM {streams} \
         FINAL) AS s ON s.stream_key = e.stream_key WHERE e.id > s.trimmed_through \
         GROUP BY e.stream_key, text HAVING count() > 1 ORDER BY text LIMIT {NAMED}"
    );
    for (what, sql) in [("stream name", names), ("dedup key", keys)] {
        let query = connection.client().query_raw(&sql);
        let doubled: Vec<String> = connection.fetch_all(OPERATION, query).await?;
        if !doubled.is_empty() {
            let store = &tables.store;
            let found = format!("store {store} holds each {what} more than once: {doubled:?}");
            return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, found));
        }
    }
    Ok(())
}
