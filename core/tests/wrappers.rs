//! Read-only and append-only stores.

#![allow(
    clippy::unwrap_used,
    reason = "a failing helper fails the test that called it"
)]

mod memory;

use std::sync::Arc;

use ledger_core::{
    AppendOnly, EntryId, ErrorKind, ExpectedVersion, NewEntry, Pairs, ReadOnly, ReadOptions, Store,
    StreamName,
};
use memory::MemoryStore;

async fn filled() -> (Arc<MemoryStore>, StreamName) {
    let store = MemoryStore::shared("orders");
    let stream = StreamName::new("s").unwrap();
    store
        .append(&stream, vec![NewEntry::new("1")], ExpectedVersion::Any)
        .await
        .unwrap();
    (store, stream)
}

#[tokio::test]
async fn a_read_only_store_refuses_every_write_and_changes_nothing() {
    let (inner, stream) = filled().await;
    let store = ReadOnly::new(inner.clone());
    let before = inner.page(&stream, &ReadOptions::all()).await.unwrap();
    let labels = store.labels().unwrap();
    let id = EntryId(1);
    let entries = vec![NewEntry::new("2")];
    let errors = [
        store
            .append(&stream, entries, ExpectedVersion::Any)
            .await
            .unwrap_err(),
        store
            .append(&stream, vec![], ExpectedVersion::Any)
            .await
            .unwrap_err(),
        store.trim(&stream, id).await.unwrap_err(),
        store.rename(&stream, &stream).await.unwrap_err(),
        labels.set_tags(&stream, id, vec![]).await.unwrap_err(),
        labels
            .set_annotations(&stream, id, Pairs::new(), vec![])
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert!(
            error
                .to_string()
                .contains("stream \"s\": memory store orders"),
            "{error}"
        );
    }
    assert_eq!(
        inner.page(&stream, &ReadOptions::all()).await.unwrap(),
        before
    );
}

#[tokio::test]
async fn a_read_only_store_reads_as_the_store_inside() {
    let (inner, stream) = filled().await;
    let store = ReadOnly::new(inner.clone());
    let options = ReadOptions::all();
    let page = store.page(&stream, &options).await.unwrap();
    assert_eq!(page, inner.page(&stream, &options).await.unwrap());
    assert_eq!(page.entries.len(), 1);
    assert_eq!(store.stat(&stream).await.unwrap().count, 1);
    assert_eq!(store.streams(None, 10).await.unwrap(), [stream]);
    assert_eq!(store.name(), inner.name());
    assert!(store.search().is_some() && store.log().is_some());
    store.close().await;
    assert!(inner.is_closed());
}

#[tokio::test]
async fn an_append_only_store_has_no_labels_and_all_else() {
    let (inner, stream) = filled().await;
    let store = AppendOnly::new(inner.clone());
    assert!(store.labels().is_none());
    assert!(store.search().is_some() && store.log().is_some());
    store
        .append(&stream, vec![NewEntry::new("2")], ExpectedVersion::Any)
        .await
        .unwrap();
    assert_eq!(store.trim(&stream, EntryId(1)).await.unwrap(), 1);
    let other = StreamName::new("t").unwrap();
    store.rename(&stream, &other).await.unwrap();
    assert_eq!(inner.stat(&other).await.unwrap().count, 1);
    store.close().await;
    assert!(inner.is_closed());
}

#[tokio::test]
async fn display_shows_the_nesting() {
    let (inner, _) = filled().await;
    let shared: Arc<dyn Store> = inner;
    let store = ReadOnly::new(AppendOnly::new(shared));
    assert_eq!(
        store.to_string(),
        "read-only(append-only(memory store orders))"
    );
    assert!(
        store.labels().is_none(),
        "what the store inside lacks is not offered"
    );
}
