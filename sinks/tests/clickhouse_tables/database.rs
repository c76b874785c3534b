//! A database of its own for each test, and changes to deliver into it.

use std::sync::Arc;

use bytes::Bytes;
use ledger_core::{
    Batch, Column, ColumnType, CopyState, Cursor, Error, PipelineId, Result, Row, RowChange, RowOp,
    Sink as _, SourceId, Table, TableName, Value, Version,
};
use ledger_layout::clickhouse::{ClickHouseConfig, Connection, identifier};
use ledger_layout::tables::{TableOptions, TableRoutes};
use ledger_sinks::clickhouse::{ClickHouseTables, ClusterOptions};
use uuid::Uuid;

/// A database of its own on one of the engines.
pub(crate) struct Database {
    pub(crate) config: ClickHouseConfig,
    pub(crate) connection: Connection,
}

impl Database {
    pub(crate) async fn create(variable: &str) -> Self {
        let url = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set; see scripts/servers.sh"));
        let mut config: ClickHouseConfig = url.parse().unwrap();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let admin = Connection::new(config.clone());
        let create = format!("CREATE DATABASE {name}");
        admin.execute("test", &create).await.unwrap();
        config.database = name;
        Self {
            connection: Connection::new(config.clone()),
            config,
        }
    }

    pub(crate) async fn sink(&self) -> ClickHouseTables {
        self.sink_with(TableOptions::default()).await
    }

    pub(crate) async fn sink_with(&self, others: TableOptions) -> ClickHouseTables {
        let routes = TableRoutes {
            others,
            ..TableRoutes::default()
        };
        ClickHouseTables::open(&self.config, routes, ClusterOptions::default())
            .await
            .unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.connection.execute("test", sql).await.unwrap();
    }

    /// The lines of a result, columns separated by `|`.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        let query = self.connection.client().query_raw(sql);
        let query = query.with_setting("output_format_tsv_crlf_end_of_line", "0");
        let bytes = self.connection.fetch_bytes("test", query, "TSV").await;
        let text = String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        text.lines().map(|line| line.replace('\t', "|")).collect()
    }

    /// What the view of a table shows.
    pub(crate) async fn view(&self, table: &str) -> Vec<String> {
        let view = identifier(&format!("{table}_current"));
        self.lines(&format!("SELECT * FROM {view} ORDER BY ALL"))
            .await
    }

    pub(crate) async fn drop(self) {
        let name = identifier(&self.config.database);
        self.execute(&format!("DROP DATABASE {name}")).await;
    }
}

pub(crate) fn pipeline() -> PipelineId {
    PipelineId::new("capture-1").unwrap()
}

pub(crate) fn source(number: u128) -> SourceId {
    SourceId {
        store: Uuid::from_u128(number),
        system: "7301".to_owned(),
        timeline: 1,
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

pub(crate) async fn claim(sink: &ClickHouseTables) -> u64 {
    let cursors = sink.cursors().unwrap();
    cursors.claim(&pipeline(), &source(1)).await.unwrap().fence
}

pub(crate) async fn try_deliver(
    sink: &ClickHouseTables,
    fence: u64,
    changes: &[RowChange],
) -> Result<()> {
    sink.deliver(&batch(fence, changes, 0, changes.len())).await
}

pub(crate) async fn deliver(sink: &ClickHouseTables, fence: u64, changes: &[RowChange]) {
    try_deliver(sink, fence, changes).await.unwrap();
}

/// Claims, and delivers everything as one batch.
pub(crate) async fn run(sink: &ClickHouseTables, changes: &[RowChange]) {
    deliver(sink, claim(sink).await, changes).await;
}

/// Claims, and delivers what is refused.
pub(crate) async fn refused(sink: &ClickHouseTables, changes: &[RowChange]) -> Error {
    let fence = claim(sink).await;
    try_deliver(sink, fence, changes).await.unwrap_err()
}
