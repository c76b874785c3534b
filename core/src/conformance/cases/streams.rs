//! Listing streams.

use crate::StreamName;
use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, numbered};

fn names(names: &[&str]) -> Vec<StreamName> {
    names.iter().map(|text| name(text)).collect()
}

/// Names ascend by their bytes, whatever the backend's collation.
pub async fn names_ascend_by_their_bytes(case: &Case) {
    let store = case.open().await;
    let sorted = [
        " ", "-", "1", "10", "2", "A", "B", "Z", "_", "a", "a b", "a-b", "aB", "ab", "b", "e", "z",
        "~", "Ä", "ß", "é", "日本", "\u{FFFD}", "😀",
    ];
    assert!(sorted.is_sorted());
    for at in 0..sorted.len() {
        // Created in an order that is not the sorted one.
        append_ids(&store, &name(sorted[(at * 7) % sorted.len()]), numbered(1)).await;
    }
    assert_eq!(store.streams(None, 100).await.unwrap(), names(&sorted));
    let mut found = Vec::new();
    loop {
        let page = store.streams(found.last(), 5).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, names(&sorted), "in pages");
}

/// `after` may be a name that does not exist, and `limit` is kept.
pub async fn after_and_limit_hold(case: &Case) {
    let store = case.open().await;
    for stream in ["a", "b", "c", "d"] {
        append_ids(&store, &name(stream), numbered(2)).await;
    }
    assert_eq!(store.streams(None, 2).await.unwrap(), names(&["a", "b"]));
    assert_eq!(
        store.streams(Some(&name("b")), 10).await.unwrap(),
        names(&["c", "d"])
    );
    assert_eq!(
        store.streams(Some(&name("bb")), 1).await.unwrap(),
        names(&["c"])
    );
    assert!(
        store
            .streams(Some(&name("d")), 10)
            .await
            .unwrap()
            .is_empty()
    );
}

/// A stream that a trim has emptied is not listed until it has an entry again.
pub async fn an_emptied_stream_is_not_listed(case: &Case) {
    let store = case.open().await;
    for stream in ["a", "b", "c"] {
        append_ids(&store, &name(stream), numbered(2)).await;
    }
    let last = store.stat(&name("b")).await.unwrap().last_id.unwrap();
    store.trim(&name("b"), last).await.unwrap();
    assert_eq!(store.streams(None, 10).await.unwrap(), names(&["a", "c"]));
    assert_eq!(
        store.streams(None, 2).await.unwrap(),
        names(&["a", "c"]),
        "the limit counts others"
    );
    append_ids(&store, &name("b"), numbered(1)).await;
    assert_eq!(
        store.streams(None, 10).await.unwrap(),
        names(&["a", "b", "c"])
    );
}
