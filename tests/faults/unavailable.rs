//! A sink that fails, before or after it has written, and comes back.

use std::time::Duration;

use ledger::bridge::{BridgeOptions, OnFailure, State};
use ledger::pipeline::BatchOptions;

use super::doubles::{Double, Fault};
use crate::replication::content::{Writers, assert_equal, everything, fill};
use crate::replication::pair::{Kind, Pair};
use crate::replication::run::{Running, until};

fn small(pair: &Pair, lanes: usize) -> BridgeOptions {
    BridgeOptions {
        batch: BatchOptions {
            // ClickHouse paces small inserts.
            max_items: if pair.to.is_clickhouse() { 150 } else { 40 },
            ..pair.options().batch
        },
        lanes,
        ..pair.options()
    }
}

/// The copy and the log are carried through the fault, while writers write.
async fn carried_through(from: Kind, to: Kind, fault: Fault, lanes: usize) {
    let pair = Pair::open(from, to).await;
    everything(&pair.source).await;
    fill(&pair.source, 6, 50).await;
    let sink = Double::of(pair.sink.sink(), fault);
    let running = Running::start(pair.bridge_to(sink.clone(), small(&pair, lanes)));
    let writers = Writers::start(&pair.source, 3);
    until("some deliveries", async || {
        sink.calls() > 12 && writers.made() > 30
    })
    .await;
    writers.stop().await;
    pair.caught_up().await;
    let summary = running.stopped().await;
    assert_eq!((summary.dead_letters, summary.stats.refused), (0, 0));
    assert_equal(&pair).await;
    pair.close().await;
}

macro_rules! carried_through {
    ($($name:ident: $from:ident, $to:ident, $fault:expr, $lanes:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                carried_through(Kind::$from, Kind::$to, $fault, $lanes).await;
            }
        )*
    };
}

carried_through! {
    a_sqlite_sink_that_writes_and_then_fails_doubles_nothing:
        Sqlite, Sqlite, Fault::WriteThenFail(1, 2), 1;
    a_postgres_sink_that_writes_and_then_fails_doubles_nothing:
        Postgres, Postgres, Fault::WriteThenFail(1, 2), 1;
    a_clickhouse_sink_that_writes_and_then_fails_doubles_nothing:
        Sqlite, ClickHouse, Fault::WriteThenFail(1, 2), 1;
    lanes_into_a_sink_that_writes_and_then_fails_double_nothing:
        Sqlite, Postgres, Fault::WriteThenFail(1, 5), 4;
    a_sink_that_fails_before_it_writes_loses_nothing:
        Sqlite, Sqlite, Fault::Fail(2, 3), 1;
    lanes_into_a_sink_that_fails_before_it_writes_lose_nothing:
        Postgres, Sqlite, Fault::Fail(1, 7), 4;
    a_slow_sink_gets_everything:
        Sqlite, Sqlite, Fault::Slow(Duration::from_millis(20)), 2;
}

/// However long: unavailability is waited for under every policy, and is nobody's fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_away_for_a_while_is_waited_for_and_never_poison() {
    for policy in [OnFailure::Stop, OnFailure::Park, OnFailure::Skip] {
        let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
        everything(&pair.source).await;
        let sink = Double::of(pair.sink.sink(), Fault::Unavailable);
        let options = BridgeOptions {
            on_failure: policy,
            ..small(&pair, 1)
        };
        let running = Running::start(pair.bridge_to(sink.clone(), options));
        until("many attempts", async || sink.calls() > 12).await;
        let stats = running.bridge.stats();
        assert_eq!((stats.parked, stats.refused, stats.delivered), (0, 0, 0));
        let told = stats.last_error.unwrap_or_default();
        assert!(told.contains("unavailable"), "{told:?}");
        assert!(stats.state == State::Waiting || stats.state == State::Copying);
        sink.set(Fault::None);
        pair.caught_up().await;
        let summary = running.stopped().await;
        assert_eq!((summary.dead_letters, summary.stats.refused), (0, 0));
        assert_eq!(summary.stats.last_error, None);
        assert_equal(&pair).await;
        pair.close().await;
    }
}

/// A stop in the middle of an outage ends the bridge, and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_an_outage_ends_the_bridge() {
    let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
    everything(&pair.source).await;
    let sink = Double::of(pair.sink.sink(), Fault::Unavailable);
    let running = Running::start(pair.bridge_to(sink.clone(), small(&pair, 1)));
    until("an attempt", async || sink.calls() > 2).await;
    running.stopped().await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}
