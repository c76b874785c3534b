//! The program `ledger`.

mod cli;
mod client;
mod commands;
mod config;
mod exit;
mod go;
mod logging;
mod printer;
mod serve;
mod tables;
mod telemetry;
mod urls;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, Import};
use crate::config::Config;
use crate::exit::Exit;
use crate::printer::Printer;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(&error),
    };
    let printer = Printer::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&anyhow::Error::new(error).context("start the runtime"));
            return Exit::Failed.into();
        }
    };
    // Before the log lines: spans are told to the same subscriber.
    if runs_a_daemon(&cli) {
        let _within = runtime.enter();
        if let Err(error) = telemetry::start() {
            serve::launch::tell(&serve::launch::Told::Failed(format!("{error:#}")));
            printer.error(&error);
            return Exit::Failed.into();
        }
    }
    let log_file = log_file(&cli);
    match &log_file {
        Some(path) => {
            if let Err(error) = logging::start_in_file(path) {
                printer.error(&error);
                return Exit::Failed.into();
            }
        }
        None => logging::start(cli.global.log_format, &printer),
    }
    let ended = runtime.block_on(run(&cli, &printer));
    telemetry::end();
    // A call to a server that hangs must not keep the program.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = cli.command.on_error(&error);
            if exit != Exit::Done {
                printer.error(&error);
            }
            exit.into()
        }
    }
}

/// Whether this process becomes the daemon, and does not start another that does.
fn runs_a_daemon(cli: &Cli) -> bool {
    matches!(&cli.command, Command::Start(options) if options.foreground)
}

/// Where a daemon in the foreground logs instead of standard error. One in the background has its
/// standard error there already.
fn log_file(cli: &Cli) -> Option<std::path::PathBuf> {
    let Command::Start(options) = &cli.command else {
        return None;
    };
    if !options.foreground || serve::launch::in_background() {
        return None;
    }
    // What is wrong with the configuration is said by the command itself.
    Config::load(&cli.global.overrides()).ok()?.log_file
}

async fn run(cli: &Cli, printer: &Printer) -> anyhow::Result<Exit> {
    let global = &cli.global;
    match &cli.command {
        Command::Start(options) => Box::pin(commands::start(options, global, printer)).await,
        Command::Stop => commands::stop(global, printer),
        Command::Status => commands::status(global, printer),
        Command::Reload => commands::reload(global, printer),
        Command::Stream(command) => Box::pin(commands::stream(command, global, printer)).await,
        Command::Bridge(bridge) => Box::pin(commands::bridge(bridge, global, printer)).await,
        Command::Hook(hook) => Box::pin(commands::hook(hook, global, printer)).await,
        Command::Store(command) => Box::pin(commands::store(command, global, printer)).await,
        Command::Import(Import::Go(options)) => {
            Box::pin(commands::import_go(options, global, printer)).await
        }
        Command::Top(options) => Box::pin(commands::top(options, global, printer)).await,
        Command::Config(command) => commands::config(command, global, printer),
        Command::Doctor => Box::pin(commands::doctor(global, printer)).await,
        Command::Demo(options) => Box::pin(commands::demo(options, printer)).await,
        Command::Completions(options) => commands::completions(options, printer),
        Command::Man(options) => commands::man(options, printer),
        Command::Version => commands::version(&cli.global, printer),
    }
}
