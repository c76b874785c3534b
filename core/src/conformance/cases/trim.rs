//! Trimming.

use crate::conformance::Case;
use crate::conformance::case::{append_ids, ids, name, numbered, read_all};
use crate::{EntryId, Stat};

/// A trim removes up to and including the id, and tells how many there were.
pub async fn a_trim_removes_through_its_id(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let all = append_ids(&store, &stream, numbered(6)).await;
    assert_eq!(store.trim(&stream, all[2]).await.unwrap(), 3);
    assert_eq!(ids(&read_all(&store, &stream).await), all[3..]);
    assert_eq!(store.trim(&stream, all[3]).await.unwrap(), 1);
    assert_eq!(ids(&read_all(&store, &stream).await), all[4..]);
}

/// A second trim to the same id, or one below it, finds nothing.
pub async fn a_trim_twice_removes_nothing_more(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let all = append_ids(&store, &stream, numbered(4)).await;
    assert_eq!(store.trim(&stream, all[1]).await.unwrap(), 2);
    assert_eq!(store.trim(&stream, all[1]).await.unwrap(), 0);
    assert_eq!(store.trim(&stream, all[0]).await.unwrap(), 0);
    assert_eq!(ids(&read_all(&store, &stream).await), all[2..]);
}

/// A trim beyond the end removes what is there, and not what comes later.
pub async fn a_trim_beyond_the_end_spares_the_future(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let all = append_ids(&store, &stream, numbered(3)).await;
    let beyond = EntryId(all[2].0 + 1_000);
    assert_eq!(store.trim(&stream, beyond).await.unwrap(), 3);
    let later = append_ids(&store, &stream, numbered(2)).await;
    assert_eq!(ids(&read_all(&store, &stream).await), later);
}

/// A trim touches its own stream only, although ids are the store's.
pub async fn a_trim_touches_its_stream_only(case: &Case) {
    let store = case.open().await;
    let other = append_ids(&store, &name("other"), numbered(3)).await;
    let all = append_ids(&store, &name("s"), numbered(3)).await;
    assert_eq!(store.trim(&name("s"), all[2]).await.unwrap(), 3);
    assert_eq!(ids(&read_all(&store, &name("other")).await), other);
    assert_eq!(store.trim(&name("s"), all[2]).await.unwrap(), 0);
}

/// Ids of removed entries are never given again, also not after everything was removed.
pub async fn ids_are_never_given_again(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let mut highest = EntryId(0);
    for _ in 0..4 {
        let all = append_ids(&store, &stream, numbered(3)).await;
        assert!(all[0] > highest, "{all:?} after {highest}");
        highest = all[2];
        store.trim(&stream, highest).await.unwrap();
    }
    store.close().await;
    let store = case.open().await;
    let later = append_ids(&store, &stream, numbered(1)).await;
    assert!(later[0] > highest, "{later:?} after {highest}, opened anew");
}

/// A trim does not change the version.
pub async fn a_trim_keeps_the_version(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let all = append_ids(&store, &stream, numbered(4)).await;
    store.trim(&stream, all[3]).await.unwrap();
    let emptied = Stat {
        version: 4,
        ..Stat::default()
    };
    assert_eq!(store.stat(&stream).await.unwrap(), emptied);
    let id = append_ids(&store, &stream, numbered(1)).await[0];
    let expected = Stat {
        count: 1,
        first_id: Some(id),
        last_id: Some(id),
        version: 5,
    };
    assert_eq!(store.stat(&stream).await.unwrap(), expected);
}

/// Trims and appends side by side: what is left is what was appended above the highest trim.
pub async fn trims_race_appends_without_harm(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let writer = tokio::spawn({
        let (store, stream) = (store.clone(), stream.clone());
        async move {
            let mut all = Vec::new();
            for _ in 0..30 {
                all.extend(append_ids(&store, &stream, numbered(3)).await);
            }
            all
        }
    });
    let mut removed = 0;
    while !writer.is_finished() {
        if let Some(first) = store.stat(&stream).await.unwrap().first_id {
            removed += store.trim(&stream, EntryId(first.0 + 1)).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    let all = writer.await.unwrap();
    let left = ids(&read_all(&store, &stream).await);
    assert_eq!(
        removed + u64::try_from(left.len()).unwrap(),
        90,
        "each was removed once or is left"
    );
    assert_eq!(left, all[all.len() - left.len()..]);
}
