//! Changes of captured tables, short to write.

#![allow(
    dead_code,
    reason = "several tests include it, and none uses all of it"
)]

use std::sync::Arc;

use bytes::Bytes;
use ledger_core::{
    Batch, Column, ColumnType, CopyState, Cursor, PipelineId, Row, RowChange, RowOp, SourceId,
    Table, TableName, Value, Version,
};
use uuid::Uuid;

pub(crate) fn pipeline() -> PipelineId {
    PipelineId::new("capture-1").unwrap()
}

pub(crate) fn source(number: u128) -> SourceId {
    SourceId {
        store: Uuid::from_u128(number),
        system: "7301".to_owned(),
        timeline: 1,
        origins: Vec::new(),
    }
}

pub(crate) fn cursor(at: usize) -> Cursor {
    Cursor::new(b'P', &u64::try_from(at).unwrap().to_be_bytes())
}

pub(crate) fn column(name: &str, kind: ColumnType) -> Column {
    Column {
        name: name.to_owned(),
        declared: format!("{kind:?}"),
        kind,
        key: false,
        nullable: true,
    }
}

pub(crate) fn key(name: &str, kind: ColumnType) -> Column {
    Column {
        key: true,
        nullable: false,
        ..column(name, kind)
    }
}

/// The table `public.t`.
pub(crate) fn table(columns: Vec<Column>) -> Arc<Table> {
    Arc::new(Table {
        id: 7,
        name: TableName::new("public", "t"),
        columns,
        full_identity: false,
    })
}

/// `id` as key, a number `n` and a text `s`.
pub(crate) fn simple() -> Arc<Table> {
    table(vec![
        key("id", ColumnType::Int32),
        column("n", ColumnType::Int64),
        column("s", ColumnType::Text),
    ])
}

pub(crate) fn full(table: &Arc<Table>) -> Arc<Table> {
    let mut table = Table::clone(table);
    table.full_identity = true;
    Arc::new(table)
}

/// A row: `~` is NULL, `?` is not told.
pub(crate) fn row(values: &[&str]) -> Row {
    let value = |text: &&str| match *text {
        "~" => Value::Null,
        "?" => Value::Absent,
        text => Value::Text(Bytes::copy_from_slice(text.as_bytes())),
    };
    values.iter().map(value).collect()
}

/// A change of the commit `commit`, the `ordinal`th in it.
pub(crate) fn change(table: &Arc<Table>, (commit, ordinal): (u64, u64), op: RowOp) -> RowChange {
    RowChange {
        cursor: cursor(0),
        committed_at: None,
        table: Arc::clone(table),
        version: Version::new(commit, ordinal),
        op,
    }
}

pub(crate) fn insert(table: &Arc<Table>, at: (u64, u64), values: &[&str]) -> RowChange {
    change(table, at, RowOp::Insert(row(values)))
}

pub(crate) fn update(table: &Arc<Table>, at: (u64, u64), values: &[&str]) -> RowChange {
    let row = row(values);
    change(table, at, RowOp::Update { row, before: None })
}

pub(crate) fn moved(
    table: &Arc<Table>,
    at: (u64, u64),
    before: &[&str],
    values: &[&str],
) -> RowChange {
    let (row, before) = (row(values), Some(row(before)));
    change(table, at, RowOp::Update { row, before })
}

pub(crate) fn delete(table: &Arc<Table>, at: (u64, u64), values: &[&str]) -> RowChange {
    change(table, at, RowOp::Delete(row(values)))
}

pub(crate) fn truncate(table: &Arc<Table>, at: (u64, u64)) -> RowChange {
    change(table, at, RowOp::Truncate)
}

pub(crate) fn shape(table: &Arc<Table>, at: (u64, u64)) -> RowChange {
    change(table, at, RowOp::Shape)
}

pub(crate) fn begun(table: &Arc<Table>, point: u64) -> RowChange {
    change(table, (point, 0), RowOp::Copied(CopyState::Begun { point }))
}

pub(crate) fn done(table: &Arc<Table>, point: u64, through: u64) -> RowChange {
    let state = CopyState::Done { point, through };
    change(table, (point, 0), RowOp::Copied(state))
}

/// A batch of `changes[from..to]`, each with its place as its cursor.
pub(crate) fn batch(fence: u64, changes: &[RowChange], from: usize, to: usize) -> Batch<RowChange> {
    let item = |at: usize| {
        let mut change = changes[at].clone();
        change.cursor = cursor(at + 1);
        (change.cursor.clone(), change)
    };
    Batch {
        items: (from..to).map(item).collect(),
        after: Some(cursor(from)),
        through: cursor(to),
        ack: Some(cursor(to)),
        pipeline: pipeline(),
        fence,
    }
}
