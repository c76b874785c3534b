//! The arguments of `ledger stream`.
//!
//! A value may begin with a hyphen, as scripts that pass on keys and tags rely on: what follows an
//! option that takes a value is its value. An option that stands twice counts as it stands last.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};

/// The store where none is named.
pub(crate) const DEFAULT_STORE: &str = "ledger_entries";

/// The stream where none is named.
const STREAM: &str = "default";

#[derive(Debug, Subcommand)]
pub(crate) enum Stream {
    /// Append an entry, or many from a file or standard input
    #[command(
        after_help = "Examples: ledger stream append --json '{\"item\":\"book\"}' --dedup-key order-1\n          \
                      ledger stream append --file orders.csv --stream-field user --dedup-key-field id"
    )]
    Append(Box<Append>),
    /// Print entries
    #[command(after_help = "Example: ledger stream read --stream user-1 --limit 10 --desc")]
    Read(Read),
    /// Print the entries whose payload contains a text
    #[command(after_help = "Example: ledger stream search book --limit 5")]
    Search(Search),
    /// Print how many entries a stream has
    #[command(after_help = "Example: ledger stream count --stream user-1")]
    Count(Count),
    /// Print the names of the streams
    #[command(after_help = "Example: ledger stream list --store orders --after user-1")]
    List(List),
    /// Print count, first and last id of a stream
    #[command(after_help = "Example: ledger stream stat --stream user-1")]
    Stat(Stat),
    /// Replace the tags of an entry
    #[command(after_help = "Example: ledger stream tag --id 7 --tag paid --tag sent")]
    Tag(Tag),
    /// Set and delete annotations of an entry
    #[command(after_help = "Example: ledger stream annotate --id 7 --set checked=ada --set draft=")]
    Annotate(Annotate),
    /// Give a stream another name
    #[command(after_help = "Example: ledger stream rename --stream user-1 --to user-1-archive")]
    Rename(Rename),
    /// Remove the entries up to an id, that one included
    #[command(after_help = "Example: ledger stream trim --stream user-1 --before 100")]
    Trim(Trim),
    /// Print entries as they are appended, from the stream's beginning
    #[command(after_help = "Example: ledger stream tail --stream user-1 --json")]
    Tail(Tail),
    /// Print every entry, of one stream or of all, a JSON object a line
    #[command(after_help = "Example: ledger stream export --store orders --file orders.jsonl")]
    Export(Export),
}

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// The store
    #[arg(long, short = 's', value_name = "NAME", allow_hyphen_values = true, default_value = DEFAULT_STORE)]
    pub(crate) store: String,
}

#[derive(Debug, Args)]
pub(crate) struct Append {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// What to append, as a JSON string; without it, lines are read from --file or standard input
    #[arg(value_name = "PAYLOAD")]
    pub(crate) payload: Option<String>,
    /// PAYLOAD is JSON, and is stored as it is
    #[arg(long)]
    pub(crate) json: bool,
    /// A key to filter reads by
    #[arg(
        long,
        value_name = "KEY",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) order_key: String,
    /// A stream takes an entry with this key once
    #[arg(
        long,
        value_name = "KEY",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) dedup_key: String,
    /// A metadata pair; may be repeated
    #[arg(long, value_name = "K=V", allow_hyphen_values = true, action = ArgAction::Append, value_parser = pair)]
    pub(crate) meta: Vec<(String, String)>,
    /// A tag; may be repeated
    #[arg(long, value_name = "TAG", allow_hyphen_values = true, action = ArgAction::Append)]
    pub(crate) tag: Vec<String>,
    /// Append only where this many entries were ever appended: a number, `none`, `exists` or `any`
    #[arg(long, value_name = "VERSION", value_parser = expected)]
    pub(crate) expect_version: Option<Expected>,
    /// Append the lines of this file: JSON lines, or CSV with a header
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    pub(crate) file: Option<PathBuf>,
    /// The form of the lines; by the file's ending where it is not given
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "payload")]
    pub(crate) format: Option<LineFormat>,
    /// The field of a line that names its stream
    #[arg(long, value_name = "FIELD", conflicts_with = "payload")]
    pub(crate) stream_field: Option<String>,
    /// The field of a line that is its order key
    #[arg(long, value_name = "FIELD", conflicts_with = "payload")]
    pub(crate) order_key_field: Option<String>,
    /// The field of a line that is its dedup key
    #[arg(long, value_name = "FIELD", conflicts_with = "payload")]
    pub(crate) dedup_key_field: Option<String>,
    /// The field of a line that is its payload; the whole line where it is not given
    #[arg(long, value_name = "FIELD", conflicts_with = "payload")]
    pub(crate) payload_field: Option<String>,
    /// Go on where an earlier, interrupted run with this file ended
    #[arg(long, requires = "file")]
    pub(crate) resume: bool,
}

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LineFormat {
    /// A JSON value a line.
    Jsonl,
    /// Comma-separated values with a header; a line becomes an object of strings.
    Csv,
}

/// The version that a stream must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    None,
    Exists,
    Exactly(i64),
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// One JSON object a line, everything about the entry in it
    #[arg(long)]
    pub(crate) json: bool,
    /// Only entries behind this id
    #[arg(
        long,
        value_name = "ID",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) after: String,
    /// The most entries; 0 means 100
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) limit: i64,
    /// Newest first
    #[arg(long)]
    pub(crate) desc: bool,
    /// Only entries with this order key
    #[arg(
        long,
        value_name = "KEY",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) order_key: String,
    /// Only entries with this tag
    #[arg(
        long,
        value_name = "TAG",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) tag: String,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream; all where none is named
    #[arg(
        long,
        short = 'S',
        value_name = "NAME",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) stream: String,
    /// The text, whatever the case of its letters
    pub(crate) query: String,
    /// One JSON object a line, everything about the entry in it
    #[arg(long)]
    pub(crate) json: bool,
    /// The most entries; 0 means 100
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) limit: i64,
    /// Newest first
    #[arg(long)]
    pub(crate) desc: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Only streams behind this name
    #[arg(
        long,
        value_name = "NAME",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) after: String,
    /// The most streams; 0 means 100
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) limit: i64,
}

#[derive(Debug, Args)]
pub(crate) struct Stat {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
}

#[derive(Debug, Args)]
pub(crate) struct Tag {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// The entry
    #[arg(
        long,
        value_name = "ID",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) id: String,
    /// A tag; may be repeated, none removes all
    #[arg(
        id = "tag",
        long = "tag",
        short = 't',
        value_name = "TAG", allow_hyphen_values = true,
        action = ArgAction::Append
    )]
    pub(crate) tags: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Annotate {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// The entry
    #[arg(
        long,
        value_name = "ID",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) id: String,
    /// A pair; `K=` deletes, `K` sets an empty value; may be repeated
    #[arg(long, value_name = "K=V", allow_hyphen_values = true, action = ArgAction::Append)]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rename {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// The new name
    #[arg(
        long,
        value_name = "NAME",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct Trim {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// The last entry to remove
    #[arg(
        long,
        value_name = "ID",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) before: String,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream
    #[arg(long, short = 'S', value_name = "NAME", allow_hyphen_values = true, default_value = STREAM)]
    pub(crate) stream: String,
    /// One JSON object a line, everything about the entry in it
    #[arg(long)]
    pub(crate) json: bool,
    /// The wait between attempts while the daemon cannot be reached; entries themselves are pushed
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub(crate) interval: std::time::Duration,
    /// The most entries of one message
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        default_value_t = 50
    )]
    pub(crate) limit: i64,
    /// Begin with the newest N entries
    #[arg(long, value_name = "N", allow_hyphen_values = true, conflicts_with_all = ["now", "pattern"])]
    pub(crate) last: Option<i64>,
    /// Begin with what is appended from now on
    #[arg(long)]
    pub(crate) now: bool,
    /// Follow all streams whose name matches, as in `user-*`
    #[arg(long, value_name = "GLOB", conflicts_with = "stream")]
    pub(crate) pattern: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// The stream; all where none is named
    #[arg(
        long,
        short = 'S',
        value_name = "NAME",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) stream: String,
    /// Write to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Reads `key=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}

fn expected(text: &str) -> Result<Expected, String> {
    match text {
        "any" => Ok(Expected::Any),
        "none" => Ok(Expected::None),
        "exists" => Ok(Expected::Exists),
        number => number
            .parse()
            .ok()
            .filter(|number: &i64| *number >= 0)
            .map(Expected::Exactly)
            .ok_or_else(|| "must be a number, none, exists or any".to_owned()),
    }
}

fn interval(text: &str) -> Result<std::time::Duration, String> {
    crate::config::duration::parse(text)
        .filter(|interval| !interval.is_zero())
        .ok_or_else(|| crate::config::duration::RULE.to_owned())
}

/// The version as it is sent.
pub(crate) fn stream_expected(expected: Expected) -> ledger_server::v1::ExpectedVersion {
    use ledger_server::v1::expected_version::Expected as Wire;
    ledger_server::v1::ExpectedVersion {
        expected: Some(match expected {
            Expected::Any => Wire::Any(()),
            Expected::None => Wire::None(()),
            Expected::Exists => Wire::Exists(()),
            Expected::Exactly(version) => Wire::Exactly(version),
        }),
    }
}
