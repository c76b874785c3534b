//! What is carried.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ledger::bridge::{BridgeOptions, VerifyOptions};
use ledger::pipeline::{BatchOptions, End};
use ledger::{EntryId, MutationKind, Progress};

use crate::faults::doubles::{Double, Fault};
use crate::replication::content::{
    Writers, add, annotate, append, assert_equal, dump, everything, fill, stream, tag,
};
use crate::replication::pair::{Opened, Pair};
use crate::replication::run::Running;

/// Followed change by change, and copied at once.
pub(crate) async fn everything_a_ledger_can_do_arrives(pair: Pair) {
    let running = pair.start();
    everything(&pair.source).await;
    pair.caught_up().await;
    let summary = running.stopped().await;
    assert_eq!((summary.end, summary.dead_letters), (End::Stopped, 0));
    assert_equal(&pair).await;

    // The same again as a copy, into the same replica, and by a replay of the log.
    pair.sink.resync(&pair.pipeline).await.unwrap();
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn what_was_there_is_copied_and_followed_without_a_seam(pair: Pair) {
    everything(&pair.source).await;
    fill(&pair.source, 10, 100).await;
    let writers = Writers::start(&pair.source, 4);
    let batch = BatchOptions {
        // Many small batches, so that the copy lasts while the writers write.
        max_items: if pair.to.is_clickhouse() { 300 } else { 60 },
        ..pair.options().batch
    };
    let options = BridgeOptions {
        batch,
        ..pair.options()
    };
    let sink = Double::of(pair.sink.sink(), Fault::None);
    let running = Running::start(pair.bridge_to(sink.clone(), options));
    crate::replication::run::until("the bridge follows", async || {
        matches!(
            pair.stored().await.map(|at| Progress::from_cursor(&at)),
            Some(Ok(Progress::Follow(_)))
        ) && writers.made() > 50
    })
    .await;
    writers.stop().await;
    pair.caught_up().await;
    running.stopped().await;
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn a_copy_stopped_in_the_middle_goes_on_where_it_was(pair: Pair) {
    fill(&pair.source, 20, 50).await;
    let batch = BatchOptions {
        max_items: 100,
        ..pair.options().batch
    };
    let options = BridgeOptions {
        batch,
        ..pair.options()
    };
    let mut seen = BTreeSet::new();
    for stop_after in [2, 3] {
        // Slow enough that the copy has not ended when the stop comes.
        let sink = Double::of(pair.sink.sink(), Fault::Slow(Duration::from_millis(100)));
        let running = Running::start(pair.bridge_to(sink.clone(), options.clone()));
        crate::replication::run::until("some deliveries", async || sink.calls() >= stop_after)
            .await;
        running.stopped().await;
        let stored = Progress::from_cursor(&pair.stored().await.unwrap()).unwrap();
        assert!(matches!(stored, Progress::Snapshot { .. }), "{stored:?}");
        for (cursor, _) in sink.delivered() {
            assert!(seen.insert(cursor), "copied twice");
        }
    }
    // What changes meanwhile is part of what is followed.
    tag(&pair.source, "filled-0", EntryId(1), &["late"]).await;
    let trimmed = stream("filled-19");
    let stat = pair.source.stat(&trimmed).await.unwrap();
    pair.source
        .trim(&trimmed, stat.last_id.unwrap())
        .await
        .unwrap();

    let sink = Double::of(pair.sink.sink(), Fault::None);
    let options = BridgeOptions {
        once: true,
        ..options
    };
    let running = Running::start(pair.bridge_to(sink.clone(), options));
    assert_eq!(running.ended().await.unwrap().end, End::Finished);
    for (cursor, _) in sink.delivered() {
        assert!(seen.insert(cursor), "copied twice");
    }
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn skipped_kinds_are_not_carried(pair: Pair) {
    let skip = BTreeSet::from([
        MutationKind::SetTags,
        MutationKind::Trim,
        MutationKind::Rename,
    ]);
    add(&pair.source, "before", "copied").await;
    let options = BridgeOptions {
        skip: skip.clone(),
        ..pair.options()
    };
    let running = Running::start(pair.bridge(options));
    // The copy is behind it: what follows is carried by the log.
    pair.caught_up().await;
    let id = add(&pair.source, "a", "first").await;
    add(&pair.source, "a", "second").await;
    add(&pair.source, "b", "third").await;
    tag(&pair.source, "a", id, &["skipped"]).await;
    annotate(&pair.source, "a", id, "carried").await;
    pair.source.trim(&stream("a"), id).await.unwrap();
    pair.source
        .rename(&stream("b"), &stream("c"))
        .await
        .unwrap();
    pair.caught_up().await;
    let summary = running.stopped().await;
    assert_eq!(summary.stats.skipped, 3);

    let sink = pair.sink.sink();
    let (states, records) = dump(sink.replica().unwrap()).await;
    let names: Vec<_> = states
        .iter()
        .map(|state| state.stream.name.as_str())
        .collect();
    assert_eq!(names, ["before", "a", "b"]);
    let kept = records.iter().find(|record| record.key.id == id).unwrap();
    assert_eq!(kept.entry.tags, [""; 0]);
    assert_eq!(kept.entry.annotations["note"], "carried");
    let skipping = VerifyOptions {
        skip,
        ..pair.verify_options()
    };
    let report = pair.verify(&skipping).await;
    assert!(report.is_equal(), "{report:?}");
    let report = pair.verify(&pair.verify_options()).await;
    assert!(!report.is_equal(), "what was skipped does differ");
    pair.close().await;
}

pub(crate) async fn once_ends_at_the_log_as_it_stood(pair: Pair) {
    // Of nothing at all.
    assert_eq!(pair.once().await.unwrap().end, End::Finished);
    everything(&pair.source).await;
    roll_back(&pair).await;
    let summary = pair.once().await.unwrap();
    assert_eq!(summary.end, End::Finished);
    assert!(summary.stats.delivered > 0);
    assert_equal(&pair).await;
    let summary = pair.once().await.unwrap();
    assert_eq!((summary.end, summary.stats.delivered), (End::Finished, 0));

    append(&pair.source, "odd", vec![]).await;
    add(&pair.source, "odd", "one more").await;
    assert_eq!(pair.once().await.unwrap().stats.delivered, 1);
    assert_equal(&pair).await;
    pair.close().await;
}

/// The log's last number is drawn, and never used.
async fn roll_back(pair: &Pair) {
    use ledger::{ExpectedVersion, NewEntry, Retention};
    use sqlx::Connection as _;

    let entries = vec![NewEntry::new("rolled back")];
    let name = stream("odd");
    match crate::replication::pair::open(&pair.from, &pair.name, Retention::default()).await {
        Opened::Sqlite(store) => {
            let mut writer = store.writer().await.unwrap();
            let mut tx = writer.begin().await.unwrap();
            let mut within = store.within(&mut tx);
            within
                .append(&name, entries, ExpectedVersion::Any)
                .await
                .unwrap();
            tx.rollback().await.unwrap();
        }
        Opened::Postgres(store) => {
            let mut conn = sqlx::PgConnection::connect(&pair.from.url).await.unwrap();
            let mut tx = conn.begin().await.unwrap();
            let store = Arc::clone(&store);
            let mut within = store.within(&mut tx);
            within
                .append(&name, entries, ExpectedVersion::Any)
                .await
                .unwrap();
            tx.rollback().await.unwrap();
        }
        // Has no transactions, and draws no number that is not committed with its rows.
        Opened::ClickHouse(_) => {}
        Opened::Mongo(store) => {
            let mut session = store.database().client().start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            let mut within = store.within(&mut session);
            within
                .append(&name, entries, ExpectedVersion::Any)
                .await
                .unwrap();
            session.abort_transaction().await.unwrap();
        }
    }
}
