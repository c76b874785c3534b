//! Slowing down while the server has parts to merge.

use std::time::Duration;

use clickhouse::Row;
use ledger_layout::clickhouse::Connection;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often the server is asked at most.
const INTERVAL: Duration = Duration::from_secs(2);

/// The number of active parts of one table from which deliveries are slowed down. The server itself
/// slows inserts at 1,000 and refuses them at 3,000 (`parts_to_delay_insert`,
/// `parts_to_throw_insert`).
const SLOW_FROM: u64 = 100;

/// The number from which the delay is the longest.
const SLOWEST_FROM: u64 = 400;

/// The longest delay of one delivery.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Delays deliveries while parts pile up: not below 100 active parts of a table, then
/// proportionally longer, at most one second each. Batches grow meanwhile, so that fewer, larger
/// parts come.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    last: Mutex<Option<(Instant, Duration)>>,
}

#[derive(Debug, Row, Deserialize)]
struct Parts {
    parts: u64,
}

impl Pacer {
    /// Waits as long as the server needs that has these tables.
    pub(super) async fn wait(&self, connection: &Connection, tables: &[&str]) {
        let delay = self.delay(connection, tables).await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    async fn delay(&self, connection: &Connection, tables: &[&str]) -> Duration {
        let mut last = self.last.lock().await;
        if let Some((at, delay)) = *last
            && at.elapsed() < INTERVAL
        {
            return delay;
        }
        let delay = match most_parts(connection, tables).await {
            Ok(parts) => delay_for(parts),
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
    let query = connection
        .client()
        .query(
            "SELECT max(n) AS parts FROM (SELECT count() AS n FROM system.parts \
             WHERE active AND database = ? AND table IN ? GROUP BY table)",
        )
        .bind(&connection.config().database)
        .bind(tables);
    let rows: Vec<Parts> = connection.fetch_all("count parts", query).await?;
    Ok(rows.first().map_or(0, |row| row.parts))
}

fn delay_for(parts: u64) -> Duration {
    let above = parts
        .saturating_sub(SLOW_FROM)
        .min(SLOWEST_FROM - SLOW_FROM);
    let range = u32::try_from(SLOWEST_FROM - SLOW_FROM).unwrap_or(1);
    MAX_DELAY * u32::try_from(above).unwrap_or(range) / range
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_with_the_parts_and_is_bounded() {
        assert_eq!(delay_for(0), Duration::ZERO);
        assert_eq!(delay_for(100), Duration::ZERO);
        assert_eq!(delay_for(250), Duration::from_millis(500));
        assert_eq!(delay_for(400), MAX_DELAY);
        assert_eq!(delay_for(u64::MAX), MAX_DELAY);
    }
}
