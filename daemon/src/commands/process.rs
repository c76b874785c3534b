//! `ledger start`, `stop`, `status` and `reload`

use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cli::{Global, Output, Start};
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::serve::{self, launch, pid};

/// How much longer than its own deadline a stop is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Starts the daemon. In the foreground it ends when the daemon does.
pub(crate) async fn start(
    options: &Start,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let overrides = global.overrides();
    if let Some(path) = serve::first_file(&overrides)? {
        config::write_first(&path)?;
        if !launch::in_background() {
            printer.notice(&format!("wrote {}", path.display()));
        }
    }
    let config = Config::load(&overrides)?;
    if options.foreground {
        let ran = Box::pin(serve::run(config, &overrides)).await;
        if let Err(error) = &ran {
            launch::tell(&launch::Told::Failed(format!("{error:#}")));
        }
        return ran.map(|()| Exit::Done);
    }
    if let Some(pid) = pid::running(&config.folder)? {
        return running(pid, global, printer);
    }
    config.check_for_daemon()?;
    for warning in config.warnings() {
        printer.notice(&format!("Warning: {warning}"));
    }
    let log = launch::log_path(&config);
    let started = tokio::task::block_in_place(|| launch::launch(&config, global))?;
    match started {
        launch::Started::Ready(pid) => {
            let value = json!({ "started": true, "pid": pid });
            say(
                &format!("ledger daemon started (pid {pid})"),
                &value,
                global,
                printer,
            )
        }
        launch::Started::Running(pid) => running(pid, global, printer),
        launch::Started::Failed(reason) => {
            bail!("the daemon did not start: {reason} (see {})", log.display())
        }
        launch::Started::Waiting { pid, reason } => {
            let waited = config::duration::write(config.start_timeout());
            let text = format!(
                "the daemon (pid {pid}) runs, and is not ready after {waited}: {reason}; it keeps \
                 trying (see {})",
                log.display()
            );
            Err(Failure::new(Exit::Unavailable, text).into())
        }
    }
}

fn running(pid: u32, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let value = json!({ "started": false, "pid": pid });
    say(
        &format!("ledger daemon already running (pid {pid})"),
        &value,
        global,
        printer,
    )
}

/// Asks the daemon to stop, and waits until it has.
pub(crate) fn stop(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let config = good_or_default(global, printer)?;
    let Some(pid) = pid::running(&config.folder)? else {
        return not_running(global, printer);
    };
    send(pid, Signal::TERM)?;
    let value = json!({ "stopped": true, "pid": pid });
    say(
        &format!("sent SIGTERM to ledger daemon (pid {pid})"),
        &value,
        global,
        printer,
    )?;
    if !launch::wait_until_gone(&config.folder, config.drain_timeout + PATIENCE)? {
        printer.notice("it has not ended yet");
    }
    Ok(Exit::Done)
}

/// Tells whether the daemon runs.
pub(crate) fn status(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let config = good_or_default(global, printer)?;
    let Some(pid) = pid::running(&config.folder)? else {
        return not_running(global, printer);
    };
    // What it listens on was perhaps given to it by --addr.
    let addr = pid::address(&config.folder).unwrap_or(config.listen);
    let value = json!({ "running": true, "pid": pid, "addr": addr });
    let line = format!("ledger daemon is running (pid {pid}, addr {addr})");
    say(&line, &value, global, printer)
}

/// Lets the daemon read its configuration again. One that is bad is told here, and not sent; where
/// that cannot be told because variables are set for the daemon only, it decides by itself.
pub(crate) fn reload(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let overrides = global.overrides();
    let folder = match Config::load(&overrides) {
        Ok(config) => {
            config.check_for_daemon()?;
            config.folder
        }
        Err(error) if config::lacks_variable(&error) => {
            let (path, _) = config::path(&overrides)?;
            let path = std::path::absolute(&path).context("find the configuration's folder")?;
            printer.notice(&format!(
                "Warning: not checked here: {error:#}; the daemon has variables of its own, and logs \
                 what it takes or refuses"
            ));
            let folder = path.parent();
            folder
                .context("find the configuration's folder")?
                .to_owned()
        }
        Err(error) => return Err(error),
    };
    let Some(pid) = pid::running(&folder)? else {
        let text = "ledger daemon is not running";
        return Err(Failure::new(Exit::Unavailable, text).into());
    };
    send(pid, Signal::HUP)?;
    let value = json!({ "reloaded": true, "pid": pid });
    say(
        &format!("sent SIGHUP to ledger daemon (pid {pid})"),
        &value,
        global,
        printer,
    )
}

/// The configuration, or the defaults where it is bad: a daemon that runs can be asked for, and
/// stopped, whatever has become of its file since.
fn good_or_default(global: &Global, printer: &Printer) -> anyhow::Result<Config> {
    let overrides = global.overrides();
    Config::for_client(&overrides).or_else(|error| {
        let (path, _) = config::path(&overrides)?;
        printer.notice(&format!("Warning: {error:#}"));
        let folder = path.parent().context("find the configuration's folder")?;
        let defaults = Config::defaults(folder.to_owned())?;
        let listen = overrides.addr.unwrap_or(defaults.listen);
        Ok(Config { listen, ..defaults })
    })
}

fn not_running(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    say(
        "ledger daemon is not running",
        &json!({ "running": false }),
        global,
        printer,
    )
}

fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.with_context(|| format!("the pid file holds {pid}"))?;
    kill_process(process, signal).with_context(|| format!("signal process {pid}"))
}

/// Prints a line of fixed form, or a value where that was asked for.
fn say(line: &str, value: &Value, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    match global.output {
        None | Some(Output::Table) => printer.result(line)?,
        Some(_) => printer.result(&value.to_string())?,
    }
    Ok(Exit::Done)
}
