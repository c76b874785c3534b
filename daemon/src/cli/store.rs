//! The arguments of `ledger store`.

use clap::{Args, Subcommand, ValueEnum};
use ledger::StoreName;
use ledger::connect::LogKind;

/// Works on a store in its database, without a daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Tell where the store's log is, or keep it elsewhere from now on
    ///
    /// In a table each mutation is written a second time. `wal` takes the changes from PostgreSQL's
    /// own write-ahead log instead. After a switch every bridge and hook that follows the store begins
    /// anew with a copy (`--resync`), and a daemon that has it open is to be started again.
    #[command(after_help = "Example: ledger store log --in postgres://... --store orders --to wal")]
    Log(StoreLog),
    /// Make a replica a store of its own, which takes appends
    ///
    /// Stop its bridge before: what that delivers afterwards is refused.
    #[command(after_help = "Example: ledger store promote --in sqlite:replica.db --store orders")]
    Promote(Place),
}

/// A store, and the database that it is in.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The database: sqlite:PATH or <postgres://user:password@host:5432/database>
    #[arg(
        long = "in",
        value_name = "URL",
        env = "LEDGER_IN",
        hide_env_values = true
    )]
    pub(crate) url: String,
    /// The store
    #[arg(long, short, value_name = "NAME")]
    pub(crate) store: StoreName,
}

#[derive(Debug, Args)]
pub(crate) struct StoreLog {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Where the log is kept from now on
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) to: Option<LogPlace>,
}

/// Where a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogPlace {
    /// In a table
    Table,
    /// In PostgreSQL's write-ahead log
    Wal,
}

impl From<LogPlace> for LogKind {
    fn from(place: LogPlace) -> Self {
        match place {
            LogPlace::Table => Self::Table,
            LogPlace::Wal => Self::WriteAhead,
        }
    }
}
