//! A disk that is full for a while.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use ledger_core::{ExpectedVersion, NewEntry, ReadOptions, Store as _, StoreName, StreamName};
use ledger_sources::sqlite::{SqliteConfig, SqliteStore, StoreOptions};
use sqlx::AssertSqlSafe;

/// Appends until SQLite finds no room, gives it room again, and appends once more.
#[tokio::test]
async fn writing_goes_on_when_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig::file(folder.path().join("orders.db"));
    let name = StoreName::new("orders").unwrap();
    let store = SqliteStore::open(config, name, StoreOptions::default())
        .await
        .unwrap();
    let stream = StreamName::new("a").unwrap();
    let append = async || {
        let entries: Vec<_> = (0..20).map(|_| NewEntry::new(vec![b'x'; 2_000])).collect();
        store
            .append(&stream, entries, ExpectedVersion::Exists)
            .await
    };
    let first = vec![NewEntry::new("first")];
    store
        .append(&stream, first, ExpectedVersion::None)
        .await
        .unwrap();
    append().await.unwrap();

    let mut writer = store.writer().await.unwrap();
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&mut *writer)
        .await
        .unwrap();
    let limit = |pages: i64| AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::query(limit(pages + 30))
        .execute(&mut *writer)
        .await
        .unwrap();
    drop(writer);
    let mut kept = 21;
    let mut refused = 0;
    while refused < 3 {
        match append().await {
            Ok(appended) => kept += appended.len(),
            Err(_) => refused += 1,
        }
    }

    let mut writer = store.writer().await.unwrap();
    sqlx::query(limit(1_000_000))
        .execute(&mut *writer)
        .await
        .unwrap();
    drop(writer);
    // The first may still be told that the connection was in doubt; none after it is.
    if append().await.is_ok() {
        kept += 20;
    }
    append().await.unwrap();
    let stat = store.stat(&stream).await.unwrap();
    assert_eq!(stat.count, kept as u64 + 20);
    let page = store.page(&stream, &ReadOptions::all()).await.unwrap();
    assert_eq!(page.entries.len() as u64, stat.count);
}
