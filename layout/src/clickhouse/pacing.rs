//! Slowing down while the server has parts to merge.

use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Connection;

/// How often the server is asked at most.
const INTERVAL: Duration = Duration::from_secs(2);

/// Delays writes while parts pile up: not below a number of active parts of a table, then
/// proportionally longer up to a number from which the delay is the longest. Batches grow meanwhile,
/// so that fewer, larger parts come. The server itself slows inserts at 1,000 parts and refuses them
/// at 3,000 (`parts_to_delay_insert`, `parts_to_throw_insert`).
#[derive(Debug)]
pub struct Pacer {
    slow_from: u64,
    slowest_from: u64,
    longest: Duration,
    last: Mutex<Option<(Instant, Duration)>>,
}

impl Pacer {
    /// For deliveries, which nobody waits for: from 100 parts on, at 400 a second.
    pub fn of_deliveries() -> Self {
        Self::new(100, 400, Duration::from_secs(1))
    }

    /// For calls that somebody waits for: from 300 parts on, at 1,000 half a second.
    pub fn of_calls() -> Self {
        Self::new(300, 1_000, Duration::from_millis(500))
    }

    fn new(slow_from: u64, slowest_from: u64, longest: Duration) -> Self {
        Self {
            slow_from,
            slowest_from,
            longest,
            last: Mutex::default(),
        }
    }

    fn delay_for(&self, parts: u64) -> Duration {
        let range = self.slowest_from - self.slow_from;
        let above = parts.saturating_sub(self.slow_from).min(range);
        let part = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        self.longest * part(above) / part(range.max(1))
    }
}

#[derive(Debug, Row, Deserialize)]
struct Parts {
    parts: u64,
}

impl Pacer {
    /// Waits as long as the server needs that has these tables.
    pub async fn wait(&self, connection: &Connection, tables: &[&str]) {
        let delay = self.delay(connection, tables).await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// How long the next write should be put off.
    pub async fn delay(&self, connection: &Connection, tables: &[&str]) -> Duration {
        let mut last = self.last.lock().await;
        if let Some((at, delay)) = *last
            && at.elapsed() < INTERVAL
        {
            return delay;
        }
        let delay = match most_parts(connection, tables).await {
            Ok(parts) => self.delay_for(parts),
            Err(error) => {
                // A server that does not answer fails the inserts as well, and a user who may not
                // read `system.parts` is no reason to stop.
                tracing::debug!(error = %error.chain(), "parts are not known, not slowing down");
                Duration::ZERO
            }
        };
        if !delay.is_zero() {
            tracing::debug!(?tables, ?delay, "parts pile up, slowing down");
        }
        *last = Some((Instant::now(), delay));
        delay
    }
}

async fn most_parts(connection: &Connection, tables: &[&str]) -> ledger_core::Result<u64> {
    // On a cluster with shards this server's part of a table goes by the other name.
    let cluster = &connection.config().cluster;
    let rows = tables.iter().map(|table| cluster.rows_of(table, true));
    let tables: Vec<String> = rows.chain(tables.iter().map(|t| (*t).to_owned())).collect();
    let query = connection
        .client()
        .query(
            "SELECT max(n) AS parts FROM (SELECT count() AS n FROM system.parts \
             WHERE active AND database = ? AND table IN ? GROUP BY table)",
        )
        .bind(&connection.config().database)
        .bind(&tables);
    let rows: Vec<Parts> = connection.fetch_all("count parts", query).await?;
    Ok(rows.first().map_or(0, |row| row.parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_with_the_parts_and_is_bounded() {
        let pacer = Pacer::of_deliveries();
        assert_eq!(pacer.delay_for(0), Duration::ZERO);
        assert_eq!(pacer.delay_for(100), Duration::ZERO);
        assert_eq!(pacer.delay_for(250), Duration::from_millis(500));
        assert_eq!(pacer.delay_for(400), Duration::from_secs(1));
        assert_eq!(pacer.delay_for(u64::MAX), Duration::from_secs(1));
    }
}
