//! Appends that share a transaction are still accepted or refused each by itself.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use ledger_core::{
    ErrorKind, ExpectedVersion, NewEntry, ReadOptions, Store as _, StoreName, StreamName,
};
use ledger_sources::sqlite::{SqliteConfig, SqliteStore, StoreOptions};

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

async fn open(folder: &tempfile::TempDir) -> SqliteStore {
    let config = SqliteConfig::file(folder.path().join("orders.db"));
    let name = StoreName::new("orders").unwrap();
    SqliteStore::open(config, name, StoreOptions::default())
        .await
        .unwrap()
}

/// Lets the others run until they wait for the lock.
async fn all_wait() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_append_of_a_group_has_its_own_result() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let first = vec![NewEntry::new("0").dedup_key("k")];
    let held = store
        .append(&stream("a"), first, ExpectedVersion::Any)
        .await
        .unwrap();

    let lock = store.writer().await.unwrap();
    let asked = [
        (stream("a"), NewEntry::new("1"), ExpectedVersion::Exactly(1)),
        // Two expect the same version: one of them is late.
        (stream("a"), NewEntry::new("2"), ExpectedVersion::Exactly(1)),
        (stream("b"), NewEntry::new("3"), ExpectedVersion::None),
        // A stream that only a refused append would have created is not there.
        (stream("c"), NewEntry::new("4"), ExpectedVersion::Exists),
        // All duplicates succeed, whatever was expected.
        (
            stream("a"),
            NewEntry::new("5").dedup_key("k"),
            ExpectedVersion::None,
        ),
        (stream("b"), NewEntry::new("6"), ExpectedVersion::Any),
    ];
    let calls: Vec<_> = asked
        .into_iter()
        .map(|(name, entry, expected)| {
            let store = store.clone();
            tokio::spawn(async move { store.append(&name, vec![entry], expected).await })
        })
        .collect();
    all_wait().await;
    drop(lock);
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.unwrap());
    }

    assert!(!results[0].as_ref().unwrap()[0].duplicate);
    let conflict = results[1].as_ref().unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    assert_eq!(conflict.version_conflict().unwrap().actual, 2);
    assert!(results[2].is_ok());
    assert_eq!(results[3].as_ref().unwrap_err().kind(), ErrorKind::Conflict);
    let duplicate = results[4].as_ref().unwrap()[0];
    assert!(duplicate.duplicate && duplicate.id == held[0].id);
    assert!(results[5].is_ok());

    let payloads = async |name: &str| -> Vec<_> {
        let page = store.page(&stream(name), &ReadOptions::all()).await;
        let entries = page.unwrap().entries.into_iter();
        entries.map(|entry| entry.payload).collect()
    };
    assert_eq!(payloads("a").await, ["0", "1"]);
    assert_eq!(payloads("b").await, ["3", "6"]);
    assert_eq!(
        store.streams(None, 10).await.unwrap(),
        [stream("a"), stream("b")]
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_no_other_append_along() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let lock = store.writer().await.unwrap();
    let call = |payload: &'static str| {
        let store = store.clone();
        tokio::spawn(async move {
            let entries = vec![NewEntry::new(payload)];
            store
                .append(&stream("a"), entries, ExpectedVersion::Any)
                .await
        })
    };
    // The first of them is the one that set the group going.
    let (first, second) = (call("1"), call("2"));
    all_wait().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    drop(lock);
    second.await.unwrap().unwrap();
}
