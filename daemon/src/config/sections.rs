//! The sections that are lists or small groups.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ledger::bridge::OnFailure;
use ledger::connect::DatabaseUrl;
use ledger::mongodb::capture::Documents;
use ledger::postgres::capture::CaptureOptions;
use ledger::{MutationKind, PipelineId, StoreName, TableRoutes};

use super::Secret;
use super::tree::{Scalar, Section};

/// TLS of gRPC. A client reads the same keys: `ca` verifies the daemon, `cert` and `key` are its own
/// certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
}

/// TLS of HTTP; `ca` asks clients for certificates.
pub(crate) type HttpTls = Tls;

/// Bounds of single calls; none for the server's own default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) message_bytes: Option<usize>,
    pub(crate) entries_per_call: Option<usize>,
    pub(crate) concurrent_streams: Option<usize>,
    pub(crate) header_bytes: Option<usize>,
    pub(crate) request_timeout: Option<Duration>,
}

/// A bridge that the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct BridgeConfig {
    pub(crate) name: PipelineId,
    pub(crate) carried: Carried,
    pub(crate) to: DatabaseUrl,
    pub(crate) skip: BTreeSet<MutationKind>,
    pub(crate) on_failure: OnFailure,
    /// Whether the replica keeps a log of its own.
    pub(crate) relay: bool,
    /// Everything above as it was written, secrets included, to see what a reload changes.
    pub(crate) written: Secret,
}

/// What a bridge carries.
#[derive(Debug, Clone)]
pub(crate) enum Carried {
    /// A store.
    Store {
        store: StoreName,
        /// None for the daemon's own database.
        from: Option<DatabaseUrl>,
    },
    /// Ordinary tables.
    Tables {
        from: DatabaseUrl,
        options: Box<CaptureOptions>,
        /// The form of documents, where it is set.
        documents: Option<Documents>,
        routes: TableRoutes,
    },
}

impl Carried {
    /// Whether its source is no store of the daemon's.
    pub(crate) fn has_own_source(&self) -> bool {
        !matches!(self, Self::Store { from: None, .. })
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store { store, .. } => store.fmt(f),
            Self::Tables { options, .. } => options.tables.fmt(f),
        }
    }
}

pub(super) fn tls(top: &Section<'_>) -> Tls {
    group(top, "tls")
}

pub(super) fn http_tls(top: &Section<'_>) -> HttpTls {
    let tls = group(top, "http_tls");
    if tls.ca.is_some() && tls.cert.is_none() {
        top.section("http_tls", &["cert", "key", "ca"])
            .refuse_key("cert", "must be given where http_tls.ca is");
    }
    tls
}

fn group(top: &Section<'_>, key: &str) -> Tls {
    let section = top.section(key, &["cert", "key", "ca"]);
    let path = |key: &str| section.text(key).map(|path| PathBuf::from(path.text));
    let tls = Tls {
        cert: path("cert"),
        key: path("key"),
        ca: path("ca"),
    };
    match (&tls.cert, &tls.key) {
        (Some(_), None) => section.refuse_key("key", format!("must be given where {key}.cert is")),
        (None, Some(_)) => section.refuse_key("cert", format!("must be given where {key}.key is")),
        _ => {}
    }
    tls
}

pub(super) fn limits(top: &Section<'_>) -> Limits {
    let section = top.section(
        "limits",
        &[
            "message_bytes",
            "entries_per_call",
            "concurrent_streams",
            "header_bytes",
            "request_timeout",
        ],
    );
    let number = |key: &str| {
        section.parsed(key, "must be a whole number above 0", |text| {
            text.parse::<usize>()
                .ok()
                .filter(|number| *number > 0 && u32::try_from(*number).is_ok())
        })
    };
    Limits {
        message_bytes: number("message_bytes"),
        entries_per_call: number("entries_per_call"),
        concurrent_streams: number("concurrent_streams"),
        header_bytes: number("header_bytes"),
        request_timeout: section.duration("request_timeout"),
    }
}

pub(super) fn stores(section: &Section<'_>, key: &str) -> Vec<StoreName> {
    let names = section.scalars(key);
    names
        .iter()
        .filter_map(|name| store_name(section, name))
        .collect()
}

pub(super) fn store_name(section: &Section<'_>, scalar: &Scalar) -> Option<StoreName> {
    understood(section, scalar, StoreName::new(&scalar.text))
}

pub(super) fn understood<T>(
    section: &Section<'_>,
    scalar: &Scalar,
    result: Result<T, ledger::Error>,
) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            section.refuse(scalar, error.context());
            None
        }
    }
}
