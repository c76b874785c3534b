//! Appending, and what reads back.

use std::collections::BTreeSet;

use crate::conformance::Case;
use crate::conformance::case::{
    append, append_ids, entries, entry, ids, name, numbered, read_all, texts,
};
use crate::{EntryId, NewEntry, Pairs, ReadOptions, Stat, Timestamp};

/// The ids of an append are those of its entries, in its order, and ascend from 1.
pub async fn ids_ascend_in_the_order_of_the_call(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let mut all = append_ids(&store, &stream, entries(&["a", "b", "c"])).await;
    all.extend(append_ids(&store, &stream, entries(&["d"])).await);
    all.extend(append_ids(&store, &stream, entries(&["e", "f"])).await);
    assert_eq!(all[0], EntryId(1), "ids begin at 1");
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    let read = read_all(&store, &stream).await;
    assert_eq!(ids(&read), all);
    assert_eq!(texts(&read), ["a", "b", "c", "d", "e", "f"]);
}

/// Ids are unique in the store, not only in a stream.
pub async fn ids_are_unique_in_the_store(case: &Case) {
    let store = case.open().await;
    let mut all = BTreeSet::new();
    for round in 0..6 {
        let stream = name(["a", "b", "c"][round % 3]);
        for id in append_ids(&store, &stream, numbered(4)).await {
            assert!(all.insert(id), "id {id} was given twice");
        }
    }
}

/// Every field reads back as it was appended.
pub async fn every_field_reads_back(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let entry = NewEntry::new("{\"n\": 1}")
        .order_key("order")
        .dedup_key("dedup")
        .schema_version(7)
        .meta("b", "2")
        .meta("a", "")
        .meta("", "empty key")
        .tag("red")
        .tag("blue");
    let before = Timestamp::now();
    let id = append_ids(&store, &stream, vec![entry]).await[0];
    let read = read_all(&store, &stream).await;
    assert_eq!(read.len(), 1);
    let read = &read[0];
    assert_eq!(read.id, id);
    assert_eq!(read.stream, stream);
    assert_eq!(&read.payload[..], b"{\"n\": 1}");
    assert_eq!(read.order_key, "order");
    assert_eq!(read.dedup_key, "dedup");
    assert_eq!(read.schema_version, 7);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        read.metadata,
        Pairs::from([pair("a", ""), pair("b", "2"), pair("", "empty key")])
    );
    assert_eq!(read.tags, ["blue", "red"]);
    assert_eq!(read.annotations, Pairs::new());
    assert_eq!(read.label_version, 0);
    assert_eq!(read.updated_at, None);
    // The backend's clock may be another machine's.
    let apart = read
        .created_at
        .since(before)
        .max(before.since(read.created_at));
    assert!(
        apart.as_secs() < 3_600,
        "created at {}, appended at {before}",
        read.created_at
    );
}

/// What is left out is empty, and the schema version 1.
pub async fn defaults_are_empty(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    append_ids(
        &store,
        &stream,
        vec![entry("x").schema_version(0), entry("y")],
    )
    .await;
    for read in read_all(&store, &stream).await {
        assert_eq!(read.schema_version, 1);
        assert_eq!(read.order_key, "");
        assert_eq!(read.dedup_key, "");
        assert!(read.metadata.is_empty());
        assert!(read.tags.is_empty());
    }
}

/// Tags are a set, sorted by their bytes.
pub async fn tags_are_a_sorted_set(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let entry = ["b", "a", "é", "b", "B", "", "a"]
        .into_iter()
        .fold(entry("x"), NewEntry::tag);
    append_ids(&store, &stream, vec![entry]).await;
    assert_eq!(
        read_all(&store, &stream).await[0].tags,
        ["", "B", "a", "b", "é"]
    );
}

/// An append of no entries creates nothing.
pub async fn an_empty_append_creates_nothing(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    assert!(append(&store, &stream, Vec::new()).await.is_empty());
    assert!(store.streams(None, 10).await.unwrap().is_empty());
    assert_eq!(store.stat(&stream).await.unwrap(), Stat::default());
    // Nor does it hold the name.
    if case.has(crate::conformance::Ability::Rename) {
        append_ids(&store, &name("other"), numbered(1)).await;
        store
            .rename(&name("other"), &stream)
            .await
            .expect("the name is free");
    }
}

/// A stream that does not exist reads as an empty one.
pub async fn an_unknown_stream_is_empty(case: &Case) {
    let store = case.open().await;
    append_ids(&store, &name("other"), numbered(3)).await;
    let stream = name("unknown");
    assert_eq!(store.stat(&stream).await.unwrap(), Stat::default());
    assert_eq!(store.trim(&stream, EntryId(10)).await.unwrap(), 0);
    let page = store.page(&stream, &ReadOptions::all()).await.unwrap();
    assert!(page.entries.is_empty());
    assert!(!page.more);
    assert!(read_all(&store, &stream).await.is_empty());
    assert_eq!(store.streams(None, 10).await.unwrap(), [name("other")]);
}

/// Ten thousand entries append as one, in order.
pub async fn ten_thousand_entries_are_one_append(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let batch: Vec<_> = (0..10_000)
        .map(|number| entry(&format!("payload {number}")).dedup_key(format!("key {number}")))
        .collect();
    let appended = append_ids(&store, &stream, batch).await;
    assert_eq!(appended.len(), 10_000);
    assert!(appended.is_sorted_by(|a, b| a < b), "ids ascend");
    let page = store.page(&stream, &ReadOptions::all()).await.unwrap();
    assert!(
        page.entries.len() <= 1_000,
        "a page without a limit has {}",
        page.entries.len()
    );
    assert!(page.more);
    let read = read_all(&store, &stream).await;
    assert_eq!(ids(&read), appended);
    let text = texts(&read);
    assert!(
        text.iter()
            .enumerate()
            .all(|(n, text)| *text == format!("payload {n}"))
    );
    assert_eq!(store.stat(&stream).await.unwrap().count, 10_000);
}

/// Writers side by side: each call's entries are all there, in its order, with the ids it was told.
pub async fn concurrent_appends_keep_their_order(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                let mut told = Vec::new();
                for round in 0..5 {
                    let texts: Vec<_> = (0..3).map(|n| format!("{task}/{round}/{n}")).collect();
                    let batch = texts.iter().map(|text| entry(text)).collect();
                    told.extend(
                        append_ids(&store, &stream, batch)
                            .await
                            .into_iter()
                            .zip(texts),
                    );
                }
                told
            })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        let of_task = task.await.unwrap();
        assert!(
            of_task.is_sorted_by(|a, b| a.0 < b.0),
            "a writer's ids ascend"
        );
        told.extend(of_task);
    }
    told.sort_unstable();
    let read = read_all(&store, &stream).await;
    let found: Vec<_> = ids(&read).into_iter().zip(texts(&read)).collect();
    assert_eq!(found, told);
    let stat = store.stat(&stream).await.unwrap();
    assert_eq!((stat.count, stat.version), (120, 120));
}

/// Count, first and last id, and version.
pub async fn stat_tells_the_state(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let ids = append_ids(&store, &stream, numbered(5)).await;
    append_ids(&store, &name("other"), numbered(2)).await;
    let stat = store.stat(&stream).await.unwrap();
    let all = Stat {
        count: 5,
        first_id: Some(ids[0]),
        last_id: Some(ids[4]),
        version: 5,
    };
    assert_eq!(stat, all);
    store.trim(&stream, ids[1]).await.unwrap();
    let stat = store.stat(&stream).await.unwrap();
    assert_eq!(
        stat,
        Stat {
            count: 3,
            first_id: Some(ids[2]),
            ..all
        }
    );
    store.trim(&stream, ids[4]).await.unwrap();
    let stat = store.stat(&stream).await.unwrap();
    assert_eq!(
        stat,
        Stat {
            version: 5,
            ..Stat::default()
        }
    );
}

/// The store tells its name.
pub async fn the_store_tells_its_name(case: &Case) {
    let store = case.open().await;
    assert_eq!(store.name(), case.store_name());
    assert!(
        !store.to_string().is_empty(),
        "a store displays as something"
    );
}
