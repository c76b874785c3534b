//! The time from an append's acknowledgement until the entry is visible at the sink, at a steady
//! rate of single appends; the bridge is a process of its own.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{ExpectedVersion, Store as _, StoreName, StoreOptions, StreamName};
use sqlx::AssertSqlSafe;
use tokio::time::MissedTickBehavior;

use measure::arguments::Arguments;
use measure::compare::{milliseconds, quantile};
use measure::database::{ClickHouse, Postgres};
use measure::process;
use measure::table::{Table, against};
use measure::visible::{Times, Watched, watch};
use measure::{Outcome, entry, float};

const STORE: &str = "orders";
/// How long appends run before they count.
const WARM_UP: Duration = Duration::from_secs(2);
/// After which a sink that still lacks entries is given up.
const PATIENCE: Duration = Duration::from_mins(1);

struct Plan {
    rate: u64,
    seconds: u64,
    writers: u64,
    bytes: usize,
    pause: Duration,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "latency",
        &[
            ("sinks", "postgres,clickhouse", "which sinks"),
            ("rate", "1000", "appends a second"),
            ("seconds", "15", "how long"),
            ("writers", "8", "tasks that append"),
            ("bytes", "280", "bytes of a payload"),
            ("pause", "1", "milliseconds between two polls of the sink"),
        ],
    )?;
    let plan = Plan {
        rate: arguments.get("rate")?,
        seconds: arguments.get("seconds")?,
        writers: arguments.get("writers")?,
        bytes: arguments.get("bytes")?,
        pause: Duration::from_millis(arguments.get("pause")?),
    };
    let mut table = Table::new(&[
        "sink",
        "appends/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "p99 aim",
        "floor p50",
        "floor p99",
        "poll ms",
    ]);
    for sink in arguments.list::<String>("sinks")? {
        let source = Postgres::create().await?;
        let done = match sink.as_str() {
            "postgres" => Box::pin(to_postgres(&source, &plan, &mut table)).await,
            "clickhouse" => Box::pin(to_clickhouse(&source, &plan, &mut table)).await,
            other => Err(format!("--sinks: {other:?} is no sink").into()),
        };
        source.remove().await?;
        done?;
    }
    table.print(&arguments.command())
}

async fn to_postgres(source: &Postgres, plan: &Plan, table: &mut Table) -> Outcome {
    let sink = Postgres::create().await?;
    let done = async {
        let entries = format!("{STORE}_entries");
        let watched = Watched::postgres(&sink, &entries);
        let measured = Box::pin(follow(source, &sink.url, plan, async || watched.await)).await?;
        let create = format!("CREATE TABLE floor (LIKE {entries} INCLUDING ALL)");
        sink.run(create).await?;
        let times = Times::default();
        let watched = Watched::postgres(&sink, "floor").await?;
        let watching = watch(watched, 0, plan.pause, times.clone());
        let mut connection = sink.connect().await?;
        let begun = Instant::now();
        for id in 1..=200_i64 {
            sqlx::query(AssertSqlSafe(
                "INSERT INTO floor (id, stream_key, payload, created_at) \
                 VALUES ($1, 1, $2::json, now())",
            ))
            .bind(id)
            .bind(std::str::from_utf8(&entry(1, plan.bytes).payload)?)
            .execute(&mut connection)
            .await?;
            times.acknowledged(id.unsigned_abs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        times.wait(PATIENCE).await?;
        watching.abort();
        row(
            table,
            "postgres",
            50.0,
            plan,
            &measured,
            times.delays(begun),
        );
        Ok(())
    };
    let done = Box::pin(done).await;
    sink.remove().await?;
    done
}

async fn to_clickhouse(source: &Postgres, plan: &Plan, table: &mut Table) -> Outcome {
    let sink = Arc::new(ClickHouse::create().await?);
    let done = async {
        let entries = format!("{STORE}_entries");
        let watched = Watched::clickhouse(&sink, &entries);
        let measured = follow(source, &sink.url, plan, async || Ok(watched)).await?;
        sink.run(&format!("CREATE TABLE floor AS {entries}"))
            .await?;
        let times = Times::default();
        let watched = Watched::clickhouse(&sink, "floor");
        let watching = watch(watched, 0, plan.pause, times.clone());
        let begun = Instant::now();
        for id in 1..=50_u64 {
            let payload = entry(1, plan.bytes).payload;
            let payload = std::str::from_utf8(&payload)?;
            let insert = format!(
                "INSERT INTO floor (stream_key, id, payload) SETTINGS async_insert = 0 \
                 VALUES (1, {id}, '{payload}')"
            );
            sink.run(&insert).await?;
            times.acknowledged(id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times.wait(PATIENCE).await?;
        watching.abort();
        row(
            table,
            "clickhouse",
            500.0,
            plan,
            &measured,
            times.delays(begun),
        );
        Ok(())
    };
    let done = Box::pin(done).await;
    if let Some(sink) = Arc::into_inner(sink) {
        sink.remove().await?;
    }
    done
}

struct Measured {
    delays: Vec<f64>,
    rate: f64,
    poll: f64,
}

fn row(
    table: &mut Table,
    sink: &str,
    aim: f64,
    plan: &Plan,
    measured: &Measured,
    mut floor: Vec<f64>,
) {
    let mut delays = measured.delays.clone();
    let p99 = quantile(&mut delays, 0.99);
    let missed = if p99 < aim { "" } else { " (missed)" };
    // A rate that was not reached makes the latencies meaningless.
    let rate = against(measured.rate / float(plan.rate), 0.95);
    let rate = rate.strip_prefix("0.95").unwrap_or_default();
    table.row([
        sink.to_owned(),
        format!("{:.0}{rate}", measured.rate),
        milliseconds(quantile(&mut delays, 0.5)),
        milliseconds(p99),
        milliseconds(quantile(&mut delays, 1.0)),
        format!("{aim}{missed}"),
        milliseconds(quantile(&mut floor, 0.5)),
        milliseconds(quantile(&mut floor, 0.99)),
        milliseconds(measured.poll),
    ]);
}

/// Runs a bridge to `to`, appends at the rate, and polls the sink's table meanwhile.
async fn follow(
    source: &Postgres,
    to: &str,
    plan: &Plan,
    watched: impl AsyncFnOnce() -> Outcome<Watched>,
) -> Outcome<Measured> {
    let config = PostgresConfig::from_url(&source.url)?;
    let options = StoreOptions::default();
    let store = PostgresStore::open(config, StoreName::new(STORE)?, options).await?;
    // Makes the sink's tables.
    process::bridge_once(&source.url, to, STORE).await?;
    let bridge = process::bridge(&source.url, to, STORE, &[])?;
    let times = Times::default();
    let watching = watch(watched().await?, 0, plan.pause, times.clone());
    let first = StreamName::new("first")?;
    let first = store.append(&first, vec![entry(0, plan.bytes)], ExpectedVersion::Any);
    if let Some(first) = first.await?.first() {
        times.acknowledged(first.id.0);
    }
    times.wait(PATIENCE).await?;

    let begun = Instant::now();
    let polls = times.polls();
    let writers: Vec<_> = (0..plan.writers)
        .map(|number| tokio::spawn(write(store.clone(), number, plan, times.clone())))
        .collect();
    for writer in writers {
        writer.await??;
    }
    let took = begun.elapsed();
    let poll = took.as_secs_f64() * 1e3 / float((times.polls() - polls).max(1));
    times.wait(PATIENCE).await?;
    watching.abort();
    process::stop(bridge).await?;
    store.close().await;
    let delays = times.delays(begun + WARM_UP);
    let counted = took.saturating_sub(WARM_UP);
    Ok(Measured {
        rate: float(u64::try_from(delays.len())?) / counted.as_secs_f64(),
        delays,
        poll,
    })
}

/// One of the writers: its share of the rate, each append to the next of 100 streams.
fn write(
    store: PostgresStore,
    number: u64,
    plan: &Plan,
    times: Times,
) -> impl Future<Output = Outcome> + Send + use<> {
    let count = (plan.seconds + WARM_UP.as_secs()) * plan.rate / plan.writers;
    let pause = Duration::from_secs_f64(float(plan.writers) / float(plan.rate));
    let (writers, bytes) = (plan.writers, plan.bytes);
    async move {
        let mut clock = tokio::time::interval(pause);
        // A writer that was held up catches up: the rate holds.
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for index in 0..count {
            clock.tick().await;
            let entry = entry(index * writers + number, bytes);
            let stream = StreamName::new(format!("user-{}", (index * writers + number) % 100))?;
            let appended = store.append(&stream, vec![entry], ExpectedVersion::Any);
            for entry in appended.await? {
                times.acknowledged(entry.id.0);
            }
        }
        Ok(())
    }
}
