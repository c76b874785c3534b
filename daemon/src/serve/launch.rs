//! Starting a daemon in the background, and how it tells that it is ready.
//!
//! The new process has its standard output connected to the one that started it, and says there
//! what it is waiting for, and then that it is ready, or why it ends. It writes nothing there
//! afterwards, when nobody listens any more.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::config::Config;

/// Says to a process that it was started into the background.
const MARK: &str = "LEDGER_BACKGROUND";

/// What a daemon tells who started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// It takes calls.
    Ready,
    /// It runs, and is not ready for this reason.
    Waiting(String),
    /// It ends for this reason.
    Failed(String),
    /// Another one runs already.
    Running(u32),
}

/// How starting went.
#[derive(Debug)]
pub(crate) enum Started {
    Ready(u32),
    Running(u32),
    /// It was not ready in time, and still runs.
    Waiting {
        pid: u32,
        reason: String,
    },
    Failed(String),
}

/// Whether this process was started into the background.
pub(crate) fn in_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Tells who started this process into the background; does nothing for another one.
pub(crate) fn tell(told: &Told) {
    if !in_background() {
        return;
    }
    if let Ok(line) = serde_json::to_string(told) {
        // Nobody listens any more where starting took too long.
        let mut out = std::io::stdout().lock();
        drop(writeln!(out, "{line}").and_then(|()| out.flush()));
    }
}

/// Where a daemon in the background writes what it says.
pub(crate) fn log_path(config: &Config) -> PathBuf {
    match &config.log_file {
        Some(path) => path.clone(),
        None => config.folder.join("ledger.log"),
    }
}

/// Opens a log for appending, readable by its owner only where it is new.
pub(crate) fn open_log(path: &Path) -> anyhow::Result<std::fs::File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("log_file: open {}", path.display()))
}

/// Starts a daemon in the background, and waits until it is ready.
pub(crate) fn launch(config: &Config, global: &Global) -> anyhow::Result<Started> {
    let program = std::env::current_exe().context("find the program itself")?;
    let mut command = Command::new(program);
    command
        .args(["start", "--foreground"])
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(open_log(&log_path(config))?);
    if let Some(file) = &config.file {
        command.arg("--config").arg(file);
    }
    let overrides = global.overrides();
    for (name, address) in [
        ("--addr", &overrides.addr),
        ("--http-addr", &overrides.http_addr),
    ] {
        if let Some(address) = address {
            command.arg(name).arg(address);
        }
    }
    // Everybody can see arguments; the environment is the owner's.
    match &overrides.api_key {
        Some(key) => command.env("LEDGER_API_KEY", key.expose()),
        None => command.env_remove("LEDGER_API_KEY"),
    };
    let mut child = command.spawn().context("start the daemon")?;
    let pid = child.id();
    let out = child.stdout.take().context("listen to the daemon")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Ok(told) = serde_json::from_str::<Told>(&line)
                && sender.send(told).is_err()
            {
                return;
            }
        }
    });
    let until = Instant::now() + config.start_timeout();
    let mut reason = "it has not said why".to_owned();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(Told::Ready) => return Ok(Started::Ready(pid)),
            Ok(Told::Running(pid)) => return Ok(Started::Running(pid)),
            Ok(Told::Failed(reason)) => return Ok(Started::Failed(reason)),
            Ok(Told::Waiting(why)) => reason = why,
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Started::Waiting { pid, reason }),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let ended = child.wait().context("wait for the daemon")?;
                return Ok(Started::Failed(format!("it ended with {ended}")));
            }
        }
    }
}

/// Waits until a folder has no daemon any more; false where that takes too long.
pub(crate) fn wait_until_gone(folder: &Path, patience: Duration) -> anyhow::Result<bool> {
    let until = Instant::now() + patience;
    while super::pid::running(folder)?.is_some() {
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}
