//! The arguments of `ledger bridge`.

use clap::{Args, Subcommand};
use ledger::bridge::OnFailure;
use ledger::mongodb::capture::Documents;
use ledger::postgres::capture::{TableSelection, WalExceeded};
use ledger::{MutationKind, PipelineId, StoreName};

/// The commands that name a bridge ask the daemon about one of its configuration. `run`, `verify`,
/// `dead-letters` and `replay` also work without a daemon, on databases named by URL: sqlite:PATH,
/// <postgres://user:password@host:5432/database>, <clickhouse://user:password@host:8123/database>.
/// Arguments can be seen by every user of a machine: a URL with a password is better given by
/// `LEDGER_FROM` and `LEDGER_TO`.
#[derive(Debug, Subcommand)]
pub(crate) enum Bridge {
    /// Copy what the store holds, then follow its changes, in the foreground, without a daemon
    #[command(
        after_help = "Example: ledger bridge run --store orders --from sqlite:a.db --to sqlite:b.db --once"
    )]
    Run(Box<Run>),
    /// List the daemon's bridges
    #[command(after_help = "Example: ledger bridge list")]
    List,
    /// Tell what a bridge of the daemon is doing
    #[command(after_help = "Example: ledger bridge status orders-to-clickhouse")]
    Status(Named),
    /// Let a bridge of the daemon pause until it is resumed, also over restarts
    #[command(after_help = "Example: ledger bridge pause orders-to-clickhouse")]
    Pause(Named),
    /// Let a paused bridge go on
    #[command(after_help = "Example: ledger bridge resume orders-to-clickhouse")]
    Resume(Named),
    /// Empty the replica of a bridge of the daemon, and copy everything anew
    #[command(after_help = "Example: ledger bridge resync orders-to-clickhouse --yes")]
    Resync(Resync),
    /// End a bridge for good: give back what it holds at its source, which keeps the log for it
    #[command(after_help = "Example: ledger bridge remove app-to-clickhouse --yes")]
    Remove(Remove),
    /// Compare source and sink entry by entry, and name what differs
    #[command(after_help = "Example: ledger bridge verify orders-to-clickhouse --repair")]
    Verify(Verify),
    /// List what the sink refused and was set aside
    #[command(after_help = "Example: ledger bridge dead-letters orders-to-clickhouse")]
    DeadLetters(DeadLetters),
    /// Deliver the dead letters again
    #[command(after_help = "Example: ledger bridge replay orders-to-clickhouse")]
    Replay(Replay),
}

/// A bridge of the daemon.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The bridge, as the daemon's configuration names it
    #[arg(value_parser = bridge)]
    pub(crate) bridge: String,
}

#[derive(Debug, Args)]
pub(crate) struct Resync {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Only this table, as schema.table, beside the others; for a bridge that carries tables
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Do it: the replica is empty until the copy has been made
    #[arg(long)]
    pub(crate) yes: bool,
}

/// The two ends of a bridge without a daemon.
#[derive(Debug, Args)]
pub(crate) struct Ends {
    /// The database of the store that is followed
    #[arg(long, value_name = "URL", env = "LEDGER_FROM", hide_env_values = true)]
    pub(crate) from: Option<String>,
    /// The database that the replica is kept in
    #[arg(long, value_name = "URL", env = "LEDGER_TO", hide_env_values = true)]
    pub(crate) to: Option<String>,
    /// The store
    #[arg(long, short = 's', value_name = "NAME", value_parser = store_name)]
    pub(crate) store: Option<StoreName>,
    /// Ordinary tables of a PostgreSQL database in place of a store, or the collections of a MongoDB
    /// database: patterns, such as 'public.*,!public.secret', or 'orders,events'
    #[arg(long, visible_alias = "collections", value_name = "PATTERNS", value_parser = tables, conflicts_with = "store")]
    pub(crate) tables: Option<TableSelection>,
    /// The bridge's name, which its cursor goes by; made from store and sink where not given
    #[arg(long, short = 'n', value_name = "NAME", value_parser = pipeline_id)]
    pub(crate) name: Option<PipelineId>,
}

/// What concerns collections only.
#[derive(Debug, Args)]
pub(crate) struct Form {
    /// How the documents of collections are carried: doc (as a whole, in the column doc), columns (a
    /// typed column for each field beside it)
    #[arg(long, value_name = "FORM", requires = "tables", value_parser = documents)]
    pub(crate) documents: Option<Documents>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) ends: Ends,
    #[command(flatten)]
    pub(crate) form: Form,
    /// End once everything that stood in the log at the start is delivered
    #[arg(long)]
    pub(crate) once: bool,
    /// Kinds of mutation that are not carried: `set_tags`, `set_annotations`, trim, rename
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kind)]
    pub(crate) skip: Vec<MutationKind>,
    /// What happens to a mutation that the sink refuses: stop, park, skip
    #[arg(long, value_name = "POLICY", default_value = "stop", value_parser = on_failure)]
    pub(crate) on_failure: OnFailure,
    /// How many deliveries run side by side, each with its own streams
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) lanes: u16,
    /// Empty the replica first, and copy everything anew
    #[arg(long)]
    pub(crate) resync: bool,
    /// Let the replica keep a log of its own, so that bridges, hooks and tails follow it as they follow
    /// a store. Without this its log ends, which is refused while a bridge follows it
    #[arg(long, conflicts_with = "tables")]
    pub(crate) relay: bool,
    #[command(flatten)]
    pub(crate) capture: Capture,
}

/// What concerns tables only.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// A replication slot that you keep; made by the bridge where none is named
    #[arg(long, value_name = "NAME", requires = "tables")]
    pub(crate) slot: Option<String>,
    /// A publication that you keep; made by the bridge where none is named
    #[arg(long, value_name = "NAME", requires = "tables")]
    pub(crate) publication: Option<String>,
    /// Do not copy what the tables hold, only what is changed from now on
    #[arg(long, requires = "tables")]
    pub(crate) no_copy: bool,
    /// How many ranges of a table are copied side by side
    #[arg(long, value_name = "N", requires = "tables", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) copy_width: Option<u16>,
    /// How many megabytes of the write-ahead log the slot may hold back
    #[arg(long, value_name = "MB", requires = "tables", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) wal_budget: Option<u32>,
    /// What happens where it holds back more: stop (the bridge ends), `drop_slot` (and the slot is
    /// dropped), resync (and everything is copied anew)
    #[arg(long, value_name = "WHAT", requires = "wal_budget", value_parser = wal_exceeded)]
    pub(crate) on_wal_budget: Option<WalExceeded>,
    /// What to do with a column: public.users.email=hash, =exclude, =text, =mask:TEXT,
    /// =dimensions:N; may be repeated
    #[arg(long, value_name = "TABLE.COLUMN=HOW", requires = "tables")]
    pub(crate) column: Vec<String>,
    /// Another name for a table at the sink: public.users=people; may be repeated
    #[arg(long, value_name = "TABLE=NAME", requires = "tables")]
    pub(crate) rename: Vec<String>,
    /// Carry only the rows of a table that fulfil a condition: "public.orders=region = 7"; may be
    /// repeated
    #[arg(long, value_name = "TABLE=CONDITION", requires = "tables")]
    pub(crate) rows: Vec<String>,
    /// Carry updates and deletes of tables without a key too, where their replica identity is FULL
    #[arg(long, requires = "tables")]
    pub(crate) keyless_changes: bool,
    /// Copy this table anew first, beside the others; may be repeated
    #[arg(long, value_name = "TABLE", requires = "tables")]
    pub(crate) resync_table: Vec<String>,
    /// In `ClickHouse`, the order of a table's rows: all of the key's columns, such as
    /// public.orders=region,id; may be repeated
    #[arg(long, value_name = "TABLE=COLUMNS", requires = "tables")]
    pub(crate) order_by: Vec<String>,
    /// In `ClickHouse`, a setting of a table: `public.orders=index_granularity=4096`; may be
    /// repeated
    #[arg(long, value_name = "TABLE=SETTING=VALUE", requires = "tables")]
    pub(crate) setting: Vec<String>,
    /// What a column is called now: public.users.mail=email, or public.users.fax= for one that was
    /// dropped; may be repeated
    #[arg(long, value_name = "TABLE.COLUMN=NAME", requires = "tables")]
    pub(crate) column_rename: Vec<String>,
    /// The `ClickHouse` cluster on which tables are made and altered
    #[arg(long, value_name = "NAME", requires = "tables")]
    pub(crate) cluster: Option<String>,
    /// Replicated tables in `ClickHouse`
    #[arg(long, requires = "tables")]
    pub(crate) replicated: bool,
    /// Keep removed rows readable, marked by _deleted
    #[arg(long, requires = "tables")]
    pub(crate) soft_delete: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// A bridge of the daemon; without one, the ends are named
    #[arg(value_name = "BRIDGE", value_parser = bridge, conflicts_with_all = ["store", "tables", "name"])]
    pub(crate) bridge: Option<String>,
    #[command(flatten)]
    pub(crate) ends: Ends,
    /// Do it: the bridge can then only begin anew, with a copy of everything
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A bridge of the daemon; without one, the ends are named
    #[arg(value_name = "BRIDGE", value_parser = bridge, conflicts_with_all = ["store", "tables", "name", "skip", "documents"])]
    pub(crate) bridge: Option<String>,
    #[command(flatten)]
    pub(crate) ends: Ends,
    #[command(flatten)]
    pub(crate) form: Form,
    /// The kinds of mutation that the bridge does not carry
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kind)]
    pub(crate) skip: Vec<MutationKind>,
    /// Mend what differs
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    /// A bridge of the daemon; without one, the ends are named (--to only where no --name is given)
    #[arg(value_name = "BRIDGE", value_parser = bridge, conflicts_with_all = ["store", "tables", "name"])]
    pub(crate) bridge: Option<String>,
    #[command(flatten)]
    pub(crate) ends: Ends,
    /// Forget the letter with this cursor, of a bridge of the daemon; may be repeated
    #[arg(
        long,
        value_name = "CURSOR",
        requires = "bridge",
        conflicts_with = "discard_all"
    )]
    pub(crate) discard: Vec<String>,
    /// Forget all letters of a bridge of the daemon
    #[arg(long, requires = "bridge")]
    pub(crate) discard_all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A bridge of the daemon; without one, the ends are named
    #[arg(value_name = "BRIDGE", value_parser = bridge, conflicts_with_all = ["store", "name"])]
    pub(crate) bridge: Option<String>,
    #[command(flatten)]
    pub(crate) ends: Ends,
}

fn store_name(text: &str) -> Result<StoreName, String> {
    StoreName::new(text).map_err(|error| error.context().to_owned())
}

fn pipeline_id(text: &str) -> Result<PipelineId, String> {
    PipelineId::new(text).map_err(|error| error.context().to_owned())
}

/// A name; what is none may be a URL with its password, and goes nowhere.
fn bridge(text: &str) -> Result<String, String> {
    pipeline_id(text).map(|name| name.to_string())
}

fn tables(text: &str) -> Result<TableSelection, String> {
    text.parse()
        .map_err(|error: ledger::Error| error.context().to_owned())
}

fn documents(text: &str) -> Result<Documents, String> {
    text.parse()
        .map_err(|error: ledger::Error| error.context().to_owned())
}

fn wal_exceeded(text: &str) -> Result<WalExceeded, String> {
    text.parse()
        .map_err(|error: ledger::Error| error.context().to_owned())
}

fn kind(text: &str) -> Result<MutationKind, String> {
    text.trim()
        .parse()
        .map_err(|error: ledger::Error| error.context().to_owned())
}

fn on_failure(text: &str) -> Result<OnFailure, String> {
    text.parse()
        .map_err(|error: ledger::Error| error.context().to_owned())
}
