//! The two ends of a bridge, opened by their URLs, and the name of what is between them.

use std::path::Path;

use anyhow::Context as _;
use ledger::connect::{DatabaseUrl, Flow};
use ledger::mongodb::capture::Documents;
use ledger::postgres::capture::CaptureOptions;
use ledger::{PipelineId, Relay, ReplicaOptions, StoreName, TableRoutes};
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::Ends;
use crate::exit::Failure;
use crate::tables;

/// A bridge's ends, opened.
pub(crate) struct Opened {
    pub(crate) flow: Flow,
    pub(crate) pipeline: PipelineId,
}

/// Whether the replica is created where it does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replica {
    /// It is; the options hold whether or not it exists.
    Create(Relay),
    Existing,
}

/// Opens both ends. The source must exist: a mistyped name is an error, not a new store.
pub(crate) async fn open(
    ends: &Ends,
    replica: Replica,
    capture: Option<(CaptureOptions, TableRoutes)>,
    documents: Option<Documents>,
) -> anyhow::Result<Opened> {
    let (Some(from), Some(to)) = (&ends.from, &ends.to) else {
        return Err(missing(ends, true));
    };
    // The parser does not ask for what the store excludes.
    if documents.is_some() && ends.tables.is_none() {
        return Err(Failure::usage("--documents goes with --tables"));
    }
    let from = parse("--from", from)?;
    let to = parse("--to", to)?;
    let pipeline = name(ends, Some(&to))?;
    if let Some(selected) = &ends.tables {
        let (options, routes) = capture.unwrap_or_else(|| {
            (
                CaptureOptions::new(selected.clone()),
                TableRoutes::default(),
            )
        });
        if documents.is_some() && !tables::has_collections(&from) {
            return Err(Failure::usage(format!(
                "--documents is for the collections of mongodb://, and --from is {}://",
                from.scheme()
            )));
        }
        let flow = tables::flow(&from, &to, options, documents, routes).await?;
        return Ok(Opened { flow, pipeline });
    }
    let Some(store) = &ends.store else {
        return Err(missing(ends, true));
    };
    let source = from.open_store(store).await.context("--from")?;
    let sink = match replica {
        Replica::Create(relay) => {
            let options = ReplicaOptions {
                relay,
                ..ReplicaOptions::default()
            };
            to.open_sink_of(source.as_ref(), store, options).await
        }
        Replica::Existing => to.open_existing_sink(store).await,
    };
    Ok(Opened {
        flow: Flow::ledger(source, sink.context("--to")?)?,
        pipeline,
    })
}

/// The bridge's name, given or made from its ends.
pub(crate) fn name(ends: &Ends, to: Option<&DatabaseUrl>) -> anyhow::Result<PipelineId> {
    if let Some(name) = &ends.name {
        return Ok(name.clone());
    }
    let Some(to) = to else {
        return Err(Failure::usage("--name or --to must be given"));
    };
    match (&ends.tables, &ends.store) {
        (Some(tables), _) => {
            let digest = xxh3_64(tables.to_string().as_bytes());
            default_name(&StoreName::new(format!("tables_{digest:016x}"))?, to)
        }
        (None, Some(store)) => default_name(store, to),
        (None, None) => Err(missing(ends, true)),
    }
}

/// What must still be given where no bridge of the daemon is named; `to` where the sink is needed.
pub(crate) fn missing(ends: &Ends, to: bool) -> anyhow::Error {
    let absent = [
        ("--from <URL>", ends.from.is_none()),
        ("--to <URL>", to && ends.to.is_none()),
        (
            "--store <NAME>, --tables <PATTERNS> or --collections <PATTERNS>",
            ends.store.is_none() && ends.tables.is_none(),
        ),
    ];
    let absent: Vec<_> = absent
        .into_iter()
        .filter_map(|(name, absent)| absent.then_some(name))
        .collect();
    let names = absent.join(", ");
    Failure::usage(format!("{names} must be given (see ledger --help)"))
}

/// Reads a URL; `argument` is where it was given.
pub(crate) fn parse(argument: &'static str, url: &str) -> anyhow::Result<DatabaseUrl> {
    DatabaseUrl::parse(url).context(argument)
}

/// The name of a bridge that was given none: the store and the sink's database, so that the same
/// ends always meet the same cursor. Where a part cannot be written in a name, or is too long, a
/// digest of the whole keeps it apart from others.
pub(crate) fn default_name(store: &StoreName, to: &DatabaseUrl) -> anyhow::Result<PipelineId> {
    const LONGEST: usize = 120;
    let mut target = to.target();
    if to.scheme() == "sqlite" && target != ":memory:" {
        target = resolved(Path::new(&target)).context("--to")?;
    }
    let plain: String = target
        .trim_start_matches('/')
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "_.:-".contains(c) => c,
            '/' => ':',
            _ => '-',
        })
        .collect();
    let scheme = to.scheme();
    // Only in a path can a colon be mistaken for the slash that it stands for.
    let kept = |(c, written): (char, char)| c == written || c == '/';
    let written = target
        .trim_start_matches('/')
        .chars()
        .zip(plain.chars())
        .all(kept)
        && (scheme != "sqlite" || !target.contains(':'));
    let name = if written && plain.len() <= LONGEST {
        format!("{store}:{scheme}:{plain}")
    } else {
        let end = plain.len().saturating_sub(LONGEST);
        let end = plain.get(end..).unwrap_or_default();
        let digest = xxh3_64(target.as_bytes());
        format!("{store}:{scheme}:{end}:{digest:016x}")
    };
    Ok(PipelineId::new(name)?)
}

/// A file's path as it is called from everywhere, before the file exists and after.
fn resolved(path: &Path) -> std::io::Result<String> {
    let path = std::path::absolute(path)?;
    let path = match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(file)) => folder.join(file),
        _ => path,
    };
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(url: &str) -> String {
        let store = StoreName::new("orders").unwrap();
        let url = DatabaseUrl::parse(url).unwrap();
        default_name(&store, &url).unwrap().to_string()
    }

    #[test]
    fn a_name_tells_the_ends_and_no_secret() {
        assert_eq!(
            name("clickhouse://ada:hunter2@h:8123/db"),
            "orders:clickhouse:h:8123:db"
        );
        assert_eq!(
            name("postgres://ada:hunter2@h:5432/db"),
            "orders:postgres:h:5432:db"
        );
        assert_eq!(name("sqlite:/no/such.db"), "orders:sqlite:no:such.db");
    }

    #[test]
    fn names_of_different_ends_differ() {
        let long = "x".repeat(300);
        let names = [
            name("sqlite:/a b.db"),
            name("sqlite:/a-b.db"),
            name("sqlite:/a+b.db"),
            name(&format!("sqlite:/1{long}")),
            name(&format!("sqlite:/2{long}")),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
}
