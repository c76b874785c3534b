//! Connections that are cut in mid-stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger::bridge::BridgeOptions;
use ledger::pipeline::BatchOptions;
use sqlx::Connection as _;

use crate::replication::content::{assert_equal, everything, fill};
use crate::replication::pair::{Kind, Pair};
use crate::replication::run::{Running, until};

/// Ends every backend of a database that works for a store or a replica, again and again; tells how
/// many it has ended.
async fn cut(url: String, stop: Arc<AtomicBool>) -> u64 {
    let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut ended = 0;
    while !stop.load(Ordering::Relaxed) {
        let killed: i64 = sqlx::query_scalar(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'ledger'",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        ended += u64::try_from(killed).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    ended
}

async fn cut_loses_nothing(from: Kind, to: Kind) {
    let pair = Pair::open(from, to).await;
    everything(&pair.source).await;
    fill(&pair.source, 10, 100).await;
    let options = BridgeOptions {
        batch: BatchOptions {
            max_items: 25,
            ..pair.options().batch
        },
        ..pair.options()
    };
    let stop = Arc::new(AtomicBool::new(false));
    let urls = [&pair.from, &pair.to];
    let cutters: Vec<_> = urls
        .into_iter()
        .filter(|place| place.kind == Kind::Postgres)
        .map(|place| tokio::spawn(cut(place.url.clone(), Arc::clone(&stop))))
        .collect();
    let running = Running::start(pair.bridge(options));
    let sink = pair.sink.sink();
    let done = || async {
        // These look through connections that are cut as well.
        let stored = sink.cursors().unwrap().stored(&pair.pipeline).await;
        let head = pair.source.log().unwrap().head().await;
        match (stored, head) {
            (Ok(Some(stored)), Ok(head)) => {
                ledger::Progress::from_cursor(&stored).unwrap() == ledger::Progress::Follow(head)
            }
            (Err(error), _) | (_, Err(error)) => {
                assert!(error.is_retryable(), "{}", error.chain());
                false
            }
            _ => false,
        }
    };
    until("the copy has been carried", &done).await;
    // Now the log, with its reader cut.
    for round in 0..5 {
        let appended = append_until_taken(&pair, round).await;
        assert!(appended);
        until("the log has been carried", &done).await;
    }
    stop.store(true, Ordering::Relaxed);
    for cutter in cutters {
        assert!(cutter.await.unwrap() > 5, "nothing was cut");
    }
    until("it goes on", &done).await;
    running.stopped().await;
    assert_equal(&pair).await;
    pair.close().await;
}

/// Appends are cut as well; they are made again, and a dedup key makes each of them count once.
async fn append_until_taken(pair: &Pair, round: usize) -> bool {
    use ledger::{ExpectedVersion, NewEntry, StreamName};

    let stream = StreamName::new("cut").unwrap();
    for _ in 0..100 {
        let entries = (0..20)
            .map(|n| NewEntry::new(format!("{{\"n\": {n}}}")).dedup_key(format!("{round}-{n}")))
            .collect();
        match pair
            .source
            .append(&stream, entries, ExpectedVersion::Any)
            .await
        {
            Ok(_) => return true,
            Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_source_whose_connections_are_cut_loses_nothing() {
    cut_loses_nothing(Kind::Postgres, Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_sink_whose_connections_are_cut_doubles_nothing() {
    cut_loses_nothing(Kind::Sqlite, Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_on_both_sides_lose_and_double_nothing() {
    cut_loses_nothing(Kind::Postgres, Kind::Postgres).await;
}
