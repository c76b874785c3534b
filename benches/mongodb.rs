//! MongoDB: appends beside `insert_many` of the same documents into a collection with equal indexes
//! and equal durability; a backlog of changes of a collection carried into ClickHouse by
//! `ledger bridge run --collections --once`, beside a change stream that drops them.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ledger::mongodb::{MongoConfig, MongoDatabase, MongoStore};
use ledger::{ExpectedVersion, NewEntry, Store, StoreName, StoreOptions, StreamName};
use ledger_core::StreamKey;
use ledger_layout::mongodb::EntryRow;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::FullDocumentType;

use measure::arguments::Arguments;
use measure::compare::in_turns;
use measure::database::ClickHouse;
use measure::process::{Ran, tables_once};
use measure::table::{Table, against};
use measure::{Outcome, entry, float};

/// What both are to reach of their floors.
const AIM: f64 = 0.6;

struct Plan {
    batches: Vec<usize>,
    rows: u64,
    rounds: u64,
    changes: u64,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "mongodb",
        &[
            ("batches", "1,100,1000", "entries an append"),
            ("rows", "20000", "most rows a round; at most 300 appends"),
            ("rounds", "5", "how often each is measured"),
            ("changes", "1000000", "changes of the backlog; 0 for none"),
        ],
    )?;
    let plan = Plan {
        batches: arguments.list("batches")?,
        rows: arguments.get("rows")?,
        rounds: arguments.get("rounds")?,
        changes: arguments.get("changes")?,
    };
    let server = std::env::var("LEDGER_TEST_MONGODB")
        .map_err(|_| "LEDGER_TEST_MONGODB is not set; run eval \"$(scripts/servers.sh start)\"")?;
    let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
    let config = MongoConfig::from_url(&server)?.with_database(&name)?;
    let database = MongoDatabase::open(config).await?;
    let mut table = Table::new(&["what", "rows/s", "floor", "ratio", "aim", "peak MB"]);
    let done = async {
        appends(&database, &plan, &mut table).await?;
        if plan.changes > 0 {
            backlog(&database, &server, &name, &plan, &mut table).await?;
        }
        Outcome::Ok(())
    };
    let done = done.await;
    database.database().drop().await?;
    database.close().await;
    done?;
    table.print(&arguments.command())
}

async fn appends(database: &MongoDatabase, plan: &Plan, table: &mut Table) -> Outcome {
    for log in [true, false] {
        let name = StoreName::new(if log { "logged" } else { "plain" })?;
        let options = StoreOptions {
            log,
            ..StoreOptions::default()
        };
        let store = MongoStore::open_on(database, name.clone(), options).await?;
        let ours = database.collection(&format!("{name}_entries"));
        let floor = database.collection(&format!("floor_{name}"));
        let mut indexes = ours.list_indexes().await?;
        while let Some(index) = indexes.next().await {
            floor.create_index(index?).await?;
        }
        for &batch in &plan.batches {
            let count = (plan.rows / batch as u64).clamp(1, 300);
            let made = |round: u64| -> Vec<Vec<NewEntry>> {
                let entries = |number: u64| {
                    let first = (round * count + number) * batch as u64;
                    (first..first + batch as u64)
                        .map(|number| entry(number, 280))
                        .collect()
                };
                (0..count).map(entries).collect()
            };
            let compared = in_turns(
                plan.rounds,
                count * batch as u64,
                async |round| append(&store, made(round)).await,
                async |round| insert(&floor, batch, round, made(round)).await,
            );
            let compared = compared.await?;
            table.row([
                format!("append of {batch}, log {}", if log { "on" } else { "off" }),
                format!("{:.0}", compared.ours),
                format!("{:.0}", compared.floor),
                format!("{:.2}", compared.ratio),
                against(compared.ratio, AIM),
                String::new(),
            ]);
        }
        store.close().await;
    }
    Ok(())
}

async fn append(store: &MongoStore, batches: Vec<Vec<NewEntry>>) -> Outcome<Duration> {
    let begun = Instant::now();
    for (number, entries) in batches.into_iter().enumerate() {
        let stream = StreamName::new(format!("user-{}", number % 100))?;
        store.append(&stream, entries, ExpectedVersion::Any).await?;
    }
    Ok(begun.elapsed())
}

/// The same documents, made while time is taken, as ours are.
async fn insert(
    floor: &Collection<RawDocumentBuf>,
    batch: usize,
    round: u64,
    batches: Vec<Vec<NewEntry>>,
) -> Outcome<Duration> {
    let mut id = i64::try_from(round * 10_000_000 + batch as u64 * 1_000_000_000)?;
    let begun = Instant::now();
    for (number, entries) in batches.into_iter().enumerate() {
        let documents = entries.iter().map(|entry| {
            id += 1;
            let row = EntryRow {
                id,
                stream: StreamKey(number as u64 % 100),
                created_at: ledger::Timestamp::from_micros(1_700_000_000_000_000),
                payload: &entry.payload,
                order_key: &entry.order_key,
                dedup_key: &entry.dedup_key,
                schema_version: 1,
                metadata: &entry.metadata,
                tags: &entry.tags,
                annotations: None,
                label_version: 0,
                updated_at: None,
            };
            row.document()
        });
        let documents: Vec<RawDocumentBuf> = documents.collect();
        floor.insert_many(documents).await?;
    }
    Ok(begun.elapsed())
}

async fn backlog(
    database: &MongoDatabase,
    server: &str,
    name: &str,
    plan: &Plan,
    table: &mut Table,
) -> Outcome {
    let (address, parameters) = server.split_once('?').unwrap_or((server, ""));
    let (address, _) = address
        .rsplit_once('/')
        .ok_or("the server's URL names no database")?;
    let url = format!("{address}/{name}?{parameters}");
    let sink = ClickHouse::create().await?;
    let rows = database.database().collection::<Document>("rows");
    rows.insert_one(doc! {"_id": -1}).await?;
    tables_once(&url, &sink.url, "rows").await?;
    let begin = database.database().run_command(doc! {"ping": 1}).await?;
    let begin = begin.get_timestamp("operationTime")?;
    let text = "v".repeat(100);
    for first in (0..plan.changes).step_by(10_000) {
        let last = (first + 10_000).min(plan.changes);
        let made = (first..last).map(|n| doc! {"_id": n.cast_signed(), "n": 1_i32, "v": &text});
        rows.insert_many(made).await?;
    }
    let ran: Ran = tables_once(&url, &sink.url, "rows").await?;
    let held = sink.count("rows_current").await?;
    if held != plan.changes + 1 {
        return Err(format!("rows_current holds {held} rows").into());
    }
    let begun = Instant::now();
    let events = database
        .database()
        .watch()
        .start_at_operation_time(begin)
        .full_document(FullDocumentType::UpdateLookup);
    let mut events = events.await?.with_type::<RawDocumentBuf>();
    let mut seen = 0;
    while seen < plan.changes {
        let event = events.next().await.ok_or("the stream ended")??;
        let namespace = event.get_document("ns")?;
        seen += u64::from(namespace.get_str("coll")? == "rows");
    }
    let floor = begun.elapsed();
    sink.remove().await?;
    let ours = float(plan.changes) / ran.time.as_secs_f64();
    let floor = float(plan.changes) / floor.as_secs_f64();
    table.row([
        format!("{} changes into ClickHouse", plan.changes),
        format!("{ours:.0}"),
        format!("{floor:.0}"),
        format!("{:.2}", ours / floor),
        against(ours / floor, AIM),
        format!("{:.0}", ran.peak_mb),
    ]);
    Ok(())
}
