//! The arguments.

mod bridge;
mod hook;
mod import;
mod refusal;
mod stream;

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ledger::MutationKind;

pub(crate) use bridge::{Bridge, DeadLetters, Ends, Remove, Replay, Run, Verify};
pub(crate) use hook::{
    Attempts, Hook, HookLetters, NamedHook, ReplayHook, ResumeHook, RotateSecret, VerifySignature,
};
pub(crate) use import::{Import, ImportGo};
pub(crate) use refusal::refuse;
pub(crate) use stream::{
    Annotate, Append, Count, DEFAULT_STORE, Expected, Export, LineFormat, List, Read, Rename,
    Search, Stat, Stream, Tag, Tail, Trim, stream_expected,
};

use crate::config::{Overrides, Secret};
use crate::exit::Exit;

/// An append-only log whose primary feature is replication: a daemon, its client, and bridges.
///
/// `ledger start` runs a daemon in the background, on SQLite in ~/.ledger unless its config.yaml
/// says otherwise. `ledger stream` works with it, `ledger bridge` with the bridges it runs.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 conflict (a version or a name), 4 not
/// allowed, 5 not found, 6 not reachable or not ready. For `bridge verify` 1 is different, and 2 not
/// comparable.
#[derive(Debug, Parser)]
#[command(
    name = "ledger",
    disable_version_flag = true,
    // A script's own options may follow those of a wrapper.
    args_override_self = true,
    max_term_width = 100,
    after_help = "Example: ledger start && ledger stream append \"hello\" && ledger stream read"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What may stand anywhere on the line.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration; ~/.ledger/config.yaml where that exists
    #[arg(
        long,
        short = 'c',
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    config: Option<PathBuf>,
    /// The daemon's API key; better given by `LEDGER_API_KEY`, since arguments can be seen
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "LEDGER_API_KEY",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    api_key: Option<String>,
    /// The address of gRPC, in place of the configuration's
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        help_heading = "Global options"
    )]
    addr: Option<String>,
    /// The address of HTTP, in place of the configuration's
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        help_heading = "Global options"
    )]
    http_addr: Option<String>,
    /// The form of results: a table on a terminal and a JSON value a line elsewhere, where the
    /// command has no form of its own
    #[arg(
        long,
        short = 'o',
        global = true,
        overrides_with = "output",
        value_enum,
        value_name = "FORM",
        help_heading = "Global options"
    )]
    pub(crate) output: Option<Output>,
    /// The form of log lines: text on a terminal, JSON otherwise
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        help_heading = "Global options"
    )]
    pub(crate) log_format: Option<LogFormat>,
}

impl Global {
    /// What stands in place of the configuration's values.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            config: self.config.clone(),
            // An empty variable is no key.
            api_key: self
                .api_key
                .clone()
                .filter(|key| !key.is_empty())
                .map(Secret::new),
            addr: self.addr.clone(),
            http_addr: self.http_addr.clone(),
        }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the daemon, in the background unless told otherwise
    #[command(after_help = "Example: ledger start --config /etc/ledger/config.yaml")]
    Start(Start),
    /// Ask the daemon to stop, and wait until it has
    #[command(after_help = "Example: ledger stop")]
    Stop,
    /// Tell whether the daemon runs
    #[command(after_help = "Example: ledger status")]
    Status,
    /// Let the daemon read its configuration again: bridges and hooks start, stop and change
    #[command(after_help = "Example: ledger config check && ledger reload")]
    Reload,
    /// Append to streams, read, label, trim and follow them
    #[command(subcommand)]
    Stream(Stream),
    /// Carry a store's content and changes into another database
    #[command(subcommand)]
    Bridge(Bridge),
    /// Look after the webhooks of the daemon
    #[command(subcommand)]
    Hook(Hook),
    /// Bring in what other software has stored
    #[command(subcommand)]
    Import(Import),
    /// Watch stores and bridges, with rates and lag
    #[command(after_help = "Example: ledger top --interval 2")]
    Top(Top),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check configuration, reachability, privileges, clock, disk and database, and say what to do
    #[command(after_help = "Example: ledger doctor -o json")]
    Doctor,
    /// Show a bridge at work: an embedded source and replica, no server needed
    #[command(after_help = "Example: ledger demo --seconds 5")]
    Demo(Demo),
    /// Print the completions of a shell
    #[command(after_help = "Example: ledger completions bash > /etc/bash_completion.d/ledger")]
    Completions(Completions),
    /// Print the manual page, or write one for each command into a folder
    #[command(after_help = "Example: ledger man --dir /usr/local/share/man/man1")]
    Man(Man),
    /// Print the version, the commit and the day of the build
    #[command(after_help = "Example: ledger version")]
    Version,
}

impl Command {
    /// The exit code of a failure. For `verify` 1 means different, so a failure is 2.
    pub(crate) fn on_error(&self, error: &anyhow::Error) -> Exit {
        match self {
            Self::Bridge(Bridge::Verify(_)) => Exit::Usage,
            _ => Exit::of(error),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Stay in the foreground, and log to standard error
    #[arg(long)]
    pub(crate) foreground: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the configuration
    #[command(after_help = "Example: ledger config check --config new.yaml")]
    Check,
    /// Print what is in effect, secrets hidden
    #[command(after_help = "Example: ledger config show")]
    Show,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) interval: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How long the writers write
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub(crate) seconds: u16,
    /// Keep the two databases in this folder; a temporary one is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write one page a command here, instead of printing the first
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// A list of kinds as a set.
pub(crate) fn kinds(list: &[MutationKind]) -> BTreeSet<MutationKind> {
    list.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_of_every_verb_shows_an_example() {
        fn check(command: &clap::Command) {
            if command.get_name() == "help" {
                return;
            }
            let leaf = command.get_subcommands().next().is_none();
            let help = command.get_after_help().map(ToString::to_string);
            let name = command.get_name();
            assert!(
                !leaf
                    || help.is_some_and(
                        |help| help.starts_with("Example") && help.contains(": ledger ")
                    ),
                "{name}"
            );
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        for line in [
            &["ledger", "-c", "x", "--addr", "a:1", "stream", "read"][..],
            &["ledger", "stream", "-c", "x", "read", "--addr", "a:1"],
            &["ledger", "stream", "read", "--addr", "a:1", "-c", "x"],
        ] {
            let overrides = Cli::try_parse_from(line).unwrap().global.overrides();
            assert_eq!(overrides.config, Some("x".into()));
            assert_eq!(overrides.addr.as_deref(), Some("a:1"));
        }
    }
}
