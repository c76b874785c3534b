//! Resuming from cursors: good ones, old ones, and ones that are none.

use std::sync::Arc;

use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, numbered};
use crate::conformance::cases::changes::every_mutation;
use crate::conformance::follower::{Follower, rest};
use crate::conformance::random::Random;
use crate::{Cursor, ErrorKind, PipelineId, Progress, Store};

/// From any cursor exactly the rest comes, also from one in the middle of a batch.
pub async fn any_cursor_resumes_exactly(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    every_mutation(case, &store).await;
    append_ids(&store, &name("batch"), numbered(10)).await;
    let all = rest(&store, &log.start()).await;
    for (at, change) in all.iter().enumerate() {
        let behind = rest(&store, &change.cursor).await;
        assert_eq!(behind, all[at + 1..], "behind change {at}, {change:?}");
    }
}

/// A cursor goes on working when the store was closed and opened again.
pub async fn cursors_outlive_the_handle(case: &Case) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        return;
    }
    append_ids(&store, &name("s"), numbered(6)).await;
    let changes = rest(&store, &store.log().unwrap().start()).await;
    store.close().await;
    let store = case.open().await;
    assert_eq!(rest(&store, &changes[2].cursor).await, changes[3..]);
}

async fn refused(store: &Arc<dyn Store>, cursor: &Cursor) -> ErrorKind {
    Follower::new(store.log().unwrap(), cursor)
        .refused()
        .await
        .kind()
}

/// A cursor past the end is of another history, as after a restored backup.
pub async fn a_cursor_past_the_end_has_diverged(case: &Case) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        return;
    }
    let other = case.open_other().await;
    append_ids(&store, &name("s"), numbered(2)).await;
    for _ in 0..20 {
        append_ids(&other, &name("s"), numbered(1)).await;
    }
    let ahead = rest(&other, &other.log().unwrap().start())
        .await
        .pop()
        .unwrap()
        .cursor;
    assert_eq!(refused(&store, &ahead).await, ErrorKind::SourceDiverged);
}

/// A cursor of another store is refused although the log is longer than its position.
pub async fn a_cursor_of_another_store_has_diverged(case: &Case) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        return;
    }
    let other = case.open_other().await;
    for store in [&store, &other] {
        for _ in 0..10 {
            append_ids(store, &name("s"), numbered(1)).await;
        }
    }
    let foreign = rest(&other, &other.log().unwrap().start()).await[5]
        .cursor
        .clone();
    assert_eq!(refused(&store, &foreign).await, ErrorKind::SourceDiverged);
}

/// Cursors that no log ever gave are refused, and nothing panics.
pub async fn garbage_is_refused(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    append_ids(&store, &name("s"), numbered(3)).await;
    let real = rest(&store, &log.start()).await.pop().unwrap().cursor;
    let position = &real.as_bytes()[1..];
    let mut garbage: Vec<_> = [0, b'!', u8::MAX, real.tag().wrapping_add(1)]
        .into_iter()
        .filter(|tag| *tag != real.tag())
        .map(|tag| Cursor::new(tag, position))
        .collect();
    garbage.push(Cursor::new(real.tag(), &[]));
    garbage.push(Cursor::new(real.tag(), &[&[0xff], position].concat()));
    garbage.push(Cursor::new(real.tag(), &vec![0xff; position.len()]));
    garbage.push(Cursor::new(real.tag(), &position[..position.len() - 1]));
    garbage.push(Cursor::new(real.tag(), &[position, b"more"].concat()));
    garbage.push(Cursor::new(real.tag(), &[0x7f; 511]));
    garbage.push(Progress::Follow(real.clone()).to_cursor());
    garbage.push(
        Progress::Snapshot {
            start: real.clone(),
            key: Vec::new().into(),
        }
        .to_cursor(),
    );
    let mut random = Random::new();
    for _ in 0..20 {
        let bytes: Vec<u8> = position
            .iter()
            .map(|_| random.next().to_le_bytes()[0] | 1)
            .collect();
        garbage.push(Cursor::new(real.tag(), &bytes));
    }
    for cursor in garbage {
        let kind = refused(&store, &cursor).await;
        assert!(
            matches!(kind, ErrorKind::InvalidInput | ErrorKind::SourceDiverged),
            "cursor {cursor} was answered by {kind:?}"
        );
        // These may answer anything, as long as they answer.
        let _ = log.lag(&cursor).await;
        Follower::from_stream(log.snapshot(Some(cursor)))
            .ended()
            .await;
    }
}

/// What has been pruned is expired for who comes from before it, and nobody else.
pub async fn a_pruned_position_has_expired(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    for _ in 0..10 {
        append_ids(&store, &name("s"), numbered(2)).await;
    }
    let changes = Follower::new(log, &log.start()).take(20).await;
    if !case.prune(&store).await {
        return;
    }
    assert_eq!(
        refused(&store, &log.start()).await,
        ErrorKind::CursorExpired
    );
    assert_eq!(
        refused(&store, &changes[9].cursor).await,
        ErrorKind::CursorExpired
    );
    let last = &changes[19].cursor;
    assert!(
        rest(&store, last).await.is_empty(),
        "at the end nothing is missed"
    );
    let head = log.head().await.unwrap();
    append_ids(&store, &name("s"), numbered(3)).await;
    assert_eq!(rest(&store, last).await.len(), 3);
    assert_eq!(
        rest(&store, &head).await.len(),
        3,
        "a head taken after pruning is a position"
    );
}

/// The head of a log that has been pruned empty is a position to follow from.
pub async fn an_emptied_log_goes_on(case: &Case) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        return;
    }
    append_ids(&store, &name("s"), numbered(4)).await;
    if !case.prune(&store).await {
        return;
    }
    store.close().await;
    let store = case.open().await;
    let log = store.log().unwrap();
    let head = log.head().await.unwrap();
    assert_eq!(log.lag(&head).await.unwrap().entries, 0);
    append_ids(&store, &name("s"), numbered(2)).await;
    let changes = rest(&store, &head).await;
    assert_eq!(changes.len(), 2);
    assert!(changes.iter().all(|change| change.cursor > head));
}

/// What a registered consumer has not confirmed is kept, also from the middle of a batch.
pub async fn what_a_consumer_needs_is_kept(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    append_ids(&store, &name("s"), numbered(4)).await;
    append_ids(&store, &name("s"), numbered(6)).await;
    append_ids(&store, &name("s"), numbered(4)).await;
    let changes = Follower::new(log, &log.start()).take(14).await;
    let (slow, fast) = (
        PipelineId::new("slow").unwrap(),
        PipelineId::new("fast").unwrap(),
    );
    log.consumers().register(&slow, &log.start()).await.unwrap();
    log.consumers()
        .register(&fast, &changes[13].cursor)
        .await
        .unwrap();
    // The seventh change is in the middle of the second batch.
    log.consumers()
        .confirm(&slow, &changes[6].cursor)
        .await
        .unwrap();
    if !case.prune(&store).await {
        return;
    }
    assert_eq!(rest(&store, &changes[6].cursor).await, changes[7..]);
    assert_eq!(
        refused(&store, &log.start()).await,
        ErrorKind::CursorExpired
    );
    log.consumers().unregister(&slow).await.unwrap();
    assert!(case.prune(&store).await);
    assert_eq!(
        refused(&store, &changes[6].cursor).await,
        ErrorKind::CursorExpired
    );
    assert!(rest(&store, &changes[13].cursor).await.is_empty());
}
