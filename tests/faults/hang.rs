//! A sink that never answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::bridge::{Bridge, BridgeOptions, State};
use ledger::pipeline::{BatchOptions, End};
use ledger::{ExpectedVersion, NewEntry, Retention, Store as _};
use sqlx::Connection as _;

use super::doubles::{Double, Fault};
use super::source::Counted;
use crate::replication::content::{add, assert_equal, everything, fill, stream};
use crate::replication::pair::{Kind, Opened, Pair, open};
use crate::replication::run::{Running, until};

const BATCH: usize = 50;
const LANES: usize = 3;

fn small(pair: &Pair) -> BridgeOptions {
    BridgeOptions {
        batch: BatchOptions {
            max_items: BATCH,
            ..pair.options().batch
        },
        lanes: LANES,
        drain: Duration::from_millis(300),
        ..pair.options()
    }
}

/// However long the backlog: what waits is two batches a lane, and one item that found no room.
async fn pulls_no_more_than_fits(hung_while_copying: bool) {
    let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
    if hung_while_copying {
        fill(&pair.source, 20, 250).await;
    } else {
        add(&pair.source, "a", "one").await;
        pair.once().await.unwrap();
        fill(&pair.source, 20, 250).await;
    }
    let source = Counted::new(Arc::clone(&pair.source));
    let sink = Double::of(pair.sink.sink(), Fault::Hang);
    let bridge = Bridge::new(Arc::new(source.clone()), sink.clone(), small(&pair)).unwrap();
    let running = Running::start(bridge);
    until("a delivery hangs", async || sink.calls() > 0).await;
    // The lease is renewed meanwhile: the bridge is not dead.
    let consumers = pair.source.log().unwrap().consumers();
    let begun = Instant::now();
    let lease = small(&pair).lease;
    until("the lease has been renewed", async || {
        begun.elapsed() > lease + lease / 2
    })
    .await;
    let me = consumers.list().await.unwrap().remove(0);
    assert!(me.holder.is_some());
    let most = (2 * LANES * BATCH + 1) as u64;
    assert!(source.pulled() <= most, "{} pulled", source.pulled());
    assert!(source.pulled() > 0);
    assert!(sink.delivered().is_empty());
    running.task.abort();
    let _ = running.task.await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_sink_bounds_what_a_copy_reads() {
    pulls_no_more_than_fits(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_sink_bounds_what_is_read_from_the_log() {
    pulls_no_more_than_fits(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_whose_sink_hangs_can_be_stopped() {
    for fault in [Fault::Hang, Fault::WriteThenHang] {
        let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
        everything(&pair.source).await;
        let sink = Double::of(pair.sink.sink(), fault);
        let running = Running::start(pair.bridge_to(sink.clone(), small(&pair)));
        until("a delivery hangs", async || sink.calls() > 0).await;
        let begun = Instant::now();
        let summary = running.stopped().await;
        assert_eq!(summary.end, End::Stopped);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        // The lease was given back, and nothing is lost or doubled.
        let consumers = pair.source.log().unwrap().consumers();
        assert_eq!(consumers.list().await.unwrap()[0].holder, None);
        pair.once().await.unwrap();
        assert_equal(&pair).await;
        pair.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_whose_sink_hangs_can_be_paused() {
    let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
    everything(&pair.source).await;
    let sink = Double::of(pair.sink.sink(), Fault::Hang);
    let running = Running::start(pair.bridge_to(sink.clone(), small(&pair)));
    until("a delivery hangs", async || sink.calls() > 0).await;
    let consumers = pair.source.log().unwrap().consumers();
    consumers.set_paused(&pair.pipeline, true).await.unwrap();
    until("the bridge pauses", async || {
        running.bridge.stats().state == State::Paused
    })
    .await;
    sink.set(Fault::None);
    consumers.set_paused(&pair.pipeline, false).await.unwrap();
    pair.caught_up().await;
    running.stopped().await;
    assert_equal(&pair).await;
    pair.close().await;
}

/// The one that hangs may even wake up afterwards: it is fenced off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_instance_goes_on_when_a_hung_one_dies() {
    let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
    everything(&pair.source).await;
    let sink = Double::of(pair.sink.sink(), Fault::WriteThenHang);
    let hung = Running::start(pair.bridge_to(sink.clone(), small(&pair)));
    until("a delivery hangs", async || sink.calls() > 0).await;
    let second = pair.start();
    until("the second instance waits", async || {
        second.bridge.stats().state == State::Waiting
    })
    .await;
    assert_eq!(second.bridge.stats().delivered, 0);
    hung.task.abort();
    let _ = hung.task.await;
    pair.caught_up().await;
    second.stopped().await;
    assert_equal(&pair).await;
    pair.close().await;
}

/// A delivery without an answer is given up in the end, and made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_hangs_is_made_again_after_its_time() {
    let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
    everything(&pair.source).await;
    let sink = Double::of(pair.sink.sink(), Fault::WriteThenHang);
    let options = BridgeOptions {
        delivery_timeout: Duration::from_millis(300),
        ..small(&pair)
    };
    let running = Running::start(pair.bridge_to(sink.clone(), options));
    until("it is tried again", async || sink.calls() > 2 * LANES).await;
    let told = running.bridge.stats().last_error.unwrap_or_default();
    assert!(told.contains("no answer"), "{told:?}");
    sink.set(Fault::None);
    pair.caught_up().await;
    running.stopped().await;
    assert_equal(&pair).await;
    pair.close().await;
}

/// The log's head waits for a transaction that is about to write below it; a stop does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_waits_for_a_late_transaction_can_be_stopped() {
    let pair = Pair::open(Kind::Postgres, Kind::Sqlite).await;
    add(&pair.source, "a", "one").await;
    let Opened::Postgres(store) = open(&pair.from, &pair.name, Retention::default()).await else {
        panic!("a PostgreSQL store");
    };
    let mut conn = sqlx::PgConnection::connect(&pair.from.url).await.unwrap();
    let mut late = conn.begin().await.unwrap();
    let entries = vec![NewEntry::new("late")];
    let mut within = store.within(&mut late);
    within
        .append(&stream("b"), entries, ExpectedVersion::Any)
        .await
        .unwrap();

    let running = Running::start(pair.bridge(small(&pair)));
    let head = pair.source.log().unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(500), head.head()).await;
    assert!(waited.is_err(), "the head does not wait");
    let summary = running.stopped().await;
    assert_eq!((summary.end, summary.stats.delivered), (End::Stopped, 0));

    late.commit().await.unwrap();
    store.close().await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}
