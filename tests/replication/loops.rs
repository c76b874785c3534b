//! Loops are refused, from whichever side they are built: a store that takes appends of its own is
//! nobody's replica, and a replica has no log from which it could be carried on.

use ledger::ErrorKind;
use ledger::bridge::{Bridge, BridgeOptions};
use ledger::connect::DatabaseUrl;

use super::content::{add, everything};
use super::pair::{Kind, Pair};

async fn refused(from: Kind, to: Kind) {
    let pair = Pair::open(from, to).await;
    everything(&pair.source).await;
    add(&pair.source, "a", "one").await;
    pair.once().await.unwrap();

    // A → B → A: its end is a store.
    let source = DatabaseUrl::parse(&pair.from.url).unwrap();
    let error = Box::pin(source.open_sink(&pair.name)).await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::InvalidInput | ErrorKind::AlreadyExists
        ),
        "{error}"
    );
    assert!(!error.is_retryable());

    // And its middle has nothing to be carried on from.
    let replica = pair.replica().await.store();
    let next = pair
        .another(Kind::Sqlite, "next")
        .await
        .sink(&pair.name)
        .await;
    let options = BridgeOptions::new(pair.pipeline.clone());
    let error = Bridge::new(replica.clone(), next.sink(), options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    replica.close().await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_sqlite_is_refused() {
    refused(Kind::ClickHouse, Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_postgres_is_refused() {
    refused(Kind::Sqlite, Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_clickhouse_is_refused() {
    refused(Kind::Postgres, Kind::ClickHouse).await;
}
