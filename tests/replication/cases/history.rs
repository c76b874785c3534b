//! Resync, and histories that are not the replica's.

use std::sync::Arc;
use std::time::Duration;

use ledger::bridge::{Bridge, BridgeOptions};
use ledger::pipeline::End;
use ledger::{ErrorKind, Retention, Store, StoreName};
use uuid::Uuid;

use crate::replication::content::{add, annotate, assert_equal, dump, everything, fill, stream};
use crate::replication::pair::{Pair, Place, open};
use crate::replication::run::Running;

/// As the command line does it.
async fn resync(pair: &Pair) {
    pair.sink.resync(&pair.pipeline).await.unwrap();
    let consumers = pair.source.log().unwrap().consumers();
    consumers.unregister(&pair.pipeline).await.unwrap();
}

pub(crate) async fn a_resync_copies_everything_anew(pair: Pair) {
    everything(&pair.source).await;
    pair.once().await.unwrap();
    let running = pair.start();
    let id = add(&pair.source, "a", "one").await;
    pair.caught_up().await;
    running.stopped().await;

    resync(&pair).await;
    let sink = pair.sink.sink();
    let (_, records) = dump(sink.replica().unwrap()).await;
    assert_eq!(records, []);
    assert_eq!(pair.stored().await, None);
    annotate(&pair.source, "a", id, "after the resync").await;
    let summary = pair.once().await.unwrap();
    assert!(summary.stats.to_copy > 0);
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn another_source_is_refused(mut pair: Pair) {
    fill(&pair.source, 2, 5).await;
    pair.once().await.unwrap();
    let other = StoreName::new(format!("o{}", Uuid::new_v4().simple())).unwrap();
    let other = open(&pair.from, &other, Retention::default()).await.store();
    add(&other, "a", "of another source").await;
    let sink = pair.sink.sink();
    let before = dump(sink.replica().unwrap()).await;
    for once in [true, false] {
        let options = BridgeOptions {
            once,
            ..pair.options()
        };
        let bridge = Bridge::new(Arc::clone(&other), pair.sink.sink(), options).unwrap();
        let error = Running::start(bridge).ended().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceDiverged, "{error}");
        assert!(error.to_string().contains("--resync"), "{error}");
    }
    assert_eq!(dump(sink.replica().unwrap()).await, before);
    // Its own source is as welcome as before.
    add(&pair.source, "a", "more").await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;

    // And a resync takes the other one.
    pair.sink.resync(&pair.pipeline).await.unwrap();
    let own = std::mem::replace(&mut pair.source, other);
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    own.close().await;
    pair.close().await;
}

pub(crate) async fn a_pruned_log_is_said_and_a_resync_mends_it(pair: Pair) {
    everything(&pair.source).await;
    pair.once().await.unwrap();
    fill(&pair.source, 3, 10).await;
    let id = add(&pair.source, "a", "kept in the log").await;
    let retention = Retention {
        min: Duration::ZERO,
        max: Some(Duration::ZERO),
    };
    let pruning = open(&pair.from, &pair.name, retention).await;
    assert!(pruning.prune().await.unwrap() > 0);
    pruning.store().close().await;
    annotate(&pair.source, "a", id, "later").await;

    let error = pair.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");
    let error = pair.start().ended().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");
    resync(&pair).await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}

/// Whose cursor is past the end of the log, and one whose log has gone on differently since.
pub(crate) async fn a_source_restored_from_a_backup_is_refused(mut pair: Pair) {
    fill(&pair.source, 2, 10).await;
    pair.once().await.unwrap();
    pair.source.close().await;
    let backup = pair.from.back_up().await;
    pair.source = reopen(&pair.from, &pair.name).await;
    add(&pair.source, "a", "lost with the disk").await;
    add(&pair.source, "a", "lost with the disk, too").await;
    pair.once().await.unwrap();
    pair.source.close().await;

    pair.source = reopen(&backup, &pair.name).await;
    let sink = pair.sink.sink();
    let before = dump(sink.replica().unwrap()).await;
    for appends in [0, 1, 1, 1] {
        for _ in 0..appends {
            add(&pair.source, "filled-0", "after the restore").await;
        }
        let error = pair
            .once()
            .await
            .expect_err("a shorter history passes for the replica's");
        assert_eq!(
            error.kind(),
            ErrorKind::SourceDiverged,
            "{appends}: {error}"
        );
        let error = pair.start().ended().await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::SourceDiverged,
            "{appends}: {error}"
        );
    }
    assert_eq!(dump(sink.replica().unwrap()).await, before);

    resync(&pair).await;
    assert_eq!(pair.once().await.unwrap().end, End::Finished);
    assert_equal(&pair).await;
    assert_eq!(pair.source.stat(&stream("a")).await.unwrap().count, 0);
    pair.source.close().await;
    pair.close().await;
}

async fn reopen(place: &Place, name: &StoreName) -> Arc<dyn Store> {
    open(place, name, Retention::default()).await.store()
}
