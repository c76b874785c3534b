//! Loops are refused, from whichever side they are built: a store that takes appends of its own is
//! nobody's replica, a replica that is no relay has no log from which it could be carried on, and a
//! relay knows where its changes come from.

use std::sync::Arc;

use ledger::bridge::{Bridge, BridgeOptions};
use ledger::connect::DatabaseUrl;
use ledger::{ErrorKind, PipelineId, Relay, ReplicaOptions, Store, StoreName};

use super::content::{add, everything};
use super::pair::{Kind, Pair, Place};
use super::run::Running;

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

async fn identity(store: &Arc<dyn Store>) -> String {
    let identity = store.log().unwrap().identity().await.unwrap();
    identity.store.to_string()
}

/// The error of opening a place as the replica of `source`.
async fn opened(place: &Place, source: &Arc<dyn Store>, name: &StoreName) -> ledger::Error {
    let url = DatabaseUrl::parse(&place.url).unwrap();
    let options = ReplicaOptions::default();
    let sink = Box::pin(url.open_sink_of(source.as_ref(), name, options));
    sink.await.unwrap_err()
}

async fn through_a_relay_is_named(middle: Kind) {
    let mut pair = Pair::open(Kind::Sqlite, middle).await;
    pair.sink = pair.to.relay(&pair.name, Relay::On).await.unwrap();
    add(&pair.source, "a", "one").await;
    pair.once().await.unwrap();
    let relay = pair.replica().await.store();
    let (first, second) = (identity(&pair.source).await, identity(&relay).await);
    // A → A, and A → B → A.
    let error = opened(&pair.from, &pair.source, &pair.name).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(
        error.to_string().contains(&format!("{first} -> {first}")),
        "{error}"
    );
    let error = opened(&pair.from, &relay, &pair.name).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let around = format!("{first} -> {second} -> {first}");
    assert!(error.to_string().contains(&around), "{error}");
    relay.close().await;
    pair.close().await;
}

/// Relays that nobody feeds: the last bridge of the ring is refused.
async fn rings_are_refused(kinds: [Kind; 3]) {
    let folder = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
    let name = &folder.name;
    let (mut places, mut sinks, mut stores) = (Vec::new(), Vec::new(), Vec::new());
    for (number, kind) in kinds.into_iter().enumerate() {
        let place = folder.another(kind, &format!("ring{number}")).await;
        sinks.push(place.relay(name, Relay::On).await.unwrap());
        let opened = super::pair::open(&place, name, ledger::Retention::default()).await;
        stores.push(opened.store());
        places.push(place);
    }
    let run = async |from: usize, to: usize| {
        let options = BridgeOptions {
            once: true,
            ..BridgeOptions::new(PipelineId::new(format!("to{to}")).unwrap())
        };
        let source = Arc::clone(&stores[from]);
        let bridge = Bridge::new(source, sinks[to].sink(), options).unwrap();
        Running::start(bridge).ended().await
    };
    run(0, 1).await.unwrap();
    run(1, 2).await.unwrap();
    for to in 0..3 {
        let error = run(2, to).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        if to == 1 {
            // It is bound to another source; either reason is right.
            continue;
        }
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let (own, from) = (identity(&stores[to]).await, identity(&stores[2]).await);
        let text = error.to_string();
        assert!(text.contains(&format!("{from} -> {own}")), "{text}");
    }
    for store in stores {
        store.close().await;
    }
    folder.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_a_relay_in_sqlite_is_named() {
    through_a_relay_is_named(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_a_relay_in_postgres_is_named() {
    through_a_relay_is_named(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_a_relay_in_mongodb_is_named() {
    through_a_relay_is_named(Kind::Mongo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_relays_is_refused() {
    rings_are_refused([Kind::Sqlite, Kind::Sqlite, Kind::Sqlite]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_relays_of_several_kinds_is_refused() {
    rings_are_refused([Kind::Postgres, Kind::Mongo, Kind::Sqlite]).await;
}
