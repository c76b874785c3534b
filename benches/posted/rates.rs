//! Deliveries a second.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ledger::pipeline::Stop;
use ledger::{ExpectedVersion, StreamName};

use super::receiver::{Posted, Receivers};
use super::{CONCURRENCY, Source};
use crate::measure::arguments::Arguments;
use crate::measure::compare::in_turns;
use crate::measure::table::{Table, against};
use crate::measure::{Outcome, entry, float};

const AIM: f64 = 0.6;

pub(crate) async fn measure(arguments: &Arguments) -> Outcome {
    let mut table = Table::new(&[
        "deliveries",
        "receivers",
        "ours/s",
        "floor/s",
        "ratio",
        "aim",
        "entries/s",
    ]);
    let (rounds, bytes) = (arguments.get("rounds")?, arguments.get("bytes")?);
    for (name, size, count) in [
        ("single entries", 1, arguments.get::<usize>("entries")?),
        ("batches of 100", 100, arguments.get::<usize>("batches")?),
    ] {
        for receivers in arguments.list::<usize>("receivers")? {
            let each = count / receivers;
            let receivers = Receivers::start(receivers)?;
            let source = filled(each, size, bytes).await?;
            let total = each * receivers.urls.len();
            // The bodies that the floor posts are those that came.
            receivers.keep();
            ours(&source, &receivers, size, total, u64::MAX).await?;
            let posted = receivers.kept();
            let compared = in_turns(
                rounds,
                total as u64,
                async |round| ours(&source, &receivers, size, total, round).await,
                async |_| floor(&receivers, &posted).await,
            )
            .await?;
            table.row([
                name.to_owned(),
                receivers.urls.len().to_string(),
                format!("{:.0}", compared.ours),
                format!("{:.0}", compared.floor),
                format!("{:.2}", compared.ratio),
                against(compared.ratio, AIM),
                format!("{:.0}", compared.ours * float(size as u64)),
            ]);
        }
    }
    table.print(&arguments.command())
}

/// A store with so many streams, each of which is one delivery; single entries are in streams of
/// twenty.
async fn filled(deliveries: usize, size: usize, bytes: usize) -> Outcome<Source> {
    let source = Source::new().await?;
    let (streams, each) = if size == 1 {
        (deliveries.div_ceil(20), 20)
    } else {
        (deliveries, size)
    };
    for number in 0..streams {
        let stream = StreamName::new(format!("s{number}"))?;
        let left = (deliveries * size).saturating_sub(number * each).min(each);
        let entries = (0..left).map(|n| entry((number * each + n) as u64, bytes));
        source
            .store
            .append(&stream, entries.collect(), ExpectedVersion::Any)
            .await?;
    }
    Ok(source)
}

/// One hook a receiver, each of which sends everything.
async fn ours(
    source: &Source,
    receivers: &Receivers,
    size: usize,
    total: usize,
    round: u64,
) -> Outcome<Duration> {
    let before = receivers.requests();
    let mut hooks = Vec::new();
    for (number, url) in receivers.urls.iter().enumerate() {
        hooks.push(source.hook(&format!("{round}-{number}"), url, size).await?);
    }
    let begun = Instant::now();
    let stop = Stop::new();
    let mut running = Vec::new();
    for hook in hooks {
        let stop = stop.clone();
        running.push(tokio::spawn(async move { hook.run(&stop).await }));
    }
    receivers
        .wait(|receivers| receivers.requests() >= before + total as u64)
        .await?;
    let took = begun.elapsed();
    stop.stop();
    for running in running {
        running.await??;
    }
    Ok(took)
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
