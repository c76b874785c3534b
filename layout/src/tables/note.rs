//! What a destination notes of a table, and how a new shape of the table changes it.

use ledger_core::{
    Column, ColumnType, CopyState, Error, Result, Table, TableName, TableState, Version,
};
use serde::{Deserialize, Serialize};

use super::TableOptions;

const OPERATION: &str = "change the columns of a table";

/// What is noted of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The table in its newest shape.
    pub table: Table,
    /// Where in the log it had that shape first.
    pub version: Version,
    /// How far its copy is; none before the first word of one.
    pub copy: Option<CopyState>,
    /// The destination's columns, and which of the source's columns they are; several where one of
    /// them was renamed.
    pub columns: Vec<Carried>,
    /// What of the newest shape may not have been done yet.
    #[serde(default)]
    pub pending: Vec<Alteration>,
    /// Whether changes wait for the end of its copy.
    #[serde(default)]
    pub deferred: bool,
}

/// A column of the destination as the place of one of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The destination's column.
    pub name: String,
    /// The source's column.
    pub source: String,
    /// What its values are.
    pub kind: ColumnType,
    /// The type as the source declared it.
    pub declared: String,
    /// Whether it is a part of the key.
    pub key: bool,
    /// From where in the log on the source's column is gone, or is another one of that name.
    pub until: Option<Version>,
}

/// What a new shape asks of the destination's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alteration {
    /// A column is added.
    Add(Carried),
    /// A column takes a type that holds all values of the one before.
    Widen(Carried),
    /// A column gets another name.
    Rename {
        /// The name before.
        from: String,
        /// The name from now on.
        to: String,
    },
}

impl Note {
    /// The note of a table that is seen for the first time.
    pub fn first(table: &Table, version: Version) -> Self {
        Self {
            table: table.clone(),
            version,
            copy: None,
            columns: table.columns.iter().map(Carried::new).collect(),
            pending: Vec::new(),
            deferred: false,
        }
    }

    /// What there is to tell of it; none where no copy of it began.
    pub fn state(&self) -> Option<TableState> {
        Some(TableState {
            table: std::sync::Arc::new(self.table.clone()),
            copy: self.copy.clone()?,
        })
    }

    /// Whether `table`, seen at `version`, is a newer shape than the noted one, and no older one
    /// that a replay shows again.
    pub fn is_newer(&self, table: &Table, version: Version) -> bool {
        if *table == self.table {
            return false;
        }
        let known = |column: &Column| self.columns.iter().any(|c| c.source == column.name);
        version >= self.version || !table.columns.iter().all(known)
    }

    /// The names of the destination's columns, each once.
    pub fn names(&self) -> impl Iterator<Item = &Carried> {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(at, column)| {
                let mut before = self.columns.iter().take(*at);
                !before.any(|other| other.name == column.name)
            })
            .map(|(_, column)| column)
    }

    /// The destination's columns that the source has now, in its order.
    pub fn present(&self) -> impl Iterator<Item = &Carried> {
        self.table.columns.iter().filter_map(|column| {
            let mut carried = self.columns.iter();
            carried.find(|carried| carried.source == column.name && carried.until.is_none())
        })
    }

    /// For each of [`names`](Self::names) the place of its value in a row of `table` at `version`.
    pub fn places(&self, table: &Table, version: Version) -> Vec<Option<usize>> {
        let newest = *table == self.table;
        let name_of = |column: &Column| {
            let carried = self.columns.iter().filter(|c| c.source == column.name);
            let held = carried.filter(|c| match c.until {
                None => true,
                Some(until) => !newest && version < until,
            });
            // Of several the one that ended first: the others came later.
            held.min_by_key(|c| (c.until.is_none(), c.until))
                .map(|c| c.name.as_str())
        };
        let names: Vec<Option<&str>> = table.columns.iter().map(name_of).collect();
        self.names()
            .map(|column| names.iter().position(|name| *name == Some(&column.name)))
            .collect()
    }

    /// The note of the table in a newer shape, with what that asks of the destination's table, in
    /// order, as pending. `InvalidInput` where the destination cannot follow, with what to do.
    pub fn evolve(
        &self,
        table: &Table,
        version: Version,
        options: &TableOptions,
        widens: impl Fn(&Column, &Column) -> bool,
    ) -> Result<Self> {
        let mut next = Self {
            table: table.clone(),
            version: version.max(self.version),
            ..self.clone()
        };
        let mut alterations = Vec::new();
        let mut appeared: Vec<&Column> = (table.columns.iter())
            .filter(|column| find(&self.table, &column.name).is_none())
            .collect();
        // A copied row may show a column before the log does; that it is missing there says nothing.
        let copying = match &self.copy {
            Some(CopyState::Done { through, .. }) => version.commit < *through,
            Some(_) => true,
            None => false,
        };
        for column in &self.table.columns {
            if find(table, &column.name).is_some() {
                continue;
            }
            let renamed = self.fate(column, &mut appeared, options)?;
            if let Some(new) = renamed {
                next.rename(column, new, version, &widens, &mut alterations)?;
            } else if copying {
                next.table.columns.push(column.clone());
            } else {
                next.end(&column.name, version);
            }
        }
        for column in &table.columns {
            if let Some(before) = find(&self.table, &column.name) {
                next.follow(before, column, &widens, &mut alterations)?;
            }
        }
        for column in appeared {
            if column.key {
                return Err(refuse(&table.name, column, "is a part of the key now"));
            }
            next.add(column, version, &mut alterations);
        }
        next.pending.extend(alterations);
        Ok(next)
    }

    /// The new name of a column that vanished; none where it was dropped.
    fn fate<'t>(
        &self,
        column: &Column,
        appeared: &mut Vec<&'t Column>,
        options: &TableOptions,
    ) -> Result<Option<&'t Column>> {
        let name = &self.table.name;
        match options.renames.get(&column.name) {
            Some(Some(new)) => {
                if let Some(at) = appeared.iter().position(|other| other.name == *new) {
                    return Ok(Some(appeared.swap_remove(at)));
                }
            }
            Some(None) => return Ok(None),
            None => {
                if let Some(other) = appeared.iter().find(|other| other.kind == column.kind) {
                    return Err(Error::invalid(
                        OPERATION,
                        format!(
                            "table {name}: column {:?} vanished and {:?} of its type appeared, \
                             which may be a rename or not; say which by the table's option \
                             `renames`, or copy the table anew ({})",
                            column.name,
                            other.name,
                            resync(name)
                        ),
                    ));
                }
            }
        }
        if column.key {
            return Err(refuse(name, column, "is a part of the key and vanished"));
        }
        Ok(None)
    }

    fn rename(
        &mut self,
        old: &Column,
        new: &Column,
        version: Version,
        widens: impl Fn(&Column, &Column) -> bool,
        alterations: &mut Vec<Alteration>,
    ) -> Result<()> {
        if old.key || new.key {
            let rule = "is a part of the key and was renamed";
            return Err(refuse(&self.table.name, old, rule));
        }
        self.vacate(&new.name, version, alterations);
        let active = |column: &&Carried| column.source == old.name && column.until.is_none();
        if let Some(from) = self.columns.iter().find(active).map(|c| c.name.clone()) {
            self.end(&old.name, version);
            // Those as well that it had before an earlier renaming.
            for column in self.columns.iter_mut().filter(|c| c.name == from) {
                column.name.clone_from(&new.name);
            }
            let to = new.name.clone();
            alterations.push(Alteration::Rename { from, to });
        }
        self.columns.push(Carried {
            kind: old.kind.clone(),
            ..Carried::new(new)
        });
        self.follow(old, new, widens, alterations)
    }

    /// A column that has the same name, or a new name by now.
    fn follow(
        &mut self,
        before: &Column,
        now: &Column,
        widens: impl Fn(&Column, &Column) -> bool,
        alterations: &mut Vec<Alteration>,
    ) -> Result<()> {
        if before.key != now.key {
            let rule = "became a part of the key, or is none any more";
            return Err(refuse(&self.table.name, now, rule));
        }
        let widened = before.kind != now.kind;
        if widened && (now.key || !widens(before, now)) {
            let rule = format!(
                "was {} and is {} now, which the destination cannot follow",
                before.declared, now.declared
            );
            return Err(refuse(&self.table.name, now, &rule));
        }
        let name = self.columns.iter().find_map(|column| {
            (column.source == now.name && column.until.is_none()).then(|| column.name.clone())
        });
        for column in &mut self.columns {
            if Some(&column.name) == name.as_ref() {
                column.kind = now.kind.clone();
                column.declared.clone_from(&now.declared);
            }
        }
        let column = self
            .columns
            .iter()
            .find(|c| c.source == now.name && c.until.is_none());
        if let (true, Some(column)) = (widened, column) {
            alterations.push(Alteration::Widen(column.clone()));
        }
        Ok(())
    }

    fn end(&mut self, source: &str, version: Version) {
        for column in &mut self.columns {
            if column.source == source && column.until.is_none() {
                column.until = Some(version);
            }
        }
    }

    fn add(&mut self, column: &Column, version: Version, alterations: &mut Vec<Alteration>) {
        self.vacate(&column.name, version, alterations);
        let carried = Carried::new(column);
        alterations.push(Alteration::Add(carried.clone()));
        self.columns.push(carried);
    }

    /// A column that the source dropped keeps its values, under another name where a new one takes
    /// its own.
    fn vacate(&mut self, name: &str, version: Version, alterations: &mut Vec<Alteration>) {
        if !self.columns.iter().any(|column| column.name == name) {
            return;
        }
        let Version { commit, ordinal } = version;
        let to = format!("{name}_until_{commit:x}_{ordinal:x}");
        for column in &mut self.columns {
            if column.name == name {
                column.name.clone_from(&to);
            }
        }
        let from = name.to_owned();
        alterations.push(Alteration::Rename { from, to });
    }
}

impl Carried {
    fn new(column: &Column) -> Self {
        Self {
            name: column.name.clone(),
            source: column.name.clone(),
            kind: column.kind.clone(),
            declared: column.declared.clone(),
            key: column.key,
            until: None,
        }
    }
}

fn find<'t>(table: &'t Table, name: &str) -> Option<&'t Column> {
    table.columns.iter().find(|column| column.name == name)
}

fn refuse(table: &TableName, column: &Column, rule: &str) -> Error {
    Error::invalid(
        OPERATION,
        format!(
            "table {table}: column {:?} {rule}; copy the table anew ({})",
            column.name,
            resync(table)
        ),
    )
}

/// The command that copies a table anew.
pub fn resync(table: &TableName) -> String {
    format!("`ledger bridge resync --table {table}`")
}
