//! Bridges in a process of their own, and what processes take.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::Outcome;

/// How often a process is looked at while it runs.
const LOOK: Duration = Duration::from_millis(20);

/// What a bridge that ran to its end took.
pub(crate) struct Ran {
    /// From its start to its end.
    pub(crate) time: Duration,
    /// Its peak resident memory, in MB.
    pub(crate) peak_mb: f64,
    /// The processor time that it took, in seconds.
    pub(crate) cpu: f64,
}

/// The program `ledger`: what `LEDGER_BIN` names, else the one built beside this benchmark.
pub(crate) fn program() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("LEDGER_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    let path = this.ancestors().nth(2).map(|folder| folder.join("ledger"));
    match path {
        Some(path) if path.exists() => Ok(path),
        _ => Err("the program ledger is not built: cargo build --release -p ledger-daemon".into()),
    }
}

/// Starts `ledger bridge run`. The URLs are handed over where other users do not see them.
pub(crate) fn bridge(from: &str, to: &str, store: &str, more: &[&str]) -> Outcome<Child> {
    let child = Command::new(program()?)
        .args(["bridge", "run", "--store", store])
        .args(more)
        .env("LEDGER_FROM", from)
        .env("LEDGER_TO", to)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// Runs `ledger bridge run --once` to its end.
pub(crate) async fn bridge_once(from: &str, to: &str, store: &str) -> Outcome<Ran> {
    to_its_end(bridge(from, to, store, &["--once"])?).await
}

/// Runs `ledger bridge run --tables --once` to its end.
pub(crate) async fn tables_once(from: &str, to: &str, tables: &str) -> Outcome<Ran> {
    let child = Command::new(program()?)
        .args(["bridge", "run", "--once", "--tables", tables])
        .env("LEDGER_FROM", from)
        .env("LEDGER_TO", to)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    to_its_end(child).await
}

async fn to_its_end(mut child: Child) -> Outcome<Ran> {
    let begun = Instant::now();
    let pid = child.id().ok_or("the bridge has no process id")?;
    let (mut peak, mut cpu_seconds) = (0.0, 0.0);
    loop {
        // Both are gone with the process, and never fall.
        peak = peak_mb(pid).unwrap_or(peak);
        cpu_seconds = cpu(pid).unwrap_or(cpu_seconds);
        let Ok(status) = tokio::time::timeout(LOOK, child.wait()).await else {
            continue;
        };
        let status = status?;
        if !status.success() {
            return Err(format!("ledger bridge run ended with {status}").into());
        }
        return Ok(Ran {
            time: begun.elapsed(),
            peak_mb: peak,
            cpu: cpu_seconds,
        });
    }
}

/// Asks a process to stop, and waits until it has.
pub(crate) async fn stop(mut child: Child) -> Outcome {
    child.start_kill()?;
    child.wait().await?;
    Ok(())
}

/// The peak resident memory of a process, in MB.
fn peak_mb(pid: u32) -> Option<f64> {
    memory_mb(pid, "VmHWM:")
}

/// The resident memory of a process, in MB.
pub(crate) fn resident_mb(pid: u32) -> Option<f64> {
    memory_mb(pid, "VmRSS:")
}

fn memory_mb(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1_024.0 / 1e6)
}

/// The processor time that a process has taken, in seconds; none where there is no such process.
pub(crate) fn cpu(pid: u32) -> Option<f64> {
    /// `USER_HZ`, the same on every Linux.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some((user + system) / TICKS)
}
