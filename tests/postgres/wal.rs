//! The write-ahead log as the log of a store: what is its own.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use ledger::connect::{DatabaseUrl, LogKind};
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{
    Change, Cursor, Error, ErrorKind, ExpectedVersion, Mutation, PipelineId, Retention, Store,
    StoreName, StoreOptions,
};
use ledger_harness::Postgres;
use sqlx::Connection as _;
use tokio::time::timeout;

use super::{SOON, append, connect, entries, open, run, stream};

fn options() -> StoreOptions {
    StoreOptions {
        write_ahead_log: true,
        retention: Retention {
            min: Duration::ZERO,
            max: None,
        },
        ..StoreOptions::default()
    }
}

async fn opened(server: &Postgres) -> PostgresStore {
    let config = PostgresConfig::from_url(&server.url()).unwrap();
    let name = StoreName::new("orders").unwrap();
    PostgresStore::open(config, name, options()).await.unwrap()
}

/// The next changes, or the error that comes instead.
async fn next(store: &PostgresStore, after: Cursor, count: usize) -> Result<Vec<Change>, Error> {
    let mut changes = store.log().unwrap().changes(after);
    let mut all = Vec::new();
    while all.len() < count {
        let change = timeout(SOON, changes.next()).await.expect("a change comes");
        all.push(change.expect("the log goes on")?);
    }
    Ok(all)
}

fn payload(change: &Change) -> &str {
    match &change.mutation {
        Mutation::Append { entry, .. } => std::str::from_utf8(&entry.payload).unwrap(),
        other => panic!("no append: {other:?}"),
    }
}

async fn number(server: &Postgres, sql: &str) -> u64 {
    server.psql(sql).await.trim().parse().unwrap()
}

/// How many bytes of the log are kept by the store's slot.
const HELD: &str = "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots \
     WHERE NOT temporary";

/// A reader goes by the order of the commits: nobody's open transaction holds it up.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_that_has_appended_holds_no_reader_up() {
    let server = Postgres::start().await;
    let store = opened(&server).await;
    append(&store, "a", "0").await;
    let mut conn = connect(&server.url()).await;
    let mut tx = conn.begin().await.unwrap();
    store
        .within(&mut tx)
        .append(&stream("a"), entries("late"), ExpectedVersion::Any)
        .await
        .unwrap();
    // What other programs write into the log is nothing to the store, within a transaction or not.
    for transactional in [true, false] {
        server
            .psql(&format!(
                "SELECT pg_logical_emit_message({transactional}, 'another', 'program')"
            ))
            .await;
    }
    append(&store, "b", "1").await;
    let start = store.log().unwrap().start();
    let before = next(&store, start, 2).await.unwrap();
    assert_eq!(payload(&before[1]), "1");
    tx.commit().await.unwrap();
    let late = next(&store, before[1].cursor.clone(), 1).await.unwrap();
    assert_eq!(payload(&late[0]), "late");
    store.close().await;
}

/// The slot moves although the store is idle, and a consumer that has everything loses nothing by it.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_store_beside_a_busy_table_keeps_no_log_back() {
    let server = Postgres::start().await;
    let store = opened(&server).await;
    for n in 0..3 {
        append(&store, "a", &n.to_string()).await;
    }
    let log = store.log().unwrap();
    let all = next(&store, log.start(), 3).await.unwrap();
    let (done, slow) = (
        PipelineId::new("done").unwrap(),
        PipelineId::new("slow").unwrap(),
    );
    log.consumers()
        .register(&done, &all[2].cursor)
        .await
        .unwrap();
    log.consumers()
        .register(&slow, &all[1].cursor)
        .await
        .unwrap();
    server
        .psql("CREATE TABLE busy AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 100000) n")
        .await;
    let written = 40 << 20;
    store.prune().await.unwrap();
    assert!(
        number(&server, HELD).await > written,
        "kept for the slow consumer"
    );
    assert_eq!(
        next(&store, all[1].cursor.clone(), 1).await.unwrap(),
        all[2..]
    );
    let expired = next(&store, log.start(), 1).await.unwrap_err();
    assert_eq!(expired.kind(), ErrorKind::CursorExpired, "{expired}");

    log.consumers()
        .confirm(&slow, &all[2].cursor)
        .await
        .unwrap();
    let given_up = store.prune().await.unwrap();
    assert!(given_up > written, "{given_up}");
    // A snapshot of what runs is written now and then; up to the one before the log is kept.
    server.psql("CHECKPOINT").await;
    store.prune().await.unwrap();
    let held = number(&server, HELD).await;
    assert!(held < written, "{held} bytes are kept");
    append(&store, "a", "3").await;
    let behind = next(&store, all[2].cursor.clone(), 1).await.unwrap();
    assert_eq!(payload(&behind[0]), "3");
    store.close().await;
}

/// Somebody drops the slot: readers are told to begin anew, and afterwards the log is kept again.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_is_told_and_made_again() {
    let server = Postgres::start().await;
    let store = opened(&server).await;
    append(&store, "a", "0").await;
    let log = store.log().unwrap();
    let first = next(&store, log.start(), 1).await.unwrap();
    store.close().await;
    server
        .psql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
        )
        .await;

    let store = opened(&server).await;
    let log = store.log().unwrap();
    append(&store, "a", "1").await;
    let expired = next(&store, first[0].cursor.clone(), 1).await.unwrap_err();
    assert_eq!(expired.kind(), ErrorKind::CursorExpired, "{expired}");
    assert!(expired.to_string().contains("--resync"), "{expired}");
    let head = log.head().await.unwrap();
    append(&store, "a", "2").await;
    let behind = next(&store, head, 1).await.unwrap();
    assert_eq!(payload(&behind[0]), "2");
    store.close().await;
}

/// A restored backup went on otherwise: a cursor of the history before is never followed silently.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_another_history() {
    let mut server = Postgres::start().await;
    let store = opened(&server).await;
    append(&store, "a", "0").await;
    store.close().await;
    server.stop().await;
    let backup = tempfile::tempdir().unwrap();
    let saved = backup.path().join("data");
    copy(&server.data(), &saved);
    server.restart().await;
    let store = opened(&server).await;
    append(&store, "a", "of before").await;
    let start = store.log().unwrap().start();
    let before = next(&store, start, 2).await.unwrap();
    store.close().await;
    server.stop().await;
    std::fs::remove_dir_all(server.data()).unwrap();
    copy(&saved, &server.data());

    server.restart().await;
    let store = opened(&server).await;
    let cursor = before[1].cursor.clone();
    // The log goes on, and nothing happens in the store; the slot is moved beyond the cursor.
    server
        .psql(
            "CREATE TABLE busy AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 9000) n",
        )
        .await;
    assert!(store.prune().await.unwrap() > 0);
    let diverged = next(&store, cursor.clone(), 1).await.unwrap_err();
    assert_eq!(diverged.kind(), ErrorKind::SourceDiverged, "{diverged}");
    // Also where the log has grown beyond the cursor since.
    for n in 0..50 {
        append(&store, "b", &n.to_string()).await;
    }
    let diverged = next(&store, cursor, 1).await.unwrap_err();
    assert_eq!(diverged.kind(), ErrorKind::SourceDiverged, "{diverged}");
    store.close().await;
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

/// The log can be kept elsewhere: consumers are told, and who still has the store open as it was can
/// write nothing that readers would miss.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_the_log_is_told_to_everyone() {
    let server = Postgres::start().await;
    let url: DatabaseUrl = server.url().parse().unwrap();
    let name = StoreName::new("orders").unwrap();
    let table = open(&server.url()).await;
    append(&table, "a", "0").await;
    let of_table = next(&table, table.log().unwrap().start(), 1).await.unwrap();
    assert_eq!(url.log_kind(&name).await.unwrap(), Some(LogKind::Table));
    url.keep_log_in(&name, LogKind::WriteAhead).await.unwrap();
    assert_eq!(
        url.log_kind(&name).await.unwrap(),
        Some(LogKind::WriteAhead)
    );

    let wal = opened(&server).await;
    let log = wal.log().unwrap();
    let refused = next(&wal, of_table[0].cursor.clone(), 1).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SourceDiverged, "{refused}");
    let expired = next(&wal, log.start(), 1).await.unwrap_err();
    assert_eq!(expired.kind(), ErrorKind::CursorExpired, "{expired}");
    let expired = next(&table, of_table[0].cursor.clone(), 1)
        .await
        .unwrap_err();
    assert_eq!(expired.kind(), ErrorKind::CursorExpired, "{expired}");
    // Who opened it before writes what the write-ahead log tells as well.
    let head = log.head().await.unwrap();
    append(&table, "a", "1").await;
    append(&wal, "a", "2").await;
    let told = next(&wal, head, 2).await.unwrap();
    assert_eq!(told.iter().map(payload).collect::<Vec<_>>(), ["1", "2"]);

    url.keep_log_in(&name, LogKind::Table).await.unwrap();
    assert_eq!(url.log_kind(&name).await.unwrap(), Some(LogKind::Table));
    let stale = wal
        .append(&stream("a"), entries("lost"), ExpectedVersion::Any)
        .await
        .unwrap_err();
    assert!(
        stale.chain().contains("open the store anew"),
        "{}",
        stale.chain()
    );
    let again = open(&server.url()).await;
    append(&again, "a", "3").await;
    let log = again.log().unwrap();
    let head = log.head().await.unwrap();
    append(&again, "a", "4").await;
    assert_eq!(payload(&next(&again, head, 1).await.unwrap()[0]), "4");
    assert_eq!(
        number(&server, "SELECT count(*) FROM pg_replication_slots").await,
        0
    );
    for store in [table, wal, again] {
        store.close().await;
    }
}

/// The slot can be made once the transactions of others have ended, and then nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_made_behind_the_transactions_that_are_open() {
    let server = Postgres::start().await;
    let mut conn = connect(&server.url()).await;
    run(&mut conn, "CREATE TABLE other (n int)").await;
    let mut tx = conn.begin().await.unwrap();
    run(&mut tx, "INSERT INTO other VALUES (1)").await;
    let config = PostgresConfig::from_url(&server.url()).unwrap();
    let opening = tokio::spawn(async move {
        let name = StoreName::new("orders").unwrap();
        PostgresStore::open(config, name, options()).await
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
         AND query LIKE '%pg_create_logical_replication_slot%'";
    let waited = async {
        while number(&server, waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waited).await.expect("it waits");
    assert!(!opening.is_finished());
    tx.commit().await.unwrap();
    let store = opening.await.unwrap().unwrap();
    append(&store, "a", "0").await;
    let start = store.log().unwrap().start();
    assert_eq!(payload(&next(&store, start, 1).await.unwrap()[0]), "0");
    store.close().await;
}

/// What the log could not tell afterwards is refused before it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_the_log_cannot_tell_is_refused() {
    let server = Postgres::start().await;
    let store = opened(&server).await;
    let large = |bytes: usize| vec![ledger::NewEntry::new(vec![0xff; bytes])];
    let refused = store
        .append(&stream("a"), large(61 << 20), ExpectedVersion::Any)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().contains("entries[0]"), "{refused}");
    store
        .append(&stream("a"), large(59 << 20), ExpectedVersion::Any)
        .await
        .unwrap();
    let start = store.log().unwrap().start();
    let told = next(&store, start, 1).await.unwrap();
    match &told[0].mutation {
        Mutation::Append { entry, .. } => assert_eq!(entry.payload.len(), 59 << 20),
        other => panic!("no append: {other:?}"),
    }
    store.close().await;
}

/// What the server or its user cannot do is told before anything is made.
#[tokio::test(flavor = "multi_thread")]
async fn what_it_needs_is_told() {
    let server = Postgres::start_with(&["wal_level = replica"]).await;
    let config = PostgresConfig::from_url(&server.url()).unwrap();
    let name = StoreName::new("orders").unwrap();
    let refused = PostgresStore::open(config, name.clone(), options()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("wal_level"), "{error}");
    assert_eq!(
        number(
            &server,
            "SELECT count(*) FROM pg_class WHERE relname LIKE 'orders%'"
        )
        .await,
        0
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    let sqlite = ledger::sqlite::SqliteConfig::file(&file);
    let refused = ledger::sqlite::SqliteStore::open(sqlite, name, options()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
}
