//! `ledger bridge list`, `status`, `pause`, `resume`, `resync`, and what `verify`, `dead-letters` and
//! `replay` ask of a daemon.

use std::time::Duration;

use ledger_server::v1::bridge::State;
use ledger_server::v1::{
    Bridge, DiscardDeadLettersRequest, GetBridgeRequest, ListBridgesRequest,
    ListDeadLettersRequest, PauseBridgeRequest, RemoveBridgeRequest, ReplayDeadLettersRequest,
    ResumeBridgeRequest, ResyncBridgeRequest, VerifyBridgeRequest, VerifyBridgeResponse,
};
use serde_json::{Value, json};

use super::bridge_run::seconds;
use super::bridge_verify::verify_too;
use crate::cli::{DeadLetters, Global, Output};
use crate::client::{Called as _, Daemon};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// How many dead letters are asked for at a time.
const LETTERS: i64 = 500;

/// Lists the daemon's bridges.
pub(crate) async fn list(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = ListBridgesRequest::default();
    let answer = daemon
        .admin()?
        .list_bridges(request)
        .await
        .answer(&daemon)?;
    let rows: Vec<_> = answer
        .bridges
        .iter()
        .map(|bridge| (cells(bridge), value(bridge)))
        .collect();
    let headings = [
        "NAME",
        "STORE",
        "TO",
        "STATE",
        "RATE/S",
        "BEHIND",
        "LAG",
        "DEAD",
        "LAST ERROR",
    ];
    printer.rows(printer.form(global.output), headings, &rows)?;
    Ok(Exit::Done)
}

/// Tells what a bridge is doing; fails where it makes no progress.
pub(crate) async fn status(name: &str, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = GetBridgeRequest {
        name: name.to_owned(),
    };
    let bridge = daemon.admin()?.get_bridge(request).await.answer(&daemon)?;
    match printer.form(global.output) {
        Output::Table => {
            if let Value::Object(fields) = value(&bridge) {
                for (field, value) in fields {
                    let text = match value {
                        Value::String(text) => text,
                        Value::Null => continue,
                        other => other.to_string(),
                    };
                    if !text.is_empty() {
                        printer.result(&format!("{:<14} {text}", format!("{field}:")))?;
                    }
                }
            }
        }
        _ => printer.result(&value(&bridge).to_string())?,
    }
    Ok(if bridge.ready {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Asks a bridge to pause.
pub(crate) async fn pause(name: &str, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = PauseBridgeRequest {
        name: name.to_owned(),
    };
    daemon
        .admin()?
        .pause_bridge(request)
        .await
        .answer(&daemon)?;
    said(printer, global, name, "pause", "is asked to pause")
}

/// Lets a bridge go on.
pub(crate) async fn resume(name: &str, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = ResumeBridgeRequest {
        name: name.to_owned(),
    };
    daemon
        .admin()?
        .resume_bridge(request)
        .await
        .answer(&daemon)?;
    said(printer, global, name, "resume", "goes on")
}

/// Makes a bridge copy everything anew.
pub(crate) async fn resync(
    name: &str,
    table: Option<&str>,
    yes: bool,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    if !yes {
        let what = table.map_or_else(
            || format!("empties the replica of {name} and copies everything anew"),
            |table| format!("empties the copy of {table} and makes it anew"),
        );
        return Err(Failure::usage(format!("resync {what}; say --yes to do it")));
    }
    let daemon = Daemon::of(&global.overrides())?;
    let request = ResyncBridgeRequest {
        name: name.to_owned(),
        table: table.unwrap_or_default().to_owned(),
    };
    daemon
        .admin()?
        .resync_bridge(request)
        .await
        .answer(&daemon)?;
    let words = table.map_or_else(
        || "copies everything anew".to_owned(),
        |table| format!("copies {table} anew"),
    );
    said(printer, global, name, "resync", &words)
}

/// Ends a bridge for good.
pub(crate) async fn remove(name: &str, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = RemoveBridgeRequest {
        name: name.to_owned(),
    };
    daemon
        .admin()?
        .remove_bridge(request)
        .await
        .answer(&daemon)?;
    removed(name, global, printer)
}

/// Tells that a bridge is no more.
pub(crate) fn removed(name: &str, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    printer.result(&match printer.form(global.output) {
        Output::Table => format!("bridge {name} is removed; what it has written stays"),
        _ => json!({ "bridge": name, "removed": true }).to_string(),
    })?;
    Ok(Exit::Done)
}

fn said(
    printer: &Printer,
    global: &Global,
    name: &str,
    action: &str,
    words: &str,
) -> anyhow::Result<Exit> {
    printer.result(&match printer.form(global.output) {
        Output::Table => format!("bridge {name} {words}"),
        _ => json!({ "bridge": name, "asked": action }).to_string(),
    })?;
    Ok(Exit::Done)
}

/// Compares the two sides of a bridge.
pub(crate) async fn verify(
    name: &str,
    repair: bool,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = VerifyBridgeRequest {
        name: name.to_owned(),
        repair,
    };
    let report = daemon
        .admin()?
        .verify_bridge(request)
        .await
        .answer(&daemon)?;
    match printer.form(global.output) {
        Output::Table => {
            for line in report_lines(&report, repair) {
                printer.result(&line)?;
            }
        }
        _ => printer.result(
            &json!({
                "equal": report.equal,
                "streams": report.streams,
                "entries": report.compared,
                "pending": report.pending,
                "different": report.different,
                "repaired": report.repaired,
                "unrepaired": report.unrepaired,
                "verify_too": report.verify_too,
                "differences": report.differences,
            })
            .to_string(),
        )?,
    }
    Ok(if report.equal {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn report_lines(report: &VerifyBridgeResponse, repair: bool) -> Vec<String> {
    let mut lines = report.differences.clone();
    let named = report.differences.len() as u64;
    if report.different > named {
        lines.push(format!("and {} more", report.different - named));
    }
    if repair && report.different > 0 {
        lines.push(format!(
            "{} repaired, {} not",
            report.repaired, report.unrepaired
        ));
    }
    lines.extend(verify_too(&report.verify_too));
    let verdict = if report.equal { "equal" } else { "different" };
    let mut line = format!(
        "{verdict}: {} entries in {} streams compared, {} differences",
        report.compared, report.streams, report.different
    );
    if report.pending > 0 {
        line.push_str(&format!(", {} pending", report.pending));
    }
    lines.push(line);
    lines
}

/// Lists or forgets the dead letters of a bridge.
pub(crate) async fn dead_letters(
    name: &str,
    options: &DeadLetters,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let mut admin = daemon.admin()?;
    let form = printer.form(global.output);
    if options.discard_all || !options.discard.is_empty() {
        let request = DiscardDeadLettersRequest {
            bridge: name.to_owned(),
            cursors: options.discard.clone(),
            all: options.discard_all,
        };
        let answer = admin.discard_dead_letters(request).await.answer(&daemon)?;
        printer.result(&match form {
            Output::Table => format!("{} dead letters discarded", answer.discarded),
            _ => json!({ "bridge": name, "discarded": answer.discarded }).to_string(),
        })?;
        return Ok(Exit::Done);
    }
    let mut request = ListDeadLettersRequest {
        bridge: name.to_owned(),
        after: String::new(),
        limit: LETTERS,
    };
    let (mut count, mut all) = (0_u64, Vec::new());
    loop {
        let page = admin
            .list_dead_letters(request.clone())
            .await
            .answer(&daemon)?;
        let Some(last) = page.letters.last() else {
            break;
        };
        request.after.clone_from(&last.cursor);
        for letter in page.letters {
            count += 1;
            let at = letter
                .parked_at
                .map(|at| at.to_string())
                .unwrap_or_default();
            if form == Output::Table {
                printer.result(&format!(
                    "{at}\t{}\t{}\t{}",
                    letter.cursor, letter.description, letter.reason
                ))?;
                continue;
            }
            let value = json!({
                "cursor": letter.cursor,
                "stream_key": letter.stream_key,
                "description": letter.description,
                "reason": letter.reason,
                "parked_at": at,
            });
            if form == Output::Jsonl {
                printer.result(&value.to_string())?;
            } else {
                all.push(value);
            }
        }
    }
    if form == Output::Json {
        printer.result(&Value::from(all).to_string())?;
    }
    printer.notice(&format!("{count} dead letters of {name}"));
    Ok(Exit::Done)
}

/// Delivers the dead letters of a bridge again; fails where some are refused again.
pub(crate) async fn replay(name: &str, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = ReplayDeadLettersRequest {
        bridge: name.to_owned(),
    };
    let answer = daemon
        .admin()?
        .replay_dead_letters(request)
        .await
        .answer(&daemon)?;
    printer.result(&match printer.form(global.output) {
        Output::Table => format!(
            "{} dead letters delivered, {} left",
            answer.replayed, answer.left
        ),
        _ => {
            json!({ "bridge": name, "delivered": answer.replayed, "left": answer.left }).to_string()
        }
    })?;
    Ok(if answer.left == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// The lag of a bridge.
pub(crate) fn lag(bridge: &Bridge) -> Duration {
    let lag = bridge.lag.unwrap_or_default();
    Duration::try_from(lag).unwrap_or_default()
}

/// A bridge's state in one word.
pub(crate) fn state(bridge: &Bridge) -> &'static str {
    match bridge.state() {
        State::Unspecified => "unknown",
        State::Waiting => "waiting",
        State::Copying => "copying",
        State::Following => "following",
        State::Paused => "paused",
        State::Stopped => "stopped",
    }
}

/// A bridge as a row.
pub(crate) fn cells(bridge: &Bridge) -> [String; 9] {
    [
        bridge.name.clone(),
        bridge.store.clone(),
        bridge.to.clone(),
        state(bridge).to_owned(),
        format!("{:.0}", bridge.rate),
        bridge.lag_entries.to_string(),
        seconds(lag(bridge)),
        bridge.dead_letters.to_string(),
        bridge.last_error.clone(),
    ]
}

fn value(bridge: &Bridge) -> Value {
    json!({
        "name": bridge.name,
        "store": bridge.store,
        "to": bridge.to,
        "state": state(bridge),
        "ready": bridge.ready,
        "rate": bridge.rate,
        "lag_entries": bridge.lag_entries,
        "lag_bytes": bridge.lag_bytes,
        "lag_seconds": lag(bridge).as_secs_f64(),
        "delivered": bridge.delivered,
        "bytes": bridge.bytes,
        "to_copy": bridge.to_copy,
        "skipped": bridge.skipped,
        "parked": bridge.parked,
        "refused": bridge.refused,
        "dead_letters": bridge.dead_letters,
        "position": bridge.position,
        "last_error": bridge.last_error,
    })
}
