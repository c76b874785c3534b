//! A backlog carried from PostgreSQL to ClickHouse by `ledger bridge run --once`, beside COPY of
//! the same rows piped into inserts of an equal table, both running at once.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;
mod pipe;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{ExpectedVersion, Store as _, StoreName, StoreOptions, StreamName};

use measure::arguments::Arguments;
use measure::database::{ClickHouse, Postgres};
use measure::process::{Ran, bridge_once, cpu};
use measure::table::{Table, against};
use measure::{Outcome, entry, float};

const STORE: &str = "orders";
const FLOOR: &str = "orders_floor";
/// What the resident memory of a bridge is to stay under.
const MEMORY_MB: f64 = 200.0;

struct Plan {
    rows: u64,
    batch: u64,
    streams: u64,
    bytes: usize,
    rounds: u64,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "bridge",
        &[
            ("rows", "1000000", "entries of the backlog"),
            (
                "batch",
                "100",
                "entries an append, which is what a log row holds",
            ),
            ("streams", "4000", "streams they are spread over"),
            ("bytes", "280", "bytes of a payload"),
            (
                "rounds",
                "1",
                "backlogs met in the log, one after the other",
            ),
        ],
    )?;
    let plan = Plan {
        rows: arguments.get("rows")?,
        batch: arguments.get("batch")?,
        streams: arguments.get("streams")?,
        bytes: arguments.get("bytes")?,
        rounds: arguments.get("rounds")?,
    };
    let mut table = Table::new(&[
        "backlog",
        "rows",
        "rows/s",
        "floor",
        "ratio",
        "aim",
        "peak MB",
        "aim",
        "CPU s",
        "floor CPU s",
    ]);
    let source = Postgres::create().await?;
    let sink = ClickHouse::create().await?;
    let done = measure(&source, &sink, &plan, &mut table).await;
    sink.remove().await?;
    source.remove().await?;
    done?;
    table.print(&arguments.command())
}

async fn measure(source: &Postgres, sink: &ClickHouse, plan: &Plan, table: &mut Table) -> Outcome {
    let config = PostgresConfig::from_url(&source.url)?;
    let store = PostgresStore::open(config, StoreName::new(STORE)?, StoreOptions::default());
    let store = Arc::new(store.await?);
    for round in 0..=plan.rounds {
        fill(&store, plan, round).await?;
        // What a server does by itself some time after so many inserts is not to fall into one of
        // the two measurements.
        source.run("VACUUM ANALYZE".to_owned()).await?;
        source.run("CHECKPOINT".to_owned()).await?;
        let ran = bridge_once(&source.url, &sink.url, STORE).await?;
        let expected = plan.rows * (round + 1);
        if sink.count(&format!("{STORE}_current")).await? != expected {
            return Err(format!("the replica does not hold {expected} entries").into());
        }
        if round == 0 {
            let create = format!("CREATE TABLE {FLOOR} AS {STORE}_entries");
            sink.run(&create).await?;
        } else {
            sink.run(&format!("TRUNCATE TABLE {FLOOR}")).await?;
        }
        let above = expected - plan.rows;
        let own = || cpu(std::process::id()).unwrap_or(f64::NAN);
        let before = own();
        let floor = pipe::copy(source, sink, STORE, above, FLOOR).await?;
        let floor_cpu = own() - before;
        if sink.count(FLOOR).await? != plan.rows {
            return Err("the floor did not copy every row".into());
        }
        let met = if round == 0 { "snapshot" } else { "log" };
        row(table, met, plan.rows, &ran, (floor, floor_cpu));
    }
    store.close().await;
    Ok(())
}

fn row(table: &mut Table, met: &str, rows: u64, ran: &Ran, floor: (Duration, f64)) {
    let (floor, floor_cpu) = floor;
    let ratio = floor.as_secs_f64() / ran.time.as_secs_f64();
    let memory = if ran.peak_mb < MEMORY_MB {
        ""
    } else {
        " (missed)"
    };
    table.row([
        met.to_owned(),
        rows.to_string(),
        format!("{:.0}", float(rows) / ran.time.as_secs_f64()),
        format!("{:.0}", float(rows) / floor.as_secs_f64()),
        format!("{ratio:.2}"),
        against(ratio, 0.5),
        format!("{:.0}", ran.peak_mb),
        format!("{MEMORY_MB:.0}{memory}"),
        format!("{:.1}", ran.cpu),
        format!("{floor_cpu:.1}"),
    ]);
}

/// Appends the backlog of a round, by four writers.
async fn fill(store: &Arc<PostgresStore>, plan: &Plan, round: u64) -> Outcome {
    let begin = round * plan.rows;
    let batches = (0..plan.rows.div_ceil(plan.batch)).map(|number| {
        let store = Arc::clone(store);
        let first = begin + number * plan.batch;
        let last = (first + plan.batch).min(begin + plan.rows);
        let entries = (first..last).map(|number| entry(number, plan.bytes));
        let entries: Vec<_> = entries.collect();
        let stream = StreamName::new(format!("user-{}", number % plan.streams));
        async move {
            let stream = stream?;
            let appended = store.append(&stream, entries, ExpectedVersion::Any);
            appended.await.map(drop)
        }
    });
    let appends = stream::iter(batches).buffer_unordered(4);
    Ok(appends.try_collect::<()>().await?)
}
