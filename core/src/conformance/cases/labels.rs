//! Tags and annotations.

use crate::conformance::Case;
use crate::conformance::case::{append_ids, entry, name, numbered, read, read_all};
use crate::conformance::cases::input::ODD;
use crate::{Entry, EntryId, ErrorKind, Pairs, ReadOptions};

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn tags(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

/// Setting tags replaces them all; setting none clears them.
pub async fn set_tags_replaces_all(case: &Case) {
    let store = case.open().await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let batch = vec![entry("a").tag("first"), entry("b").tag("first")];
    let ids = append_ids(&store, &stream, batch).await;
    labels
        .set_tags(&stream, ids[0], tags(&["z", "y", "z", ""]))
        .await
        .unwrap();
    let read = read_all(&store, &stream).await;
    assert_eq!(read[0].tags, ["", "y", "z"], "a sorted set");
    assert_eq!(read[1].tags, ["first"], "another entry keeps its own");
    labels.set_tags(&stream, ids[0], Vec::new()).await.unwrap();
    assert!(read_all(&store, &stream).await[0].tags.is_empty());
}

/// Annotations merge; a key in both `set` and `delete` is deleted.
pub async fn set_annotations_merges_and_delete_wins(case: &Case) {
    let store = case.open().await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let id = append_ids(&store, &stream, numbered(1)).await[0];
    let steps = [
        (
            pairs(&[("a", "1"), ("b", "2")]),
            tags(&[]),
            pairs(&[("a", "1"), ("b", "2")]),
        ),
        (
            pairs(&[("b", "3"), ("c", "")]),
            tags(&[]),
            pairs(&[("a", "1"), ("b", "3"), ("c", "")]),
        ),
        (
            pairs(&[]),
            tags(&["a", "unknown"]),
            pairs(&[("b", "3"), ("c", "")]),
        ),
        (
            pairs(&[("b", "4"), ("d", "5")]),
            tags(&["b"]),
            pairs(&[("c", ""), ("d", "5")]),
        ),
        (pairs(&[]), tags(&["c", "d"]), pairs(&[])),
    ];
    for (set, delete, expected) in steps {
        labels
            .set_annotations(&stream, id, set.clone(), delete.clone())
            .await
            .unwrap();
        let read = read_all(&store, &stream).await;
        assert_eq!(
            read[0].annotations, expected,
            "after {set:?}, without {delete:?}"
        );
    }
}

/// A label for a stream or entry that is not there is not found, and changes nothing.
pub async fn what_is_not_there_is_not_found(case: &Case) {
    let store = case.open().await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let ids = append_ids(&store, &stream, numbered(2)).await;
    let other = append_ids(&store, &name("other"), numbered(1)).await[0];
    store.trim(&stream, ids[0]).await.unwrap();
    let absent = [
        (name("unknown"), ids[1], "an unknown stream"),
        (stream.clone(), EntryId(other.0 + 100), "an unknown entry"),
        (stream.clone(), ids[0], "a trimmed entry"),
        (stream.clone(), other, "another stream's entry"),
        (stream.clone(), EntryId(0), "id 0"),
    ];
    for (stream, id, what) in absent {
        let error = labels
            .set_tags(&stream, id, tags(&["t"]))
            .await
            .expect_err(what);
        assert_eq!(error.kind(), ErrorKind::NotFound, "tags of {what}: {error}");
        let set = labels
            .set_annotations(&stream, id, pairs(&[("k", "v")]), Vec::new())
            .await;
        let error = set.expect_err(what);
        assert_eq!(
            error.kind(),
            ErrorKind::NotFound,
            "annotations of {what}: {error}"
        );
    }
    for stream in [&stream, &name("other")] {
        let untouched = |entry: &Entry| entry.tags.is_empty() && entry.annotations.is_empty();
        assert!(read_all(&store, stream).await.iter().all(untouched));
    }
    assert_eq!(
        store.streams(None, 10).await.unwrap().len(),
        2,
        "no stream was created"
    );
}

/// Each change counts the label version up by one and sets the time, and nothing else.
pub async fn each_change_counts_and_is_timed(case: &Case) {
    let store = case.open().await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let batch = vec![entry("x").order_key("o").dedup_key("d").meta("k", "v")];
    let id = append_ids(&store, &stream, batch).await[0];
    let first = read_all(&store, &stream).await.remove(0);
    assert_eq!((first.label_version, first.updated_at), (0, None));
    labels.set_tags(&stream, id, tags(&["t"])).await.unwrap();
    let tagged = read_all(&store, &stream).await.remove(0);
    assert_eq!(tagged.label_version, 1);
    assert!(tagged.updated_at >= Some(first.created_at), "{tagged:?}");
    labels
        .set_annotations(&stream, id, pairs(&[("a", "b")]), Vec::new())
        .await
        .unwrap();
    let annotated = read_all(&store, &stream).await.remove(0);
    assert_eq!(annotated.label_version, 2);
    assert!(annotated.updated_at >= tagged.updated_at);
    let expected = Entry {
        tags: tags(&["t"]),
        annotations: pairs(&[("a", "b")]),
        label_version: 2,
        updated_at: annotated.updated_at,
        ..first
    };
    assert_eq!(annotated, expected, "the immutable part is as it was");
}

/// Labels change what conditions find.
pub async fn labels_change_what_is_found(case: &Case) {
    let store = case.open().await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let ids = append_ids(
        &store,
        &stream,
        vec![entry("a").tag("old"), entry("b").tag("old")],
    )
    .await;
    labels
        .set_tags(&stream, ids[0], tags(&["new"]))
        .await
        .unwrap();
    labels
        .set_annotations(&stream, ids[1], pairs(&[("k", "v")]), Vec::new())
        .await
        .unwrap();
    let found =
        async |options| crate::conformance::case::ids(&read(&store, &stream, options).await);
    let tagged = |tag: &str| ReadOptions {
        tag: Some(tag.to_owned()),
        ..ReadOptions::all()
    };
    let annotated = ReadOptions {
        annotations: pairs(&[("k", "v")]),
        ..ReadOptions::all()
    };
    assert_eq!(found(tagged("old")).await, ids[1..]);
    assert_eq!(found(tagged("new")).await, ids[..1]);
    assert_eq!(found(annotated.clone()).await, ids[1..]);
    labels
        .set_annotations(&stream, ids[1], Pairs::new(), tags(&["k"]))
        .await
        .unwrap();
    assert!(found(annotated).await.is_empty());
}

/// Texts that are special elsewhere are kept as labels, and deleted by exactly that key.
pub async fn odd_labels_are_kept(case: &Case) {
    let store = case.open().await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let id = append_ids(&store, &stream, numbered(1)).await[0];
    labels.set_tags(&stream, id, tags(&ODD)).await.unwrap();
    let mut set: Pairs = ODD
        .iter()
        .map(|text| ((*text).to_owned(), (*text).to_owned()))
        .collect();
    set.insert(String::new(), String::new());
    set.insert("a.b".into(), "$c".into());
    labels
        .set_annotations(&stream, id, set.clone(), Vec::new())
        .await
        .unwrap();
    let read = read_all(&store, &stream).await;
    let mut sorted = tags(&ODD);
    sorted.sort_unstable();
    assert_eq!(read[0].tags, sorted);
    assert_eq!(read[0].annotations, set);
    labels
        .set_annotations(&stream, id, Pairs::new(), tags(&ODD))
        .await
        .unwrap();
    let left = pairs(&[("", ""), ("a.b", "$c")]);
    assert_eq!(read_all(&store, &stream).await[0].annotations, left);
}

/// Writers that each annotate with their own key lose none, and the version counts them all.
pub async fn concurrent_annotations_lose_nothing(case: &Case) {
    let store = case.open().await;
    if case.labels(&store).is_none() {
        return;
    }
    let stream = name("s");
    let id = append_ids(&store, &stream, numbered(1)).await[0];
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                let labels = store.labels().unwrap();
                let set = Pairs::from([(format!("k{n}"), n.to_string())]);
                let call = || labels.set_annotations(&stream, id, set.clone(), Vec::new());
                crate::conformance::case::settled(call).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let read = read_all(&store, &stream).await.remove(0);
    assert_eq!(read.annotations.len(), 16, "{:?}", read.annotations);
    assert_eq!(read.label_version, 16);
}
