//! Creating, checking and altering the tables of the destination.

use std::collections::BTreeSet;

use clickhouse::Row;
use ledger_core::{Column, Error, ErrorKind, PipelineId, Result, RowChange, TableName};
use ledger_layout::clickhouse::Noted;
use ledger_layout::tables::{Alteration, Note, resync};
use serde::Deserialize;

use super::destination::Destination;
use super::kind::Kind;
use super::work::{Entry, Work};
use super::{ClickHouseTables, OPEN};

#[derive(Debug, Row, Deserialize)]
struct FoundTable {
    name: String,
    engine: String,
    engine_full: String,
    sorting_key: String,
    partition_key: String,
    comment: String,
}

#[derive(Debug, Row, Deserialize)]
struct FoundColumn {
    name: String,
    r#type: String,
}

/// What the catalogue says of a table and its view.
struct Found {
    table: Option<FoundTable>,
    view: Option<FoundTable>,
    columns: Vec<FoundColumn>,
}

impl ClickHouseTables {
    /// Makes the destination ready for rows of this change: creates its table, finds that it is as
    /// noted, or brings it to a newer shape.
    pub(super) async fn admit(&self, work: &mut Work, change: &RowChange) -> Result<()> {
        let (pipeline, id) = (work.pipeline.clone(), change.table.id);
        let name = &change.table.name;
        let options = self.routes.options(name);
        let fresh = work
            .entries
            .get(&id)
            .is_none_or(|entry| entry.noted.note.is_none());
        if fresh {
            let target = self.routes.target(name);
            let epoch = self.check_target(work, name, &target).await? + 1;
            let note = Note::first(&change.table, change.version);
            let destination = self.destination(&target, &note, &pipeline)?;
            self.create(&destination, name).await?;
            let before = work.entries.remove(&id);
            let mut entry = Entry::new(Noted {
                table_id: id,
                target,
                epoch,
                boundary: 0,
                fence: work.fence,
                written: before.map_or(0, |entry| entry.noted.written),
                note: None,
            });
            entry.renew(note, destination);
            work.entries.insert(id, entry);
            return Ok(());
        }
        let fence = work.fence;
        let entry = work.entry(&change.table)?;
        if entry.destination.is_none() {
            let note = entry.note()?.clone();
            let target = entry.noted.target.clone();
            check_options(&note.table.name, options.target.as_ref(), &target)?;
            let destination = self.destination(&target, &note, &pipeline)?;
            self.settle(&destination, &note).await?;
            let pending = !note.pending.is_empty();
            let settled = Note {
                pending: Vec::new(),
                ..note
            };
            entry.renew(settled, destination);
            entry.dirty = pending;
        }
        if entry.admits(change) {
            return Ok(());
        }
        let before = entry.note()?;
        let widens = |from: &Column, to: &Column| {
            let kind = |c: &Column| Kind::of(&c.kind, &c.declared, &options.column(&c.name));
            if before.is_written_anew() {
                kind(from).converts_to(&kind(to))
            } else {
                kind(from).widens_to(&kind(to))
            }
        };
        let next = before.evolve(&change.table, change.version, options, widens)?;
        if next == *before {
            return Ok(());
        }
        let destination = self.destination(&entry.noted.target, &next, &pipeline)?;
        entry.noted.note = Some(next.clone());
        if !next.pending.is_empty() {
            // Noted before it is done: a table that is altered, and noted as it was, would be taken
            // for another one.
            entry.noted.written += 1;
            self.captured
                .note(OPEN, &pipeline, fence, &[&entry.noted])
                .await?;
        }
        self.settle(&destination, &next).await?;
        let settled = Note {
            pending: Vec::new(),
            ..next
        };
        entry.renew(settled, destination);
        Ok(())
    }

    fn destination(&self, target: &str, note: &Note, owner: &PipelineId) -> Result<Destination> {
        let options = self.routes.options(&note.table.name);
        Destination::new(target, note, options, &self.routes.cluster, owner.as_str())
    }

    /// Finds that no other table of a source goes to the target, and how many did so far.
    async fn check_target(&self, work: &Work, name: &TableName, target: &str) -> Result<u64> {
        if target.is_empty() || target.contains('\0') {
            let rule = format!("table {name}: the target's name {target:?} is none");
            return Err(Error::invalid(OPEN, rule));
        }
        let noted = work.entries.values().map(|entry| &entry.noted);
        let mut others = noted.filter(|noted| noted.target == target);
        if let Some(other) = others.find_map(|noted| noted.note.as_ref()) {
            let rule = if other.table.name == *name {
                format!(
                    "was dropped and created again at the source; copy it anew ({})",
                    resync(name)
                )
            } else {
                format!(
                    "goes to {target:?}, as {} does; give one of them another target",
                    other.table.name
                )
            };
            return Err(Error::invalid(OPEN, format!("table {name} {rule}")));
        }
        match self.captured.owner(OPEN, &work.pipeline, target).await? {
            (None, made) => Ok(made),
            (Some(other), _) => Err(Error::invalid(
                OPEN,
                format!(
                    "table {name}: target {target:?} is filled by pipeline {other}; give it another \
                     target"
                ),
            )),
        }
    }

    async fn create(&self, destination: &Destination, name: &TableName) -> Result<()> {
        let found = self.find(destination).await?;
        if found.table.is_some() {
            // A delivery that failed may have made it.
            check(destination, &found)?;
        }
        check_view(destination, &found)?;
        if found.table.is_none() {
            self.connection.execute(OPEN, &destination.create()).await?;
            tracing::info!(table = %name, target = destination.target, "created a table");
        }
        self.show(destination, &found).await
    }

    /// Finds a table as it is noted, once what is pending is done.
    async fn settle(&self, destination: &Destination, note: &Note) -> Result<()> {
        let mut found = self.find(destination).await?;
        if found.table.is_none() {
            let name = &note.table.name;
            return Err(Error::new(
                ErrorKind::NotFound,
                OPEN,
                format!(
                    "table {:?}, which holds {name}, is gone; copy it anew ({})",
                    destination.target,
                    resync(name)
                ),
            ));
        }
        check_view(destination, &found)?;
        let mut pending = note.pending.as_slice();
        while !pending.is_empty() {
            let (together, later) = pending.split_at(together(pending));
            pending = later;
            let there: Vec<String> = found.columns.iter().map(|c| c.name.clone()).collect();
            if let Some(sql) = destination.alter(together, &there) {
                self.connection.execute(OPEN, &sql).await?;
                tracing::info!(table = %note.table.name, ?together, "altered a table");
                found = self.find(destination).await?;
            }
        }
        check(destination, &found)?;
        self.show(destination, &found).await
    }

    /// Makes the view where it is absent or shows something else.
    async fn show(&self, destination: &Destination, found: &Found) -> Result<()> {
        let (create, comment) = destination.create_view();
        if found
            .view
            .as_ref()
            .is_some_and(|view| view.comment == comment)
        {
            return Ok(());
        }
        self.connection.execute(OPEN, &create).await
    }

    async fn find(&self, destination: &Destination) -> Result<Found> {
        let database = &self.connection.config().database;
        let view = destination.view();
        let client = self.connection.client();
        let tables = client
            .query(
                "SELECT name, engine, engine_full, sorting_key, partition_key, comment \
                 FROM system.tables WHERE database = ? AND name IN (?, ?)",
            )
            .bind(database)
            .bind(&destination.target)
            .bind(&view);
        let tables: Vec<FoundTable> = self.connection.fetch_all(OPEN, tables).await?;
        let columns = client
            .query("SELECT name, type FROM system.columns WHERE database = ? AND table = ?")
            .bind(database)
            .bind(&destination.target);
        let columns = self.connection.fetch_all(OPEN, columns).await?;
        let (views, tables): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|table| table.name == view);
        Ok(Found {
            table: tables.into_iter().next(),
            view: views.into_iter().next(),
            columns,
        })
    }

    /// Drops what a note tells of, and notes that it is gone.
    pub(super) async fn drop_table(&self, pipeline: &PipelineId, mut noted: Noted) -> Result<()> {
        let Some(note) = noted.note.take() else {
            return Ok(());
        };
        let destination = self.destination(&noted.target, &note, pipeline)?;
        let found = self.find(&destination).await?;
        if found
            .table
            .as_ref()
            .is_some_and(|table| table.comment == destination.comment())
        {
            for sql in destination.drop_statements() {
                self.connection.execute("drop a table", &sql).await?;
            }
        }
        if note.deferred {
            let (captured, table) = (&self.captured, noted.table_id);
            captured
                .forget_deferred("drop a table", pipeline, table)
                .await?;
        }
        noted.written += 1;
        let fence = noted.fence;
        self.captured
            .note("drop a table", pipeline, fence, &[&noted])
            .await
    }
}

/// How many alterations, from the first one on, are one statement: a new name stands alone, since
/// what comes after it may be about that name.
fn together(pending: &[Alteration]) -> usize {
    let named = |alteration: &Alteration| matches!(alteration, Alteration::Rename { .. });
    let until = pending.iter().position(named).unwrap_or(pending.len());
    until.max(1)
}

fn check_options(name: &TableName, asked: Option<&String>, target: &str) -> Result<()> {
    match asked {
        Some(asked) if asked != target => Err(Error::invalid(
            OPEN,
            format!(
                "table {name} is in {target:?} and its option `target` is {asked:?} now; set it \
                 back, or copy the table anew ({})",
                resync(name)
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses a table that is not as it has to be. Nothing was altered by then.
fn check(destination: &Destination, found: &Found) -> Result<()> {
    let refuse = |difference: String| {
        Err(Error::invalid(
            OPEN,
            format!(
                "table {:?} has another shape: {difference}; nothing was changed, rename that \
                 table, or choose another target or database",
                destination.target
            ),
        ))
    };
    let Some(table) = &found.table else {
        return refuse("it is gone".to_owned());
    };
    if table.comment != destination.comment() {
        let (comment, own) = (&table.comment, destination.comment());
        return refuse(format!("its comment is {comment:?} instead of {own:?}"));
    }
    // The engine as it was declared ends where its clauses begin.
    let engine = table.engine_full.split(" ORDER BY").next();
    let engine = engine.and_then(|engine| engine.split(" PARTITION BY").next());
    let engine = engine.unwrap_or_default();
    if table.engine != destination.engine() || !engine.ends_with("_version)") {
        let own = destination.engine();
        return refuse(format!("its engine is {engine} instead of {own}(_version)"));
    }
    let (sorted, own) = (table.sorting_key.as_str(), destination.sorting_key());
    // Newer versions keep the parentheses around a single column.
    if sorted != own && sorted.trim_start_matches('(').trim_end_matches(')') != own {
        return refuse(format!("its sorting key is {sorted:?} instead of {own:?}"));
    }
    if !table.partition_key.is_empty() {
        let key = &table.partition_key;
        return refuse(format!(
            "it is partitioned by {key:?}; rows of two partitions never replace each other"
        ));
    }
    let given = table
        .engine_full
        .split(" SETTINGS ")
        .nth(1)
        .unwrap_or_default();
    for (name, value) in destination.settings() {
        let mut pairs = given.split(", ").filter_map(|pair| pair.split_once(" = "));
        let given = pairs.find_map(|(given, value)| (given == name).then_some(value));
        if given != Some(value.as_str()) {
            let given = given.unwrap_or("not set");
            return refuse(format!("its setting {name} is {given} instead of {value}"));
        }
    }
    let expected: BTreeSet<(String, String)> = destination.columns().into_iter().collect();
    for (name, kind) in &expected {
        match found.columns.iter().find(|column| column.name == *name) {
            None => return refuse(format!("its column {name:?} is missing")),
            Some(column) if column.r#type != *kind => {
                let found = &column.r#type;
                return refuse(format!("its column {name:?} is {found} instead of {kind}"));
            }
            Some(_) => {}
        }
    }
    let known = |column: &&FoundColumn| expected.iter().any(|(name, _)| *name == column.name);
    match found.columns.iter().find(|column| !known(column)) {
        Some(other) => refuse(format!("its column {:?} is unknown", other.name)),
        None => Ok(()),
    }
}

/// Refuses to replace what is not the table's own view.
fn check_view(destination: &Destination, found: &Found) -> Result<()> {
    match &found.view {
        Some(view) if view.engine != "View" || !view.comment.starts_with(destination.comment()) => {
            Err(Error::invalid(
                OPEN,
                format!(
                    "{:?} exists and is not the view of table {:?}; nothing was changed, rename it, \
                     or choose another target or database",
                    destination.view(),
                    destination.target
                ),
            ))
        }
        _ => Ok(()),
    }
}
