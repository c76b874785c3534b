//! The table at the destination: its columns, its statements.

use std::collections::BTreeSet;

use ledger_core::{Error, Result, Table, TableName, Value};
use ledger_layout::clickhouse::{identifier, literal};
use ledger_layout::tables::{Carried, Note, TableOptions};

use super::decode::Reader;
use super::kind::Kind;
use super::{ClusterOptions, OPEN};

/// The names of the columns that every table has beside the source's.
pub(super) const OWN: [&str; 3] = ["_version", "_deleted", "_row"];

// A MergeTree does not sync by default, so that an acknowledged insert could be lost with the
// machine; and without the window, insert tokens mean nothing to a table without replicas.
const SETTINGS: [(&str, &str); 3] = [
    ("non_replicated_deduplication_window", "1000"),
    ("fsync_after_insert", "1"),
    ("fsync_part_directory", "1"),
];

/// A column of the destination.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether it belongs to the sorting key, so that it cannot be NULL.
    pub(super) sorted: bool,
}

/// The table at the destination.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) target: String,
    pub(super) slots: Vec<Slot>,
    /// The places of the sorting key's columns among the slots; empty for a table without a key.
    pub(super) order: Vec<usize>,
    /// Whether removed rows keep their values.
    pub(super) soft_delete: bool,
    /// Whether a table without a key takes updates and deletes.
    pub(super) multiset: bool,
    /// The names of the columns that the source has now, in its order.
    pub(super) present: Vec<String>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) cluster: ClusterOptions,
    pub(super) comment: String,
}

impl Slot {
    fn new(carried: &Carried, sorted: bool, options: &TableOptions) -> Self {
        let kind = Kind::of(
            &carried.kind,
            &carried.declared,
            &options.column(&carried.source),
        );
        // A sorting key has neither NULL nor what stands for it.
        let kind = if sorted && kind.is_composed() {
            Kind::Text
        } else {
            kind
        };
        Self {
            name: carried.name.clone(),
            kind,
            sorted,
        }
    }

    /// The column that tells NULL from an empty value.
    fn companion(&self) -> Option<String> {
        (self.kind.is_composed()).then(|| format!("{}_is_null", self.name))
    }

    /// Names and types of the columns that hold it.
    pub(super) fn columns(&self) -> impl Iterator<Item = (String, String)> {
        let kind = if self.sorted || self.kind.is_composed() {
            self.kind.to_string()
        } else {
            format!("Nullable({})", self.kind)
        };
        let companion = self.companion().map(|name| (name, "Bool".to_owned()));
        [(self.name.clone(), kind)].into_iter().chain(companion)
    }

    /// The names of the columns that hold it.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.columns().map(|(name, _)| name)
    }

    /// Passes over a value as the destination sends it.
    pub(super) fn skip(&self, reader: &mut Reader<'_>) -> Result<()> {
        if self.kind.is_composed() {
            reader.skip(&self.kind)?;
            return reader.byte().map(drop);
        }
        if self.sorted || reader.byte()? == 0 {
            reader.skip(&self.kind)?;
        }
        Ok(())
    }

    /// Reads a value as the destination sends it.
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> Result<Value> {
        let mut text = Vec::new();
        let null = if self.kind.is_composed() {
            reader.render(&self.kind, &mut text)?;
            reader.byte()? != 0
        } else if self.sorted || reader.byte()? == 0 {
            reader.render(&self.kind, &mut text)?;
            false
        } else {
            true
        };
        Ok(if null {
            Value::Null
        } else {
            Value::Text(text.into())
        })
    }

    /// The same, as they are declared. Rows from before the column have NULL in it.
    pub(super) fn declared(&self) -> impl Iterator<Item = String> {
        self.columns().enumerate().map(|(at, (name, kind))| {
            let default = if at > 0 { " DEFAULT true" } else { "" };
            format!("{} {kind}{default}", identifier(&name))
        })
    }
}

impl Destination {
    pub(super) fn new(
        target: &str,
        note: &Note,
        options: &TableOptions,
        cluster: &ClusterOptions,
        owner: &str,
    ) -> Result<Self> {
        let table = &note.table;
        options.check(OPEN, table)?;
        let sorting = sorting_key(table, options)?;
        let slots: Vec<Slot> = note
            .names()
            .map(|column| Slot::new(column, sorting.contains(&column.name), options))
            .collect();
        let place = |name: &String| slots.iter().position(|slot| slot.name == *name);
        let order = sorting.iter().filter_map(place).collect();
        let settings = settings(&table.name, options)?;
        let present = note.present().map(|column| column.name.clone()).collect();
        let this = Self {
            target: target.to_owned(),
            order,
            soft_delete: options.soft_delete,
            multiset: !table.is_keyed() && options.keyless_changes,
            present,
            settings,
            cluster: cluster.clone(),
            comment: format!("ledger table {} of {owner}", table.id),
            slots,
        };
        let mut names = BTreeSet::new();
        for (name, _) in this.columns() {
            if !names.insert(name.clone()) {
                return Err(Error::invalid(
                    OPEN,
                    format!(
                        "table {}: the destination would have two columns {name:?}; leave out or \
                         rename the one of the source, or carry an array beside it as text",
                        table.name
                    ),
                ));
            }
        }
        Ok(this)
    }

    /// Whether rows are told apart by the source's key.
    pub(super) fn is_keyed(&self) -> bool {
        !self.order.is_empty()
    }

    /// Names and types of all columns.
    pub(super) fn columns(&self) -> Vec<(String, String)> {
        let mut columns: Vec<_> = self.slots.iter().flat_map(Slot::columns).collect();
        let own = [
            ("_version", "UInt128"),
            ("_deleted", "UInt8"),
            ("_row", "UInt128"),
        ];
        let own = own.iter().take(if self.is_keyed() { 2 } else { 3 });
        columns.extend(own.map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())));
        columns
    }

    /// The sorting key's columns, quoted.
    pub(super) fn order_names(&self) -> Vec<String> {
        let slots = self.order.iter().filter_map(|at| self.slots.get(*at));
        slots.map(|slot| identifier(&slot.name)).collect()
    }

    /// The columns by which rows are sorted, quoted.
    pub(super) fn place_names(&self) -> Vec<String> {
        if self.is_keyed() {
            self.order_names()
        } else {
            vec![identifier("_version"), identifier("_row")]
        }
    }

    /// Passes over a place as the destination sends it.
    pub(super) fn skip_place(&self, reader: &mut Reader<'_>) -> Result<()> {
        if !self.is_keyed() {
            return reader.take(32).map(drop);
        }
        let slots = self.order.iter().filter_map(|at| self.slots.get(*at));
        for slot in slots {
            reader.skip(&slot.kind)?;
        }
        Ok(())
    }

    /// The engine as the catalogue shows it.
    pub(super) fn engine(&self) -> &'static str {
        if self.cluster.replicated {
            "ReplicatedReplacingMergeTree"
        } else {
            "ReplacingMergeTree"
        }
    }

    /// The sorting key as the catalogue shows it.
    pub(super) fn sorting_key(&self) -> String {
        if self.is_keyed() {
            let slots = self.order.iter().filter_map(|at| self.slots.get(*at));
            let names: Vec<String> = slots.map(|slot| plain(&slot.name)).collect();
            names.join(", ")
        } else {
            "_version, _row".to_owned()
        }
    }

    /// What marks the table as this pipeline's.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    pub(super) fn view(&self) -> String {
        format!("{}_current", self.target)
    }

    /// The table's settings, of which each must be found in the catalogue.
    pub(super) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }
}

/// A name as the catalogue shows it in a sorting key: in backquotes only where it needs them.
fn plain(name: &str) -> String {
    let mut chars = name.chars();
    let head = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if head && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        name.to_owned()
    } else {
        identifier(name)
    }
}

/// The columns by which the destination's rows are sorted and told apart.
fn sorting_key(table: &Table, options: &TableOptions) -> Result<Vec<String>> {
    let invalid = |rule: String| {
        let name = &table.name;
        Err(Error::invalid(
            OPEN,
            format!("table {name}: order_by {rule}"),
        ))
    };
    let key: Vec<String> = table
        .key()
        .filter_map(|at| table.columns.get(at))
        .map(|column| column.name.clone())
        .collect();
    if options.order_by.is_empty() {
        return Ok(key);
    }
    if key.is_empty() {
        return invalid(
            "is not for a table without a key, which is ordered by its versions".into(),
        );
    }
    if let Some(missing) = key.iter().find(|name| !options.order_by.contains(name)) {
        return invalid(format!(
            "lacks {missing:?}, a part of the key; rows would replace each other without it"
        ));
    }
    for name in &options.order_by {
        let Some(column) = table.columns.iter().find(|column| column.name == *name) else {
            return invalid(format!("names {name:?}, which the table does not have"));
        };
        if !column.key && !table.full_identity {
            return invalid(format!(
                "names {name:?}, which is no part of the key; the source must tell whole rows then \
                 (ALTER TABLE {} REPLICA IDENTITY FULL)",
                table.name
            ));
        }
        if !column.key && column.nullable {
            return invalid(format!("names {name:?}, which may be NULL"));
        }
    }
    Ok(options.order_by.clone())
}

/// The settings of the table: those that its promises rest on, and the user's.
fn settings(table: &TableName, options: &TableOptions) -> Result<Vec<(String, String)>> {
    let mut settings: Vec<(String, String)> = SETTINGS
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for (name, value) in &options.settings {
        let rule = if SETTINGS.iter().any(|(own, _)| own == name) {
            "is one that the table's promises rest on"
        } else if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            "is no name of a setting"
        } else {
            let value = value
                .parse::<f64>()
                .map_or_else(|_| literal(value), |_| value.clone());
            settings.push((name.clone(), value));
            continue;
        };
        return Err(Error::invalid(
            OPEN,
            format!("table {table}: setting {name:?} {rule}"),
        ));
    }
    Ok(settings)
}
