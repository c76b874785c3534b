//! A store in ClickHouse: many clients appending at once, and reading the newest entries of one
//! stream among very many, beside bare inserts into and selects from an equal table.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger::clickhouse::{ClickHouseConfig, ClickHouseStore};
use ledger::{ExpectedVersion, ReadOptions, Store, StoreName, StoreOptions, StreamName};
use tokio::task::JoinSet;

use measure::arguments::Arguments;
use measure::compare::quantile;
use measure::database::ClickHouse;
use measure::table::Table;
use measure::{Outcome, entry, float};

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "clickhouse",
        &[
            ("clients", "64", "how many append at once"),
            ("batches", "1,1000", "entries an append"),
            ("seconds", "20", "how long each is measured"),
            ("bytes", "280", "bytes of a payload"),
            ("streams", "1000000", "streams among which one is read"),
            (
                "entries",
                "50000000",
                "entries of them all; 0 leaves reading out",
            ),
            ("reads", "200", "how often one is read"),
        ],
    )?;
    let database = ClickHouse::create().await?;
    let done = measured(&arguments, &database).await;
    database.remove().await?;
    done
}

async fn measured(arguments: &Arguments, database: &ClickHouse) -> Outcome {
    let config: ClickHouseConfig = database.url.parse()?;
    let name = StoreName::new("orders")?;
    let open = ClickHouseStore::open(&config, name, StoreOptions::default());
    let store = Arc::new(Box::pin(open).await?);
    let mut table = Table::new(&["what", "per s", "p50 ms", "p99 ms", "parts", "by"]);
    let (clients, bytes) = (arguments.get("clients")?, arguments.get("bytes")?);
    let time = Duration::from_secs(arguments.get("seconds")?);
    let equal = "CREATE TABLE equal AS orders_entries";
    database.run(equal).await?;
    for batch in arguments.list::<u64>("batches")? {
        // Few, large appends come from few clients.
        let clients: u64 = if batch == 1 { clients } else { 4 };
        let append = {
            let store = Arc::clone(&store);
            move |client: u64, number: u64| {
                let store = Arc::clone(&store);
                async move {
                    let stream = StreamName::new(format!("s{client}"))?;
                    let first = (client << 40) + number * batch;
                    let entries = (first..first + batch).map(|n| entry(n, bytes));
                    let any = ExpectedVersion::Any;
                    store.append(&stream, entries.collect(), any).await?;
                    Ok(())
                }
            }
        };
        let ours = run(clients, time, append).await?;
        let parts = most_parts(database, "orders_%").await?;
        table.row(ours.cells(
            &format!("append {batch}, {clients} clients"),
            batch,
            parts,
            "ledger",
        ));

        // The same rows as text that the server parses, each insert by itself.
        let client = database.connection.clone();
        let insert = move |client_number: u64, number: u64| {
            let client = client.clone();
            async move {
                let first = (client_number << 40) + number * batch;
                let values = (first..first + batch).map(|n| {
                    let payload = entry(n, bytes).payload;
                    let payload = String::from_utf8_lossy(&payload).replace('\'', "\\'");
                    format!("({client_number}, {n}, '{payload}', now64(6))")
                });
                let values = values.collect::<Vec<_>>().join(",");
                let sql = format!(
                    "INSERT INTO equal (stream_key, id, payload, created_at) \
                     SETTINGS async_insert = 0 VALUES {values}"
                );
                client.execute("insert", &sql).await?;
                Ok(())
            }
        };
        let floor = run(clients, time, insert).await?;
        let parts = most_parts(database, "equal").await?;
        table.row(floor.cells(
            &format!("insert {batch}, {clients} clients"),
            batch,
            parts,
            "bare",
        ));
    }
    let entries: u64 = arguments.get("entries")?;
    if entries > 0 {
        let streams: u64 = arguments.get("streams")?;
        fill(database, streams, entries).await?;
        let reads: u64 = arguments.get("reads")?;
        read(database, &store, streams, reads, &mut table).await?;
    }
    store.close().await;
    table.print(&arguments.command())
}

/// What was measured.
struct Measured {
    calls: u64,
    took: Duration,
    /// Milliseconds.
    latencies: Vec<f64>,
}

impl Measured {
    fn cells(mut self, what: &str, each: u64, parts: u64, by: &str) -> [String; 6] {
        [
            what.to_owned(),
            format!("{:.0}", float(self.calls * each) / self.took.as_secs_f64()),
            format!("{:.1}", quantile(&mut self.latencies, 0.5)),
            format!("{:.1}", quantile(&mut self.latencies, 0.99)),
            parts.to_string(),
            by.to_owned(),
        ]
    }
}

/// Has this many clients call, each one call after the other, for a while.
async fn run<F, R>(clients: u64, time: Duration, call: F) -> Outcome<Measured>
where
    F: Fn(u64, u64) -> R + Clone + Send + 'static,
    R: Future<Output = Outcome> + Send,
{
    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for client in 0..clients {
        let (stop, calls, call) = (Arc::clone(&stop), Arc::clone(&calls), call.clone());
        running.spawn(async move {
            let mut latencies = Vec::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                call(client, number).await?;
                latencies.push(begun.elapsed().as_secs_f64() * 1_000.0);
                calls.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Ok(latencies)
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while let Some(client) = running.join_next().await {
        latencies.extend(client??);
    }
    Ok(Measured {
        calls: calls.load(Ordering::Relaxed),
        took: begun.elapsed(),
        latencies,
    })
}

async fn most_parts(database: &ClickHouse, tables: &str) -> Outcome<u64> {
    let sql = format!(
        "SELECT max(n) FROM (SELECT count() AS n FROM system.parts WHERE active \
         AND database = currentDatabase() AND table LIKE '{tables}' GROUP BY table)"
    );
    Ok(database.numbers(&sql).await?.first().copied().unwrap_or(0))
}

/// Has the engine make the streams and their entries, in pieces.
async fn fill(database: &ClickHouse, streams: u64, entries: u64) -> Outcome {
    const PIECE: u64 = 5_000_000;
    let begun = Instant::now();
    let sql = format!(
        "INSERT INTO orders_streams SELECT 1000 + number, (1, concat('filled-', toString(number))), \
         {}, 0 FROM numbers({streams})",
        entries / streams
    );
    database.run(&sql).await?;
    let mut from = 0;
    while from < entries {
        let count = PIECE.min(entries - from);
        let sql = format!(
            "INSERT INTO orders_entries (stream_key, id, payload, schema_version, created_at) \
             SELECT 1000 + number % {streams}, 1000000000 + number, \
             concat('{{\"order\": ', toString(number), '}}'), 1, now64(6) \
             FROM numbers({from}, {count})"
        );
        database.run(&sql).await?;
        from += count;
    }
    println!(
        "{streams} streams and {entries} entries were made in {:.0?}",
        begun.elapsed()
    );
    Ok(())
}

async fn read(
    database: &ClickHouse,
    store: &Arc<ClickHouseStore>,
    streams: u64,
    reads: u64,
    table: &mut Table,
) -> Outcome {
    let newest = ReadOptions {
        limit: Some(100),
        descending: true,
        ..ReadOptions::all()
    };
    // Numbers that are spread over all of them.
    let stream = |number: u64| number.wrapping_mul(7_919_017) % streams;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let (mut ours_took, mut floor_took) = (Duration::ZERO, Duration::ZERO);
    for number in 0..reads {
        let name = StreamName::new(format!("filled-{}", stream(number)))?;
        let begun = Instant::now();
        let page = store.page(&name, &newest).await?;
        ours_took += begun.elapsed();
        ours.push(begun.elapsed().as_secs_f64() * 1_000.0);
        let sql = format!(
            "SELECT id FROM (SELECT id, payload FROM orders_entries WHERE stream_key = {} \
             ORDER BY id DESC LIMIT 100) WHERE length(payload) > 0",
            1_000 + stream(number)
        );
        let begun = Instant::now();
        let found = database.numbers(&sql).await?;
        floor_took += begun.elapsed();
        floor.push(begun.elapsed().as_secs_f64() * 1_000.0);
        if found.len() != page.entries.len() {
            let what = format!(
                "{name}: {} entries, not {}",
                page.entries.len(),
                found.len()
            );
            return Err(what.into());
        }
    }
    for (latencies, took, by) in [(ours, ours_took, "ledger"), (floor, floor_took, "bare")] {
        let calls = reads;
        let measured = Measured {
            calls,
            took,
            latencies,
        };
        let what = "newest 100 of a stream";
        table.row(measured.cells(what, 1, most_parts(database, "orders_%").await?, by));
    }
    Ok(())
}
