//! Replicas are stores: read-only, until they are promoted.

use std::sync::Arc;

use futures::StreamExt as _;
use ledger::bridge::BridgeOptions;
use ledger::{ErrorKind, ExpectedVersion, NewEntry, Store};

use crate::replication::content::{add, append, assert_equal, everything, stream, tag};
use crate::replication::pair::{Kind, Pair};
use crate::replication::run::Running;

pub(crate) async fn a_replica_is_read_only_until_it_is_promoted(pair: Pair) {
    everything(&pair.source).await;
    let id = add(&pair.source, "a", "one").await;
    pair.once().await.unwrap();
    let opened = pair.replica().await;
    refuses_writes(&opened.store()).await;
    assert!(opened.store().log().is_none());
    assert_equal(&pair).await;

    opened.promote().await.unwrap();
    let store = pair.replica().await.store();
    let appended = append(&store, "a", vec![NewEntry::new("own")]).await;
    assert!(appended[0].id > id);
    tag(&store, "a", id, &["own"]).await;
    let stat = store.stat(&stream("a")).await.unwrap();
    assert_eq!((stat.count, stat.version), (2, 2));
    let exactly = ExpectedVersion::Exactly(2);
    let entry = vec![NewEntry::new("in order")];
    store.append(&stream("a"), entry, exactly).await.unwrap();

    // What it held as a replica is not in its log.
    let log = store.log().unwrap();
    let error = log.changes(log.start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");

    // The bridge writes it no more, and does not try for ever.
    add(&pair.source, "a", "too late").await;
    for once in [true, false] {
        let options = BridgeOptions {
            once,
            ..pair.options()
        };
        let error = Running::start(pair.bridge(options))
            .ended()
            .await
            .unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }
    assert_eq!(store.stat(&stream("a")).await.unwrap().count, 3);

    // It is a source of its own now.
    let next = pair.another(Kind::Sqlite, "next").await;
    let mut second = Pair {
        name: pair.name.clone(),
        from: pair.to.clone(),
        sink: next.sink(&pair.name).await,
        to: next,
        source: Arc::clone(&store),
        pipeline: pair.pipeline.clone(),
        folder: tempfile::TempDir::new().unwrap(),
    };
    second.once().await.unwrap();
    assert_equal(&second).await;
    second.source = Arc::clone(&pair.source);
    drop(second);
    store.close().await;
    pair.close().await;
}

async fn refuses_writes(store: &Arc<dyn Store>) {
    let (name, other) = (stream("a"), stream("b"));
    let id = store.stat(&name).await.unwrap().last_id.unwrap();
    let entry = vec![NewEntry::new("refused")];
    let appended = store.append(&name, entry, ExpectedVersion::Any).await;
    let mut errors = vec![
        appended.unwrap_err(),
        store.trim(&name, id).await.unwrap_err(),
        store.rename(&name, &other).await.unwrap_err(),
    ];
    if let Some(labels) = store.labels() {
        errors.push(labels.set_tags(&name, id, vec![]).await.unwrap_err());
    }
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    }
    assert_eq!(store.stat(&name).await.unwrap().count, 1);
}

/// The replica takes an entry whose key comes again, since the source's trim had freed it; once it
/// is promoted it decides on keys itself.
pub(crate) async fn a_promoted_replica_knows_what_was_appended_again_after_a_trim(pair: Pair) {
    let keyed = |text: &'static str| vec![NewEntry::new(text).dedup_key("k")];
    // Carried by the log in one batch: append, trim, append again.
    pair.once().await.unwrap();
    let first = append(&pair.source, "a", keyed("first")).await[0].id;
    pair.source.trim(&stream("a"), first).await.unwrap();
    let second = append(&pair.source, "a", keyed("second")).await[0].id;
    let tail = append(&pair.source, "b", keyed("tail")).await[0].id;
    pair.source.trim(&stream("b"), tail).await.unwrap();
    pair.once().await.unwrap();
    assert_equal(&pair).await;

    let opened = pair.replica().await;
    opened.promote().await.unwrap();
    let store = pair.replica().await.store();
    let again = append(&store, "a", keyed("third")).await[0];
    assert!(again.duplicate && again.id == second, "{again:?}");
    // The tail's id was given once, and is never given again; its key is free.
    let next = append(&store, "b", keyed("next")).await[0];
    assert!(!next.duplicate && next.id > tail, "{next:?}");
    store.trim(&stream("a"), second).await.unwrap();
    let freed = append(&store, "a", keyed("fourth")).await[0];
    assert!(!freed.duplicate && freed.id > next.id, "{freed:?}");
    store.close().await;
    pair.close().await;
}
