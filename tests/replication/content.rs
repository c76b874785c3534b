//! Filling a source, and comparing what is on both sides.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Row;
use futures::TryStreamExt as _;
use ledger::{
    Appended, Contents, EntryId, ErrorKind, ExpectedVersion, NewEntry, Pairs, ReadOptions, Record,
    Store, StoreExt as _, StreamName, StreamState, Timestamp,
};
use serde::Deserialize;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::pair::{Kind, Pair};

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) async fn append(
    store: &Arc<dyn Store>,
    name: &str,
    entries: Vec<NewEntry>,
) -> Vec<Appended> {
    store
        .append(&stream(name), entries, ExpectedVersion::Any)
        .await
        .unwrap()
}

/// Appends one entry, and tells its id.
pub(crate) async fn add(store: &Arc<dyn Store>, name: &str, payload: &'static str) -> EntryId {
    append(store, name, vec![NewEntry::new(payload)]).await[0].id
}

pub(crate) async fn tag(store: &Arc<dyn Store>, name: &str, id: EntryId, tags: &[&str]) {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let labels = store.labels().unwrap();
    labels.set_tags(&stream(name), id, tags).await.unwrap();
}

pub(crate) async fn annotate(store: &Arc<dyn Store>, name: &str, id: EntryId, value: &str) {
    let set = Pairs::from([("note".to_owned(), value.to_owned())]);
    let labels = store.labels().unwrap();
    let drop = vec!["absent".to_owned()];
    labels
        .set_annotations(&stream(name), id, set, drop)
        .await
        .unwrap();
}

/// Streams of entries, in batches.
pub(crate) async fn fill(store: &Arc<dyn Store>, streams: usize, each: usize) {
    for name in 0..streams {
        let entries = (0..each)
            .map(|n| NewEntry::new(format!("{{\"n\": {n}}}")).tag("filled"))
            .collect();
        append(store, &format!("filled-{name}"), entries).await;
    }
}

/// Payloads that something on the way may change.
pub(crate) fn odd_payloads() -> Vec<Bytes> {
    let mut payloads: Vec<Bytes> = [
        "",
        " ",
        "null",
        "{\"a\": 1,  \"a\" :2 }\n",
        "{\"big\": 12345678901234567890123456789.10, \"e\": 1e400, \"z\": -0.0}",
        "{\"text\": \"\\u0000 \\ud800 \\u00e9\"}",
        "[\"\\\"\", \"\\\\\", \"'\", \"%\"]",
        "no json, Grüße 👩‍👩‍👧 \u{202e}rtl\u{0} nul",
        "\u{feff}{\"bom\": true}",
    ]
    .into_iter()
    .map(|text| Bytes::from_static(text.as_bytes()))
    .collect();
    payloads.push(Bytes::from((0..=255).collect::<Vec<u8>>()));
    payloads.push(Bytes::from_static(b"{\"cut\": \"\xff\xfe\"}"));
    payloads.push(Bytes::from("[".repeat(300) + &"]".repeat(300)));
    payloads.push(Bytes::from(format!(
        "{{\"x\": \"{}\"}}",
        "y".repeat(100_000)
    )));
    payloads
}

/// Everything that a ledger can do, in an order that a replica may get wrong.
pub(crate) async fn everything(store: &Arc<dyn Store>) {
    let entries = odd_payloads().into_iter().map(NewEntry::new).collect();
    append(store, "odd", entries).await;

    let rich = |n: u32| {
        NewEntry::new(format!("{{\"n\": {n}}}"))
            .order_key(format!("order '{n}' \\ ü"))
            .schema_version(n + 1)
            .meta("quelle", "Zürich \"1\"")
            .meta("", "leer")
            .tag("b\u{1f600}")
            .tag("a'; --")
    };
    let ids = append(store, "reich/ü 👩‍👩‍👧 '\"\\", (0..5).map(rich).collect()).await;
    let name = "reich/ü 👩‍👩‍👧 '\"\\";
    tag(store, name, ids[0].id, &["z", "a", "z", "ß"]).await;
    tag(store, name, ids[0].id, &[]).await;
    annotate(store, name, ids[1].id, "eins").await;
    tag(store, name, ids[1].id, &["after", "annotation"]).await;
    annotate(store, name, ids[1].id, "zwei \u{1f600}").await;

    // Duplicates within a batch, across batches, and in another stream.
    let keyed = |text: &'static str| NewEntry::new(text).dedup_key("key-1");
    append(store, "dedup", vec![keyed("first"), keyed("second")]).await;
    let again = append(store, "dedup", vec![keyed("third"), NewEntry::new("new")]).await;
    assert!(again[0].duplicate && !again[1].duplicate);
    append(store, "dedup-2", vec![keyed("elsewhere")]).await;

    // A trim frees the key; labels on both sides of it.
    annotate(store, "dedup", again[0].id, "soon gone").await;
    store.trim(&stream("dedup"), again[0].id).await.unwrap();
    let new = append(store, "dedup", vec![keyed("again")]).await;
    assert!(!new[0].duplicate);
    tag(store, "dedup", new[0].id, &["kept"]).await;

    // Emptied, still owning its name; then used again.
    let last = add(store, "emptied", "gone").await;
    store.trim(&stream("emptied"), last).await.unwrap();
    let last = add(store, "refilled", "gone").await;
    store.trim(&stream("refilled"), last).await.unwrap();
    add(store, "refilled", "back").await;

    // Names that are used again, and that change places.
    add(store, "one", "of one").await;
    add(store, "two", "of two").await;
    for (from, to) in [("one", "swap"), ("two", "one"), ("swap", "two")] {
        store.rename(&stream(from), &stream(to)).await.unwrap();
    }
    let id = add(store, "one", "of two, under the name of one").await;
    tag(store, "one", id, &["renamed"]).await;
    store.rename(&stream("one"), &stream("gone")).await.unwrap();
    add(store, "one", "a third stream").await;
    store.trim(&stream("gone"), id).await.unwrap();
}

/// Everything there is, stream by stream.
pub(crate) async fn dump(contents: &(impl Contents + ?Sized)) -> (Vec<StreamState>, Vec<Record>) {
    let (mut states, mut records) = (Vec::new(), Vec::new());
    loop {
        let after = states.last().map(|state: &StreamState| state.stream.key);
        let page = contents.streams(after, 100).await.unwrap();
        if page.is_empty() {
            break;
        }
        states.extend(page);
    }
    loop {
        let after = records.last().map(|record: &Record| record.key);
        let page = contents.entries(after, None, 300).await.unwrap();
        if page.is_empty() {
            break;
        }
        records.extend(page);
    }
    (states, records)
}

/// Asserts that the replica holds what the source holds, field by field, through each way to look.
pub(crate) async fn assert_equal(pair: &Pair) {
    let (states, records) = dump(pair.source.log().unwrap().contents()).await;
    assert!(!records.is_empty(), "nothing to compare");
    let sink = pair.sink.sink();
    let (there, copies) = dump(sink.replica().unwrap()).await;
    assert_eq!(there, states);
    for (copy, record) in copies.iter().zip(&records) {
        assert_eq!(copy, record);
    }
    assert_eq!(copies.len(), records.len());
    let report = pair.verify(&pair.verify_options()).await;
    assert!(report.is_equal() && report.pending == 0, "{report:?}");
    assert_eq!(report.entries, records.len() as u64);
    match pair.to.kind {
        Kind::Sqlite | Kind::Postgres | Kind::Mongo => assert_equal_as_store(pair).await,
        Kind::ClickHouse | Kind::ClickHouseOld => assert_view(pair, &records).await,
    }
}

async fn assert_equal_as_store(pair: &Pair) {
    let replica = pair.replica().await.store();
    let source = &pair.source;
    let names = source.streams(None, 10_000).await.unwrap();
    assert_eq!(replica.streams(None, 10_000).await.unwrap(), names);
    for name in &names {
        let stat = source.stat(name).await.unwrap();
        assert_eq!(replica.stat(name).await.unwrap(), stat, "{name}");
        let read = async |store: &Arc<dyn Store>| {
            let entries = store.read(name, ReadOptions::all());
            entries.try_collect::<Vec<_>>().await.unwrap()
        };
        assert_eq!(read(&replica).await, read(source).await, "{name}");
    }
    replica.close().await;
}

/// A row of the view.
#[derive(Debug, PartialEq, Row, Deserialize)]
struct Current {
    stream: String,
    id: u64,
    /// In hexadecimal.
    payload: String,
    order_key: String,
    dedup_key: String,
    schema_version: i64,
    metadata: Vec<(String, String)>,
    tags: Vec<String>,
    annotations: Vec<(String, String)>,
    created_at: i64,
    updated_at: Option<i64>,
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

async fn assert_view(pair: &Pair, records: &[Record]) {
    let sql = format!(
        "SELECT stream, id, hex(payload) AS payload, order_key, dedup_key, schema_version, \
         metadata, tags, annotations, created_at, updated_at FROM {}_current ORDER BY id",
        pair.name
    );
    let rows: Vec<Current> = pair.to.client().query(&sql).fetch_all().await.unwrap();
    let mut expected: Vec<Current> = records
        .iter()
        .map(|Record { entry, .. }| Current {
            stream: entry.stream.as_str().to_owned(),
            id: entry.id.0,
            payload: hexadecimal(&entry.payload),
            order_key: entry.order_key.clone(),
            dedup_key: entry.dedup_key.clone(),
            schema_version: entry.schema_version.into(),
            metadata: entry.metadata.clone().into_iter().collect(),
            tags: entry.tags.clone(),
            annotations: entry.annotations.clone().into_iter().collect(),
            created_at: entry.created_at.as_micros(),
            updated_at: entry.updated_at.map(Timestamp::as_micros),
        })
        .collect();
    expected.sort_by_key(|row| row.id);
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
    assert_eq!(rows.len(), expected.len());
}

/// Tasks that change the source in every way, until they are stopped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(crate) fn start(store: &Arc<dyn Store>, count: u64) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let tasks = (0..count)
            .map(|number| {
                let (store, stop) = (Arc::clone(store), Arc::clone(&stop));
                tokio::spawn(write(store, stop, Arc::clone(&made), number))
            })
            .collect();
        Self { stop, made, tasks }
    }

    /// How often they have written.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Stops them.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn write(store: Arc<dyn Store>, stop: Arc<AtomicBool>, total: Arc<AtomicU64>, number: u64) {
    let mut made = 0;
    // A pace that a verification can keep up with.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        // The streams are shared: the writers race each other.
        let name = format!("written-{}", (number + made) % 5);
        let entries = (0..3)
            .map(|n| {
                NewEntry::new(format!(
                    "{{\"writer\": {number}, \"made\": {made}, \"n\": {n}}}"
                ))
            })
            .collect();
        let appended = append(&store, &name, entries).await;
        let labels = store.labels().unwrap();
        let (first, last) = (appended[0].id, appended[2].id);
        let name = stream(&name);
        let done = match made % 5 {
            0 => labels.set_tags(&name, last, vec![format!("t{made}")]).await,
            1 => {
                let set = Pairs::from([("k".to_owned(), made.to_string())]);
                labels.set_annotations(&name, first, set, vec![]).await
            }
            2 => store.trim(&name, first).await.map(drop),
            3 if made % 20 == 3 => {
                let other = stream(&format!("renamed-{}", Uuid::new_v4()));
                store.rename(&name, &other).await
            }
            _ => Ok(()),
        };
        // Another writer may have renamed or trimmed what this one meant.
        if let Err(error) = done {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        made += 1;
        total.fetch_add(1, Ordering::Relaxed);
    }
}
