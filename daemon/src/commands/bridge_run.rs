//! `ledger bridge run`

use std::time::Duration;

use anyhow::bail;
use indicatif::ProgressStyle;
use ledger::Relay;
use ledger::bridge::{AnyBridge, BridgeOptions, State, Stats, Summary};
use ledger::pipeline::{End, Stop};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::{Global, Output, Run, kinds};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::tables;
use crate::urls::{self, Opened, Replica};

/// How often the line on a terminal is rewritten.
const REWRITE: Duration = Duration::from_millis(250);

/// How often a log line tells the numbers, where there is no terminal.
const TELL: Duration = Duration::from_secs(10);

/// Runs a bridge in the foreground until it has caught up (`--once`) or is asked to stop.
pub(crate) async fn run(options: &Run, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let stop = stop_at_signals()?;
    let capture = tables::options(options)?;
    if options.relay && options.lanes > 1 {
        return Err(Failure::usage(
            "--relay needs --lanes 1: the relay's log has the order in which it was delivered",
        ));
    }
    let relay = if options.relay { Relay::On } else { Relay::Off };
    let opened = tokio::select! {
        opened = urls::open(&options.ends, Replica::Create(relay), capture, options.form.documents) => opened?,
        () = stop.stopped() => return Ok(Exit::Done),
    };
    let Opened { flow, pipeline } = opened;
    if options.resync {
        Box::pin(flow.resync(&pipeline)).await?;
        tracing::info!(bridge = %pipeline, to = flow.sink(), "replica emptied");
    }
    for table in &options.capture.resync_table {
        let table = tables::table_name(table)?;
        flow.resync_table(&pipeline, &table).await?;
    }
    let how = BridgeOptions {
        skip: kinds(&options.skip),
        on_failure: options.on_failure,
        once: options.once,
        batch: flow.batch(),
        lanes: usize::from(options.lanes),
        ..BridgeOptions::new(pipeline.clone())
    };
    tracing::info!(bridge = %pipeline, from = flow.source(), to = flow.sink(), "bridge begins");
    let bridge = flow.bridge(how)?;
    let begun = Instant::now();
    let summary = tokio::select! {
        biased;
        summary = bridge.run(&stop) => summary,
        () = show(&bridge, printer) => bail!("the display ended"),
    };
    printer.clear_bar();
    let summary = summary?;
    flow.close().await;
    printer.result(&match printer.form(global.output) {
        Output::Table => in_words(&bridge, &summary, begun.elapsed()),
        _ => as_json(&bridge, &summary, begun.elapsed()).to_string(),
    })?;
    Ok(Exit::Done)
}

/// A handle that fires at SIGINT and at SIGTERM: what was read is then delivered.
fn stop_at_signals() -> anyhow::Result<Stop> {
    let stop = Stop::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let fired = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("asked to stop; delivering what was read");
        fired.stop();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // Asked twice. What is in flight is delivered again by the next run.
        std::process::exit(1);
    });
    Ok(stop)
}

/// Shows how far the bridge is, for ever.
async fn show(bridge: &AnyBridge, printer: &Printer) {
    if printer.is_terminal() {
        // A template that is not understood would show the default one.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            printer.bar().set_style(style);
        }
        printer.show_bar();
    }
    let mut told = State::Waiting;
    let mut next = Instant::now() + TELL;
    loop {
        tokio::time::sleep(REWRITE).await;
        let stats = bridge.stats();
        if printer.is_terminal() {
            printer.bar().set_message(line(&stats));
            printer.bar().tick();
        } else if next <= Instant::now() || stats.state != told {
            next = Instant::now() + TELL;
            told = stats.state;
            tell(bridge, &stats);
        }
    }
}

/// The numbers on a terminal.
fn line(stats: &Stats) -> String {
    let mut line = format!(
        "{}: {} delivered, {:.0}/s, {} behind ({})",
        stats.state.as_str(),
        stats.delivered,
        stats.rate,
        stats.lag_entries,
        seconds(stats.lag)
    );
    if let Some(bytes) = stats.lag_bytes {
        #[allow(clippy::cast_precision_loss, reason = "rounded")]
        let bytes = bytes as f64;
        line.push_str(&format!(", {:.1} MB of the log", bytes / 1e6));
    }
    if let Some(left) = stats
        .time_left()
        .filter(|left| *left >= Duration::from_secs(1))
    {
        line.push_str(&format!(", about {} left", seconds(left)));
    }
    if stats.parked > 0 {
        line.push_str(&format!(", {} parked", stats.parked));
    }
    if let Some(error) = &stats.last_error {
        line.push_str(&format!("; last error: {error}"));
    } else if !stats.held_by.is_empty() {
        line.push_str(&format!("; held back by {}", stats.held_by.join(", ")));
    }
    line
}

/// The numbers in the log.
fn tell(bridge: &AnyBridge, stats: &Stats) {
    tracing::info!(
        bridge = %bridge.pipeline(),
        state = stats.state.as_str(),
        delivered = stats.delivered,
        rate = stats.rate.round(),
        lag_entries = stats.lag_entries,
        lag_bytes = stats.lag_bytes,
        lag_seconds = stats.lag.as_secs_f64(),
        left_seconds = stats.time_left().map(|left| left.as_secs()),
        parked = stats.parked,
        held_by = (!stats.held_by.is_empty()).then(|| stats.held_by.join(", ")),
        last_error = stats.last_error,
        "bridge"
    );
}

fn ended(summary: &Summary) -> &'static str {
    match summary.end {
        End::Finished => "caught up",
        End::Stopped => "stopped",
    }
}

fn in_words(bridge: &AnyBridge, summary: &Summary, took: Duration) -> String {
    let stats = &summary.stats;
    let mut line = format!(
        "{} {}: {} mutations delivered in {}, {} behind",
        bridge.pipeline(),
        ended(summary),
        stats.delivered,
        seconds(took),
        stats.lag_entries
    );
    for (count, what) in [
        (stats.skipped, "skipped"),
        (stats.refused, "refused and left out"),
        (summary.dead_letters, "dead letters"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line
}

fn as_json(bridge: &AnyBridge, summary: &Summary, took: Duration) -> Value {
    let stats = &summary.stats;
    json!({
        "bridge": bridge.pipeline().as_str(),
        "end": match summary.end { End::Finished => "finished", End::Stopped => "stopped" },
        "seconds": took.as_secs_f64(),
        "delivered": stats.delivered,
        "bytes": stats.bytes,
        "batches": stats.batches,
        "skipped": stats.skipped,
        "parked": stats.parked,
        "refused": stats.refused,
        "dead_letters": summary.dead_letters,
        "lag_entries": stats.lag_entries,
        "lag_bytes": stats.lag_bytes,
        "lag_seconds": stats.lag.as_secs_f64(),
        "position": stats.position.as_ref().map(ToString::to_string),
    })
}

/// A time as people write it.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        whole => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}
