//! The arguments of `ledger import`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use ledger::StoreName;

/// Bring in what other software has stored.
#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// Copy the stores of a database of the Go implementation, which is only read
    ///
    /// Stop the Go program before. Entries keep their ids and times. A run that was interrupted is
    /// gone on with by the same command; one that was finished changes nothing. Rows that cannot be
    /// kept are named, and the exit code is 1 then.
    #[command(
        after_help = "Example: ledger import go --from sqlite:old.db --to sqlite:new.db --dry-run"
    )]
    Go(ImportGo),
}

#[derive(Debug, Args)]
pub(crate) struct ImportGo {
    /// The database of the Go implementation: sqlite:PATH or <postgres://user:password@host/db>
    #[arg(long, value_name = "URL", env = "LEDGER_FROM", hide_env_values = true)]
    pub(crate) from: String,
    /// The database that the stores are made in; another one
    #[arg(
        long,
        value_name = "URL",
        env = "LEDGER_TO",
        hide_env_values = true,
        required_unless_present = "dry_run"
    )]
    pub(crate) to: Option<String>,
    /// A store to copy, and what to call it; may be repeated. All stores where not given
    #[arg(long = "store", short = 's', value_name = "NAME[=NEW]")]
    pub(crate) stores: Vec<Renamed>,
    /// Look at every row, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Empty what an unfinished run has copied, and begin again
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) restart: bool,
    /// Keep the ids that the Go bridge gave to replicated entries as metadata with this key
    #[arg(long, value_name = "KEY")]
    pub(crate) source_id_key: Option<String>,
}

/// A store, and what it is called in the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renamed {
    /// The Go store: its rules differ, so only a table is looked for.
    pub(crate) from: String,
    pub(crate) to: Option<StoreName>,
}

impl FromStr for Renamed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = match text.split_once('=') {
            None => (text, None),
            Some((from, to)) => {
                let to = StoreName::new(to).map_err(|error| error.context().to_owned())?;
                (from, Some(to))
            }
        };
        let from = from.to_owned();
        Ok(Self { from, to })
    }
}
