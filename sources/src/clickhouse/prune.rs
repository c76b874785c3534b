//! Removing log rows that nobody needs any more.

use std::time::Duration;

use ledger_core::{Result, StoreName};
use ledger_layout::Retention;
use ledger_layout::clickhouse::{Connection, LogTable, States, Tables};

use super::consumers::slowest;

const OPERATION: &str = "prune the mutation log";

/// Where it stands through which row the log was pruned.
const KIND: &str = "log";
const KEY: &str = "pruned_through";

/// What pruning needs.
pub(super) struct Pruning<'a> {
    pub(super) connection: &'a Connection,
    pub(super) tables: &'a Tables,
    pub(super) log: &'a LogTable,
    pub(super) states: &'a States,
}

/// Through which row the log was pruned; 0 where it was not.
pub(super) async fn pruned_through(operation: &'static str, states: &States) -> Result<i64> {
    let (document, _) = states.read(operation, KIND, KEY).await?;
    Ok(document.text.parse().unwrap_or(0))
}

impl Pruning<'_> {
    fn store(&self) -> &StoreName {
        &self.tables.store
    }

    /// Removes the rows that the retention does not keep, and tells how many. The newest row always
    /// stays, and so does the row that a consumer's cursor points at: by them cursors are told from
    /// those of another history.
    pub(super) async fn prune(&self, retention: Retention) -> Result<u64> {
        let head = self.log.head(OPERATION).await?.seq;
        let expired = self.older_than(retention.min, head).await?;
        let overdue = match retention.max {
            Some(max) => self.older_than(max, head).await?,
            None => 0,
        };
        let needed = slowest(OPERATION, self.states).await?;
        let through = overdue.max(expired.min(needed.map_or(expired, |seq| seq - 1)));
        if through <= 0 {
            return Ok(0);
        }
        let rows = self.rows_through(through).await?;
        if rows == 0 {
            return Ok(0);
        }
        // Noted first: a reader that finds rows missing looks there.
        let note = |text: &str, _| {
            let noted: i64 = text.parse().unwrap_or(0);
            Ok(((noted < through).then(|| through.to_string()), noted))
        };
        let noted = self.states.update(OPERATION, KIND, KEY, note).await?;
        // Who registered meanwhile has looked at the note of before.
        let needed = slowest(OPERATION, self.states).await?;
        if needed.is_some_and(|seq| seq <= through) && through > overdue {
            let back = |text: &str, _| {
                let ours = text == through.to_string();
                Ok((ours.then(|| noted.to_string()), ()))
            };
            self.states.update(OPERATION, KIND, KEY, back).await?;
            return Ok(0);
        }
        let sql = format!(
            "DELETE FROM {} WHERE seq > 0 AND seq <= {through}",
            self.log.table()
        );
        let query = self.connection.client().query_raw(&sql);
        let query = query.with_setting("lightweight_deletes_sync", "2");
        self.connection.timed(OPERATION, query.execute()).await?;
        tracing::debug!(store = %self.store(), through, rows, "the mutation log was pruned");
        Ok(rows)
    }

    /// The last row that may go of those at or before a time: not the last of them, which the cursor
    /// of a reader points at that has read all but the younger ones, and never the newest of all.
    async fn older_than(&self, age: Duration, head: i64) -> Result<i64> {
        // By the server's clock, whichever process asks.
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let sql = format!(
            "SELECT min(seq) AS first, count() AS rows FROM {} \
             WHERE seq > 0 \
             AND toUnixTimestamp64Micro(at) > toUnixTimestamp64Micro(now64(6)) - {age}",
            self.log.table(),
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<(i64, u64)> = self.connection.fetch_all(OPERATION, query).await?;
        Ok(match rows.first() {
            Some((first, count)) if *count > 0 => first - 2,
            _ => head - 1,
        })
    }

    async fn rows_through(&self, through: i64) -> Result<u64> {
        let sql = format!(
            "SELECT count() AS rows FROM {} WHERE seq > 0 AND seq <= {through}",
            self.log.table(),
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<u64> = self.connection.fetch_all(OPERATION, query).await?;
        Ok(rows.first().copied().unwrap_or(0))
    }
}
