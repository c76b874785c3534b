//! Appends in transactions of the caller's own: rolled back, and committed late.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::conformance::case::{append_ids, entry, name, numbered, read_all, texts};
use crate::conformance::follower::{Follower, mark, rest};
use crate::conformance::model::{Model, Order};
use crate::conformance::{Case, Ending};
use crate::{ErrorKind, ExpectedVersion, Mutation, Store};

/// How long to give a call that may have to wait for an open transaction, and need not.
const MAY_WAIT: Duration = Duration::from_millis(300);

/// What is rolled back was never there: not for reads, dedup, versions, names or the log.
pub async fn a_rollback_leaves_nothing(case: &Case) {
    let store = case.open().await;
    let (stream, absent) = (name("s"), name("absent"));
    append_ids(&store, &stream, vec![entry("kept").dedup_key("a")]).await;
    for stream in [&stream, &absent] {
        let batch = vec![entry("x").dedup_key("k"), entry("y")];
        let Some(open) = case.begin(&store, stream, batch).await else {
            return;
        };
        assert_eq!(open.end(Ending::RollBack).await.len(), 2);
    }
    assert_eq!(texts(&read_all(&store, &stream).await), ["kept"]);
    assert_eq!(store.stat(&stream).await.unwrap().version, 1);
    assert_eq!(
        store.streams(None, 10).await.unwrap(),
        std::slice::from_ref(&stream)
    );
    let later = append_ids(&store, &stream, vec![entry("later").dedup_key("k")]).await;
    let read = read_all(&store, &stream).await;
    assert_eq!(texts(&read), ["kept", "later"]);
    assert_eq!(read[1].id, later[0]);
    append_ids(&store, &absent, vec![entry("first")]).await;
    let Some(log) = case.log(&store) else { return };
    let changes = rest(&store, &log.start()).await;
    assert_eq!(changes.len(), 3, "{changes:?}");
    Order::check(&changes);
}

/// What is committed is there as if it had been appended without a transaction.
pub async fn a_commit_is_an_append(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    append_ids(&store, &stream, vec![entry("a").dedup_key("k")]).await;
    let batch = vec![entry("x").dedup_key("k"), entry("b"), entry("c")];
    let Some(open) = case.begin(&store, &stream, batch).await else {
        return;
    };
    assert_eq!(
        texts(&read_all(&store, &stream).await),
        ["a"],
        "not visible before the commit"
    );
    let appended = open.end(Ending::Commit).await;
    let duplicates: Vec<_> = appended.iter().map(|appended| appended.duplicate).collect();
    assert_eq!(duplicates, [true, false, false]);
    let read = read_all(&store, &stream).await;
    assert_eq!(texts(&read), ["a", "b", "c"]);
    assert_eq!(
        appended
            .iter()
            .map(|appended| appended.id)
            .collect::<Vec<_>>(),
        [read[0].id, read[1].id, read[2].id]
    );
    assert_eq!(store.stat(&stream).await.unwrap().version, 3);
    let Some(log) = case.log(&store) else { return };
    let changes = rest(&store, &log.start()).await;
    Order::check(&changes);
    assert_eq!(changes.len(), 3);
}

/// An error within the transaction is the append's own.
pub async fn a_refused_append_fails_its_transaction(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let ending = Box::pin(async { Ending::Commit });
    let bad = vec![entry("fine"), entry("x").tag("\0")];
    let Some(done) = case.transact(&store, &stream, bad, ending).await else {
        return;
    };
    assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(read_all(&store, &stream).await.is_empty());
}

/// A transaction that drew its place in the log early and commits late is not skipped, whatever
/// was committed in between.
pub async fn a_late_commit_is_not_skipped(case: &Case) {
    let store = case.open().await;
    append_ids(&store, &name("b"), vec![entry("before")]).await;
    let Some(open) = case.begin(&store, &name("a"), vec![entry("late")]).await else {
        return;
    };
    let other = tokio::spawn({
        let store = store.clone();
        async move { append_ids(&store, &name("b"), numbered(3)).await }
    });
    // Where the transaction holds up all writers, the other one is done only after it.
    let mut other = Box::pin(other);
    let early = timeout(MAY_WAIT, &mut other).await;
    let Some(log) = case.log(&store) else {
        open.end(Ending::Commit).await;
        return;
    };
    let mut follower = Follower::new(log, &log.start());
    let mut seen = follower.take(1).await;
    let waiting = tokio::spawn(async move {
        let next = follower.next().await;
        (follower, next)
    });
    tokio::task::yield_now().await;
    open.end(Ending::Commit).await;
    if early.is_err() {
        other.await.unwrap();
    }
    let mark = mark(&store).await;
    let (mut follower, next) = waiting.await.unwrap();
    seen.push(next);
    seen.extend(follower.until(&mark).await);
    Order::check(&seen);
    assert_eq!(seen.len(), 5, "nothing is skipped: {seen:?}");
    assert_eq!(
        rest(&store, &log.start()).await,
        seen,
        "a later reader is told the same order"
    );
}

/// A transaction that is rolled back late holds up readers no longer than it lasts.
pub async fn a_late_rollback_frees_the_readers(case: &Case) {
    let store = case.open().await;
    let Some(open) = case.begin(&store, &name("a"), vec![entry("never")]).await else {
        return;
    };
    let other = tokio::spawn({
        let store = store.clone();
        async move { append_ids(&store, &name("b"), numbered(3)).await }
    });
    let mut other = Box::pin(other);
    let early = timeout(MAY_WAIT, &mut other).await;
    open.end(Ending::RollBack).await;
    if early.is_err() {
        other.await.unwrap();
    }
    let Some(log) = case.log(&store) else { return };
    let changes = rest(&store, &log.start()).await;
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| change.stream.name == name("b")));
}

/// Two appends to one stream take effect one after the other: the later one in the log has the
/// higher ids and versions, also when the first commits late.
pub async fn one_streams_appends_do_not_overtake(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    append_ids(&store, &stream, vec![entry("0")]).await;
    for (round, ending) in [Ending::Commit, Ending::RollBack, Ending::Commit]
        .into_iter()
        .enumerate()
    {
        let late = vec![entry(&format!("late {round}"))];
        let Some(open) = case.begin(&store, &stream, late).await else {
            return;
        };
        let other = tokio::spawn({
            let (store, stream) = (store.clone(), stream.clone());
            async move { append_ids(&store, &stream, vec![entry("other")]).await }
        });
        let trim = tokio::spawn({
            let (store, stream) = (store.clone(), stream.clone());
            async move { store.trim(&stream, crate::EntryId(u64::MAX)).await.unwrap() }
        });
        tokio::task::yield_now().await;
        open.end(ending).await;
        other.await.unwrap();
        trim.await.unwrap();
    }
    let Some(log) = case.log(&store) else { return };
    let changes = rest(&store, &log.start()).await;
    Order::check(&changes);
    crate::conformance::content::assert_holds(&store, Model::of(&changes)).await;
}

/// A head taken while a transaction is open has no gap below it: what is read up to it does not
/// change any more.
pub async fn a_head_has_no_gap_below_it(case: &Case) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        return;
    }
    append_ids(&store, &name("b"), numbered(2)).await;
    let Some(open) = case.begin(&store, &name("a"), vec![entry("late")]).await else {
        return;
    };
    let other = tokio::spawn({
        let store = store.clone();
        async move { append_ids(&store, &name("b"), numbered(1)).await }
    });
    let mut other = Box::pin(other);
    let early = timeout(MAY_WAIT, &mut other).await;
    let head = tokio::spawn({
        let store = store.clone();
        async move { store.log().unwrap().head().await.unwrap() }
    });
    // The head may wait for the transaction; where it does not, it must be below it.
    let mut head = Box::pin(head);
    let at_once = timeout(MAY_WAIT, &mut head).await;
    open.end(Ending::Commit).await;
    if early.is_err() {
        other.await.unwrap();
    }
    let waited = at_once.is_err();
    let head = match at_once {
        Ok(head) => head.unwrap(),
        Err(_) => head.await.unwrap(),
    };
    let log = store.log().unwrap();
    let all = rest(&store, &log.start()).await;
    assert_eq!(all.len(), 4);
    let after = rest(&store, &head).await;
    let below: Vec<_> = all.iter().filter(|change| change.cursor <= head).collect();
    assert_eq!(below.len() + after.len(), all.len());
    let late = |change: &&crate::Change| matches!(&change.mutation, Mutation::Append { entry, .. } if &entry.payload[..] == b"late");
    if !waited {
        assert!(!below.iter().any(&late), "the head was above what was open");
        assert!(after.iter().any(|change| late(&change)));
    }
    assert!(
        below.len() >= 2,
        "what was committed before the head is below it"
    );
}

/// A writer that expects a version waits for an open transaction, and is then told the truth.
pub async fn an_expected_version_sees_the_open_transaction(case: &Case) {
    if !case.has(crate::conformance::Ability::ExpectedVersion) {
        // Covered by the cases of expected versions, which check that it is refused.
        let store = case.open().await;
        let refused = store
            .append(&name("s"), numbered(1), ExpectedVersion::None)
            .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        return;
    }
    for (ending, accepted) in [(Ending::Commit, false), (Ending::RollBack, true)] {
        let store = case.open().await;
        let stream = name(&format!("{ending:?}"));
        append_ids(&store, &stream, numbered(1)).await;
        let Some(open) = case.begin(&store, &stream, numbered(1)).await else {
            return;
        };
        let other: tokio::task::JoinHandle<_> = tokio::spawn({
            let (store, stream): (Arc<dyn Store>, _) = (store.clone(), stream.clone());
            async move {
                store
                    .append(&stream, numbered(1), ExpectedVersion::Exactly(1))
                    .await
            }
        });
        tokio::task::yield_now().await;
        open.end(ending).await;
        let done = other.await.unwrap();
        let version = store.stat(&stream).await.unwrap().version;
        assert_eq!(done.is_ok(), accepted, "after {ending:?}: {done:?}");
        assert_eq!(version, 2);
    }
}
