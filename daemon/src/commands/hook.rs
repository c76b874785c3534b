//! `ledger hook`: what the daemon is asked about its webhooks.

use std::time::Duration;

use ledger_server::v1::hook::State;
use ledger_server::v1::{
    GetHookRequest, Hook as Shown, HookAttempt, ListHookAttemptsRequest, ListHooksRequest,
    PauseHookRequest, RemoveHookRequest, ReplayHookRequest, ResumeHookRequest,
    RotateHookSecretRequest, TestHookRequest,
};
use serde_json::{Value, json};

use super::bridge_run::seconds;
use super::{hook_letters, hook_verify};
use crate::cli::{Attempts, Global, Hook, NamedHook, Output, ReplayHook, ResumeHook, RotateSecret};
use crate::client::{Called as _, Daemon};
use crate::exit::Exit;
use crate::printer::Printer;

/// Runs a verb.
pub(crate) async fn run(hook: &Hook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    match hook {
        Hook::List => list(global, printer).await,
        Hook::Status(named) => status(named, global, printer).await,
        Hook::Test(named) => test(named, global, printer).await,
        Hook::Attempts(options) => attempts(options, global, printer).await,
        Hook::Pause(named) => pause(named, global, printer).await,
        Hook::Resume(options) => resume(options, global, printer).await,
        Hook::Replay(options) => replay(options, global, printer).await,
        Hook::DeadLetters(options) => hook_letters::run(options, global, printer).await,
        Hook::RotateSecret(options) => rotate(options, global, printer).await,
        Hook::Remove(named) => remove(named, global, printer).await,
        Hook::VerifySignature(options) => hook_verify::run(options, global, printer).await,
    }
}

async fn list(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = ListHooksRequest::default();
    let answer = daemon.hooks()?.list_hooks(request).await.answer(&daemon)?;
    let rows: Vec<_> = answer
        .hooks
        .iter()
        .map(|hook| (cells(hook), value(hook)))
        .collect();
    let headings = [
        "NAME",
        "STORE",
        "URL",
        "STATE",
        "BREAKER",
        "RATE/S",
        "BEHIND",
        "LAG",
        "WAITING",
        "DEAD",
        "LAST ERROR",
    ];
    printer.rows(printer.form(global.output), headings, &rows)?;
    Ok(Exit::Done)
}

/// Fails where the hook makes no progress.
async fn status(named: &NamedHook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = GetHookRequest {
        name: named.hook.clone(),
    };
    let hook = daemon.hooks()?.get_hook(request).await.answer(&daemon)?;
    match printer.form(global.output) {
        Output::Table => {
            if let Value::Object(fields) = value(&hook) {
                for (field, value) in fields {
                    let text = match value {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    if !text.is_empty() {
                        printer.result(&format!("{:<14} {text}", format!("{field}:")))?;
                    }
                }
            }
        }
        _ => printer.result(&value(&hook).to_string())?,
    }
    let good = hook.ready && hook.state() != State::Disabled;
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// Fails where the receiver did not take it.
async fn test(named: &NamedHook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = TestHookRequest {
        name: named.hook.clone(),
    };
    let answer = daemon.hooks()?.test_hook(request).await.answer(&daemon)?;
    let attempt = answer.attempt.unwrap_or_default();
    printer.result(&match printer.form(global.output) {
        Output::Table => line(&attempt),
        _ => attempt_value(&attempt).to_string(),
    })?;
    Ok(if answer.delivered {
        Exit::Done
    } else {
        Exit::Failed
    })
}

async fn attempts(options: &Attempts, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = ListHookAttemptsRequest {
        hook: options.named.hook.clone(),
        stream: options.stream.clone().unwrap_or_default(),
        outcome: options
            .status
            .map(|came| came.as_str().to_owned())
            .unwrap_or_default(),
        id: options.id.clone().unwrap_or_default(),
        before: 0,
        since: options.since.map(timestamp),
        until: options.until.map(timestamp),
        limit: options.limit,
    };
    let answer = daemon
        .hooks()?
        .list_hook_attempts(request)
        .await
        .answer(&daemon)?;
    let rows: Vec<_> = answer
        .attempts
        .iter()
        .map(|attempt| (attempt_cells(attempt), attempt_value(attempt)))
        .collect();
    let headings = [
        "AT",
        "OUTCOME",
        "STATUS",
        "TOOK",
        "TRY",
        "STREAM",
        "ENTRIES",
        "ID",
        "RESPONSE OR ERROR",
    ];
    printer.rows(printer.form(global.output), headings, &rows)?;
    Ok(Exit::Done)
}

async fn pause(named: &NamedHook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = PauseHookRequest {
        name: named.hook.clone(),
    };
    daemon.hooks()?.pause_hook(request).await.answer(&daemon)?;
    said(printer, global, &named.hook, "pause", "is asked to pause")
}

async fn resume(options: &ResumeHook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let name = &options.named.hook;
    let request = ResumeHookRequest {
        name: name.clone(),
        restart: options.restart,
    };
    daemon.hooks()?.resume_hook(request).await.answer(&daemon)?;
    if options.restart {
        return said(
            printer,
            global,
            name,
            "restart",
            "begins at the start of every stream",
        );
    }
    said(printer, global, name, "resume", "goes on")
}

async fn remove(named: &NamedHook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = RemoveHookRequest {
        name: named.hook.clone(),
    };
    daemon.hooks()?.remove_hook(request).await.answer(&daemon)?;
    said(printer, global, &named.hook, "remove", "is forgotten")
}

fn said(
    printer: &Printer,
    global: &Global,
    name: &str,
    action: &str,
    words: &str,
) -> anyhow::Result<Exit> {
    printer.result(&match printer.form(global.output) {
        Output::Table => format!("hook {name} {words}"),
        _ => json!({ "hook": name, "asked": action }).to_string(),
    })?;
    Ok(Exit::Done)
}

/// Fails where some were not taken.
async fn replay(options: &ReplayHook, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let request = ReplayHookRequest {
        hook: options.named.hook.clone(),
        stream: options.stream.clone().unwrap_or_default(),
        since: options.since.map(timestamp),
        until: options.until.map(timestamp),
        outcome: options
            .status
            .map(|came| came.as_str().to_owned())
            .unwrap_or_default(),
        dry_run: options.dry_run,
        rate: options.rate.unwrap_or_default(),
    };
    let told = daemon.hooks()?.replay_hook(request).await.answer(&daemon)?;
    printer.result(&match printer.form(global.output) {
        Output::Table => {
            let what = format!(
                "{} deliveries with {} entries of {} streams",
                told.deliveries, told.entries, told.streams
            );
            let gone = match told.gone {
                0 => String::new(),
                gone => format!(", {gone} without entries that still exist"),
            };
            if options.dry_run {
                format!("would send {what}{gone}")
            } else {
                let (taken, failed) = (told.delivered, told.failed);
                format!("sent {what}: {taken} taken, {failed} not{gone}")
            }
        }
        _ => json!({
            "hook": options.named.hook,
            "dry_run": options.dry_run,
            "streams": told.streams,
            "deliveries": told.deliveries,
            "entries": told.entries,
            "delivered": told.delivered,
            "failed": told.failed,
            "gone": told.gone,
        })
        .to_string(),
    })?;
    Ok(if told.failed == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

async fn rotate(
    options: &RotateSecret,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let daemon = Daemon::of(&global.overrides())?;
    let name = &options.named.hook;
    let overlap = prost_types::Duration::try_from(options.overlap).ok();
    let request = RotateHookSecretRequest {
        name: name.clone(),
        overlap,
        asymmetric: options.ed25519,
    };
    let answer = daemon
        .hooks()?
        .rotate_hook_secret(request)
        .await
        .answer(&daemon)?;
    let until = answer.until.map(|at| at.to_string()).unwrap_or_default();
    printer.result(&match printer.form(global.output) {
        // Alone on its line, to be piped to where the receiver reads it.
        Output::Table => answer.secret.clone(),
        _ => json!({ "hook": name, "secret": answer.secret, "old_until": until }).to_string(),
    })?;
    printer.notice(&format!(
        "give this to the receiver of {name}; the old secrets are signed with as well until {until}"
    ));
    Ok(Exit::Done)
}

/// A time of the program's as a message has it.
pub(super) fn timestamp(at: ledger::Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

pub(super) fn state(hook: &Shown) -> &'static str {
    match hook.state() {
        State::Unspecified => "unknown",
        State::Waiting => "waiting",
        State::Copying => "copying",
        State::Following => "following",
        State::Paused => "paused",
        State::Disabled => "disabled",
        State::Stopped => "stopped",
    }
}

fn lag(hook: &Shown) -> Duration {
    Duration::try_from(hook.lag.unwrap_or_default()).unwrap_or_default()
}

fn why(hook: &Shown) -> &str {
    if hook.disabled.is_empty() {
        &hook.last_error
    } else {
        &hook.disabled
    }
}

pub(super) fn cells(hook: &Shown) -> [String; 11] {
    [
        hook.name.clone(),
        hook.store.clone(),
        hook.url.clone(),
        state(hook).to_owned(),
        hook.breaker.clone(),
        format!("{:.0}", hook.rate),
        hook.lag_entries.to_string(),
        seconds(lag(hook)),
        hook.waiting.to_string(),
        hook.dead_letters.to_string(),
        why(hook).to_owned(),
    ]
}

fn value(hook: &Shown) -> Value {
    json!({
        "name": hook.name,
        "store": hook.store,
        "stream": hook.stream,
        "url": hook.url,
        "format": hook.format,
        "state": state(hook),
        "ready": hook.ready,
        "breaker": hook.breaker,
        "rate": hook.rate,
        "lag_entries": hook.lag_entries,
        "lag_seconds": lag(hook).as_secs_f64(),
        "delivered": hook.delivered,
        "requests": hook.requests,
        "failures": hook.failures,
        "bytes": hook.bytes,
        "waiting": hook.waiting,
        "queued": hook.queued,
        "parked": hook.parked,
        "dead_letters": hook.dead_letters,
        "position": hook.position,
        "disabled": hook.disabled,
        "last_error": hook.last_error,
    })
}

fn took(attempt: &HookAttempt) -> Duration {
    Duration::try_from(attempt.took.unwrap_or_default()).unwrap_or_default()
}

fn range(attempt: &HookAttempt) -> String {
    if attempt.first == attempt.last {
        return attempt.first.clone();
    }
    format!("{}-{}", attempt.first, attempt.last)
}

/// The response's beginning, or what went wrong, on one line of a table.
fn said_by(attempt: &HookAttempt) -> String {
    let response = String::from_utf8_lossy(&attempt.response);
    let response: String = response.chars().take(60).map(plain).collect();
    match (attempt.error.as_str(), response.as_str()) {
        ("", response) => response.to_owned(),
        (error, "") => error.to_owned(),
        (error, response) => format!("{error}: {response}"),
    }
}

/// A receiver must not write on the operator's terminal what it likes.
fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

fn status_of(attempt: &HookAttempt) -> String {
    match attempt.status {
        0 => "-".to_owned(),
        status => status.to_string(),
    }
}

fn attempt_cells(attempt: &HookAttempt) -> [String; 9] {
    [
        attempt.at.map(|at| at.to_string()).unwrap_or_default(),
        attempt.outcome.clone(),
        status_of(attempt),
        format!("{:.1}ms", took(attempt).as_secs_f64() * 1_000.0),
        attempt.attempt.to_string(),
        attempt.stream.clone(),
        range(attempt),
        attempt.id.clone(),
        said_by(attempt),
    ]
}

fn line(attempt: &HookAttempt) -> String {
    let [_, outcome, status, took, ..] = attempt_cells(attempt);
    format!("{outcome}: status {status} in {took} {}", said_by(attempt))
        .trim_end()
        .to_owned()
}

fn attempt_value(attempt: &HookAttempt) -> Value {
    json!({
        "number": attempt.number,
        "at": attempt.at.map(|at| at.to_string()).unwrap_or_default(),
        "id": attempt.id,
        "stream": attempt.stream,
        "kind": attempt.kind,
        "first": attempt.first,
        "last": attempt.last,
        "items": attempt.items,
        "attempt": attempt.attempt,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "took_seconds": took(attempt).as_secs_f64(),
        "sent": attempt.sent,
        "response": String::from_utf8_lossy(&attempt.response),
        "error": attempt.error,
    })
}
