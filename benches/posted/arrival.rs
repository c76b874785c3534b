//! How soon an append reaches its receiver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ledger::bridge::hook::HookState;
use ledger::pipeline::Stop;
use ledger::{ExpectedVersion, StreamName};

use super::Source;
use super::receiver::Receivers;
use crate::measure::arguments::Arguments;
use crate::measure::compare::{milliseconds, quantile};
use crate::measure::table::Table;
use crate::measure::{Outcome, entry, float};

/// The 99th percentile that is aimed at, in milliseconds.
const AIM: f64 = 30.0;
/// How many append at once.
const WRITERS: u64 = 8;

pub(crate) async fn measure(arguments: &Arguments) -> Outcome {
    let mut table = Table::new(&[
        "streams",
        "active",
        "appends/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "aim p99",
    ]);
    let (rate, seconds): (u64, u64) = (arguments.get("rate")?, arguments.get("seconds")?);
    let (active, bytes): (u64, usize) = (arguments.get("active")?, arguments.get("bytes")?);
    for streams in arguments.list::<u64>("streams")? {
        let source = Source::new().await?;
        let receivers = Receivers::start(1)?;
        for number in 0..streams {
            let stream = StreamName::new(format!("s{number}"))?;
            let entries = vec![entry(number, bytes)];
            source
                .store
                .append(&stream, entries, ExpectedVersion::Any)
                .await?;
        }
        let url = receivers.urls.first().map_or("", String::as_str);
        let hook = source.hook("arrival", url, 500).await?;
        let stop = Stop::new();
        let running = {
            let (hook, stop) = (hook.clone(), stop.clone());
            tokio::spawn(async move { hook.run(&stop).await })
        };
        receivers
            .wait(|receivers| receivers.entries() >= streams)
            .await?;
        receivers
            .wait(|_| hook.stats().state == HookState::Following)
            .await?;
        receivers.arrived();

        let acknowledged: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
        let begun = Instant::now();
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let (store, noted) = (Arc::clone(&source.store), Arc::clone(&acknowledged));
            let each = rate * seconds / WRITERS;
            writers.push(tokio::spawn(async move {
                for n in 0..each {
                    let number = 1_000_000 + n * WRITERS + writer;
                    let due = Duration::from_secs_f64(float(n * WRITERS + writer) / float(rate));
                    tokio::time::sleep_until((begun + due).into()).await;
                    let stream = StreamName::new(format!("s{}", number % active))?;
                    let entries = vec![entry(number, bytes)];
                    store.append(&stream, entries, ExpectedVersion::Any).await?;
                    let now = Instant::now();
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    noted.insert(number, now);
                }
                Outcome::Ok(())
            }));
        }
        for writer in writers {
            writer.await??;
        }
        let total = rate * seconds / WRITERS * WRITERS;
        let reached = float(total) / begun.elapsed().as_secs_f64();
        receivers
            .wait(|receivers| receivers.entries() >= streams + total)
            .await?;
        let noted = acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut times: Vec<f64> = receivers
            .arrived()
            .iter()
            .filter_map(|(number, at)| {
                let acknowledged = noted.get(number)?;
                let time = at.saturating_duration_since(*acknowledged);
                Some(time.as_secs_f64() * 1_000.0)
            })
            .collect();
        stop.stop();
        running.await??;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| quantile(&mut times, part));
        let missed = if reached < float(rate) * 0.95 {
            " (not reached)"
        } else {
            ""
        };
        table.row([
            streams.to_string(),
            active.to_string(),
            format!("{reached:.0}{missed}"),
            milliseconds(p50),
            milliseconds(p99),
            milliseconds(max),
            format!("{AIM}{}", if p99 <= AIM { "" } else { " (missed)" }),
        ]);
    }
    table.print(&arguments.command())
}
