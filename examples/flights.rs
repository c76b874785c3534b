//! Real data: the 336,776 flights that left New York City in 2013, one stream a tail number, from
//! PostgreSQL into ClickHouse.
//!
//! ```text
//! eval "$(scripts/servers.sh start)"
//! cargo run --release --example flights --features postgres,clickhouse -- \
//!     --csv "$(scripts/flights.sh data)"
//! ```
//!
//! `--postgres URL` and `--clickhouse URL` name other servers than `LEDGER_TEST_POSTGRES` and
//! `LEDGER_TEST_CLICKHOUSE`, `--store NAME` another store than `flights`. A second run appends
//! nothing, since every flight has a dedup key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ledger::bridge::{Bridge, BridgeOptions};
use ledger::clickhouse::ClickHouseConfig;
use ledger::connect::DatabaseUrl;
use ledger::pipeline::Stop;
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{ExpectedVersion, NewEntry, PipelineId, Store, StoreName, StoreOptions, StreamName};
use serde_json::{Map, Value};

/// How many appends run side by side.
const WRITERS: usize = 8;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let options = Options::read()?;
    let flights = read_csv(&options.csv)?;
    let count: usize = flights.values().map(Vec::len).sum();
    println!("{count} flights of {} tail numbers", flights.len());

    let begun = Instant::now();
    let store = PostgresStore::open(
        PostgresConfig::from_url(&options.postgres)?,
        options.store.clone(),
        StoreOptions::default(),
    )
    .await?;
    let store = Arc::new(store);
    let appended = load(&store, flights).await?;
    let took = begun.elapsed().as_secs_f64();
    println!("{appended} entries appended to PostgreSQL in {took:.1} s");

    let begun = Instant::now();
    let url = DatabaseUrl::parse(&options.clickhouse)?;
    let sink = url.open_sink(&options.store).await?;
    let how = BridgeOptions {
        once: true,
        batch: sink.batch(),
        ..BridgeOptions::new(PipelineId::new(format!("{}-example", options.store))?)
    };
    let bridge = Bridge::new(store.clone(), sink.sink(), how)?;
    let summary = bridge.run(&Stop::new()).await?;
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{} mutations delivered to ClickHouse in {took:.1} s",
        summary.stats.delivered
    );
    store.close().await;
    check(&options).await
}

struct Options {
    csv: String,
    postgres: String,
    clickhouse: String,
    store: StoreName,
}

impl Options {
    fn read() -> Result<Self> {
        let mut given = BTreeMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let known = ["--csv", "--postgres", "--clickhouse", "--store"];
            if !known.contains(&name.as_str()) {
                bail!(
                    "usage: flights --csv FILE [--postgres URL] [--clickhouse URL] [--store NAME]"
                );
            }
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            given.insert(name, value);
        }
        let mut server = |name: &str, variable: &str| {
            given
                .remove(name)
                .or_else(|| std::env::var(variable).ok())
                .with_context(|| format!("no server is given: write {name} URL, or set {variable}"))
        };
        let postgres = server("--postgres", "LEDGER_TEST_POSTGRES")?;
        let clickhouse = server("--clickhouse", "LEDGER_TEST_CLICKHOUSE")?;
        let csv = given
            .remove("--csv")
            .context("--csv FILE is missing; scripts/flights.sh DIR puts the file there")?;
        let store = given.remove("--store");
        Ok(Self {
            csv,
            postgres,
            clickhouse,
            store: StoreName::new(store.as_deref().unwrap_or("flights"))?,
        })
    }
}

/// The flights by tail number; those without one are the stream `NA`, as the file calls it.
fn read_csv(path: &str) -> Result<BTreeMap<String, Vec<NewEntry>>> {
    let file = File::open(path).with_context(|| format!("--csv: open {path}"))?;
    let mut lines = BufReader::new(file).lines();
    let header = lines
        .next()
        .with_context(|| format!("--csv: {path} is empty"))??;
    let columns: Vec<_> = header.split(',').collect();
    let tail_number = columns
        .iter()
        .position(|column| *column == "tailnum")
        .with_context(|| format!("--csv: {path} has no column tailnum"))?;
    let mut flights: BTreeMap<String, Vec<NewEntry>> = BTreeMap::new();
    for (number, line) in (2..).zip(lines) {
        let line = line?;
        // No value of this file holds a comma or a quote.
        let values: Vec<_> = line.split(',').collect();
        ensure!(
            values.len() == columns.len(),
            "--csv: {path}:{number} has {} values, the header {}",
            values.len(),
            columns.len()
        );
        let payload: Map<_, _> = columns
            .iter()
            .zip(&values)
            .map(|(column, value)| ((*column).to_owned(), typed(value)))
            .collect();
        let stream = match values[tail_number] {
            "" => "NA",
            tail_number => tail_number,
        };
        let entry = NewEntry::new(serde_json::to_vec(&payload)?).dedup_key(number.to_string());
        flights.entry(stream.to_owned()).or_default().push(entry);
    }
    Ok(flights)
}

fn typed(value: &str) -> Value {
    if value.is_empty() || value == "NA" {
        return Value::Null;
    }
    match value.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) => value.into(),
    }
}

async fn load(
    store: &Arc<PostgresStore>,
    flights: BTreeMap<String, Vec<NewEntry>>,
) -> Result<usize> {
    stream::iter(flights)
        .map(|(name, entries)| {
            let store = Arc::clone(store);
            // A task each, so that their work is done side by side too.
            tokio::spawn(async move {
                let name = StreamName::new(name)?;
                let appended = store.append(&name, entries, ExpectedVersion::Any).await?;
                Ok(appended.iter().filter(|entry| !entry.duplicate).count())
            })
        })
        .buffer_unordered(WRITERS)
        .map(|done| done.context("an append ended early")?)
        .try_fold(0, |sum, appended| async move { Ok(sum + appended) })
        .await
}

/// Asks ClickHouse what the replica's view shows, and compares it with what is known of the file.
async fn check(options: &Options) -> Result<()> {
    let config: ClickHouseConfig = options.clickhouse.parse()?;
    let scheme = if config.secure { "https" } else { "http" };
    let client = clickhouse::Client::default()
        .with_url(format!("{scheme}://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose())
        .with_database(&config.database);
    let view = format!("{}_current", options.store);
    let known = [
        ("entries", "count()", 336_776),
        ("streams", "uniqExact(stream)", 4_044),
        (
            "sum of distance",
            "sum(JSONExtractInt(payload, 'distance'))",
            350_217_607,
        ),
        (
            "sum of dep_delay",
            "sum(JSONExtractInt(payload, 'dep_delay'))",
            4_152_200,
        ),
        (
            "without dep_time",
            "countIf(JSONExtractRaw(payload, 'dep_time') = 'null')",
            8_255,
        ),
    ];
    let mut wrong = Vec::new();
    for (what, expression, expected) in known {
        let sql = format!("SELECT toInt64({expression}) FROM {view}");
        let answer: i64 = client
            .query(&sql)
            .fetch_one()
            .await
            .with_context(|| format!("ask ClickHouse for {what}"))?;
        println!("{what:>18}: {answer}");
        if answer != expected {
            wrong.push(format!("{what} must be {expected} and is {answer}"));
        }
    }
    ensure!(wrong.is_empty(), "{view}: {}", wrong.join("; "));
    println!("{view} shows exactly the flights of the file");
    Ok(())
}
