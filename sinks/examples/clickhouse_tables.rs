//! Measures the sink of captured tables against bare inserts of the same bytes, in one run.
//!
//! `LEDGER_TEST_CLICKHOUSE=... cargo run --release -p ledger-sinks --features clickhouse --example
//! clickhouse_tables`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ledger_core::{
    Batch, Column, ColumnType, Cursor, Item as _, PipelineId, Result, RowChange, RowOp, Sink as _,
    SourceId, Table, TableName, Value, Version,
};
use ledger_layout::clickhouse::{ClickHouseConfig, Connection, Dedup};
use ledger_layout::tables::TableRoutes;
use ledger_sinks::clickhouse::ClickHouseTables;

const ROWS: u64 = 1_000_000;
const BATCH: u64 = 100_000;

/// A table as `pgbench_history`, or one with a wide text.
fn table(name: &str, key: bool, wide: bool) -> Arc<Table> {
    let column = |name: &str, kind, key| Column {
        name: name.to_owned(),
        kind,
        key,
        nullable: !key,
        declared: String::new(),
    };
    let last = if wide { "body" } else { "filler" };
    Arc::new(Table {
        id: xxhash_rust::xxh3::xxh3_64(name.as_bytes()),
        name: TableName::new("public", name),
        columns: vec![
            column("tid", ColumnType::Int32, false),
            column("bid", ColumnType::Int32, false),
            column("aid", ColumnType::Int32, key),
            column("delta", ColumnType::Int32, false),
            column("mtime", ColumnType::Timestamp, false),
            column(last, ColumnType::Text, false),
        ],
        full_identity: false,
    })
}

fn change(table: &Arc<Table>, at: u64, wide: Option<&Bytes>) -> RowChange {
    let text = |text: String| Value::Text(Bytes::from(text));
    let row = vec![
        text((at % 10).to_string()),
        text("1".to_owned()),
        text(at.to_string()),
        text((at % 5_000).to_string()),
        text(format!(
            "2024-01-01 10:{:02}:{:02}.{:06}",
            at / 60 % 60,
            at % 60,
            at
        )),
        wide.map_or(Value::Null, |wide| Value::Text(wide.clone())),
    ];
    RowChange {
        cursor: Cursor::new(b'P', &at.to_be_bytes()),
        committed_at: None,
        table: Arc::clone(table),
        version: Version::new(1_000 + at / 10, 2 * (at % 10) + 2),
        op: RowOp::Insert(row),
    }
}

fn batches(
    table: &Arc<Table>,
    rows: u64,
    size: u64,
    wide: Option<&Bytes>,
) -> Vec<Batch<RowChange>> {
    let batch = |from: u64| {
        let items = (from..from + size).map(|at| change(table, at, wide));
        let items: Vec<_> = items
            .map(|change| (change.cursor.clone(), change))
            .collect();
        let through = Cursor::new(b'P', &(from + size).to_be_bytes());
        Batch {
            items,
            after: None,
            through: through.clone(),
            ack: Some(through),
            pipeline: pipeline(),
            fence: 0,
        }
    };
    (0..rows / size)
        .map(|number| batch(number * size))
        .collect()
}

#[allow(clippy::expect_used, reason = "a constant")]
fn pipeline() -> PipelineId {
    PipelineId::new("bench").expect("a valid name")
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("LEDGER_TEST_CLICKHOUSE").unwrap_or_default();
    let mut config: ClickHouseConfig = url.parse()?;
    let admin = Connection::new(config.clone());
    let name = format!("bench_{}", std::process::id());
    admin
        .execute("bench", &format!("CREATE DATABASE {name}"))
        .await?;
    config.database.clone_from(&name);
    let wide = Bytes::from("lorem ipsum dolor ".repeat(90));
    for (name, key, wide, rows, size) in [
        ("history", false, None, ROWS, BATCH),
        ("keyed", true, None, ROWS, BATCH),
        ("wide", true, Some(&wide), ROWS / 10, BATCH / 10),
    ] {
        let table = table(name, key, wide.is_some());
        measure(&config, &table, batches(&table, rows, size, wide)).await?;
    }
    admin
        .execute("bench", &format!("DROP DATABASE {name}"))
        .await
}

async fn measure(
    config: &ClickHouseConfig,
    table: &Arc<Table>,
    batches: Vec<Batch<RowChange>>,
) -> Result<()> {
    let sink = ClickHouseTables::open(config, TableRoutes::default());
    let sink = sink.await?;
    let source: SourceId = "00000000-0000-0000-0000-000000000001@1/1".parse()?;
    let fence = match sink.cursors() {
        Some(cursors) => cursors.claim(&pipeline(), &source).await?.fence,
        None => 0,
    };
    let rows: usize = batches.iter().map(|batch| batch.items.len()).sum();
    let bytes: usize = batches
        .iter()
        .flat_map(|b| &b.items)
        .map(|(_, c)| c.size())
        .sum();
    let began = Instant::now();
    for mut batch in batches {
        batch.fence = fence;
        sink.deliver(&batch).await?;
    }
    let sunk = began.elapsed();
    // The same rows as the server sends them back, into a table of the same form.
    let connection = Connection::new(config.clone());
    let target = &table.name.table;
    let copy = format!("CREATE TABLE {target}_floor AS {target}");
    connection.execute("bench", &copy).await?;
    let select = format!("SELECT * FROM {target}");
    let query = connection.client().query_raw(&select);
    let all = connection.fetch_bytes("bench", query, "RowBinary").await?;
    let began = Instant::now();
    let sql = format!("INSERT INTO {target}_floor FORMAT RowBinary");
    connection
        .start_rows("bench", sql, all, rows, Dedup::Off)
        .await?
        .finish()
        .await?;
    report(target, rows, bytes, sunk, began.elapsed());
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn report(name: &str, rows: usize, bytes: usize, sunk: Duration, floor: Duration) {
    let rate = |time: Duration| rows as f64 / time.as_secs_f64();
    println!(
        "{name}: {:.0} rows/s, {:.0} MB/s of items; one bare insert of all {:.0} rows/s; ratio {:.2}",
        rate(sunk),
        bytes as f64 / sunk.as_secs_f64() / 1e6,
        rate(floor),
        floor.as_secs_f64() / sunk.as_secs_f64()
    );
}
