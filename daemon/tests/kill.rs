//! Nothing is lost, doubled or reordered while everything is killed: the bridge, PostgreSQL and the
//! ClickHouse engine, whichever of the two is the source.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ledger::clickhouse::{ClickHouseConfig, ClickHouseStore};
use ledger::connect::DatabaseUrl;
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{
    Change, Cursor, EntryId, Error, ErrorKind, ExpectedVersion, Mutation, NewEntry, Pairs,
    PipelineId, Sink, Store, StoreName, StoreOptions, StreamKey, StreamName,
};
use ledger_harness::{ClickHouse, Postgres};
use sqlx::Connection as _;
use tokio::process::{Child, Command};

const STORE: &str = "orders";
const PIPELINE: &str = "kill-test";
const WRITERS: u64 = 8;
const STREAMS: u64 = 12;
const BRIDGE_KILLS: usize = 20;

/// A small generator: the same seed gives the same choices.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the writers know to be committed.
#[derive(Default)]
struct Acknowledged {
    appended: Mutex<HashSet<EntryId>>,
    operations: AtomicU64,
}

struct Writer {
    number: u64,
    store: Arc<dyn Store>,
    /// The same, where writers have transactions of their own.
    postgres: Option<(String, PostgresStore)>,
    random: Random,
    acknowledged: Arc<Acknowledged>,
    recent: Vec<(StreamName, EntryId)>,
}

impl Writer {
    fn stream(&mut self) -> StreamName {
        // Two names a stream: renames go back and forth between them.
        let side = if self.random.below(10) == 0 { "b" } else { "a" };
        StreamName::new(format!("{side}{}", self.random.below(STREAMS))).unwrap()
    }

    fn entries(&mut self) -> Vec<NewEntry> {
        let count = 1 + self.random.below(12);
        (0..count)
            .map(|_| {
                let number = self.random.below(1_000_000);
                let entry =
                    NewEntry::new(format!("{{\"writer\": {}, \"n\": {number}}}", self.number))
                        .order_key(format!("k{}", number % 7))
                        .meta("writer", self.number.to_string());
                if number.is_multiple_of(3) {
                    entry.dedup_key(format!("d{}", number % 5_000))
                } else {
                    entry
                }
            })
            .collect()
    }

    fn note(&mut self, stream: &StreamName, appended: &[ledger::Appended]) {
        let mut all = self.acknowledged.appended.lock().unwrap();
        for appended in appended.iter().filter(|appended| !appended.duplicate) {
            all.insert(appended.id);
            self.recent.push((stream.clone(), appended.id));
        }
        drop(all);
        let excess = self.recent.len().saturating_sub(50);
        self.recent.drain(..excess);
    }

    async fn step(&mut self) -> Result<(), Error> {
        let stream = self.stream();
        match self.random.below(100) {
            0..45 => {
                let entries = self.entries();
                let appended = self
                    .store
                    .append(&stream, entries, ExpectedVersion::Any)
                    .await?;
                self.note(&stream, &appended);
            }
            45..65 => self.late_transaction(&stream).await?,
            65..88 if !self.recent.is_empty() => {
                let pick = self.random.below(self.recent.len() as u64) as usize;
                let (stream, id) = self.recent[pick].clone();
                let labels = self.store.labels().unwrap();
                let value = self.random.below(1000).to_string();
                let outcome = if self.random.below(2) == 0 {
                    labels.set_tags(&stream, id, vec![value, "t".into()]).await
                } else {
                    let set = Pairs::from([(format!("a{}", self.random.below(3)), value)]);
                    labels
                        .set_annotations(&stream, id, set, vec!["a0".into()])
                        .await
                };
                ignore(outcome, ErrorKind::NotFound)?;
            }
            88..90 if !self.recent.is_empty() => {
                let (stream, id) = self.recent[0].clone();
                self.store.trim(&stream, id).await?;
            }
            90..95 => {
                let other = if stream.as_str().starts_with('a') {
                    "b"
                } else {
                    "a"
                };
                let other = StreamName::new(format!("{other}{}", &stream.as_str()[1..])).unwrap();
                let renamed = self.store.rename(&stream, &other).await;
                ignore(
                    ignore(renamed, ErrorKind::NotFound),
                    ErrorKind::AlreadyExists,
                )?;
            }
            _ => {}
        }
        self.acknowledged.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Appends in a transaction that stays open for a while, and rolls some of them back.
    async fn late_transaction(&mut self, stream: &StreamName) -> Result<(), Error> {
        let Some((url, store)) = &self.postgres else {
            return Ok(());
        };
        let (url, store) = (url.clone(), store.clone());
        let database = |error: sqlx::Error| {
            Error::new(ErrorKind::Unavailable, "write in a transaction", "test").with_source(error)
        };
        let mut conn = sqlx::PgConnection::connect(&url).await.map_err(database)?;
        let mut tx = conn.begin().await.map_err(database)?;
        let entries = self.entries();
        let appended = store
            .within(&mut tx)
            .append(stream, entries, ExpectedVersion::Any)
            .await?;
        tokio::time::sleep(Duration::from_millis(self.random.below(40))).await;
        if self.random.below(3) == 0 {
            return tx.rollback().await.map_err(database);
        }
        tx.commit().await.map_err(database)?;
        self.note(stream, &appended);
        Ok(())
    }

    async fn write(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.step().await {
                assert!(
                    error.is_retryable(),
                    "writer {}: {}",
                    self.number,
                    error.chain()
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(self.random.below(8))).await;
        }
    }
}

fn ignore(outcome: Result<(), Error>, kind: ErrorKind) -> Result<(), Error> {
    match outcome {
        Err(error) if error.kind() == kind => Ok(()),
        outcome => outcome,
    }
}

/// Reads `changes` from START across every restart, checking order and completeness.
#[derive(Default)]
struct Reader {
    cursor: Option<Cursor>,
    versions: HashMap<StreamKey, u64>,
    label_versions: HashMap<EntryId, u64>,
    appended: HashSet<EntryId>,
    names: HashMap<StreamKey, StreamName>,
    entries: HashMap<StreamKey, BTreeMap<EntryId, (Vec<String>, Pairs)>>,
    changes: u64,
}

impl Reader {
    fn see(&mut self, change: Change) {
        let what = format!("{change:?}");
        assert!(
            self.cursor
                .as_ref()
                .is_none_or(|last| *last < change.cursor),
            "order: {what}"
        );
        self.cursor = Some(change.cursor);
        self.changes += 1;
        let key = change.stream.key;
        self.names.insert(key, change.stream.name);
        let entries = self.entries.entry(key).or_default();
        let mut relabel = |id: EntryId, version: u64| {
            let last = self.label_versions.insert(id, version).unwrap_or(0);
            assert_eq!(
                version,
                last + 1,
                "a label change is missing or doubled: {what}"
            );
        };
        match change.mutation {
            Mutation::Append { entry, version } => {
                let last = self.versions.insert(key, version).unwrap_or(0);
                assert_eq!(version, last + 1, "an append is missing or doubled: {what}");
                assert!(
                    entries.keys().next_back().is_none_or(|id| *id < entry.id),
                    "ids: {what}"
                );
                assert!(self.appended.insert(entry.id), "doubled: {what}");
                entries.insert(entry.id, (entry.tags, entry.annotations));
            }
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => {
                relabel(id, label_version);
                entries
                    .get_mut(&id)
                    .expect("tags of an entry that is there")
                    .0 = tags;
            }
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                relabel(id, label_version);
                entries
                    .get_mut(&id)
                    .expect("annotations of an entry that is there")
                    .1 = annotations;
            }
            Mutation::Trim { through } => {
                assert!(
                    entries.contains_key(&through),
                    "trimmed what was not there: {what}"
                );
                *entries = entries.split_off(&EntryId(through.0 + 1));
            }
            Mutation::Rename => {}
            Mutation::Stream(_) => panic!("a log tells no states: {what}"),
        }
    }

    /// Reads until `until`, resuming after every error.
    async fn read(
        mut self,
        store: Arc<dyn Store>,
        until: tokio::sync::watch::Receiver<Option<Cursor>>,
    ) -> Self {
        let log = store.log().unwrap();
        loop {
            let mut changes = log.changes(self.cursor.clone().unwrap_or_else(|| log.start()));
            let mut waiting = until.clone();
            loop {
                let done = until.borrow().clone();
                if done.is_some() && self.cursor >= done {
                    return self;
                }
                tokio::select! {
                    change = changes.next() => match change {
                        Some(Ok(change)) => self.see(change),
                        Some(Err(error)) => {
                            assert!(error.is_retryable(), "reader: {}", error.chain());
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            break;
                        }
                        None => break,
                    },
                    _ = waiting.changed() => {}
                }
            }
        }
    }
}

fn bridge(from: &str, to: &str, once: bool) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ledger"));
    command.args(["bridge", "run", "--store", STORE, "--name", PIPELINE]);
    command.args(["--from", from, "--to", to]);
    if once {
        command.arg("--once");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// Waits until the sink's cursor has moved on from `last`.
async fn moved(sink: &dyn Sink<Change>, last: &mut Option<Cursor>) {
    let pipeline = PipelineId::new(PIPELINE).unwrap();
    let begun = Instant::now();
    loop {
        if let Ok(Some(cursor)) = sink.cursors().unwrap().stored(&pipeline).await
            && last.as_ref() != Some(&cursor)
        {
            *last = Some(cursor);
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "the bridge does not get on"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Which of the two servers is the source; the other one is the replica's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Postgres,
    /// Its log is the write-ahead log.
    PostgresWal,
    ClickHouse,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_everything_is_killed() {
    Box::pin(killed(Source::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_where_the_log_is_the_write_ahead_log() {
    Box::pin(killed(Source::PostgresWal)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_clickhouse_store_is_lost_or_doubled_while_everything_is_killed() {
    Box::pin(killed(Source::ClickHouse)).await;
}

async fn killed(source: Source) {
    let mut postgres = Postgres::start().await;
    let mut clickhouse = ClickHouse::start().await;
    let (postgres_url, clickhouse_url) = (postgres.url(), clickhouse.url());
    let (from, to) = match source {
        Source::Postgres | Source::PostgresWal => (postgres_url, clickhouse_url),
        Source::ClickHouse => (clickhouse_url, postgres_url),
    };
    let name = StoreName::new(STORE).unwrap();
    let mut transactions = None;
    let store: Arc<dyn Store> = match source {
        Source::Postgres | Source::PostgresWal => {
            let config = PostgresConfig::from_url(&from).unwrap();
            let options = StoreOptions {
                write_ahead_log: source == Source::PostgresWal,
                ..StoreOptions::default()
            };
            let open = PostgresStore::open(config, name.clone(), options);
            let store = open.await.unwrap();
            transactions = Some((from.clone(), store.clone()));
            Arc::new(store)
        }
        Source::ClickHouse => {
            let config = from.parse::<ClickHouseConfig>().unwrap();
            let open = ClickHouseStore::open(&config, name.clone(), StoreOptions::default());
            Arc::new(Box::pin(open).await.unwrap())
        }
    };
    let another = async || {
        let url = DatabaseUrl::parse(&from).unwrap();
        Box::pin(url.open_store(&name)).await.unwrap()
    };
    let url = DatabaseUrl::parse(&to).unwrap();
    let sink = Box::pin(url.open_sink(&name)).await.unwrap().sink();

    // The registered reader, from START.
    let reader_id = PipelineId::new("reader").unwrap();
    let log = store.log().unwrap();
    log.consumers()
        .register(&reader_id, &log.start())
        .await
        .unwrap();
    let (finish, until) = tokio::sync::watch::channel(None);
    let reader = tokio::spawn(Reader::default().read(another().await, until));

    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Acknowledged::default());
    let writer_store = another().await;
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let writer = Writer {
            number,
            store: Arc::clone(&writer_store),
            postgres: transactions.clone(),
            random: Random(0x5eed + number),
            acknowledged: Arc::clone(&acknowledged),
            recent: Vec::new(),
        };
        writers.push(tokio::spawn(writer.write(Arc::clone(&stop))));
    }

    let mut child = bridge(&from, &to, false);
    let mut last = None;
    for kill in 0..BRIDGE_KILLS {
        moved(sink.as_ref(), &mut last).await;
        match kill {
            3 | 9 | 15 => {
                postgres.kill().await;
                postgres.restart().await;
                moved(sink.as_ref(), &mut last).await;
            }
            6 | 12 | 18 => {
                clickhouse.kill().await;
                clickhouse.restart().await;
                moved(sink.as_ref(), &mut last).await;
            }
            _ => {}
        }
        if let Some(status) = child.try_wait().unwrap() {
            let output = child.wait_with_output().await.unwrap();
            panic!(
                "the bridge ended by itself: {status}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        child.kill().await.unwrap();
        child = bridge(&from, &to, false);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    child.kill().await.unwrap();

    // Caught up, and equal.
    let output = bridge(&from, &to, true).wait_with_output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let verify = Command::new(env!("CARGO_BIN_EXE_ledger"))
        .args(["bridge", "verify", "--store", STORE, "--name", PIPELINE])
        .args(["--from", &from, "--to", &to])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(
        verify.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&verify.stderr)
    );

    // The reader saw each committed mutation once, in order.
    finish.send_replace(Some(log.head().await.unwrap()));
    let reader = reader.await.unwrap();
    for id in acknowledged.appended.lock().unwrap().iter() {
        assert!(
            reader.appended.contains(id),
            "entry {id} was acknowledged and is not in the log"
        );
    }
    let mut there: HashMap<StreamKey, BTreeMap<EntryId, (Vec<String>, Pairs)>> = HashMap::new();
    let mut after = None;
    loop {
        let records = log.contents().entries(after, None, 1_000).await.unwrap();
        let Some(record) = records.last() else { break };
        after = Some(record.key);
        for record in records {
            let labels = (record.entry.tags, record.entry.annotations);
            there
                .entry(record.key.stream)
                .or_default()
                .insert(record.key.id, labels);
            assert_eq!(reader.names[&record.key.stream], record.entry.stream);
        }
    }
    let mut replayed = reader.entries;
    replayed.retain(|_, entries| !entries.is_empty());
    assert_eq!(replayed, there, "the log replayed is the store's content");
    println!(
        "{} operations, {} changes read, {} entries acknowledged, {} live",
        acknowledged.operations.load(Ordering::Relaxed),
        reader.changes,
        acknowledged.appended.lock().unwrap().len(),
        there.values().map(BTreeMap::len).sum::<usize>(),
    );
}
