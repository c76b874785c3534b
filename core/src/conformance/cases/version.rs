//! Expected versions.

use std::sync::Arc;

use crate::conformance::case::{append_ids, entry, name, numbered, read_all, settled, texts};
use crate::conformance::{Ability, Case};
use crate::{Error, ErrorKind, ExpectedVersion, Store, StreamName};

/// Checks that the store refuses expected versions, where it is declared that it does.
async fn offers(case: &Case, store: &Arc<dyn Store>) -> bool {
    if case.has(Ability::ExpectedVersion) {
        return true;
    }
    let stream = name("s");
    for expected in [
        ExpectedVersion::None,
        ExpectedVersion::Exists,
        ExpectedVersion::Exactly(0),
    ] {
        let error = store
            .append(&stream, numbered(1), expected)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    assert!(read_all(store, &stream).await.is_empty());
    false
}

async fn attempt(
    store: &Arc<dyn Store>,
    stream: &StreamName,
    expected: ExpectedVersion,
) -> Result<(), Error> {
    store
        .append(stream, vec![entry("x")], expected)
        .await
        .map(drop)
}

fn assert_conflict(error: &Error, expected: ExpectedVersion, actual: u64) {
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let conflict = error
        .version_conflict()
        .expect("a conflict tells both versions");
    assert_eq!((conflict.expected, conflict.actual), (expected, actual));
    assert!(!error.is_retryable(), "the same call would fail again");
}

/// Each expectation, on an absent, a new and a trimmed stream.
pub async fn each_expectation_is_checked(case: &Case) {
    use ExpectedVersion::{Any, Exactly, Exists, None as Nothing};
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let stream = name("s");
    for refused in [Exists, Exactly(1), Exactly(u64::MAX)] {
        assert_conflict(
            &attempt(&store, &stream, refused).await.unwrap_err(),
            refused,
            0,
        );
    }
    assert!(
        store.streams(None, 10).await.unwrap().is_empty(),
        "a conflict creates no stream"
    );
    attempt(&store, &stream, Nothing).await.unwrap();
    for refused in [Nothing, Exactly(0), Exactly(2), Exactly(u64::MAX)] {
        assert_conflict(
            &attempt(&store, &stream, refused).await.unwrap_err(),
            refused,
            1,
        );
    }
    attempt(&store, &stream, Exactly(1)).await.unwrap();
    attempt(&store, &stream, Exists).await.unwrap();
    attempt(&store, &stream, Any).await.unwrap();
    let last = store.stat(&stream).await.unwrap().last_id.unwrap();
    store.trim(&stream, last).await.unwrap();
    assert_conflict(
        &attempt(&store, &stream, Nothing).await.unwrap_err(),
        Nothing,
        4,
    );
    attempt(&store, &stream, Exists).await.unwrap();
    attempt(&store, &stream, Exactly(5)).await.unwrap();
    assert_eq!(store.stat(&stream).await.unwrap().version, 6);
}

/// `Exactly(0)` and `None` create a stream.
pub async fn nothing_expected_creates_the_stream(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    attempt(&store, &name("a"), ExpectedVersion::Exactly(0))
        .await
        .unwrap();
    attempt(&store, &name("b"), ExpectedVersion::None)
        .await
        .unwrap();
    assert_eq!(
        store.streams(None, 10).await.unwrap(),
        [name("a"), name("b")]
    );
}

/// A batch counts by its entries that are no duplicates.
pub async fn the_version_counts_entries(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let stream = name("s");
    append_ids(&store, &stream, numbered(7)).await;
    let batch = ["k", "l", "k"]
        .map(|key| entry(key).dedup_key(key))
        .to_vec();
    store
        .append(&stream, batch, ExpectedVersion::Exactly(7))
        .await
        .unwrap();
    attempt(&store, &stream, ExpectedVersion::Exactly(9))
        .await
        .unwrap();
}

/// A call whose entries are all duplicates succeeds whatever was expected.
pub async fn duplicates_are_decided_first(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let stream = name("s");
    let batch = ["k", "l"].map(|key| entry(key).dedup_key(key)).to_vec();
    let ids = append_ids(&store, &stream, batch.clone()).await;
    for expected in [
        ExpectedVersion::None,
        ExpectedVersion::Exactly(0),
        ExpectedVersion::Exactly(9),
    ] {
        let again = store
            .append(&stream, batch.clone(), expected)
            .await
            .unwrap();
        assert!(again.iter().all(|appended| appended.duplicate));
        assert_eq!(
            again.iter().map(|appended| appended.id).collect::<Vec<_>>(),
            ids
        );
    }
    assert_eq!(store.stat(&stream).await.unwrap().version, 2);
}

/// With one entry that is no duplicate, a stale version conflicts, and nothing is written.
pub async fn a_partial_duplicate_with_a_stale_version_conflicts(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let stream = name("s");
    append_ids(&store, &stream, vec![entry("a").dedup_key("k")]).await;
    let batch = vec![entry("x").dedup_key("k"), entry("b").dedup_key("l")];
    let stale = ExpectedVersion::Exactly(0);
    let error = store
        .append(&stream, batch.clone(), stale)
        .await
        .unwrap_err();
    assert_conflict(&error, stale, 1);
    assert_eq!(texts(&read_all(&store, &stream).await), ["a"]);
    let appended = store
        .append(&stream, batch, ExpectedVersion::Exactly(1))
        .await
        .unwrap();
    assert!(appended[0].duplicate && !appended[1].duplicate);
}

/// Neither a trim nor a rename changes the version.
pub async fn trims_and_renames_keep_the_version(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let (mut stream, other) = (name("s"), name("t"));
    let ids = append_ids(&store, &stream, numbered(3)).await;
    store.trim(&stream, ids[1]).await.unwrap();
    attempt(&store, &stream, ExpectedVersion::Exactly(3))
        .await
        .unwrap();
    if case.has(Ability::Rename) {
        store.rename(&stream, &other).await.unwrap();
        attempt(&store, &stream, ExpectedVersion::None)
            .await
            .expect("a new stream of that name");
        stream = other;
    }
    attempt(&store, &stream, ExpectedVersion::Exactly(4))
        .await
        .unwrap();
}

/// Of twenty writers that expect the same version, exactly one wins, round after round.
pub async fn of_many_writers_exactly_one_wins(case: &Case) {
    const ROUNDS: u64 = 5;
    const WRITERS: usize = 20;
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let stream = name("s");
    for round in 0..ROUNDS {
        let expected = ExpectedVersion::Exactly(round);
        let tasks: Vec<_> = (0..WRITERS)
            .map(|_| {
                let (store, stream) = (store.clone(), stream.clone());
                tokio::spawn(async move {
                    settled(|| store.append(&stream, vec![entry("x")], expected)).await
                })
            })
            .collect();
        let mut winners = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => winners += 1,
                Err(error) => assert_conflict(&error, expected, round + 1),
            }
        }
        assert_eq!(winners, 1, "in round {round}");
    }
    assert_eq!(store.stat(&stream).await.unwrap().version, ROUNDS);
}

/// Writers that count up what they read, and try again on a conflict, lose no step.
pub async fn a_contended_counter_loses_nothing(case: &Case) {
    const WRITERS: u64 = 5;
    const STEPS: u64 = 4;
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let stream = name("s");
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while done < STEPS {
                    let read = read_all(&store, &stream).await;
                    let sum = texts(&read)
                        .last()
                        .map_or(0, |text| text.parse::<u64>().unwrap());
                    let expected = ExpectedVersion::Exactly(u64::try_from(read.len()).unwrap());
                    let next = entry(&(sum + 1).to_string());
                    match store.append(&stream, vec![next], expected).await {
                        Ok(_) => done += 1,
                        Err(error) if error.kind() == ErrorKind::Conflict => {}
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let sum = texts(&read_all(&store, &stream).await).pop().unwrap();
    assert_eq!(sum, (WRITERS * STEPS).to_string());
}
