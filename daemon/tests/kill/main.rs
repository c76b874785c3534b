//! Nothing is lost, doubled or reordered while everything is killed: the bridge, and the servers of
//! the source and of the sink.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

mod reader;
mod server;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger::connect::DatabaseUrl;
use ledger::{Change, Cursor, EntryId, Pairs, PipelineId, Sink, StoreName, StreamKey};
use tokio::process::{Child, Command};

use crate::reader::Reader;
use crate::server::{Kind, Server};
use crate::writer::{Acknowledged, Random, Writer};

const STORE: &str = "orders";
const PIPELINE: &str = "kill-test";
const WRITERS: u64 = 8;
/// How often the bridge is killed, where `LEDGER_TEST_KILLS` does not tell.
const KILLS: usize = 20;

/// The program, as it is started again and again.
struct Bridge {
    from: String,
    to: String,
    /// Holds what all of its processes have written to stderr.
    told: tempfile::NamedTempFile,
}

impl Bridge {
    fn run(&self, once: bool) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ledger"));
        command.args(["bridge", "run", "--store", STORE, "--name", PIPELINE]);
        command.args(["--from", &self.from, "--to", &self.to]);
        if once {
            command.arg("--once");
        }
        let told = std::fs::OpenOptions::new().append(true).open(&self.told);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(told.unwrap());
        command.kill_on_drop(true).spawn().unwrap()
    }

    /// The last lines that it wrote.
    fn told(&self) -> String {
        let all = std::fs::read_to_string(&self.told).unwrap();
        let lines: Vec<_> = all.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Waits until the sink's cursor has moved on from `last`.
    async fn moved(&self, sink: &dyn Sink<Change>, last: &mut Option<Cursor>) {
        let pipeline = PipelineId::new(PIPELINE).unwrap();
        let begun = Instant::now();
        loop {
            let stored = sink.cursors().unwrap().stored(&pipeline).await;
            if let Ok(Some(cursor)) = &stored
                && last.as_ref() != Some(cursor)
            {
                *last = Some(cursor.clone());
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "the bridge does not get on from {last:?}, its cursor is {stored:?}: {}",
                self.told()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_everything_is_killed() {
    Box::pin(killed(Kind::Postgres, Kind::ClickHouse)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_where_the_log_is_the_write_ahead_log() {
    Box::pin(killed(Kind::PostgresWal, Kind::ClickHouse)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_clickhouse_store_is_lost_or_doubled_while_everything_is_killed() {
    Box::pin(killed(Kind::ClickHouse, Kind::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_mongodb_store_is_lost_or_doubled_while_everything_is_killed() {
    Box::pin(killed(Kind::Mongo, Kind::ClickHouse)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_on_the_way_into_mongodb_while_everything_is_killed() {
    Box::pin(killed(Kind::Postgres, Kind::Mongo)).await;
}

async fn killed(source: Kind, sink: Kind) {
    let kills = std::env::var("LEDGER_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let (mut source_server, mut sink_server) =
        tokio::join!(Server::start(source), Server::start(sink));
    let (from, to) = (source_server.url(), sink_server.url());
    let name = StoreName::new(STORE).unwrap();
    let (store, transactions) = server::create(source, &from, &name).await;
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
            transactions: transactions.clone(),
            random: Random(0x5eed + number),
            acknowledged: Arc::clone(&acknowledged),
            recent: Vec::new(),
        };
        writers.push(tokio::spawn(writer.write(Arc::clone(&stop))));
    }

    let bridge = Bridge {
        from: from.clone(),
        to: to.clone(),
        told: tempfile::NamedTempFile::new().unwrap(),
    };
    let mut child = bridge.run(false);
    let mut last = None;
    for kill in 0..kills {
        bridge.moved(sink.as_ref(), &mut last).await;
        match kill % 6 {
            2 => source_server.kill().await,
            3 => source_server.step_down().await,
            4 => sink_server.kill().await,
            5 => sink_server.step_down().await,
            _ => {}
        }
        if kill > 1 {
            bridge.moved(sink.as_ref(), &mut last).await;
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the bridge ended by itself: {status}: {}", bridge.told());
        }
        child.kill().await.unwrap();
        child = bridge.run(false);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    child.kill().await.unwrap();

    // Caught up, and equal.
    let status = bridge.run(true).wait().await.unwrap();
    assert!(status.success(), "{status}: {}", bridge.told());
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
