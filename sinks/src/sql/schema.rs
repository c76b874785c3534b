//! What is noted of tables, and the tables themselves.

use std::collections::BTreeMap;

use ledger_core::{Column, ColumnType, Error, ErrorKind, PipelineId, Result, RowChange, TableName};
use ledger_layout::tables::{Alteration, ClusterOptions, Note, TableOptions, TableRoutes, resync};

use super::statements::Destination;
use super::{Engine, Param, quoted};

const OPEN: &str = "open captured tables";

/// A noted table.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) target: String,
    pub(crate) note: Note,
}

/// Creates what is kept beside the tables, where it is absent.
pub(crate) async fn prepare<E: Engine>(engine: &mut E) -> Result<()> {
    for sql in [
        "CREATE TABLE IF NOT EXISTS ledger_table_cursors (pipeline text NOT NULL PRIMARY KEY, \
         source text, cursor text, fence bigint NOT NULL)",
        "CREATE TABLE IF NOT EXISTS ledger_tables (pipeline text NOT NULL, table_id text NOT NULL, \
         target text NOT NULL UNIQUE, note text NOT NULL, PRIMARY KEY (pipeline, table_id))",
    ] {
        engine.run(sql, Vec::new()).await?;
    }
    Ok(())
}

/// What is noted of a pipeline's tables, by their numbers.
pub(crate) async fn load<E: Engine>(
    engine: &mut E,
    pipeline: &PipelineId,
) -> Result<BTreeMap<u64, Noted>> {
    let one = engine.place(1, "text");
    let sql = format!("SELECT table_id, target, note FROM ledger_tables WHERE pipeline = {one}");
    let rows = engine.fetch(&sql, vec![pipeline.as_str().into()]).await?;
    let mut tables = BTreeMap::new();
    for [id, target, note] in rows {
        let corrupt = || {
            let what = format!("note of table {id:?} of pipeline {pipeline} in ledger_tables");
            Error::new(ErrorKind::Corrupt, OPEN, what)
        };
        let number: Option<u64> = id.as_ref().and_then(|id| id.parse().ok());
        let note = note.and_then(|note| serde_json::from_str(&note).ok());
        let (Some(id), Some(target), Some(note)) = (number, target.clone(), note) else {
            return Err(corrupt());
        };
        tables.insert(id, Noted { target, note });
    }
    Ok(tables)
}

/// Notes a table.
pub(super) async fn note<E: Engine>(
    engine: &mut E,
    pipeline: &PipelineId,
    id: u64,
    noted: &Noted,
) -> Result<()> {
    let text = serde_json::to_string(&noted.note).map_err(|error| {
        let what = format!("note of table {}", noted.note.table.name);
        Error::new(ErrorKind::Internal, OPEN, what).with_source(error)
    })?;
    let places: Vec<String> = (1..=4).map(|number| engine.place(number, "text")).collect();
    let sql = format!(
        "INSERT INTO ledger_tables (pipeline, table_id, target, note) VALUES ({}) \
         ON CONFLICT (pipeline, table_id) DO UPDATE SET target = excluded.target, \
         note = excluded.note",
        places.join(", ")
    );
    let params = vec![
        pipeline.as_str().into(),
        Param::Text(id.to_string()),
        noted.target.as_str().into(),
        Param::Text(text),
    ];
    engine.run(&sql, params).await.map(drop)
}

/// Drops the tables of a pipeline, or the one of this name, and forgets them; tells how many.
pub(crate) async fn drop_tables<E: Engine>(
    engine: &mut E,
    pipeline: &PipelineId,
    name: Option<&TableName>,
) -> Result<usize> {
    let mut dropped = 0;
    for (id, noted) in load(engine, pipeline).await? {
        if name.is_some_and(|name| *name != noted.note.table.name) {
            continue;
        }
        let sql = format!("DROP TABLE IF EXISTS {}", quoted(&noted.target));
        engine.run(&sql, Vec::new()).await?;
        let (one, two) = (engine.place(1, "text"), engine.place(2, "text"));
        let sql = format!("DELETE FROM ledger_tables WHERE pipeline = {one} AND table_id = {two}");
        let params = vec![pipeline.as_str().into(), Param::Text(id.to_string())];
        engine.run(&sql, params).await?;
        dropped += 1;
    }
    Ok(dropped)
}

/// Makes the destination ready for rows of this change, and tells what is noted then; whether it was
/// changed by that.
pub(super) async fn admit<E: Engine>(
    engine: &mut E,
    tables: &mut BTreeMap<u64, Noted>,
    routes: &TableRoutes,
    change: &RowChange,
) -> Result<bool> {
    let table = &change.table;
    let options = routes.options(&table.name);
    let Some(noted) = tables.get_mut(&table.id) else {
        let target = routes.target(&table.name);
        check(&table.name, options, &target, tables)?;
        options.check(OPEN, table)?;
        if engine.exists(&target).await? {
            let rule = format!(
                "table {}: {target:?} exists and is not this pipeline's; nothing was changed, \
                 rename it, or choose another target or database",
                table.name
            );
            return Err(Error::invalid(OPEN, rule));
        }
        let note = Note::first(table, change.version);
        let create = Destination::new(engine, &target, &note, options).create();
        engine.run(&create, Vec::new()).await?;
        tables.insert(table.id, Noted { target, note });
        return Ok(true);
    };
    if !noted.note.is_newer(table, change.version) {
        return Ok(false);
    }
    let written_anew = noted.note.is_written_anew();
    let widens = |from: &Column, to: &Column| {
        let column = options.column(&to.name);
        let anew = written_anew && to.kind == ColumnType::Text;
        column.text || column.protect.is_some() || anew || engine.widens(&from.kind, &to.kind)
    };
    let mut next = noted.note.evolve(table, change.version, options, widens)?;
    let pending = std::mem::take(&mut next.pending);
    let destination = Destination::new(engine, &noted.target, &next, options);
    let name = quoted(&noted.target);
    for alteration in pending {
        let statements = match &alteration {
            Alteration::Add(carried) => vec![format!(
                "ALTER TABLE {name} ADD COLUMN {} {}",
                quoted(&carried.name),
                destination.type_of(&carried.name).unwrap_or("text")
            )],
            Alteration::Rename { from, to } => vec![format!(
                "ALTER TABLE {name} RENAME COLUMN {} TO {}",
                quoted(from),
                quoted(to)
            )],
            Alteration::Widen(carried) => {
                let type_name = destination.type_of(&carried.name).unwrap_or("text");
                let mut columns = noted.note.columns.iter();
                let before = columns.find(|c| c.source == carried.source && c.until.is_none());
                let before = before.unwrap_or(carried);
                let column = options.column(&carried.source);
                let text = column.text || column.protect.is_some();
                if engine.type_of(&before.kind, &before.declared, text) == type_name {
                    continue;
                }
                engine.widen(&name, &before.kind, carried, type_name)
            }
        };
        for sql in statements {
            engine.run(&sql, Vec::new()).await?;
        }
    }
    noted.note = next;
    Ok(true)
}

/// Refuses what only a cluster of another kind can do.
pub(crate) fn check_cluster(routes: &TableRoutes) -> Result<()> {
    if routes.cluster == ClusterOptions::default() {
        return Ok(());
    }
    let what = "the options `cluster` and `replicated` are not for this destination";
    Err(Error::invalid(OPEN, what))
}

fn check(
    name: &TableName,
    options: &TableOptions,
    target: &str,
    tables: &BTreeMap<u64, Noted>,
) -> Result<()> {
    let rule = if options.soft_delete {
        "the option `soft_delete` is not for this destination".to_owned()
    } else if !options.order_by.is_empty() || !options.settings.is_empty() {
        "the options `order_by` and `settings` are not for this destination".to_owned()
    } else if target.is_empty() || target.contains('\0') {
        format!("the target's name {target:?} is none")
    } else {
        match tables.values().find(|noted| noted.target == target) {
            None => return Ok(()),
            Some(other) if other.note.table.name == *name => format!(
                "it was dropped and created again at the source; copy it anew ({})",
                resync(name)
            ),
            Some(other) => format!(
                "target {target:?} is that of {} as well; give one of them another",
                other.note.table.name
            ),
        }
    };
    Err(Error::invalid(OPEN, format!("table {name}: {rule}")))
}
