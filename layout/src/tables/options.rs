//! What is set for each table.

use std::collections::BTreeMap;

use ledger_core::{Error, Result, Table, TableName};

use super::Protection;

/// How one column is carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnOptions {
    /// As the text that the source writes, whatever its type: what no other type of the destination
    /// holds exactly, such as infinite dates, `NaN` in a decimal, arrays with bounds.
    pub text: bool,
    /// How many dimensions the arrays of this column have: 1 where it is not set. An array of
    /// another number is refused.
    pub dimensions: Option<usize>,
    /// Not as it is.
    pub protect: Option<Protection>,
}

/// How one table is carried. [`Default`] is what almost every table wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// The name at the destination. By default the table's own, behind its schema and an underscore
    /// where that is not `public`.
    pub target: Option<String>,
    /// Columns that are carried in another way than by their type.
    pub columns: BTreeMap<String, ColumnOptions>,
    /// Removed rows stay readable, marked by `_deleted`.
    pub soft_delete: bool,
    /// Of a table without a key whose source tells whole rows (`REPLICA IDENTITY FULL`), updates and
    /// deletes are carried too: each takes one row away that equals the one before. Otherwise they
    /// are refused.
    pub keyless_changes: bool,
    /// What became of columns that vanished: the new name, or none where it was dropped. Without it
    /// a column that vanishes while another of its type appears stops the table, since the source
    /// does not tell a rename from the two.
    pub renames: BTreeMap<String, Option<String>>,
    /// The order of the rows on disk, where the destination has one: all of the key's columns, and
    /// others only where the source tells whole rows.
    pub order_by: Vec<String>,
    /// Settings of the destination's table, beside those that its promises rest on.
    pub settings: BTreeMap<String, String>,
}

impl TableOptions {
    /// The options of a column.
    pub fn column(&self, name: &str) -> ColumnOptions {
        self.columns.get(name).cloned().unwrap_or_default()
    }

    /// Refuses options that name columns which the table does not have, or contradict it.
    pub fn check(&self, operation: &'static str, table: &Table) -> Result<()> {
        let invalid = |column: &str, rule: &str| {
            let name = &table.name;
            Err(Error::invalid(
                operation,
                format!("options of table {name}: column {column:?} {rule}"),
            ))
        };
        for (name, options) in &self.columns {
            let Some(column) = table.columns.iter().find(|column| column.name == *name) else {
                return invalid(name, "is not one of those that are carried");
            };
            if column.key && matches!(options.protect, Some(Protection::Mask(_))) {
                return invalid(name, "is a part of the key, which a mask would make equal");
            }
            if options.text && options.protect.is_some() {
                return invalid(name, "is carried either as text or protected, not both");
            }
            if !matches!(options.dimensions, None | Some(1..=6)) {
                return invalid(name, "has arrays of 1 to 6 dimensions");
            }
        }
        Ok(())
    }
}

/// How tables are spread, where the destination is a cluster of `ClickHouse` servers. [`Default`] is
/// one server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The cluster on which tables and views are created and altered (`ON CLUSTER`).
    pub cluster: Option<String>,
    /// Whether tables are replicated (`ReplicatedReplacingMergeTree`, with the server's own path).
    pub replicated: bool,
}

/// How the tables of a pipeline are carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableRoutes {
    /// Tables that are carried in another way than the rest.
    pub tables: BTreeMap<TableName, TableOptions>,
    /// All others. Its `target` is not used: two tables cannot have one.
    pub others: TableOptions,
    /// Over which servers; refused where the destination is none of a cluster.
    pub cluster: ClusterOptions,
}

impl TableRoutes {
    /// The options of a table.
    pub fn options(&self, table: &TableName) -> &TableOptions {
        self.tables.get(table).unwrap_or(&self.others)
    }

    /// The name of a table at the destination.
    pub fn target(&self, table: &TableName) -> String {
        let own = self.tables.get(table);
        match own.and_then(|options| options.target.as_ref()) {
            Some(target) => target.clone(),
            None if table.schema == "public" => table.table.clone(),
            None => format!("{}_{}", table.schema, table.table),
        }
    }
}
