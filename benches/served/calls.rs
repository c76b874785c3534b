//! Calls: appends of one entry and reads of 100, by many clients at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::try_join_all;
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{
    ExpectedVersion, ReadOptions, Store, StoreExt as _, StoreName, StoreOptions, StreamName,
};
use ledger_server::v1::{ReadOptions as WireOptions, ReadRequest};

use super::STORE;
use super::clients::{self, Client, request};
use super::server::{Database, Server};
use crate::measure::arguments::Arguments;
use crate::measure::compare::{milliseconds, quantile};
use crate::measure::table::Table;
use crate::measure::{Outcome, entry, float};

/// Entries of a read.
const PAGE: u64 = 100;

#[derive(Clone, Copy)]
enum Call {
    Append,
    Read,
}

/// What the rounds of one way of calling came to.
#[derive(Default)]
struct Rates {
    rates: Vec<f64>,
    delays: Vec<f64>,
}

impl Rates {
    fn add(&mut self, (rate, delays): (f64, Vec<f64>)) {
        self.rates.push(rate);
        self.delays.extend(delays);
    }
}

struct Plan {
    clients: usize,
    time: Duration,
    bytes: usize,
}

/// Measures both calls on each backend, and prints the table.
pub(crate) async fn measure(arguments: &Arguments) -> Outcome {
    let plan = Plan {
        clients: arguments.get("clients")?,
        time: Duration::from_secs(arguments.get("seconds")?),
        bytes: arguments.get("bytes")?,
    };
    let rounds: u64 = arguments.get("rounds")?;
    let mut table = Table::new(&[
        "call",
        "store",
        "direct/s",
        "nothing/s",
        "gRPC/s",
        "by direct",
        "by nothing",
        "by both",
        "p50 ms",
        "p99 ms",
    ]);
    let nothing = Server::nothing().await?;
    let idle = clients::callers(&nothing.url, plan.clients).await?;
    for backend in arguments.list::<String>("backends")? {
        let (database, other) = (
            Database::create(&backend).await?,
            Database::create(&backend).await?,
        );
        let daemon = Server::daemon(&database).await?;
        let callers = clients::callers(&daemon.url, plan.clients).await?;
        let store = open(&other).await?;
        fill(&callers, &store, &plan).await?;
        for (call, name) in [(Call::Append, "append 1"), (Call::Read, "read 100")] {
            let mut ways: [Rates; 3] = Default::default();
            // The first round warms up and does not count. Each round begins with another way.
            for round in 0..=rounds {
                for turn in 0..3 {
                    let way = usize::try_from((round + turn) % 3)?;
                    let measured = match way {
                        0 => direct(call, &store, &plan).await?,
                        1 => wired(call, &idle, &plan).await?,
                        _ => wired(call, &callers, &plan).await?,
                    };
                    if round > 0 {
                        ways[way].add(measured);
                    }
                }
            }
            let [direct, nothing, mut ours] = ways;
            row(&mut table, name, &backend, &direct, &nothing, &mut ours);
        }
        store.close().await;
        daemon.stop().await?;
        database.remove().await?;
        other.remove().await?;
    }
    nothing.stop().await?;
    table.print(&arguments.command())
}

fn row(
    table: &mut Table,
    name: &str,
    backend: &str,
    direct: &Rates,
    nothing: &Rates,
    ours: &mut Rates,
) {
    // Ratios of the same round, so that what slows the machine down meets both.
    let by = |floor: &dyn Fn(usize) -> f64| {
        let mut ratios: Vec<f64> = ours
            .rates
            .iter()
            .enumerate()
            .map(|(round, rate)| rate / floor(round))
            .collect();
        format!("{:.2}", quantile(&mut ratios, 0.5))
    };
    let by_direct = by(&|round| direct.rates[round]);
    let by_nothing = by(&|round| nothing.rates[round]);
    // The call takes both kinds of work, one after the other.
    let by_both = by(&|round| 1.0 / (1.0 / direct.rates[round] + 1.0 / nothing.rates[round]));
    let median = |rates: &Rates| format!("{:.0}", quantile(&mut rates.rates.clone(), 0.5));
    table.row([
        name.to_owned(),
        backend.to_owned(),
        median(direct),
        median(nothing),
        median(ours),
        by_direct,
        by_nothing,
        by_both,
        milliseconds(quantile(&mut ours.delays, 0.5)),
        milliseconds(quantile(&mut ours.delays, 0.99)),
    ]);
}

async fn open(database: &Database) -> Outcome<Arc<dyn Store>> {
    let (name, options) = (StoreName::new(STORE)?, StoreOptions::default());
    Ok(match database {
        Database::Sqlite(folder) => {
            let config = SqliteConfig::file(folder.path().join("ledger.db"));
            Arc::new(SqliteStore::open(config, name, options).await?)
        }
        Database::Postgres(database) => {
            let config = PostgresConfig::from_url(&database.url)?;
            Arc::new(PostgresStore::open(config, name, options).await?)
        }
    })
}

/// Fills what is read, on both sides.
async fn fill(callers: &[Client], store: &Arc<dyn Store>, plan: &Plan) -> Outcome {
    let stream = StreamName::new("read")?;
    let mut caller = callers.first().ok_or("--clients: at least 1")?.clone();
    for number in 0..PAGE {
        let append = clients::append("read", number, plan.bytes);
        caller.append(request(append)).await?;
        let entries = vec![entry(number, plan.bytes)];
        store.append(&stream, entries, ExpectedVersion::Any).await?;
    }
    Ok(())
}

/// Calls a second, and the milliseconds that each took.
type Measured = (f64, Vec<f64>);

/// Does it again and again until the time is over, as many times at once as there are workers.
async fn repeat<W>(workers: Vec<W>, time: Duration) -> Outcome<Measured>
where
    W: AsyncWork,
{
    let begun = Instant::now();
    let tasks = workers.into_iter().enumerate().map(|(who, mut worker)| {
        let task = tokio::spawn(async move {
            let mut delays = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                worker.work(who, delays.len() as u64).await?;
                delays.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            Outcome::Ok(delays)
        });
        async move { task.await? }
    });
    let delays: Vec<f64> = try_join_all(tasks).await?.into_iter().flatten().collect();
    let rate = float(delays.len() as u64) / begun.elapsed().as_secs_f64();
    Ok((rate, delays))
}

trait AsyncWork: Send + 'static {
    fn work(&mut self, who: usize, number: u64) -> impl Future<Output = Outcome> + Send;
}

struct Direct {
    call: Call,
    store: Arc<dyn Store>,
    bytes: usize,
}

impl AsyncWork for Direct {
    async fn work(&mut self, who: usize, number: u64) -> Outcome {
        match self.call {
            Call::Append => {
                let stream = StreamName::new(format!("append-{who}"))?;
                let entries = vec![entry(number, self.bytes)];
                let append = self.store.append(&stream, entries, ExpectedVersion::Any);
                append.await?;
            }
            Call::Read => {
                let stream = StreamName::new("read")?;
                let options = ReadOptions {
                    limit: Some(usize::try_from(PAGE)?),
                    ..ReadOptions::default()
                };
                let mut entries = self.store.read(&stream, options);
                let mut count = 0;
                while let Some(entry) = entries.next().await {
                    entry?;
                    count += 1;
                }
                assert_eq!(count, PAGE, "entries of a read");
            }
        }
        Ok(())
    }
}

async fn direct(call: Call, store: &Arc<dyn Store>, plan: &Plan) -> Outcome<Measured> {
    let workers = (0..plan.clients).map(|_| Direct {
        call,
        store: Arc::clone(store),
        bytes: plan.bytes,
    });
    repeat(workers.collect(), plan.time).await
}

struct Wired {
    call: Call,
    client: Client,
    bytes: usize,
}

impl AsyncWork for Wired {
    async fn work(&mut self, who: usize, number: u64) -> Outcome {
        match self.call {
            Call::Append => {
                let append = clients::append(&format!("append-{who}"), number, self.bytes);
                self.client.append(request(append)).await?;
            }
            Call::Read => {
                let read = ReadRequest {
                    stream: "read".to_owned(),
                    options: Some(WireOptions {
                        limit: PAGE.cast_signed(),
                        ..WireOptions::default()
                    }),
                };
                let page = self.client.read(request(read)).await?.into_inner();
                assert_eq!(page.entries.len() as u64, PAGE, "entries of a read");
            }
        }
        Ok(())
    }
}

async fn wired(call: Call, clients: &[Client], plan: &Plan) -> Outcome<Measured> {
    let workers = clients.iter().map(|client| Wired {
        call,
        client: client.clone(),
        bytes: plan.bytes,
    });
    repeat(workers.collect(), plan.time).await
}
