//! How the logs of relays become shorter, and end.

use std::time::Duration;

use ::mongodb::bson::{RawDocumentBuf, doc};
use futures::{StreamExt as _, TryStreamExt as _};
use ledger::bridge::{BridgeOptions, OnFailure};
use ledger::{ErrorKind, Mutation, NewEntry, Relay, Retention};

use super::chains::{relayed, told};
use super::content::{add, append};
use super::pair::{Kind, Pair, mongo, open};
use super::run::{Running, head};

/// Nothing is kept that nobody follows.
const NONE: Retention = Retention {
    min: Duration::ZERO,
    max: None,
};

async fn more_is_pruned_than_is_written(middle: Kind) {
    let mut first = relayed(middle).await;
    for _ in 0..600 {
        add(&first.source, "a", "old").await;
    }
    first.once().await.unwrap();
    first.sink = first.to.kept(&first.name, NONE).await;
    // The first delivery prunes, and so do those behind it while there is more.
    for _ in 0..3 {
        add(&first.source, "b", "old").await;
        first.once().await.unwrap();
    }
    let opened = open(&first.to, &first.name, NONE).await;
    let left = opened.prune().await.unwrap();
    assert!(left <= 3, "{left} rows were left");
    opened.store().close().await;
    first.close().await;
}

/// Promotes the replica and sees that its log begins with what is appended then.
async fn assert_begins_with_its_own(first: &Pair) {
    let opened = open(&first.to, &first.name, Retention::default()).await;
    opened.promote().await.unwrap();
    opened.store().close().await;
    let store = first.replica().await.store();
    let log = store.log().unwrap();
    let error = log.changes(log.start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");
    let at = head(&store).await;
    let id = add(&store, "own", "own").await;
    let told = log.changes(at).next().await.unwrap().unwrap();
    match told.mutation {
        Mutation::Append { entry, .. } => assert_eq!(entry.id, id),
        other => panic!("{other:?} was told"),
    }
    store.close().await;
}

async fn a_log_that_ended_is_none_of_a_promoted_store(middle: Kind) {
    let mut first = relayed(middle).await;
    for _ in 0..3 {
        add(&first.source, "a", "old").await;
    }
    first.once().await.unwrap();
    first.sink = first.to.relay(&first.name, Relay::Off).await.unwrap();
    assert_begins_with_its_own(&first).await;
    first.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_broke_off_in_mongodb_is_made_good() {
    let mut first = relayed(Kind::Mongo).await;
    for _ in 0..3 {
        add(&first.source, "a", "old").await;
    }
    first.once().await.unwrap();
    let database = mongo(&first.to.url).await;
    let log = database.collection(&format!("{}_log", first.name));
    let found = log.find(doc! {}).await.unwrap();
    let rows: Vec<RawDocumentBuf> = found.try_collect().await.unwrap();
    assert!(!rows.is_empty());
    first.sink = first.to.relay(&first.name, Relay::Off).await.unwrap();
    assert_eq!(log.count_documents(doc! {}).await.unwrap(), 0);
    // As if the process had ended before it removed them.
    log.insert_many(&rows).await.unwrap();
    first.sink = first.to.relay(&first.name, Relay::Off).await.unwrap();
    assert_eq!(log.count_documents(doc! {}).await.unwrap(), 0);
    log.insert_many(&rows).await.unwrap();
    assert_begins_with_its_own(&first).await;
    database.close().await;
    first.close().await;
}

/// Its document fits into MongoDB, and its row of the log, which repeats the stream's name, does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_too_large_for_mongodbs_log_is_set_aside() {
    let first = relayed(Kind::Mongo).await;
    let plain = Pair::open(Kind::Sqlite, Kind::Mongo).await;
    let name = "n".repeat(1_000);
    let large = "x".repeat((16 << 20) - 600);
    for pair in [&first, &plain] {
        add(&pair.source, "a", "before").await;
        pair.once().await.unwrap();
        append(&pair.source, &name, vec![NewEntry::new(large.clone())]).await;
        add(&pair.source, "a", "behind").await;
    }
    plain.once().await.unwrap();
    let error = first.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    let parks = BridgeOptions {
        on_failure: OnFailure::Park,
        once: true,
        ..first.options()
    };
    Running::start(first.bridge(parks)).ended().await.unwrap();
    let letters = first.source.log().unwrap().dead_letters();
    let letters = letters.list(&first.pipeline, None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let store = first.replica().await.store();
    let told = told(&store).await;
    match &told.last().unwrap().mutation {
        Mutation::Append { entry, .. } => assert_eq!(entry.payload, "behind"),
        other => panic!("{other:?} was told last"),
    }
    store.close().await;
    plain.close().await;
    first.close().await;
}

macro_rules! middles {
    ($($middle:ident: $kind:ident),* => $cases:tt) => {
        $(middles!(@one $middle, $kind, $cases);)*
    };
    (@one $middle:ident, $kind:ident, [$($case:ident),* $(,)?]) => {
        mod $middle {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    Box::pin(super::$case(super::Kind::$kind)).await;
                }
            )*
        }
    };
}

middles!(sqlite: Sqlite, postgres: Postgres, mongodb: Mongo => [
    more_is_pruned_than_is_written,
    a_log_that_ended_is_none_of_a_promoted_store,
]);
