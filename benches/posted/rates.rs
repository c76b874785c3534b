//! Deliveries a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ledger::bridge::hook::{Hook, HookState};
use ledger::hook::{Answer, Delivery, Endpoint, Outcome as Came};
use ledger::pipeline::{End, Stop};
use ledger::webhook::WebhookEndpoint;
use ledger::{Change, ExpectedVersion, Mutation, StreamKey, StreamName};

use super::receiver::{Posted, Receivers};
use super::{CONCURRENCY, Source};
use crate::measure::arguments::Arguments;
use crate::measure::compare::{in_turns, quantile};
use crate::measure::table::{Table, against};
use crate::measure::{Outcome, entry, float};

/// What the ratio to the bare client is to be.
const AIM: f64 = 0.6;

/// Where hooks read what they send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// The store, which held it before they began.
    Copy,
    /// The log, in which they had been following.
    Log,
}

pub(crate) async fn measure(arguments: &Arguments) -> Outcome {
    let mut table = Table::new(&[
        "deliveries",
        "read from",
        "receivers",
        "ours/s",
        "floor/s",
        "ratio",
        "aim",
        "made/s",
        "of made",
        "entries/s",
    ]);
    let (rounds, bytes) = (arguments.get("rounds")?, arguments.get("bytes")?);
    for (name, size, count) in [
        ("single entries", 1, arguments.get::<usize>("entries")?),
        ("batches of 100", 100, arguments.get::<usize>("batches")?),
    ] {
        for (words, from) in [("the store", From::Copy), ("the log", From::Log)] {
            for receivers in arguments.list::<usize>("receivers")? {
                let each = count / receivers;
                let receivers = Receivers::start(receivers)?;
                let load = Load { each, size, bytes };
                let source = Source::new().await?;
                fill(&source, load).await?;
                let total = each * receivers.urls.len();
                let ours = async |round| match from {
                    From::Copy => copied(&source, &receivers, load, round).await,
                    From::Log => followed(&receivers, load).await,
                };
                // The bodies that the floor posts are those that came.
                receivers.keep();
                ours(u64::MAX).await?;
                let posted = receivers.kept();
                let compared = in_turns(rounds, total as u64, ours, async |_| {
                    floor(&receivers, &posted).await
                })
                .await?;
                let mut made = Vec::new();
                for _ in 0..rounds {
                    let took = made_anew(&source, &receivers, load, from).await?;
                    made.push(float(total as u64) / took.as_secs_f64());
                }
                let made = quantile(&mut made, 0.5);
                table.row([
                    name.to_owned(),
                    words.to_owned(),
                    receivers.urls.len().to_string(),
                    format!("{:.0}", compared.ours),
                    format!("{:.0}", compared.floor),
                    format!("{:.2}", compared.ratio),
                    against(compared.ratio, AIM),
                    format!("{made:.0}"),
                    format!("{:.2}", compared.ours / made),
                    format!("{:.0}", compared.ours * float(size as u64)),
                ]);
            }
        }
    }
    table.print(&arguments.command())
}

/// What each receiver gets.
#[derive(Clone, Copy)]
struct Load {
    /// How many deliveries.
    each: usize,
    /// How many entries each has.
    size: usize,
    /// How long payloads are.
    bytes: usize,
}

/// So many streams, each of which is one delivery; single entries are in streams of twenty.
async fn fill(source: &Source, load: Load) -> Outcome {
    let (streams, each) = if load.size == 1 {
        (load.each.div_ceil(20), 20)
    } else {
        (load.each, load.size)
    };
    for number in 0..streams {
        let stream = StreamName::new(format!("s{number}"))?;
        let left = (load.each * load.size)
            .saturating_sub(number * each)
            .min(each);
        let entries = (0..left).map(|n| entry((number * each + n) as u64, load.bytes));
        source
            .store
            .append(&stream, entries.collect(), ExpectedVersion::Any)
            .await?;
    }
    Ok(())
}

/// One hook a receiver, each of which sends what the store held before.
async fn copied(
    source: &Source,
    receivers: &Receivers,
    load: Load,
    round: u64,
) -> Outcome<Duration> {
    let before = receivers.requests();
    let mut hooks = Vec::new();
    for (number, url) in receivers.urls.iter().enumerate() {
        let name = format!("{round}-{number}");
        hooks.push(source.hook(&name, url, load.size).await?);
    }
    let begun = Instant::now();
    let running = Running::start(hooks);
    taken(receivers, before, load).await?;
    let took = begun.elapsed();
    running.stop().await?;
    Ok(took)
}

/// One hook a receiver, each of which follows an empty store, and sends what is appended behind its
/// back: nothing is let through before everything is there. What a hook has in hand by then, at most
/// 8,192 entries, it has read and not sent.
async fn followed(receivers: &Receivers, load: Load) -> Outcome<Duration> {
    let before = receivers.requests();
    let source = Source::new().await?;
    let (open, gate) = tokio::sync::watch::channel(false);
    let mut hooks = Vec::new();
    for (number, url) in receivers.urls.iter().enumerate() {
        let endpoint = Gated(Source::endpoint(url)?, gate.clone());
        let name = format!("followed-{number}");
        hooks.push(source.hook_to(&name, Arc::new(endpoint), load.size).await?);
    }
    let running = Running::start(hooks);
    let follows = |hook: &Hook| hook.stats().state == HookState::Following;
    receivers
        .wait(|_| running.hooks.iter().all(follows))
        .await?;
    fill(&source, load).await?;
    let begun = Instant::now();
    open.send(true)?;
    taken(receivers, before, load).await?;
    let took = begun.elapsed();
    running.stop().await?;
    Ok(took)
}

async fn taken(receivers: &Receivers, before: u64, load: Load) -> Outcome {
    let total = (load.each * receivers.urls.len()) as u64;
    receivers
        .wait(|receivers| receivers.requests() >= before + total)
        .await
}

/// Posts nothing before the gate is open.
#[derive(Debug)]
struct Gated(WebhookEndpoint, tokio::sync::watch::Receiver<bool>);

impl std::fmt::Display for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait::async_trait]
impl Endpoint for Gated {
    async fn post(&self, delivery: &Delivery) -> ledger::Result<Answer> {
        // Whoever opens it never closes it again.
        let _ = self.1.clone().wait_for(|open| *open).await;
        self.0.post(delivery).await
    }
}

/// Hooks at work.
struct Running {
    hooks: Vec<Hook>,
    stop: Stop,
    tasks: Vec<tokio::task::JoinHandle<ledger::Result<End>>>,
}

impl Running {
    fn start(hooks: Vec<Hook>) -> Self {
        let stop = Stop::new();
        let start = |hook: &Hook| {
            let (hook, stop) = (hook.clone(), stop.clone());
            tokio::spawn(async move { hook.run(&stop).await })
        };
        let tasks = hooks.iter().map(start).collect();
        Self { hooks, stop, tasks }
    }

    async fn stop(self) -> Outcome {
        self.stop.stop();
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

/// The same bodies and headers by a client that does nothing else.
async fn floor(receivers: &Receivers, posted: &[Posted]) -> Outcome<Duration> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let begun = Instant::now();
    let sent = posted.iter().enumerate().map(|(number, (headers, body))| {
        let url = receivers.urls.get(number % receivers.urls.len());
        let mut request = axum::http::Request::new(Full::new(body.clone()));
        *request.method_mut() = axum::http::Method::POST;
        *request.headers_mut() = headers.clone();
        let client = client.clone();
        async move {
            *request.uri_mut() = url.map_or("", String::as_str).parse()?;
            request.headers_mut().remove("host");
            let response = client.request(request).await?;
            response.into_body().collect().await?;
            Outcome::Ok(())
        }
    });
    let under_way = CONCURRENCY * receivers.urls.len();
    let mut sent = stream::iter(sent).buffer_unordered(under_way);
    while let Some(sent) = sent.next().await {
        sent?;
    }
    Ok(begun.elapsed())
}

/// What a hook does but for its bookkeeping: the changes are read, made into deliveries, signed and
/// posted, each receiver's by themselves. Nothing is stored, and nothing waits for an order.
async fn made_anew(
    source: &Source,
    receivers: &Receivers,
    load: Load,
    from: From,
) -> Outcome<Duration> {
    let Load { each, size, .. } = load;
    let (log, pipeline) = (source.log()?, ledger::PipelineId::new("hook:made")?);
    let identity = log.identity().await?.store;
    let store = source.store.name();
    let begun = Instant::now();
    let mut sending = Vec::new();
    for url in &receivers.urls {
        let endpoint = Arc::new(Source::endpoint(url)?);
        let changes = match from {
            From::Log => log.changes(log.start()),
            From::Copy => log.snapshot(None),
        };
        let appended = changes.try_filter(|change| {
            std::future::ready(matches!(change.mutation, Mutation::Append { .. }))
        });
        let deliveries = stream::try_unfold(
            (
                appended.boxed(),
                HashMap::<StreamKey, Vec<Change>>::new(),
                each,
            ),
            async |(mut appended, mut open, left)| {
                while left > 0
                    && let Some(change) = appended.try_next().await?
                {
                    let key = change.stream.key;
                    let changes = open.entry(key).or_default();
                    changes.push(change);
                    if changes.len() == size {
                        let changes = open.remove(&key).unwrap_or_default();
                        return Ok(Some((changes, (appended, open, left - 1))));
                    }
                }
                Ok::<_, ledger::Error>(None)
            },
        );
        let (pipeline, store) = (&pipeline, &store);
        sending.push(async move {
            let posted = deliveries.try_for_each_concurrent(CONCURRENCY, |changes| {
                let endpoint = &endpoint;
                async move {
                    let delivery = Delivery::new(pipeline, identity, store, changes);
                    if let Some(delivery) = delivery {
                        let answer = endpoint.post(&delivery).await?;
                        if answer.outcome != Came::Delivered {
                            let what = answer.error.unwrap_or_default();
                            return Err(ledger::Error::invalid("post", what));
                        }
                    }
                    Ok(())
                }
            });
            Box::pin(posted).await
        });
    }
    futures::future::try_join_all(sending).await?;
    Ok(begun.elapsed())
}
