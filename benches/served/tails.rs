//! Tails: how soon an append reaches them, and what they cost while nothing happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_server::v1::TailRequest;
use ledger_server::v1::tail_request::From;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clients::{self, request};
use super::server::{Database, Server};
use crate::measure::arguments::Arguments;
use crate::measure::compare::{milliseconds, quantile};
use crate::measure::table::Table;
use crate::measure::{Outcome, float, process};

const PATIENCE: Duration = Duration::from_mins(2);

/// Tails of a whole store that are open.
struct Tails {
    /// Aborts the tails when it is dropped.
    _tasks: JoinSet<()>,
    /// When each entry reached each tail.
    arrived: mpsc::UnboundedReceiver<Instant>,
    count: usize,
}

impl Tails {
    /// Opens them, and waits until each has caught up.
    async fn open(url: &str, count: usize, connections: usize) -> Outcome<Self> {
        let channels = clients::connect(url, connections.min(count)).await?;
        let (told, arrived) = mpsc::unbounded_channel();
        let (ready, mut caught_up) = mpsc::channel::<Outcome>(64);
        let ready = Arc::new(ready);
        let mut tasks = JoinSet::new();
        for channel in channels.iter().cycle().take(count) {
            let (mut client, told, ready) =
                (clients::follower(channel), told.clone(), Arc::clone(&ready));
            tasks.spawn(async move {
                let opened = async {
                    let tail = TailRequest {
                        from: Some(From::Now(())),
                        ..TailRequest::default()
                    };
                    let mut tail = client.tail(request(tail)).await?.into_inner();
                    while let Some(response) = tail.message().await? {
                        if response.caught_up {
                            return Outcome::Ok(tail);
                        }
                    }
                    Err("a tail ended before it had caught up".into())
                };
                let (mut tail, outcome) = match opened.await {
                    Ok(tail) => (Some(tail), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let _ = ready.send(outcome).await;
                drop(ready);
                while let Some(open) = &mut tail {
                    let Ok(Some(response)) = open.message().await else {
                        return;
                    };
                    let now = Instant::now();
                    for _ in response.entries {
                        let _ = told.send(now);
                    }
                }
            });
        }
        drop(ready);
        for _ in 0..count {
            let outcome = tokio::time::timeout(PATIENCE, caught_up.recv()).await;
            outcome?.ok_or("the tails ended")??;
        }
        Ok(Self {
            _tasks: tasks,
            arrived,
            count,
        })
    }

    /// When the next entry has reached each of them.
    async fn arrivals(&mut self) -> Outcome<Vec<Instant>> {
        let mut arrivals = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let next = tokio::time::timeout(PATIENCE, self.arrived.recv()).await;
            arrivals.push(next?.ok_or("the tails ended")?);
        }
        Ok(arrivals)
    }
}

/// From the acknowledgement of an append to its arrival at each tail.
pub(crate) async fn arrival(arguments: &Arguments) -> Outcome {
    let tails: usize = arguments.get("tails")?;
    let connections: usize = arguments.get("connections")?;
    let (appends, bytes) = (arguments.get("appends")?, arguments.get("bytes")?);
    let mut table = Table::new(&["server", "tails", "p50 ms", "p99 ms", "last p50 ms"]);
    for backend in arguments.list::<String>("backends")? {
        let database = Database::create(&backend).await?;
        let daemon = Server::daemon(&database).await?;
        let [p50, p99, last] = arrivals(&daemon, tails, connections, appends, bytes).await?;
        table.row([backend, tails.to_string(), p50, p99, last]);
        daemon.stop().await?;
        database.remove().await?;
    }
    let nothing = Server::nothing().await?;
    let [p50, p99, last] = arrivals(&nothing, tails, connections, appends, bytes).await?;
    table.row(["nothing".to_owned(), tails.to_string(), p50, p99, last]);
    nothing.stop().await?;
    table.print(&arguments.command())
}

/// The median and the 99th percentile over all tails and appends, and the median of the last tail
/// that an append reached.
async fn arrivals(
    server: &Server,
    tails: usize,
    connections: usize,
    appends: u64,
    bytes: usize,
) -> Outcome<[String; 3]> {
    let mut callers = clients::callers(&server.url, 1).await?;
    let caller = callers.first_mut().ok_or("no client")?;
    // A store that holds nothing is not there yet, and has no log to follow.
    caller
        .append(request(clients::append("tailed", 0, bytes)))
        .await?;
    let mut tails = Tails::open(&server.url, tails, connections).await?;
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for number in 0..=appends {
        let append = clients::append("tailed", number, bytes);
        caller.append(request(append)).await?;
        let acknowledged = Instant::now();
        let delays: Vec<f64> = tails
            .arrivals()
            .await?
            .into_iter()
            .map(|at| at.saturating_duration_since(acknowledged).as_secs_f64() * 1e3)
            .collect();
        // The first one warms up.
        if number > 0 {
            last.push(delays.iter().copied().fold(0.0, f64::max));
            all.extend(delays);
        }
    }
    Ok([
        milliseconds(quantile(&mut all, 0.5)),
        milliseconds(quantile(&mut all, 0.99)),
        milliseconds(quantile(&mut last, 0.5)),
    ])
}

/// Memory and processor time of the server, with many tails in which nothing happens.
pub(crate) async fn idle(arguments: &Arguments) -> Outcome {
    let tails: usize = arguments.get("idle")?;
    let connections: usize = arguments.get("connections")?;
    let time = Duration::from_secs(arguments.get("seconds")?);
    let mut table = Table::new(&[
        "server",
        "tails",
        "MB before",
        "MB",
        "kB a tail",
        "idle CPU %",
    ]);
    let mut row = async |name: String, server: &Server| {
        let mut callers = clients::callers(&server.url, 1).await?;
        let caller = callers.first_mut().ok_or("no client")?;
        caller
            .append(request(clients::append("tailed", 0, 280)))
            .await?;
        let before = process::resident_mb(server.pid).ok_or("the server has ended")?;
        let open = Tails::open(&server.url, tails, connections).await?;
        let with = process::resident_mb(server.pid).ok_or("the server has ended")?;
        let (begun, cpu) = (Instant::now(), process::cpu(server.pid));
        tokio::time::sleep(time).await;
        let used = process::cpu(server.pid).ok_or("the server has ended")? - cpu.unwrap_or(0.0);
        drop(open);
        table.row([
            name,
            tails.to_string(),
            format!("{before:.0}"),
            format!("{with:.0}"),
            format!("{:.1}", (with - before) * 1e3 / float(tails as u64)),
            format!("{:.1}", used / begun.elapsed().as_secs_f64() * 100.0),
        ]);
        Outcome::Ok(())
    };
    for backend in arguments.list::<String>("backends")? {
        let database = Database::create(&backend).await?;
        let daemon = Server::daemon(&database).await?;
        row(backend, &daemon).await?;
        daemon.stop().await?;
        database.remove().await?;
    }
    let nothing = Server::nothing().await?;
    row("nothing".to_owned(), &nothing).await?;
    nothing.stop().await?;
    table.print(&arguments.command())
}
