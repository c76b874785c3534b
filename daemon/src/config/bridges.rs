//! The section `bridges`.

use std::collections::BTreeSet;

use ledger::bridge::OnFailure;
use ledger::connect::DatabaseUrl;
use ledger::mongodb::capture::Documents;
use ledger::postgres::capture::{CaptureOptions, TableSelection, WalBudget, WalExceeded};
use ledger::{ClusterOptions, PipelineId, TableRoutes};

use super::Secret;
use super::sections::{BridgeConfig, Carried, store_name, understood};
use super::tree::{Scalar, Section};
use crate::tables::{self, Settings, Take};

const KEYS: [&str; 27] = [
    "name",
    "store",
    "from",
    "to",
    "skip",
    "on_failure",
    "relay",
    "tables",
    "collections",
    "documents",
    "slot",
    "publication",
    "copy",
    "copy_width",
    "wal_budget_mb",
    "on_wal_budget",
    "columns",
    "hash_key",
    "keyless_changes",
    "rename",
    "rows",
    "soft_delete",
    "column_renames",
    "order_by",
    "settings",
    "cluster",
    "replicated",
];

/// The keys that only a bridge of tables has.
const OF_TABLES: [&str; 18] = [
    "documents",
    "slot",
    "publication",
    "copy",
    "copy_width",
    "wal_budget_mb",
    "on_wal_budget",
    "columns",
    "hash_key",
    "keyless_changes",
    "rename",
    "rows",
    "soft_delete",
    "column_renames",
    "order_by",
    "settings",
    "cluster",
    "replicated",
];

pub(super) fn bridges(top: &Section<'_>) -> Vec<BridgeConfig> {
    let mut names = BTreeSet::new();
    let sections = top.sections("bridges", &KEYS);
    let bridges = sections.iter().map(|section| bridge(section, &mut names));
    bridges.flatten().collect()
}

fn bridge(section: &Section<'_>, names: &mut BTreeSet<String>) -> Option<BridgeConfig> {
    let name = section.required("name");
    let to = section.required("to");
    let from = section.text("from");
    let policy = section.text("on_failure");
    let kinds = section.scalars("skip");
    let written = written(section);

    let database = |scalar: &Scalar| understood(section, scalar, DatabaseUrl::parse(&scalar.text));
    let pipeline = name
        .as_ref()
        .and_then(|name| understood(section, name, PipelineId::new(&name.text)));
    if let (Some(scalar), Some(name)) = (&name, &pipeline)
        && !names.insert(name.to_string())
    {
        section.refuse(scalar, "is the name of another bridge");
    }
    let to = to.as_ref().and_then(database);
    let from = match from.as_ref().map(database) {
        None => From::OwnDatabase,
        Some(Some(url)) => From::Url(url),
        Some(None) => From::Wrong,
    };
    let on_failure = policy.map_or(Some(OnFailure::default()), |policy| {
        understood(section, &policy, policy.text.parse())
    });
    let skip: BTreeSet<_> = kinds
        .iter()
        .filter_map(|kind| understood(section, kind, kind.text.parse()))
        .collect();
    let carried = carried(section, from);
    Some(BridgeConfig {
        name: pipeline?,
        carried: carried?,
        to: to?,
        skip,
        on_failure: on_failure?,
        relay: section.switch("relay"),
        written,
    })
}

/// The keys that are lists.
const LISTS: [&str; 7] = [
    "skip",
    "columns",
    "rename",
    "rows",
    "column_renames",
    "order_by",
    "settings",
];

/// Everything as it was written.
fn written(section: &Section<'_>) -> Secret {
    let mut text = String::new();
    for key in KEYS {
        let values = if LISTS.contains(&key) {
            section.scalars(key)
        } else {
            section.text(key).into_iter().collect()
        };
        let values: Vec<_> = values.iter().map(|scalar| &scalar.text).collect();
        text.push_str(&format!("{key}: {values:?} "));
    }
    Secret(text)
}

/// What the key `from` says.
enum From {
    /// Nothing: the daemon's own database.
    OwnDatabase,
    Url(DatabaseUrl),
    /// Something that has been refused.
    Wrong,
}

/// What it carries.
fn carried(section: &Section<'_>, from: From) -> Option<Carried> {
    let (tables, collections) = (section.text("tables"), section.text("collections"));
    if tables.is_some() && collections.is_some() {
        section.refuse_key("collections", "must not be given beside tables");
    }
    let Some(tables) = tables.or(collections) else {
        for key in OF_TABLES.iter().filter(|key| section.has(key)) {
            section.refuse_key(key, "is for bridges that have tables");
        }
        let store = section.required("store")?;
        let store = store_name(section, &store)?;
        return match from {
            From::OwnDatabase => Some(Carried::Store { store, from: None }),
            From::Url(url) => Some(Carried::Store {
                store,
                from: Some(url),
            }),
            From::Wrong => None,
        };
    };
    for key in ["store", "relay"] {
        if section.has(key) {
            section.refuse_key(key, "must not be given beside tables");
        }
    }
    if matches!(from, From::OwnDatabase) {
        section.refuse_key(
            "from",
            "must be given beside tables: the database they are in",
        );
    }
    let selection = understood(section, &tables, tables.text.parse::<TableSelection>())?;
    let documents = form(section, &from);
    let text = |key: &str| section.text(key).map(|scalar| scalar.text);
    let whole = |key: &str| {
        section.parsed(key, "must be a whole number above 0", |text| {
            text.parse::<u32>().ok().filter(|number| *number > 0)
        })
    };
    let mut settings = settings(section);
    if section.has("on_wal_budget") && !section.has("wal_budget_mb") {
        section.refuse_key("on_wal_budget", "must be given with wal_budget_mb");
    }
    let exceeded = match section.text("on_wal_budget") {
        Some(scalar) => understood(section, &scalar, scalar.text.parse::<WalExceeded>())?,
        None => WalExceeded::default(),
    };
    let mut options = CaptureOptions {
        slot: text("slot"),
        publication: text("publication"),
        copy: !section.has("copy") || section.switch("copy"),
        wal_budget: whole("wal_budget_mb").map(|megabytes| WalBudget {
            bytes: u64::from(megabytes) << 20,
            exceeded,
        }),
        ..CaptureOptions::new(selection)
    };
    if let Some(width) = whole("copy_width") {
        options.copy_width = usize::try_from(width).unwrap_or(1).min(32);
    }
    settings.soft_delete = section.switch("soft_delete");
    settings.keyless_changes = section.switch("keyless_changes");
    settings.hash_key = text("hash_key");
    settings.cluster = ClusterOptions {
        cluster: text("cluster"),
        replicated: section.switch("replicated"),
    };
    let routes: TableRoutes = match settings.apply(&mut options) {
        Ok(routes) => routes,
        Err(rule) => {
            section.refuse_key("columns", rule);
            return None;
        }
    };
    let From::Url(from) = from else {
        return None;
    };
    Some(Carried::Tables {
        from,
        options: Box::new(options),
        documents,
        routes,
    })
}

/// What is set for single tables.
fn settings(section: &Section<'_>) -> Settings {
    let mut settings = Settings::default();
    let lists: [(_, Take); 6] = [
        ("columns", Settings::column),
        ("rename", Settings::rename),
        ("rows", Settings::rows),
        ("column_renames", Settings::column_rename),
        ("order_by", Settings::order_by),
        ("settings", Settings::setting),
    ];
    for (key, take) in lists {
        for scalar in section.scalars(key) {
            if let Err(rule) = take(&mut settings, &scalar.text) {
                section.refuse(&scalar, rule);
            }
        }
    }
    settings
}

/// The form of documents, where it is set and may be.
fn form(section: &Section<'_>, from: &From) -> Option<Documents> {
    let scalar = section.text("documents")?;
    if !section.has("collections") {
        section.refuse_key("documents", "must be given beside collections");
        return None;
    }
    if let From::Url(from) = from
        && !tables::has_collections(from)
    {
        let scheme = from.scheme();
        let rule = format!("is for the collections of mongodb://, and from is {scheme}://");
        section.refuse_key("documents", rule);
    }
    let documents = understood(section, &scalar, scalar.text.parse::<Documents>())?;
    if documents == Documents::Columns && section.has("copy") && !section.switch("copy") {
        let rule = "must be true where documents is columns: collections are copied anew where a \
                    column gets another type";
        section.refuse_key("copy", rule);
    }
    Some(documents)
}
