//! The content as verification reads it.

use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, numbered, read_all};
use crate::conformance::cases::changes::every_mutation;
use crate::conformance::content::content;
use crate::conformance::follower::rest;
use crate::conformance::model::Model;
use crate::{EntryId, EntryKey, Record, StreamKey};

/// The content agrees with reads and with the log.
pub async fn contents_agree_with_reads_and_log(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    every_mutation(case, &store).await;
    let changes = rest(&store, &log.start()).await;
    let content = content(&store).await;
    assert_eq!(content, Model::of(&changes).named());
    for (key, state) in &content.streams {
        let of_stream: Vec<_> = content
            .entries
            .iter()
            .filter(|(entry, _)| entry.stream == *key)
            .map(|(_, entry)| entry.clone())
            .collect();
        assert_eq!(read_all(&store, &state.stream.name).await, of_stream);
    }
}

/// Ranges of entries hold their borders and their limit, also across streams.
pub async fn ranges_hold_their_borders(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    for stream in ["a", "b", "c"] {
        append_ids(&store, &name(stream), numbered(4)).await;
    }
    let contents = log.contents();
    let all = contents.entries(None, None, 100).await.unwrap();
    assert_eq!(all.len(), 12);
    assert!(all.is_sorted_by(|a, b| a.key < b.key));
    let key = |at: usize| Some(all[at].key);
    for (after, through, expected) in [
        (None, key(4), &all[..5]),
        (key(4), None, &all[5..]),
        (key(2), key(9), &all[3..10]),
        (key(3), key(4), &all[4..5]),
        (key(5), key(5), &all[..0]),
        (key(9), key(2), &all[..0]),
        (key(11), None, &all[..0]),
    ] {
        let found = contents.entries(after, through, 100).await.unwrap();
        assert_eq!(found, expected, "behind {after:?} through {through:?}");
    }
    assert_eq!(contents.entries(key(1), None, 5).await.unwrap(), all[2..7]);
    // Borders need not be entries.
    let between = |stream: StreamKey| {
        Some(EntryKey {
            stream,
            id: EntryId(0),
        })
    };
    let second = all[4].key.stream;
    assert_eq!(
        contents.entries(between(second), None, 4).await.unwrap(),
        all[4..8]
    );
    assert_eq!(
        contents.entries(None, between(second), 100).await.unwrap(),
        all[..4]
    );
    let end = Some(EntryKey {
        stream: StreamKey(u64::MAX),
        id: EntryId(u64::MAX),
    });
    assert!(contents.entries(end, None, 10).await.unwrap().is_empty());
    assert_eq!(contents.entries(None, end, 100).await.unwrap(), all);
}

/// Entries by their keys: those that exist, in order.
pub async fn entries_are_found_by_their_keys(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    for stream in ["a", "b"] {
        append_ids(&store, &name(stream), numbered(5)).await;
    }
    let contents = log.contents();
    let all = contents.entries(None, None, 100).await.unwrap();
    let trimmed = all[0].key;
    store.trim(&name("a"), trimmed.id).await.unwrap();
    let absent = EntryKey {
        stream: trimmed.stream,
        id: EntryId(u64::MAX),
    };
    let crossed = EntryKey {
        stream: trimmed.stream,
        id: all[7].key.id,
    };
    let keys = [all[8].key, absent, all[2].key, trimmed, crossed, all[4].key];
    let found = contents.entries_at(&keys).await.unwrap();
    let expected: Vec<Record> = [2, 4, 8].map(|at: usize| all[at].clone()).into();
    assert_eq!(found, expected);
    assert!(contents.entries_at(&[]).await.unwrap().is_empty());
    assert!(contents.entries_at(&[absent]).await.unwrap().is_empty());
}

/// Streams with their state, by range and by key; an emptied one is among them.
pub async fn streams_are_found_by_range_and_key(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    for stream in ["c", "a", "b", "d"] {
        append_ids(&store, &name(stream), numbered(3)).await;
    }
    let ids = crate::conformance::case::ids(&read_all(&store, &name("a")).await);
    store.trim(&name("a"), ids[2]).await.unwrap();
    let contents = log.contents();
    let all = contents.streams(None, 10).await.unwrap();
    assert_eq!(all.len(), 4);
    assert!(all.is_sorted_by(|a, b| a.stream.key < b.stream.key));
    assert!(all.iter().all(|state| state.version == 3));
    for state in &all {
        let trimmed = if state.stream.name == name("a") {
            ids[2].0
        } else {
            0
        };
        assert_eq!(state.trimmed_through, trimmed, "{state:?}");
    }
    let key = |at: usize| all[at].stream.key;
    assert_eq!(contents.streams(Some(key(1)), 10).await.unwrap(), all[2..]);
    assert_eq!(contents.streams(Some(key(0)), 2).await.unwrap(), all[1..3]);
    assert!(
        contents
            .streams(Some(StreamKey(u64::MAX)), 2)
            .await
            .unwrap()
            .is_empty()
    );
    let found = contents
        .streams_at(&[key(3), StreamKey(u64::MAX), key(0)])
        .await
        .unwrap();
    assert_eq!(found, [all[0].clone(), all[3].clone()]);
    assert!(contents.streams_at(&[]).await.unwrap().is_empty());
}
