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
            version: self.version,
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

    /// Whether a copy has begun and nothing of it has come yet: every row is written anew, so that
    /// what an alteration makes of the values that are there does not last.
    pub fn is_written_anew(&self) -> bool {
        matches!(self.copy, Some(CopyState::Begun { .. }))
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
    format!(
        "`ledger bridge run --resync-table {table}`, or `ledger bridge resync NAME --table {table}` \
         of the daemon"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[(&str, ColumnType)]) -> Table {
        let columns = columns.iter().map(|(name, kind)| Column {
            name: (*name).to_owned(),
            kind: kind.clone(),
            key: *name == "id",
            nullable: *name != "id",
            declared: String::new(),
        });
        Table {
            id: 7,
            name: TableName::new("public", "t"),
            columns: columns.collect(),
            full_identity: false,
        }
    }

    fn evolve(note: &Note, table: &Table, commit: u64) -> Result<Note> {
        let options = TableOptions {
            renames: [("old".to_owned(), Some("new".to_owned()))].into(),
            ..TableOptions::default()
        };
        let widens = |from: &Column, to: &Column| {
            (&from.kind, &to.kind) == (&ColumnType::Int32, &ColumnType::Int64)
        };
        note.evolve(table, Version::new(commit, 2), &options, widens)
    }

    use ColumnType::{Int32, Int64, Text};

    #[test]
    fn rows_find_their_columns_by_the_time_they_are_of() {
        let first = table(&[("id", Int32), ("a", Int32)]);
        let gone = table(&[("id", Int32)]);
        let again = table(&[("a", Text), ("id", Int32)]);
        let note = Note::first(&first, Version::new(1, 2));
        let note = evolve(&note, &gone, 10).unwrap();
        let note = evolve(&note, &again, 20).unwrap();
        let names: Vec<&str> = note.names().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "a_until_14_2", "a"]);
        assert_eq!(
            note.places(&first, Version::new(5, 2)),
            [Some(0), Some(1), None]
        );
        assert_eq!(
            note.places(&gone, Version::new(15, 2)),
            [Some(0), None, None]
        );
        // Its newest shape is never an older one, whatever the version: a copied row's is low.
        assert_eq!(
            note.places(&again, Version::new(5, 0)),
            [Some(1), None, Some(0)]
        );
        assert!(!note.is_newer(&first, Version::new(5, 2)));
        assert!(note.is_newer(&first, Version::new(30, 2)));
    }

    #[test]
    fn a_column_renamed_and_widened_is_the_same_column() {
        let first = table(&[("id", Int32), ("old", Int32)]);
        let second = table(&[("id", Int32), ("new", Int64)]);
        let note = evolve(&Note::first(&first, Version::default()), &second, 10).unwrap();
        assert_eq!(note.names().count(), 2);
        assert_eq!(note.places(&first, Version::new(5, 2)), [Some(0), Some(1)]);
        assert_eq!(
            note.places(&second, Version::new(10, 2)),
            [Some(0), Some(1)]
        );
        let steps: Vec<bool> = note
            .pending
            .iter()
            .map(|step| matches!(step, Alteration::Rename { .. }))
            .collect();
        assert_eq!(steps, [true, false], "renamed first, then widened");
        // A note is kept as text, and read again.
        let text = serde_json::to_string(&note).unwrap();
        assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), note);
    }

    #[test]
    fn what_is_missing_while_the_table_is_copied_is_not_dropped() {
        let first = table(&[("id", Int32), ("a", Int32)]);
        let fewer = table(&[("id", Int32)]);
        let mut note = Note::first(&first, Version::new(100, 0));
        note.copy = Some(CopyState::Done {
            point: 100,
            through: 200,
        });
        assert_eq!(evolve(&note, &fewer, 150).unwrap().present().count(), 2);
        assert_eq!(evolve(&note, &fewer, 200).unwrap().present().count(), 1);
    }
}
