//! The ClickHouse store: what holds when processes end, and for several of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use ledger::clickhouse::{ClickHouseConfig, ClickHouseSink, ClickHouseStore};
use ledger::{
    Change, EntryId, ErrorKind, ExpectedVersion, Mutation, NewEntry, ReadOptions, Store,
    StoreExt as _, StoreName, StoreOptions, StreamName,
};
use ledger_harness::ClickHouse;
use uuid::Uuid;

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn new_name() -> StoreName {
    StoreName::new(format!("s{}", Uuid::new_v4().simple())).unwrap()
}

async fn open(url: &str, name: &StoreName) -> Arc<ClickHouseStore> {
    let config: ClickHouseConfig = url.parse().unwrap();
    let store = ClickHouseStore::open(&config, name.clone(), StoreOptions::default());
    Arc::new(Box::pin(store).await.unwrap())
}

/// Every change from the log's beginning up to its head.
async fn told(store: &Arc<ClickHouseStore>) -> Vec<Change> {
    let store: Arc<dyn Store> = Arc::clone(store) as _;
    let log = store.log().unwrap();
    let head = log.head().await.unwrap();
    let mut changes = log.changes(log.start());
    let mut told = Vec::new();
    while told.last().is_none_or(|last: &Change| last.cursor < head) {
        told.push(changes.next().await.unwrap().unwrap());
    }
    told
}

/// The log, replayed, is the content of the streams, in its order.
async fn assert_log_is_content(store: &Arc<ClickHouseStore>) {
    let mut replayed: BTreeMap<StreamName, Vec<EntryId>> = BTreeMap::new();
    for change in told(store).await {
        let Mutation::Append { entry, version } = change.mutation else {
            panic!("only appends were made");
        };
        let ids = replayed.entry(change.stream.name).or_default();
        ids.push(entry.id);
        assert_eq!(version, ids.len() as u64, "an append is missing or doubled");
    }
    for (name, ids) in replayed {
        let read: Vec<_> = store
            .read(&name, ReadOptions::all())
            .try_collect()
            .await
            .unwrap();
        let read: Vec<EntryId> = read.iter().map(|entry| entry.id).collect();
        assert_eq!(read, ids, "{name}");
    }
}

/// Appends as long as it may, each entry with a dedup key, again where the answer was lost.
async fn write(
    store: Arc<ClickHouseStore>,
    number: usize,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{number}-{step}");
        let name = stream(&format!("s{}", (number + step) % 3));
        loop {
            let entry = NewEntry::new(key.clone()).dedup_key(key.clone());
            match store.append(&name, vec![entry], ExpectedVersion::Any).await {
                Ok(_) => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        acknowledged.insert(key);
        done.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

async fn more(done: &AtomicUsize, count: usize) {
    let (from, begun) = (done.load(Ordering::Relaxed), Instant::now());
    while done.load(Ordering::Relaxed) < from + count {
        assert!(
            begun.elapsed() < Duration::from_mins(2),
            "writers do not get on"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn server_killed(mut server: ClickHouse) {
    let name = new_name();
    let store = open(&server.url(), &name).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let (store, stop, done) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(write(store, number, stop, done))
        })
        .collect();
    for round in 0..5 {
        more(&done, 10 + 7 * round).await;
        server.kill().await;
        server.restart().await;
    }
    more(&done, 10).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let mut there = Vec::new();
    for number in 0..3 {
        let entries = store.read(&stream(&format!("s{number}")), ReadOptions::all());
        let entries: Vec<_> = entries.try_collect().await.unwrap();
        there.extend(entries.into_iter().map(|entry| entry.dedup_key));
    }
    let unique: BTreeSet<String> = there.iter().cloned().collect();
    assert_eq!(unique.len(), there.len(), "nothing is doubled");
    assert_eq!(unique, acknowledged, "nothing acknowledged is lost");
    assert_log_is_content(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_acknowledged() {
    Box::pin(server_killed(ClickHouse::start().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_of_the_oldest_version_loses_nothing_acknowledged() {
    Box::pin(server_killed(ClickHouse::start_old().await)).await;
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Single appends of many clients share inserts, so that they make few parts; nothing acknowledged is lost
/// when the server is killed in the middle. `LEDGER_TEST_CLIENTS` and `LEDGER_TEST_SECONDS` make it larger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_make_few_parts() {
    let clients = setting("LEDGER_TEST_CLIENTS", 64);
    let seconds = setting("LEDGER_TEST_SECONDS", 4);
    let mut server = ClickHouse::start().await;
    let name = new_name();
    let store = open(&server.url(), &name).await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..clients)
        .map(|client| {
            let (store, stop, done) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let name = stream(&format!("client{client}"));
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = times.len().to_string();
                    let begun = Instant::now();
                    let entry = || vec![NewEntry::new("{}").dedup_key(key.clone())];
                    while let Err(error) = store.append(&name, entry(), ExpectedVersion::Any).await
                    {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    times.push(begun.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                (name, times)
            })
        })
        .collect();
    let parts = async |server: &ClickHouse| {
        let sql = format!(
            "SELECT max(n) FROM (SELECT count() AS n FROM system.parts WHERE active AND \
             startsWith(table, '{name}_') GROUP BY table)"
        );
        server.query(&sql).await.trim().parse::<u64>().unwrap()
    };
    let (begun, mut most) = (Instant::now(), 0);
    let mut kill_at = Some(Duration::from_secs(seconds) / 2);
    while begun.elapsed() < Duration::from_secs(seconds) {
        most = most.max(parts(&server).await);
        if kill_at.is_some_and(|at| begun.elapsed() >= at) {
            kill_at = None;
            server.kill().await;
            server.restart().await;
        }
        more(&done, 1).await;
    }
    assert_eq!(kill_at, None, "it was killed in the middle");
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for writer in writers {
        let (name, times) = writer.await.unwrap();
        let read = store.read(&name, ReadOptions::all()).try_collect();
        let read: Vec<ledger::Entry> = read.await.unwrap();
        let keys: Vec<_> = read.into_iter().map(|entry| entry.dedup_key).collect();
        let expected: Vec<_> = (0..times.len()).map(|n| n.to_string()).collect();
        assert_eq!(keys, expected, "each once, in order: {name}");
        all.extend(times);
    }
    all.sort_unstable();
    println!(
        "{} entries acknowledged to {clients} clients in {:.0?}, p50 {:.0?}, p99 {:.0?}, at most \
         {most} parts of a table",
        all.len(),
        begun.elapsed(),
        all[all.len() / 2],
        all[all.len() * 99 / 100],
    );
    assert!(most < 300, "{most} parts");
    store.close().await;
}

/// A process that ended between its log row and the tables leaves the log ahead; who comes next has
/// the tables follow before anything is decided or told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_left_half_written_is_completed() {
    let url = ledger_harness::shared::clickhouse_url();
    let name = new_name();
    let store = open(&url, &name).await;
    let name_of = stream("s");
    let keyed = |text: &str| vec![NewEntry::new(text.to_owned()).dedup_key(text.to_owned())];
    let appended = store
        .append(&name_of, keyed("a"), ExpectedVersion::Any)
        .await;
    let id = appended.unwrap()[0].id;
    store
        .append(&name_of, keyed("b"), ExpectedVersion::Any)
        .await
        .unwrap();
    let expected: Vec<_> = store
        .read(&name_of, ReadOptions::all())
        .try_collect()
        .await
        .unwrap();
    let head = store.log_head().await;
    store.close().await;
    drop(store);

    // As if the last insert into each table had never come.
    let config: ClickHouseConfig = url.parse().unwrap();
    let client = clickhouse::Client::default()
        .with_url(format!("http://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose());
    for sql in [
        format!("ALTER TABLE {name}_entries DELETE WHERE id > {id} SETTINGS mutations_sync = 2"),
        format!("ALTER TABLE {name}_streams DELETE WHERE version > 1 SETTINGS mutations_sync = 2"),
    ] {
        client.query_raw(&sql).execute().await.unwrap();
    }
    let store = open(&url, &name).await;
    assert_eq!(
        store.stat(&name_of).await.unwrap().count,
        1,
        "it is half written"
    );
    assert_eq!(store.log_head().await, head);
    let read: Vec<_> = store
        .read(&name_of, ReadOptions::all())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(read, expected, "a head tells what can be read");
    let again = store
        .append(&name_of, keyed("b"), ExpectedVersion::Exactly(9))
        .await
        .unwrap();
    assert!(again[0].duplicate, "{again:?}");
    let next = store
        .append(&name_of, keyed("c"), ExpectedVersion::Exactly(2))
        .await
        .unwrap();
    assert!(next[0].id > expected[1].id);
    assert_log_is_content(&store).await;
    store.close().await;
}

/// The server forgets the tokens of inserts in time. A writer that has been idle as long reads what has
/// been written before it takes a number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_writer_reads_before_it_writes() {
    let server = ClickHouse::start().await;
    let name = new_name();
    // Two processes would have a sequencer each; so have two addresses.
    let idle = open(&server.url(), &name).await;
    let busy = open(&server.url().replace("127.0.0.1", "localhost"), &name).await;
    let one = |text: &str| vec![NewEntry::new(text.to_owned())];
    let name_of = stream("s");
    idle.append(&name_of, one("first"), ExpectedVersion::Any)
        .await
        .unwrap();
    let config: ClickHouseConfig = server.url().parse().unwrap();
    let client = clickhouse::Client::default()
        .with_url(format!("http://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose());
    // What was noted of tokens is read anew with the table.
    for sql in [
        format!("ALTER TABLE {name}_log MODIFY SETTING non_replicated_deduplication_window = 2"),
        format!("DETACH TABLE {name}_log"),
        format!("ATTACH TABLE {name}_log"),
    ] {
        client.query_raw(&sql).execute().await.unwrap();
    }
    let (begun, mut count) = (Instant::now(), 1);
    while begun.elapsed() < Duration::from_secs(6) || count < 10 {
        busy.append(&name_of, one("busy"), ExpectedVersion::Exactly(count))
            .await
            .unwrap();
        count += 1;
    }
    let last = idle
        .append(&name_of, one("last"), ExpectedVersion::Any)
        .await
        .unwrap();
    let read: Vec<_> = busy
        .read(&name_of, ReadOptions::all())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(read.len() as u64, count + 1);
    assert_eq!(read.last().unwrap().id, last[0].id);
    assert_log_is_content(&busy).await;
    idle.close().await;
    busy.close().await;
}

/// A page of the log ends with a large row; who stands at it reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_row_holds_no_reader_up() {
    let store = open(&ledger_harness::shared::clickhouse_url(), &new_name()).await;
    for bytes in [1, 6 << 20, 1] {
        let entry = NewEntry::new(vec![b'x'; bytes]);
        store
            .append(&stream("s"), vec![entry], ExpectedVersion::Any)
            .await
            .unwrap();
    }
    let told = told(&store).await;
    let log = store.log().unwrap();
    for (at, change) in told.iter().enumerate().take(2) {
        let mut behind = log.changes(change.cursor.clone());
        let next = tokio::time::timeout(Duration::from_secs(30), behind.next()).await;
        let next = next.expect("the reader gets on").unwrap().unwrap();
        assert_eq!(next.cursor, told[at + 1].cursor);
    }
    store.close().await;
}

/// What is a store is not taken for a replica, nor the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_and_a_replica_are_told_apart() {
    let config: ClickHouseConfig = ledger_harness::shared::clickhouse_url().parse().unwrap();
    let name = new_name();
    let store = open(&ledger_harness::shared::clickhouse_url(), &name).await;
    assert!(!store.is_replica());
    let error = ClickHouseSink::open(&config, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains(name.as_str()), "{error}");
    store.close().await;

    let name = new_name();
    ClickHouseSink::open(&config, &name).await.unwrap();
    let replica = open(&ledger_harness::shared::clickhouse_url(), &name).await;
    assert!(replica.is_replica());
    let name = stream("s");
    let refused = replica.append(&name, vec![NewEntry::new("x")], ExpectedVersion::Any);
    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::ReadOnly);
    replica.close().await;
}

/// A replica that an earlier version made opens: its tables have no indexes, and get them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_indexes_gets_them() {
    let config: ClickHouseConfig = ledger_harness::shared::clickhouse_url().parse().unwrap();
    let name = new_name();
    ClickHouseSink::open(&config, &name).await.unwrap();
    let client = clickhouse::Client::default()
        .with_url(format!("http://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose());
    for (table, index) in [
        ("entries", "by_payload"),
        ("entries", "by_dedup_key"),
        ("streams", "by_name"),
    ] {
        let sql = format!("ALTER TABLE {name}_{table} DROP INDEX {index}");
        client.query_raw(&sql).execute().await.unwrap();
    }
    ClickHouseSink::open(&config, &name).await.unwrap();
    let sql = "SELECT count() FROM system.data_skipping_indices WHERE startsWith(table, ?)";
    let count: u64 = client
        .query(sql)
        .bind(format!("{name}_"))
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(count, 3);
}

/// The head of the log, as a text that can be compared.
trait LogHead {
    async fn log_head(&self) -> String;
}

impl LogHead for Arc<ClickHouseStore> {
    async fn log_head(&self) -> String {
        self.log().unwrap().head().await.unwrap().to_string()
    }
}
