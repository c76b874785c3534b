//! Removing from disk what was trimmed.

use clickhouse::Row;
use ledger_core::Result;
use serde::Deserialize;

use super::{ClickHouseContents, KEYS};

const PURGE: &str = "purge trimmed entries";

#[derive(Debug, Row, Deserialize)]
struct TrimmedRow {
    stream_key: u64,
    id: u64,
}

impl ClickHouseContents {
    /// Deletes rows of one of the store's tables, and waits until no reader sees them.
    pub async fn delete(
        &self,
        operation: &'static str,
        table: &str,
        condition: &str,
    ) -> Result<()> {
        let cluster = &self.connection().config().cluster;
        let tables = self.tables();
        let by_stream = table == tables.entries || table == tables.labels;
        let rows = cluster.rows_of(table, by_stream);
        // A table over shards takes no deletions: they go to where the rows are.
        let on = if rows == table {
            String::new()
        } else {
            cluster.clause()
        };
        let sql = format!("DELETE FROM {rows}{on} WHERE {condition}");
        let query = self.connection().client().query_raw(&sql);
        // Wait until the rows are gone, on every replica.
        let query = query.with_setting("lightweight_deletes_sync", "2");
        self.connection().timed(operation, query.execute()).await
    }

    /// Removes entries at or below their stream's trim boundary, and their labels, from disk, and
    /// returns how many streams had any. They were invisible before, so nothing changes for a
    /// reader; a replay may bring some back, as invisible as they were.
    ///
    /// It rewrites parts of the tables: call it rarely, at a quiet time.
    pub async fn purge(&self) -> Result<u64> {
        let mut purged = 0;
        for table in [&self.tables().labels, &self.tables().entries] {
            let mut after = None;
            loop {
                let page = self.trimmed(table, after).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.stream_key);
                let conditions = page
                    .iter()
                    .map(|row| format!("(stream_key = {} AND id <= {})", row.stream_key, row.id));
                let condition = conditions.collect::<Vec<_>>().join(" OR ");
                self.delete(PURGE, table, &condition).await?;
                if table == &self.tables().entries {
                    purged += u64::try_from(page.len()).unwrap_or(u64::MAX);
                }
            }
        }
        Ok(purged)
    }

    /// Streams that have rows to purge, with their boundaries.
    async fn trimmed(&self, table: &str, after: Option<u64>) -> Result<Vec<TrimmedRow>> {
        let behind = after.map_or("1".to_owned(), |after| format!("stream_key > {after}"));
        let sql = format!(
            "SELECT s.stream_key AS stream_key, s.trimmed_through AS id FROM \
             (SELECT stream_key, trimmed_through FROM {} FINAL \
             WHERE {behind} AND trimmed_through > 0) AS s \
             INNER JOIN (SELECT stream_key, min(id) AS first FROM {table} WHERE {behind} \
             GROUP BY stream_key) AS t ON t.stream_key = s.stream_key \
             WHERE t.first <= s.trimmed_through ORDER BY stream_key LIMIT {KEYS}",
            self.tables().streams,
        );
        let query = self.connection().client().query_raw(&sql);
        self.connection().fetch_all(PURGE, query).await
    }
}
