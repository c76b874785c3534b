//! Dedup keys.

use std::collections::BTreeMap;

use crate::conformance::Case;
use crate::conformance::case::{append, append_ids, entry, ids_of, name, read_all, settled, texts};
use crate::{EntryId, ExpectedVersion, NewEntry};

fn keyed(payload: &str, key: &str) -> NewEntry {
    entry(payload).dedup_key(key)
}

/// Of two entries of one call with one key, the first is kept.
pub async fn within_a_batch_the_first_wins(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let batch = vec![
        keyed("a", "k"),
        keyed("b", "k"),
        keyed("c", "l"),
        keyed("d", "k"),
        keyed("e", "l"),
    ];
    let appended = append(&store, &stream, batch).await;
    let duplicates: Vec<_> = appended.iter().map(|appended| appended.duplicate).collect();
    assert_eq!(duplicates, [false, true, false, true, true]);
    let ids = ids_of(&appended);
    assert_eq!(
        (ids[1], ids[3], ids[4]),
        (ids[0], ids[0], ids[2]),
        "the originals' ids"
    );
    assert_eq!(texts(&read_all(&store, &stream).await), ["a", "c"]);
    assert_eq!(
        store.stat(&stream).await.unwrap().version,
        2,
        "duplicates do not count"
    );
}

/// A key of an earlier call is a duplicate, and answers the original's id.
pub async fn across_batches_the_first_wins(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let first = append_ids(&store, &stream, vec![keyed("a", "k"), keyed("b", "l")]).await;
    let batch = vec![
        keyed("c", "m"),
        keyed("x", "l"),
        entry("d"),
        keyed("y", "k"),
    ];
    let appended = append(&store, &stream, batch).await;
    assert_eq!(appended.len(), 4, "an answer for each entry");
    assert!(appended[1].duplicate && appended[3].duplicate);
    assert!(!appended[0].duplicate && !appended[2].duplicate);
    assert_eq!((appended[1].id, appended[3].id), (first[1], first[0]));
    assert_eq!(
        texts(&read_all(&store, &stream).await),
        ["a", "b", "c", "d"]
    );
    let again = append(&store, &stream, vec![keyed("z", "k"), keyed("z", "l")]).await;
    assert_eq!(ids_of(&again), first);
    assert!(again.iter().all(|appended| appended.duplicate));
    assert_eq!(store.stat(&stream).await.unwrap().version, 4);
}

/// Streams do not share keys.
pub async fn streams_are_independent(case: &Case) {
    let store = case.open().await;
    for stream in ["a", "b", "c"] {
        append_ids(&store, &name(stream), vec![keyed(stream, "k")]).await;
    }
    for stream in ["a", "b", "c"] {
        assert!(append(&store, &name(stream), vec![keyed("x", "k")]).await[0].duplicate);
        assert_eq!(texts(&read_all(&store, &name(stream)).await), [stream]);
    }
}

/// The empty key never dedups.
pub async fn the_empty_key_never_dedups(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    append_ids(&store, &stream, vec![keyed("a", ""), keyed("b", "")]).await;
    append_ids(&store, &stream, vec![keyed("c", "")]).await;
    assert_eq!(store.stat(&stream).await.unwrap().count, 3);
}

/// Keys are compared by their bytes: case, spaces and forms of one letter all differ.
pub async fn keys_are_compared_exactly(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let keys = [
        "k",
        "K",
        "k ",
        " k",
        "é",
        "e\u{301}",
        "e",
        "ß",
        "ss",
        "'",
        "''",
        "\\",
        "%",
        "_",
        "日本",
        "😀",
        "\u{FEFF}k",
        "1",
        "01",
        "1.0",
        "null",
        "k\n",
        "\u{1}",
    ];
    let batch: Vec<_> = keys.iter().map(|key| keyed(key, key)).collect();
    let ids = append_ids(&store, &stream, batch.clone()).await;
    let again = append(&store, &stream, batch).await;
    assert!(again.iter().all(|appended| appended.duplicate));
    assert_eq!(ids_of(&again), ids);
    let read = read_all(&store, &stream).await;
    assert_eq!(
        read.iter()
            .map(|entry| entry.dedup_key.as_str())
            .collect::<Vec<_>>(),
        keys
    );
}

/// A key of the greatest length allowed works like any other.
pub async fn the_longest_keys_work(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    // Random text does not compress, so an index holds it at its full length.
    let mut random = crate::conformance::random::Random::new();
    let mut long = || {
        (0..64).fold(String::new(), |mut text, _| {
            text.push_str(&format!("{:016x}", random.next()));
            text
        })
    };
    let (first, second) = (long(), long());
    assert_eq!(first.len(), 1_024);
    let batch = vec![keyed("a", &first).order_key(&first), keyed("b", &second)];
    append_ids(&store, &stream, batch).await;
    assert!(append(&store, &stream, vec![keyed("x", &first)]).await[0].duplicate);
    let read = read_all(&store, &stream).await;
    assert_eq!((&read[0].dedup_key, &read[0].order_key), (&first, &first));
}

/// Sixteen writers append the same fifty keys: each is there once, and all are told its id.
pub async fn concurrent_writers_keep_each_key_once(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                let mut told: BTreeMap<String, EntryId> = BTreeMap::new();
                let mut fresh = 0;
                for step in 0..10 {
                    // Every writer begins elsewhere, so that they overlap in all ways.
                    let keys: Vec<_> = (0..5)
                        .map(|n| format!("k{}", ((step + task) % 10) * 5 + n))
                        .collect();
                    let batch: Vec<_> = keys
                        .iter()
                        .map(|key| keyed(&format!("{task}"), key))
                        .collect();
                    let any = ExpectedVersion::Any;
                    let appended = settled(|| store.append(&stream, batch.clone(), any))
                        .await
                        .unwrap();
                    fresh += appended
                        .iter()
                        .filter(|appended| !appended.duplicate)
                        .count();
                    told.extend(keys.into_iter().zip(ids_of(&appended)));
                }
                (told, fresh)
            })
        })
        .collect();
    let mut fresh = 0;
    let mut answers = Vec::new();
    for task in tasks {
        let (told, of_task) = task.await.unwrap();
        fresh += of_task;
        answers.push(told);
    }
    let read = read_all(&store, &stream).await;
    let found: BTreeMap<_, _> = read
        .iter()
        .map(|entry| (entry.dedup_key.clone(), entry.id))
        .collect();
    assert_eq!(read.len(), 50, "each key once");
    assert_eq!(found.len(), 50);
    assert_eq!(fresh, 50, "each key was new to exactly one writer");
    assert!(
        answers.iter().all(|told| *told == found),
        "every writer was told the originals' ids"
    );
    assert_eq!(store.stat(&stream).await.unwrap().version, 50);
}

/// A trim frees the keys of what it removes, and of nothing else.
pub async fn a_trim_frees_its_keys(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let first = append_ids(&store, &stream, vec![keyed("a", "k"), keyed("b", "l")]).await;
    store.trim(&stream, first[0]).await.unwrap();
    let appended = append(&store, &stream, vec![keyed("c", "k"), keyed("x", "l")]).await;
    assert!(!appended[0].duplicate, "the key of a trimmed entry is free");
    assert!(appended[0].id > first[1]);
    assert!(appended[1].duplicate, "the key of a kept one is not");
    assert_eq!(texts(&read_all(&store, &stream).await), ["b", "c"]);
}
