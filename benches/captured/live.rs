//! The time from a commit until its rows are visible, at a steady rate, while a bridge of tables runs.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use tokio::time::MissedTickBehavior;

use crate::measure::compare::quantile;
use crate::measure::database::{ClickHouse, Postgres};
use crate::measure::visible::{Times, Watched, watch};
use crate::measure::{Outcome, float, process};

const CREATE: &str = "CREATE TABLE live (id bigint PRIMARY KEY, v text NOT NULL)";
/// How often a transaction is committed.
const EVERY: Duration = Duration::from_millis(10);
/// How long rows are written before they count.
const WARM_UP: Duration = Duration::from_secs(2);
/// After which a sink that still lacks rows is given up.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at the sink.
const LOOK: Duration = Duration::from_millis(1);

/// The delays of each row, in milliseconds.
pub(crate) struct Delays {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Writes `rate` rows a second for so long, 100 transactions a second.
pub(crate) async fn measure(
    source: &Postgres,
    sink: &Arc<ClickHouse>,
    rate: u64,
    seconds: u64,
) -> Outcome<Delays> {
    source.run(CREATE.to_owned()).await?;
    process::tables_once(&source.url, &sink.url, "public.live").await?;
    let bridge = tokio::process::Command::new(process::program()?)
        .args(["bridge", "run", "--tables", "public.live"])
        .env("LEDGER_FROM", &source.url)
        .env("LEDGER_TO", &sink.url)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let times = Times::default();
    let watching = watch(Watched::clickhouse(sink, "live"), 0, LOOK, times.clone());
    let rows = rate * u64::try_from(EVERY.as_millis())? / 1_000;
    let mut connection = source.connect().await?;
    let mut clock = tokio::time::interval(EVERY);
    // A writer that was held up catches up: the rate holds.
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let transactions = (seconds + WARM_UP.as_secs()) * 100;
    let begun = Instant::now();
    for transaction in 0..transactions {
        clock.tick().await;
        let (first, last) = (transaction * rows + 1, (transaction + 1) * rows);
        let insert = format!(
            "INSERT INTO live SELECT i, lpad(i::text, 100, 'x') FROM generate_series({first}, {last}) i"
        );
        sqlx::query(AssertSqlSafe(insert))
            .execute(&mut connection)
            .await?;
        for id in first..=last {
            times.acknowledged(id);
        }
    }
    let took = begun.elapsed();
    times.wait(PATIENCE).await?;
    watching.abort();
    process::stop(bridge).await?;
    let mut delays = times.delays(begun + WARM_UP);
    Ok(Delays {
        rate: float(transactions * rows) / took.as_secs_f64(),
        p50: quantile(&mut delays, 0.5),
        p99: quantile(&mut delays, 0.99),
    })
}
