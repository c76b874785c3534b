//! Ordinary tables carried from PostgreSQL to ClickHouse by `ledger bridge run --tables --once`:
//! their copy beside COPY of the same rows piped into inserts of an equal table, both running at
//! once; a backlog of inserts, and one of updates, in the write-ahead log beside `pg_recvlogical` that reads it into nothing.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;

mod captured;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use clickhouse::Compression;
use futures::TryStreamExt as _;
use sqlx::postgres::{PgPoolCopyExt as _, PgPoolOptions};
use tokio::sync::mpsc;

use measure::arguments::Arguments;
use measure::compare::milliseconds;
use measure::database::{ClickHouse, Postgres};
use measure::process::{Ran, tables_once};
use measure::table::{Table, against};
use measure::{Outcome, float};

/// What both are to reach of their floors.
const AIM: f64 = 0.6;
/// What the resident memory of a bridge is to stay under.
const MEMORY_MB: f64 = 250.0;
/// Rows of one insert of the floor.
const INSERT_ROWS: u64 = 100_000;
/// Bytes handed from the floor's reader to its inserter at a time.
const CHUNK: usize = 1 << 20;
/// Microseconds from 1970, where `ClickHouse` counts from, to 2000, where `PostgreSQL` does.
const EPOCH: i64 = 946_684_800_000_000;

const CREATE: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, n int NOT NULL, v text NOT NULL,
    at timestamptz NOT NULL)";

/// What reading into nothing is to reach of `pg_recvlogical`.
const NULL_AIM: f64 = 0.8;

struct Plan {
    rows: u64,
    rate: u64,
    seconds: u64,
    transaction: u64,
    bytes: u64,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "capture",
        &[
            (
                "rows",
                "1000000",
                "rows that are copied, and that the log then tells",
            ),
            ("transaction", "10000", "rows of a transaction"),
            ("bytes", "100", "bytes of a row's text"),
            (
                "rate",
                "5000",
                "rows a second for the latency; 0 leaves it out",
            ),
            ("seconds", "20", "how long"),
        ],
    )?;
    let plan = Plan {
        rows: arguments.get("rows")?,
        rate: arguments.get("rate")?,
        seconds: arguments.get("seconds")?,
        transaction: arguments.get("transaction")?,
        bytes: arguments.get("bytes")?,
    };
    let mut table = Table::new(&[
        "what", "rows", "rows/s", "floor", "ratio", "aim", "peak MB", "aim", "CPU s",
    ]);
    let source = Postgres::create().await?;
    let sink = Arc::new(ClickHouse::create().await?);
    let mut live = Table::new(&["rows/s", "p50 ms", "p99 ms"]);
    let done = async {
        measure(&source, &sink, &plan, &mut table).await?;
        table.print(&arguments.command())?;
        if plan.rate > 0 {
            let delays = captured::live::measure(&source, &sink, plan.rate, plan.seconds).await?;
            live.row([
                format!("{:.0}", delays.rate),
                milliseconds(delays.p50),
                milliseconds(delays.p99),
            ]);
        }
        Ok(())
    };
    let done: Outcome = Box::pin(done).await;
    if let Some(sink) = Arc::into_inner(sink) {
        sink.remove().await?;
    }
    source.run(DROP_SLOTS.to_owned()).await?;
    source.remove().await?;
    done?;
    if plan.rate > 0 {
        live.print("commit to ClickHouse")?;
    }
    Ok(())
}

const DROP_SLOTS: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                          WHERE database = current_database() AND NOT active";

async fn measure(source: &Postgres, sink: &ClickHouse, plan: &Plan, table: &mut Table) -> Outcome {
    source.run(CREATE.to_owned()).await?;
    fill(source, plan, 0).await?;
    source.run("VACUUM ANALYZE rows".to_owned()).await?;
    source.run("CHECKPOINT".to_owned()).await?;
    let ran = tables_once(&source.url, &sink.url, "public.rows").await?;
    check(sink, "rows_current", plan.rows).await?;
    sink.run(
        "CREATE TABLE floor (id Int64, n Nullable(Int32), v Nullable(String), \
         at Nullable(DateTime64(6, 'UTC'))) ENGINE = ReplacingMergeTree ORDER BY id \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
    )
    .await?;
    let floor = copy(source, sink).await?;
    check(sink, "floor", plan.rows).await?;
    row(table, "copy", plan.rows, &ran, floor, AIM);

    source
        .run("CREATE PUBLICATION bench_null FOR TABLE rows".to_owned())
        .await?;
    // The same backlog for both, each by a slot of its own.
    source
        .run(
            "SELECT pg_create_logical_replication_slot(name, 'pgoutput') \
             FROM unnest(ARRAY['bench_floor', 'bench_null']) name"
                .to_owned(),
        )
        .await?;
    fill(source, plan, plan.rows).await?;
    source.run("CHECKPOINT".to_owned()).await?;
    let ran = tables_once(&source.url, &sink.url, "public.rows").await?;
    check(sink, "rows_current", plan.rows * 2).await?;
    let floor = receive(source).await?;
    row(table, "log", plan.rows, &ran, floor, AIM);
    let (time, rows) = captured::null::drain(&source.url, "bench_null", "public.rows").await?;
    if rows != plan.rows {
        return Err(format!("{rows} rows came from the log and not {}", plan.rows).into());
    }
    let ran = Ran {
        time,
        peak_mb: 0.0,
        cpu: 0.0,
    };
    row(table, "log, dropped", plan.rows, &ran, floor, NULL_AIM);

    update(source, plan).await?;
    source.run("CHECKPOINT".to_owned()).await?;
    let ran = tables_once(&source.url, &sink.url, "public.rows").await?;
    check(sink, "rows_current", plan.rows * 2).await?;
    let changed = sink.numbers("SELECT countIf(n >= 1000) FROM rows_current");
    if changed.await?.first() != Some(&plan.rows) {
        return Err("rows_current does not show every update".into());
    }
    let floor = receive(source).await?;
    row(table, "updates", plan.rows, &ran, floor, AIM);
    Ok(())
}

async fn check(sink: &ClickHouse, table: &str, expected: u64) -> Outcome {
    let counted = sink.count(table).await?;
    if counted == expected {
        return Ok(());
    }
    Err(format!("{table} holds {counted} rows and not {expected}").into())
}

async fn fill(source: &Postgres, plan: &Plan, above: u64) -> Outcome {
    let mut first = above + 1;
    let last = above + plan.rows;
    while first <= last {
        let end = (first + plan.transaction - 1).min(last);
        source
            .run(format!(
                "INSERT INTO rows SELECT i, i % 1000, lpad(i::text, {}, 'x'), \
                 '2026-01-01'::timestamptz + i * interval '1 ms' \
                 FROM generate_series({first}, {end}) i",
                plan.bytes
            ))
            .await?;
        first = end + 1;
    }
    Ok(())
}

/// Changes each of the rows that the copy met, in transactions of the same size.
async fn update(source: &Postgres, plan: &Plan) -> Outcome {
    let mut first = 1;
    while first <= plan.rows {
        let end = (first + plan.transaction - 1).min(plan.rows);
        source
            .run(format!(
                "UPDATE rows SET n = n + 1000 WHERE id BETWEEN {first} AND {end}"
            ))
            .await?;
        first = end + 1;
    }
    Ok(())
}

fn row(table: &mut Table, what: &str, rows: u64, ran: &Ran, floor: Duration, aim: f64) {
    let ratio = floor.as_secs_f64() / ran.time.as_secs_f64();
    let memory = if ran.peak_mb < MEMORY_MB {
        ""
    } else {
        " (missed)"
    };
    table.row([
        what.to_owned(),
        rows.to_string(),
        format!("{:.0}", float(rows) / ran.time.as_secs_f64()),
        format!("{:.0}", float(rows) / floor.as_secs_f64()),
        format!("{ratio:.2}"),
        against(ratio, aim),
        format!("{:.0}", ran.peak_mb),
        format!("{MEMORY_MB:.0}{memory}"),
        format!("{:.1}", ran.cpu),
    ]);
}

/// `pg_recvlogical` reads the slot up to where the log ends now.
async fn receive(source: &Postgres) -> Outcome<Duration> {
    let mut connection = source.connect().await?;
    let end: String = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text")
        .fetch_one(&mut connection)
        .await?;
    let publication: String = sqlx::query_scalar(
        "SELECT pubname::text FROM pg_publication_tables WHERE tablename = 'rows' \
         AND pubname <> 'bench_null' LIMIT 1",
    )
    .fetch_one(&mut connection)
    .await?;
    let folder = std::env::var("LEDGER_PG_BIN")?;
    let begun = Instant::now();
    let status = tokio::process::Command::new(format!("{folder}/pg_recvlogical"))
        .args(["-d", &source.url, "--slot", "bench_floor", "--start"])
        .args(["-f", "/dev/null", "--endpos", &end])
        .args(["-o", "proto_version=1"])
        .args(["-o", &format!("publication_names=\"{publication}\"")])
        .stdin(Stdio::null())
        .status()
        .await?;
    if !status.success() {
        return Err(format!("pg_recvlogical ended with {status}").into());
    }
    Ok(begun.elapsed())
}

/// COPY of the table, turned into `RowBinary` and inserted, by a reader and an inserter that run at
/// once.
async fn copy(source: &Postgres, sink: &ClickHouse) -> Outcome<Duration> {
    let begun = Instant::now();
    let (sender, mut receiver) = mpsc::channel::<Option<Vec<u8>>>(4);
    let reader = tokio::spawn(read(source.url.clone(), sender));
    let client = sink.connection.client().clone();
    let client = client.with_compression(Compression::None);
    let begin = || {
        client
            .insert_formatted_with("INSERT INTO floor FORMAT RowBinary")
            .with_setting("async_insert", "0")
    };
    let mut open = None;
    while let Some(piece) = receiver.recv().await {
        match piece {
            Some(rows) => {
                let insert = open.get_or_insert_with(begin);
                insert.send(rows.into()).await?;
            }
            None => {
                if let Some(insert) = open.take() {
                    insert.end().await?;
                }
            }
        }
    }
    if let Some(insert) = open.take() {
        insert.end().await?;
    }
    reader.await??;
    Ok(begun.elapsed())
}

async fn read(url: String, sender: mpsc::Sender<Option<Vec<u8>>>) -> Outcome {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&url)
        .await?;
    let sql = "COPY (SELECT id, n, v, at FROM rows) TO STDOUT (FORMAT binary)";
    let mut copied = pool.copy_out_raw(sql).await?;
    let (mut buffer, mut header) = (BytesMut::new(), true);
    let (mut out, mut rows) = (Vec::with_capacity(CHUNK + 4_096), 0_u64);
    while let Some(message) = copied.try_next().await? {
        buffer.extend_from_slice(&message);
        if header {
            // Signature, flags, and an extension that is always empty.
            buffer.advance(19);
            header = false;
        }
        // A message holds whole rows.
        while buffer.len() >= 2 {
            if buffer.get_i16() < 0 {
                break;
            }
            out.extend_from_slice(&field(&mut buffer)?.get_i64().to_le_bytes());
            out.push(0);
            out.extend_from_slice(&field(&mut buffer)?.get_i32().to_le_bytes());
            out.push(0);
            let text = field(&mut buffer)?;
            length(text.len(), &mut out);
            out.extend_from_slice(&text);
            out.push(0);
            let at = field(&mut buffer)?.get_i64() + EPOCH;
            out.extend_from_slice(&at.to_le_bytes());
            rows += 1;
            let full = rows.is_multiple_of(INSERT_ROWS);
            if full || out.len() >= CHUNK {
                let chunk = std::mem::replace(&mut out, Vec::with_capacity(CHUNK + 4_096));
                sender.send(Some(chunk)).await?;
            }
            if full {
                sender.send(None).await?;
            }
        }
    }
    if !out.is_empty() {
        sender.send(Some(out)).await?;
    }
    Ok(())
}

fn field(from: &mut BytesMut) -> Outcome<BytesMut> {
    let length = from.try_get_i32()?;
    Ok(from.split_to(usize::try_from(length)?))
}

fn length(mut length: usize, to: &mut Vec<u8>) {
    while length >= 0x80 {
        to.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    to.push(u8::try_from(length).unwrap_or(0));
}
