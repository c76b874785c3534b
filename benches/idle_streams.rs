//! What 100,000 streams cost in which nothing happens: a reader and a bridge that wait, and how
//! fast each sees the next append, beside the same with ten streams.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{
    ChangeLog, Error, ExpectedVersion, Mutation, Store as _, StoreName, StoreOptions, StreamName,
};
use sqlx::Connection as _;

use measure::arguments::Arguments;
use measure::compare::{milliseconds, quantile};
use measure::database::Postgres;
use measure::table::Table;
use measure::visible::{Times, Watched, watch};
use measure::{Outcome, entry, float, process};

const STORE: &str = "orders";
/// Appends of one transaction while the streams are made.
const TRANSACTION: u64 = 1_000;
const PATIENCE: Duration = Duration::from_mins(2);

struct Plan {
    seconds: u64,
    appends: u64,
    bytes: usize,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "idle_streams",
        &[
            (
                "streams",
                "10,100000",
                "how many streams, compared with each other",
            ),
            ("rounds", "5", "how often each is measured, in turns"),
            (
                "seconds",
                "3",
                "how long processor time is measured in a round while nothing happens",
            ),
            (
                "appends",
                "60",
                "single appends of a round whose delay is measured",
            ),
            ("bytes", "280", "bytes of a payload"),
        ],
    )?;
    let plan = Plan {
        seconds: arguments.get("seconds")?,
        appends: arguments.get("appends")?,
        bytes: arguments.get("bytes")?,
    };
    let mut all = Vec::new();
    for streams in arguments.list("streams")? {
        all.push(Case::create(streams, &plan).await?);
    }
    let mut done = Ok(());
    for _ in 0..arguments.get("rounds")? {
        for case in &mut all {
            done = case.measure(&plan).await;
            if done.is_err() {
                break;
            }
        }
    }
    let mut table = Table::new(&[
        "streams",
        "who waits",
        "p50 ms",
        "p99 ms",
        "idle CPU %",
        "idle server CPU %",
    ]);
    for case in all {
        case.finish(&mut table).await?;
    }
    done?;
    table.print(&arguments.command())
}

/// A store of that many streams, with what was measured on it.
struct Case {
    streams: u64,
    source: Postgres,
    sink: Postgres,
    store: PostgresStore,
    reader: Vec<Waited>,
    bridge: Vec<Waited>,
}

impl Case {
    async fn create(streams: u64, plan: &Plan) -> Outcome<Self> {
        let source = Postgres::create().await?;
        let sink = Postgres::create().await?;
        let store = open(&source).await?;
        make(&source, &store, streams, plan).await?;
        source.run("VACUUM ANALYZE".to_owned()).await?;
        Ok(Self {
            streams,
            source,
            sink,
            store,
            reader: Vec::new(),
            bridge: Vec::new(),
        })
    }

    async fn measure(&mut self, plan: &Plan) -> Outcome {
        let Self {
            source,
            sink,
            store,
            ..
        } = self;
        let waited = reader(source, store, plan).await?;
        self.reader.push(waited);
        let waited = bridge(source, sink, store, plan).await?;
        self.bridge.push(waited);
        Ok(())
    }

    async fn finish(self, table: &mut Table) -> Outcome {
        for (who, waited) in [("reader", &self.reader), ("bridge", &self.bridge)] {
            let delays = waited.iter().flat_map(|waited| &waited.delays);
            let mut delays: Vec<f64> = delays.copied().collect();
            let mean = |of: fn(&Waited) -> f64| {
                waited.iter().map(of).sum::<f64>() / float(waited.len().max(1) as u64)
            };
            table.row([
                self.streams.to_string(),
                who.to_owned(),
                milliseconds(quantile(&mut delays, 0.5)),
                milliseconds(quantile(&mut delays, 0.99)),
                format!("{:.1}", mean(|waited| waited.cpu) * 100.0),
                format!("{:.1}", mean(|waited| waited.server_cpu) * 100.0),
            ]);
        }
        self.store.close().await;
        self.sink.remove().await?;
        self.source.remove().await
    }
}

async fn open(database: &Postgres) -> Outcome<PostgresStore> {
    let config = PostgresConfig::from_url(&database.url)?;
    let options = StoreOptions::default();
    Ok(PostgresStore::open(config, StoreName::new(STORE)?, options).await?)
}

fn stream(number: u64) -> Result<StreamName, Error> {
    StreamName::new(format!("user-{number}"))
}

/// Makes the streams by an entry each.
async fn make(database: &Postgres, store: &PostgresStore, streams: u64, plan: &Plan) -> Outcome {
    let mut connection = database.connect().await?;
    let mut next = 0;
    while next < streams {
        let end = streams.min(next + TRANSACTION);
        let mut transaction = connection.begin().await?;
        for number in next..end {
            let entries = vec![entry(number, plan.bytes)];
            let (stream, mut within) = (stream(number)?, store.within(&mut transaction));
            within
                .append(&stream, entries, ExpectedVersion::None)
                .await?;
        }
        transaction.commit().await?;
        next = end;
    }
    Ok(())
}

/// How it is to wait.
struct Waited {
    delays: Vec<f64>,
    /// Processor time of the one who waits, by time.
    cpu: f64,
    /// That of all the server's processes for the source's database, by time.
    server_cpu: f64,
}

/// A reader with a store handle of its own, which a notice of the server has to reach.
async fn reader(source: &Postgres, store: &PostgresStore, plan: &Plan) -> Outcome<Waited> {
    let follower = open(source).await?;
    let head = ChangeLog::head(&follower).await?;
    let mut changes = follower.changes(head);
    let times = Times::default();
    let seen = times.clone();
    let reading = tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            if let Mutation::Append { entry, .. } = change?.mutation {
                seen.seen(&[entry.id.0]);
            }
        }
        Ok::<(), Error>(())
    });
    let begun = Instant::now();
    append(store, plan, &times).await?;
    let (cpu, server_cpu) = idle(std::process::id(), source, plan).await?;
    reading.abort();
    follower.close().await;
    Ok(Waited {
        delays: times.delays(begun),
        cpu,
        server_cpu,
    })
}

/// A bridge in a process of its own, to another PostgreSQL database.
async fn bridge(
    source: &Postgres,
    sink: &Postgres,
    store: &PostgresStore,
    plan: &Plan,
) -> Outcome<Waited> {
    process::bridge_once(&source.url, &sink.url, STORE).await?;
    let running = process::bridge(&source.url, &sink.url, STORE, &[])?;
    let pid = running.id().ok_or("the bridge has no process id")?;
    let times = Times::default();
    let last = sink.last_id(&format!("{STORE}_entries")).await?;
    let watched = Watched::postgres(sink, &format!("{STORE}_entries")).await?;
    let watching = watch(watched, last, Duration::from_millis(1), times.clone());
    // The bridge has begun to follow when it has carried the first one.
    let first = stream(0)?;
    let first = store.append(&first, vec![entry(0, plan.bytes)], ExpectedVersion::Any);
    for first in first.await? {
        times.acknowledged(first.id.0);
    }
    times.wait(PATIENCE).await?;
    let begun = Instant::now();
    append(store, plan, &times).await?;
    watching.abort();
    let (cpu, server_cpu) = idle(pid, source, plan).await?;
    process::stop(running).await?;
    Ok(Waited {
        delays: times.delays(begun),
        cpu,
        server_cpu,
    })
}

/// Appends one after the other, each when the one before has been seen.
async fn append(store: &PostgresStore, plan: &Plan, times: &Times) -> Outcome {
    for number in 0..plan.appends {
        let (stream, entries) = (stream(number % 10)?, vec![entry(number, plan.bytes)]);
        let appended = store.append(&stream, entries, ExpectedVersion::Any);
        for entry in appended.await? {
            times.acknowledged(entry.id.0);
        }
        times.wait(PATIENCE).await?;
        // Beyond what the notices of the one before may still cause.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    Ok(())
}

/// The processor time of a process and of the source's server while nothing happens, by time.
async fn idle(pid: u32, source: &Postgres, plan: &Plan) -> Outcome<(f64, f64)> {
    let backends = source.backends().await?;
    let server = || backends.iter().filter_map(|pid| process::cpu(*pid)).sum();
    let own = || process::cpu(pid).unwrap_or(f64::NAN);
    let (begun, own_before, server_before): (_, _, f64) = (Instant::now(), own(), server());
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let (own_after, server_after): (_, f64) = (own(), server());
    let took = begun.elapsed().as_secs_f64().max(float(1) / 1e3);
    Ok((
        (own_after - own_before) / took,
        (server_after - server_before) / took,
    ))
}
