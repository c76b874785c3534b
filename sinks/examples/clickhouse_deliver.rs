//! Measures the ClickHouse sink: a million entries in batches of 100,000, beside the floor of the
//! same rows as ready-made `RowBinary`, posted into an equal table.
//!
//! ```console
//! $ cargo run --release -p ledger-sinks --features clickhouse --example clickhouse_deliver -- URL
//! ```

use std::time::{Duration, Instant};

use clickhouse::Compression;
use ledger_core::{
    Batch, Change, Cursor, Entry, EntryId, Error, Mutation, Pairs, PipelineId, Result, Sink as _,
    SourceId, StoreName, StreamKey, StreamName, StreamRef, Timestamp,
};
use ledger_layout::clickhouse::{ClickHouseConfig, Connection, map_error};
use ledger_sinks::clickhouse::ClickHouseSink;

const BATCH: u64 = 100_000;
const BATCHES: u64 = 10;

fn batch(number: u64, fence: u64, pipeline: &PipelineId) -> Result<Batch<Change>> {
    let cursor = |at: u64| Cursor::new(b'P', &at.to_be_bytes());
    let (from, to) = (number * BATCH, (number + 1) * BATCH);
    let mut items = Vec::new();
    for id in from + 1..=to {
        let key = id % 4_000 + 1;
        let name = StreamName::new(format!("user-{key}"))?;
        // Hard to compress, as identifiers in real payloads are.
        let noise = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let payload = format!(
            r#"{{"order":{id},"token":"{noise:016x}","note":"{:<150}"}}"#,
            format!("{:x}", noise.rotate_left(13))
        );
        let entry = Entry {
            id: EntryId(id),
            stream: name.clone(),
            payload: payload.into(),
            order_key: format!("order-{id}"),
            dedup_key: String::new(),
            schema_version: 1,
            metadata: Pairs::from([("region".to_owned(), format!("eu-{}", id % 7))]),
            tags: vec!["new".to_owned()],
            annotations: Pairs::new(),
            label_version: 0,
            created_at: Timestamp::now(),
            updated_at: None,
        };
        let change = Change {
            cursor: cursor(id),
            committed_at: entry.created_at,
            stream: StreamRef {
                key: StreamKey(key),
                name,
                name_version: 1,
            },
            mutation: Mutation::Append {
                entry: Box::new(entry),
                version: id,
            },
        };
        items.push((cursor(id), change));
    }
    let (after, through) = (Some(cursor(from)), cursor(to));
    Ok(Batch {
        items,
        after,
        ack: Some(through.clone()),
        through,
        pipeline: pipeline.clone(),
        fence,
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1);
    let url = url.ok_or_else(|| Error::invalid("start", "the URL of a database is missing"))?;
    let config: ClickHouseConfig = url.parse()?;
    let connection = Connection::new(config.clone());
    let store = StoreName::new(format!("bench_{}", uuid::Uuid::new_v4().simple()))?;
    let sink = ClickHouseSink::open(&config, &store).await?;
    let pipeline = PipelineId::new("bench")?;
    let source = SourceId {
        store: uuid::Uuid::new_v4(),
        system: "bench".to_owned(),
        timeline: 1,
        origins: Vec::new(),
    };
    let cursors = sink
        .cursors()
        .ok_or_else(|| Error::invalid("start", "no cursors"))?;
    let fence = cursors.claim(&pipeline, &source).await?.fence;

    let mut spent = Duration::ZERO;
    for number in 0..BATCHES {
        let batch = batch(number, fence, &pipeline)?;
        let begun = Instant::now();
        sink.deliver(&batch).await?;
        spent += begun.elapsed();
    }
    report("sink", spent);

    let entries = &sink.tables().entries;
    let floor = format!("{store}_floor");
    connection
        .execute(
            "make the floor",
            &format!("CREATE TABLE {floor} AS {entries}"),
        )
        .await?;
    let plain = connection
        .client()
        .clone()
        .with_compression(Compression::None);
    let failed = |error| map_error("measure the floor", &config, error);
    let (mut spent, mut bytes) = (Duration::ZERO, 0);
    for number in 0..BATCHES {
        let (from, to) = (number * BATCH, (number + 1) * BATCH);
        let query = format!("SELECT * FROM {entries} WHERE id > {from} AND id <= {to}");
        let mut rows = plain
            .query(&query)
            .fetch_bytes("RowBinary")
            .map_err(failed)?;
        let rows = rows.collect().await.map_err(failed)?;
        bytes += rows.len();
        let begun = Instant::now();
        let mut insert = plain
            .insert_formatted_with(format!("INSERT INTO {floor} FORMAT RowBinary"))
            .with_setting("async_insert", "0");
        for start in (0..rows.len()).step_by(1 << 20) {
            let end = rows.len().min(start + (1 << 20));
            insert.send(rows.slice(start..end)).await.map_err(failed)?;
        }
        insert.end().await.map_err(failed)?;
        spent += begun.elapsed();
    }
    report("floor", spent);
    println!("{} bytes a row", bytes as u64 / (BATCH * BATCHES));
    for table in [
        entries,
        &sink.tables().labels,
        &sink.tables().streams,
        &floor,
    ] {
        connection
            .execute("clean up", &format!("DROP TABLE {table}"))
            .await?;
    }
    connection
        .execute("clean up", &format!("DROP VIEW {}", sink.tables().current))
        .await
}

fn report(what: &str, spent: Duration) {
    let rows = u32::try_from(BATCH * BATCHES).map_or(f64::NAN, f64::from);
    println!(
        "{what}: {:.2} s, {:.0} rows/s",
        spent.as_secs_f64(),
        rows / spent.as_secs_f64()
    );
}
