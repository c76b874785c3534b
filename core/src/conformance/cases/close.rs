//! Closing.

use std::fmt::Debug;
use std::time::Duration;

use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, numbered, read_all, texts};
use crate::conformance::follower::Follower;
use crate::{EntryId, ErrorKind, ExpectedVersion, Pairs, PipelineId, Query, ReadOptions, Result};

fn assert_closed<T: Debug>(what: &str, done: Result<T>) {
    match done {
        Ok(answer) => panic!("{what} of a closed store answered {answer:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{what}: {error}"),
    }
}

/// Every call after closing says so; closing again is fine.
pub async fn a_closed_store_says_so(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let id = append_ids(&store, &stream, numbered(2)).await[0];
    store.close().await;
    store.close().await;
    let all = ReadOptions::all();
    assert_closed(
        "append",
        store
            .append(&stream, numbered(1), ExpectedVersion::Any)
            .await,
    );
    assert_closed("page", store.page(&stream, &all).await);
    assert_closed("stat", store.stat(&stream).await);
    assert_closed("trim", store.trim(&stream, id).await);
    assert_closed("streams", store.streams(None, 1).await);
    if case.has(crate::conformance::Ability::Rename) {
        assert_closed("rename", store.rename(&stream, &name("t")).await);
    }
    if let Some(labels) = case.labels(&store) {
        assert_closed("set_tags", labels.set_tags(&stream, id, Vec::new()).await);
        let set = Pairs::from([("k".into(), "v".into())]);
        let done = labels.set_annotations(&stream, id, set, Vec::new()).await;
        assert_closed("set_annotations", done);
    }
    if let Some(search) = case.search(&store) {
        let query = Query::Substring("0".into());
        assert_closed("search", search.search(None, &query, &all).await);
    }
    assert_eq!(
        store.name(),
        case.store_name(),
        "the name is no call to the backend"
    );
}

/// The log of a closed store, and all that belongs to it, says so too.
pub async fn a_closed_log_says_so(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let id = append_ids(&store, &name("s"), numbered(2)).await[0];
    let start = log.start();
    let pipeline = PipelineId::new("p").unwrap();
    log.consumers().register(&pipeline, &start).await.unwrap();
    store.close().await;
    assert_closed("identity", log.identity().await);
    assert_closed("head", log.head().await);
    assert_closed("lag", log.lag(&start).await);
    assert_closed("size", log.size().await);
    assert_eq!(
        Follower::new(log, &start).refused().await.kind(),
        ErrorKind::Closed
    );
    let snapshot = Follower::from_stream(log.snapshot(None));
    assert_eq!(snapshot.refused().await.kind(), ErrorKind::Closed);
    let contents = log.contents();
    let key = crate::EntryKey {
        stream: crate::StreamKey(1),
        id,
    };
    assert_closed("entries", contents.entries(None, None, 1).await);
    assert_closed("entries_at", contents.entries_at(&[key]).await);
    assert_closed("streams", contents.streams(None, 1).await);
    assert_closed("streams_at", contents.streams_at(&[key.stream]).await);
    let consumers = log.consumers();
    let ttl = Duration::from_secs(1);
    assert_closed("register", consumers.register(&pipeline, &start).await);
    assert_closed("confirm", consumers.confirm(&pipeline, &start).await);
    assert_closed("reset", consumers.reset(&pipeline, &start).await);
    assert_closed("unregister", consumers.unregister(&pipeline).await);
    assert_closed("list", consumers.list().await);
    assert_closed("lease", consumers.lease(&pipeline, "me", ttl).await);
    assert_closed("set_paused", consumers.set_paused(&pipeline, true).await);
    let dead = log.dead_letters();
    assert_closed("list letters", dead.list(&pipeline, None, 1).await);
    assert_closed("parked_keys", dead.parked_keys(&pipeline).await);
    assert_closed("count letters", dead.count(&pipeline).await);
    assert_closed("remove letters", dead.remove(&pipeline, &[start]).await);
}

/// Readers that are waiting when the store closes come to an end.
pub async fn waiting_readers_end(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    append_ids(&store, &name("s"), numbered(2)).await;
    let mut waiting = Follower::new(log, &log.start());
    waiting.take(2).await;
    let unread = Follower::new(log, &log.start());
    let waiting = tokio::spawn(waiting.ended());
    tokio::task::yield_now().await;
    store.close().await;
    waiting.await.unwrap();
    unread.ended().await;
}

/// Closing one handle leaves another open.
pub async fn another_handle_stays_open(case: &Case) {
    let (first, second) = (case.open().await, case.open().await);
    append_ids(&first, &name("s"), numbered(1)).await;
    first.close().await;
    append_ids(&second, &name("s"), numbered(1)).await;
    assert_eq!(texts(&read_all(&second, &name("s")).await), ["0", "0"]);
}

/// A store that is opened again holds what it held.
pub async fn a_reopened_store_holds_what_it_held(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let ids = append_ids(&store, &stream, numbered(4)).await;
    store.trim(&stream, ids[0]).await.unwrap();
    let (read, stat) = (
        read_all(&store, &stream).await,
        store.stat(&stream).await.unwrap(),
    );
    store.close().await;
    let store = case.open().await;
    assert_eq!(read_all(&store, &stream).await, read);
    assert_eq!(store.stat(&stream).await.unwrap(), stat);
    let later = append_ids(&store, &stream, numbered(1)).await;
    assert!(later[0] > ids[3]);
    assert_eq!(store.trim(&stream, EntryId(u64::MAX)).await.unwrap(), 4);
}
