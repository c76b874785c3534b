//! The SQLite store on real files: what is beyond the conformance suite.
#![cfg(feature = "sqlite")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use ledger_core::{
    Change, ChangeLog as _, Cursor, EntryId, ErrorKind, ExpectedVersion, Lease, Mutation, NewEntry,
    PipelineId, Query, ReadOptions, Result, Store as _, StoreName, StreamName,
};
use ledger_sources::sqlite::{Retention, SqliteConfig, SqliteStore, StoreOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tempfile::TempDir;

fn orders() -> StoreName {
    StoreName::new("orders").unwrap()
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn pipeline(name: &str) -> PipelineId {
    PipelineId::new(name).unwrap()
}

async fn open(path: &Path) -> SqliteStore {
    open_with(path, StoreOptions::default()).await
}

async fn open_with(path: &Path, options: StoreOptions) -> SqliteStore {
    SqliteStore::open(SqliteConfig::file(path), orders(), options)
        .await
        .unwrap()
}

async fn memory() -> SqliteStore {
    SqliteStore::open(SqliteConfig::memory(), orders(), StoreOptions::default())
        .await
        .unwrap()
}

fn file(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("ledger.db")
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .connect()
        .await
        .unwrap()
}

async fn append(store: &SqliteStore, name: &str, payload: &str) -> EntryId {
    let entry = NewEntry::new(payload.to_owned());
    let appended = store
        .append(&stream(name), vec![entry], ExpectedVersion::Any)
        .await
        .unwrap();
    appended[0].id
}

async fn payloads(store: &SqliteStore, name: &str) -> Vec<String> {
    let page = store
        .page(&stream(name), &ReadOptions::all())
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    page.entries
        .iter()
        .map(|entry| text(&entry.payload))
        .collect()
}

async fn next(changes: &mut BoxStream<'static, Result<Change>>) -> Result<Change> {
    tokio::time::timeout(Duration::from_secs(10), changes.next())
        .await
        .expect("a change within ten seconds")
        .expect("a log has no end")
}

async fn open_error(config: SqliteConfig) -> ledger_core::Error {
    SqliteStore::open(config, orders(), StoreOptions::default())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn what_is_wrong_with_a_path_is_said_in_one_line() {
    let folder = TempDir::new().unwrap();
    let shown = folder.path().display().to_string();

    let missing = folder.path().join("nowhere/ledger.db");
    let error = open_error(SqliteConfig::file(missing)).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error.to_string().contains(&format!("{shown}/nowhere")),
        "{error}"
    );

    let error = open_error(SqliteConfig::file(folder.path())).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains(&shown), "{error}");

    let error = open_error(SqliteConfig::file(file(&folder)).create(false)).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(!file(&folder).exists());

    std::fs::write(file(&folder), "this is no database, ".repeat(300)).unwrap();
    let error = open_error(SqliteConfig::file(file(&folder))).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(
        error.chain().contains(&shown) && !error.chain().contains('\n'),
        "{}",
        error.chain()
    );
}

#[tokio::test]
async fn a_file_of_the_go_implementation_is_refused_untouched() {
    let folder = TempDir::new().unwrap();
    let mut conn = raw(&file(&folder)).await;
    sqlx::raw_sql(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY); CREATE TABLE orders_cursors (name TEXT);
         CREATE TABLE ledger_stream_metadata (store_name TEXT, name TEXT, stream_id TEXT);",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let error = open_error(SqliteConfig::file(file(&folder))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("ledger import go"), "{error}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(tables, 3);
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused() {
    let folder = TempDir::new().unwrap();
    open(&file(&folder)).await.close().await;
    let mut conn = raw(&file(&folder)).await;
    sqlx::query("UPDATE ledger_stores SET schema_version = 99")
        .execute(&mut conn)
        .await
        .unwrap();
    let error = open_error(SqliteConfig::file(file(&folder))).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("99"), "{error}");
}

#[tokio::test]
async fn names_that_would_share_tables_are_refused() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    for (name, kind) in [
        ("Orders", ErrorKind::InvalidInput),
        ("sqlite_x", ErrorKind::InvalidInput),
    ] {
        let name = StoreName::new(name).unwrap();
        let opened = SqliteStore::open_on(store.database(), name, StoreOptions::default()).await;
        assert_eq!(opened.unwrap_err().kind(), kind);
    }
    let mut conn = raw(&file(&folder)).await;
    sqlx::query("CREATE TABLE bills_log (x)")
        .execute(&mut conn)
        .await
        .unwrap();
    let bills = StoreName::new("bills").unwrap();
    let opened = SqliteStore::open_on(store.database(), bills, StoreOptions::default()).await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("bills_log"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_at_the_same_moment_creates_one_store() {
    let folder = TempDir::new().unwrap();
    let opened = (0..8).map(|_| async { open(&file(&folder)).await });
    let stores = futures::future::join_all(opened).await;
    let identity = stores[0].identity().await.unwrap();
    for store in &stores {
        assert_eq!(store.identity().await.unwrap(), identity);
        append(store, "a", "1").await;
    }
    assert_eq!(payloads(&stores[0], "a").await.len(), 8);
}

#[tokio::test]
async fn a_commit_of_the_callers_transaction_commits_rows_and_entries_together() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    let mut conn = raw(&file(&folder)).await;
    sqlx::query("CREATE TABLE business (id INTEGER)")
        .execute(&mut conn)
        .await
        .unwrap();

    for keep in [false, true] {
        let mut transaction = conn.begin().await.unwrap();
        sqlx::query("INSERT INTO business VALUES (1)")
            .execute(&mut *transaction)
            .await
            .unwrap();
        let mut ledger = store.within(&mut transaction);
        let entries = vec![NewEntry::new("1").dedup_key("k"), NewEntry::new("2")];
        let ids = ledger
            .append(&stream("a"), entries, ExpectedVersion::None)
            .await
            .unwrap();
        ledger
            .set_tags(&stream("a"), ids[0].id, vec!["t".into()])
            .await
            .unwrap();
        let set = [("k".to_owned(), "v".to_owned())].into();
        ledger
            .set_annotations(&stream("a"), ids[0].id, set, &[])
            .await
            .unwrap();
        ledger.rename(&stream("a"), &stream("b")).await.unwrap();
        assert_eq!(ledger.trim(&stream("b"), ids[1].id).await.unwrap(), 2);
        let entries = vec![NewEntry::new("3").dedup_key("k")];
        let again = ledger
            .append(&stream("b"), entries, ExpectedVersion::Exactly(2))
            .await
            .unwrap();
        assert!(!again[0].duplicate && again[0].id > ids[1].id);

        // A failed operation leaves nothing behind, and the transaction goes on.
        let entries = vec![NewEntry::new("4")];
        let failed = ledger
            .append(&stream("c"), entries, ExpectedVersion::Exactly(7))
            .await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Conflict);

        assert_eq!(ledger.streams(None, 10).await.unwrap(), [stream("b")]);
        assert_eq!(ledger.stat(&stream("b")).await.unwrap().count, 1);
        let page = ledger
            .page(&stream("b"), &ReadOptions::all())
            .await
            .unwrap();
        assert_eq!(page.entries[0].payload, "3");
        assert_eq!(
            payloads(&store, "b").await,
            Vec::<String>::new(),
            "seen before the commit"
        );

        if keep {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM business")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(rows, i64::from(keep));
        assert_eq!(payloads(&store, "b").await.len(), usize::from(keep));
    }
    let mut changes = store.changes(store.start());
    let mut kinds = Vec::new();
    for _ in 0..7 {
        kinds.push(next(&mut changes).await.unwrap().mutation.kind().as_str());
    }
    let expected = [
        "append",
        "append",
        "set_tags",
        "set_annotations",
        "rename",
        "trim",
        "append",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_deferred_transaction_takes_the_write_lock_before_it_reads() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    let mut conn = raw(&file(&folder)).await;
    let mut transaction = conn.begin().await.unwrap();
    store
        .within(&mut transaction)
        .trim(&stream("nothing"), EntryId(1))
        .await
        .unwrap();
    let other = SqliteConfig::file(file(&folder)).busy_timeout(Duration::from_millis(1));
    let other = SqliteStore::open(other, orders(), StoreOptions::default())
        .await
        .unwrap();
    let entries = vec![NewEntry::new("1")];
    let busy = other
        .append(&stream("a"), entries, ExpectedVersion::Any)
        .await
        .unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Unavailable);
    assert!(busy.is_retryable());
    transaction.commit().await.unwrap();
    append(&other, "a", "1").await;
}

#[tokio::test]
async fn a_database_in_memory_takes_transactions_of_the_caller() {
    let store = memory().await;
    let mut writer = store.writer().await.unwrap();
    let mut transaction = writer.begin().await.unwrap();
    let entries = vec![NewEntry::new("1")];
    let mut ledger = store.within(&mut transaction);
    ledger
        .append(&stream("a"), entries, ExpectedVersion::Any)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    drop(writer);
    assert_eq!(payloads(&store, "a").await, ["1"]);
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_this_process() {
    let store = memory().await;
    let mut changes = store.changes(store.start());
    let appender = store.clone();
    let (change, _) = tokio::join!(next(&mut changes), async move {
        tokio::task::yield_now().await;
        append(&appender, "a", "1").await
    });
    assert_eq!(change.unwrap().stream.name, stream("a"));
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_another_process() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    append(&store, "a", "1").await;
    let mut readers = [store.changes(store.start()), store.changes(store.start())];
    for reader in &mut readers {
        next(reader).await.unwrap();
    }
    // As another process would: on a connection that this process's handles know nothing of.
    let mut conn = raw(&file(&folder)).await;
    for payload in ["2", "3"] {
        let [first, second] = &mut readers;
        let wait = async { tokio::join!(next(first), next(second)) };
        let write = async {
            tokio::task::yield_now().await;
            let entries = vec![NewEntry::new(payload)];
            let mut ledger = store.within(&mut conn);
            ledger
                .append(&stream("a"), entries, ExpectedVersion::Any)
                .await
                .unwrap();
        };
        let ((one, two), ()) = tokio::join!(wait, write);
        for change in [one.unwrap(), two.unwrap()] {
            let Mutation::Append { entry, .. } = change.mutation else {
                panic!("{change:?}")
            };
            assert_eq!(entry.payload, payload);
        }
    }
    // The one that looks on behalf of the other may go.
    let [first, mut second] = readers;
    drop(first);
    let write = async {
        let entries = vec![NewEntry::new("4")];
        store
            .within(&mut conn)
            .append(&stream("a"), entries, ExpectedVersion::Any)
            .await
            .unwrap();
    };
    let (change, ()) = tokio::join!(next(&mut second), write);
    change.unwrap();
}

#[tokio::test]
async fn a_cursor_knows_its_history_after_an_older_copy_was_restored() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    append(&store, "a", "1").await;
    let old = store.head().await.unwrap();
    store.close().await;
    std::fs::copy(file(&folder), folder.path().join("copy.db")).unwrap();

    let store = open(&file(&folder)).await;
    append(&store, "a", "2").await;
    let lost = store.head().await.unwrap();
    store.close().await;
    std::fs::copy(folder.path().join("copy.db"), file(&folder)).unwrap();

    let store = open(&file(&folder)).await;
    // Past the end, and then a row of another history at the same place.
    for _ in 0..2 {
        let error = next(&mut store.changes(lost.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceDiverged);
        assert!(error.to_string().contains("--resync"), "{error}");
        append(&store, "a", "other").await;
    }
    let change = next(&mut store.changes(old)).await.unwrap();
    let Mutation::Append { entry, version: 2 } = change.mutation else {
        panic!("{change:?}")
    };
    assert_eq!(entry.payload, "other");
}

#[tokio::test]
async fn an_unknown_mutation_in_the_log_is_corrupt_and_named() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    append(&store, "a", "1").await;
    append(&store, "a", "2").await;
    let mut conn = raw(&file(&folder)).await;
    sqlx::query("UPDATE orders_log SET kind = 77 WHERE seq = 2")
        .execute(&mut conn)
        .await
        .unwrap();
    let mut changes = store.changes(store.start());
    next(&mut changes).await.unwrap();
    let error = next(&mut changes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("row 2") && error.to_string().contains("77"),
        "{error}"
    );
    assert!(
        changes.next().await.is_none(),
        "a stream ends with its error"
    );
}

fn at_once() -> StoreOptions {
    let retention = Retention {
        min: Duration::ZERO,
        max: None,
    };
    StoreOptions {
        retention,
        ..StoreOptions::default()
    }
}

#[tokio::test]
async fn the_log_is_pruned_up_to_the_slowest_consumer() {
    let folder = TempDir::new().unwrap();
    let store = open_with(&file(&folder), at_once()).await;
    let mut cursors: Vec<Cursor> = vec![store.start()];
    for n in 0..300 {
        append(&store, "a", &n.to_string()).await;
        cursors.push(store.head().await.unwrap());
    }
    let consumers = store.log().unwrap().consumers();
    let (fast, slow) = (pipeline("fast"), pipeline("slow"));
    consumers.register(&fast, &cursors[0]).await.unwrap();
    consumers.register(&slow, &cursors[0]).await.unwrap();
    assert_eq!(store.prune().await.unwrap(), 0);
    consumers.confirm(&fast, &cursors[300]).await.unwrap();
    consumers.confirm(&slow, &cursors[290]).await.unwrap();
    consumers.confirm(&slow, &cursors[280]).await.unwrap();
    assert_eq!(store.prune().await.unwrap(), 289);

    let change = next(&mut store.changes(cursors[290].clone()))
        .await
        .unwrap();
    assert_eq!(change.cursor, cursors[291]);
    for early in [&cursors[0], &cursors[1], &cursors[289]] {
        let error = next(&mut store.changes(early.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");
    }
    let late = consumers
        .register(&pipeline("late"), &cursors[0])
        .await
        .unwrap_err();
    assert_eq!(late.kind(), ErrorKind::CursorExpired);
    assert_eq!(consumers.list().await.unwrap().len(), 2);

    consumers.unregister(&slow).await.unwrap();
    consumers.unregister(&fast).await.unwrap();
    assert_eq!(store.prune().await.unwrap(), 10, "all but the newest");
    assert_eq!(store.head().await.unwrap(), cursors[300]);
}

#[tokio::test]
async fn nobody_holds_the_log_back_beyond_the_longest_retention() {
    let folder = TempDir::new().unwrap();
    let retention = Retention {
        min: Duration::ZERO,
        max: Some(Duration::ZERO),
    };
    let options = StoreOptions {
        retention,
        ..StoreOptions::default()
    };
    let store = open_with(&file(&folder), options).await;
    for _ in 0..3 {
        append(&store, "a", "1").await;
    }
    let consumers = store.log().unwrap().consumers();
    consumers
        .register(&pipeline("slow"), &store.start())
        .await
        .unwrap();
    assert_eq!(store.prune().await.unwrap(), 2);

    let kept = open(&file(&folder)).await;
    append(&kept, "a", "2").await;
    assert_eq!(
        kept.prune().await.unwrap(),
        0,
        "younger than the shortest retention"
    );
}

#[tokio::test]
async fn without_a_log_nothing_is_logged() {
    let folder = TempDir::new().unwrap();
    let options = StoreOptions {
        log: false,
        append_only: true,
        ..StoreOptions::default()
    };
    let store = open_with(&file(&folder), options).await;
    append(&store, "a", "1").await;
    store.trim(&stream("a"), EntryId(1)).await.unwrap();
    assert!(store.log().is_none() && store.labels().is_none());
    let mut conn = raw(&file(&folder)).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders_log")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    // The store is what it was created as.
    assert!(open(&file(&folder)).await.log().is_none());
}

#[tokio::test]
async fn a_json_payload_is_json_to_the_database_and_bytes_are_kept() {
    let folder = TempDir::new().unwrap();
    let store = open(&file(&folder)).await;
    let payloads: [&[u8]; 6] = [
        br#"{ "n":  1.10, "n": 2 }"#,
        b"",
        b"\x00\xff\x00",
        b"not json",
        b"{\"x\": \"\xff\"}",
        "\"\u{1f980}\"".as_bytes(),
    ];
    let entries = payloads
        .map(|payload| NewEntry::new(payload.to_vec()))
        .to_vec();
    store
        .append(&stream("a"), entries, ExpectedVersion::Any)
        .await
        .unwrap();
    let page = store.page(&stream("a"), &ReadOptions::all()).await.unwrap();
    let read: Vec<&[u8]> = page
        .entries
        .iter()
        .map(|entry| &entry.payload[..])
        .collect();
    assert_eq!(read, payloads);
    let mut conn = raw(&file(&folder)).await;
    let found: (f64, i64) = sqlx::query_as(
        "SELECT (SELECT payload ->> '$.n' FROM orders_entries WHERE id = 1),
                (SELECT sum(typeof(payload) = 'text') FROM orders_entries)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert!(
        (found.0 - 1.1).abs() < 1e-9 || (found.0 - 2.0).abs() < 1e-9,
        "{found:?}"
    );
    assert_eq!(found.1, 2);
}

#[tokio::test]
async fn filters_take_any_text_as_it_is() {
    let store = memory().await;
    let odd = "a\"b\\c'd\u{e9}\n$.x";
    let entry = NewEntry::new("1").meta(odd, odd).tag(odd).order_key(odd);
    let entries = vec![entry, NewEntry::new("2").order_key("")];
    let ids = store
        .append(&stream(odd), entries, ExpectedVersion::Any)
        .await
        .unwrap();
    let set = [(odd.to_owned(), odd.to_owned())].into();
    let labels = store.labels().unwrap();
    labels
        .set_annotations(&stream(odd), ids[0].id, set, vec![])
        .await
        .unwrap();
    let pairs: ledger_core::Pairs = [(odd.to_owned(), odd.to_owned())].into();
    let filters = [
        ReadOptions {
            tag: Some(odd.into()),
            ..ReadOptions::all()
        },
        ReadOptions {
            metadata: pairs.clone(),
            ..ReadOptions::all()
        },
        ReadOptions {
            annotations: pairs,
            ..ReadOptions::all()
        },
        ReadOptions {
            order_key: Some(odd.into()),
            ..ReadOptions::all()
        },
    ];
    for options in filters {
        let page = store.page(&stream(odd), &options).await.unwrap();
        assert_eq!(page.entries.len(), 1, "{options:?}");
        assert!(options.matches(&page.entries[0]));
    }
    let options = ReadOptions {
        order_key: Some(String::new()),
        ..ReadOptions::all()
    };
    assert_eq!(
        store.page(&stream(odd), &options).await.unwrap().entries[0].payload,
        "2"
    );
}

#[tokio::test]
async fn search_finds_text_in_json_and_in_other_bytes() {
    let store = memory().await;
    for payload in ["\"Grün 50%\"", "grün", "\"GRÜN\"", "\"50 0\"", "x\u{0}GRÜN"] {
        append(&store, "a", payload).await;
    }
    append(&store, "b", "\"grün\"").await;
    let search = store.search().unwrap();
    let count = async |stream: Option<&StreamName>, text: &str| {
        let query = Query::Substring(text.into());
        search
            .search(stream, &query, &ReadOptions::all())
            .await
            .unwrap()
            .entries
            .len()
    };
    assert_eq!(count(Some(&stream("a")), "GrÜn").await, 4);
    assert_eq!(count(None, "ü").await, 5);
    assert_eq!(count(None, "50%").await, 1);
    assert_eq!(count(None, "GR").await, 5);
    assert_eq!(count(Some(&stream("nobody")), "gr").await, 0);

    let query = Query::Substring("gr".into());
    let options = ReadOptions {
        limit: Some(2),
        descending: true,
        ..ReadOptions::all()
    };
    let page = search.search(None, &query, &options).await.unwrap();
    assert_eq!(page.entries[0].stream, stream("b"));
    assert!(page.more);
    let full = search
        .search(None, &Query::FullText("x".into()), &options)
        .await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_lease_has_one_holder_at_a_time() {
    let store = memory().await;
    let consumers = store.log().unwrap().consumers();
    let name = pipeline("p");
    let hour = Duration::from_hours(1);
    let missing = consumers.lease(&name, "a", hour).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    consumers.register(&name, &store.start()).await.unwrap();
    consumers.set_paused(&name, true).await.unwrap();
    let held = Lease::Held { paused: true };
    assert_eq!(consumers.lease(&name, "a", hour).await.unwrap(), held);
    let other = Lease::HeldBy { holder: "a".into() };
    assert_eq!(consumers.lease(&name, "b", hour).await.unwrap(), other);
    consumers.release(&name, "b").await.unwrap();
    assert_eq!(
        consumers.list().await.unwrap()[0].holder.as_deref(),
        Some("a")
    );
    consumers.release(&name, "a").await.unwrap();
    assert_eq!(
        consumers.lease(&name, "b", Duration::ZERO).await.unwrap(),
        held
    );
    assert_eq!(consumers.list().await.unwrap()[0].holder, None);
    assert_eq!(consumers.lease(&name, "a", hour).await.unwrap(), held);
}

#[tokio::test]
async fn stat_list_and_rename_do_not_scan_entries() {
    let store = memory().await;
    append(&store, "a", "1").await;
    let mut writer = store.writer().await.unwrap();
    for sql in [
        "SELECT e.id FROM orders_entries e WHERE e.stream_key = 1 ORDER BY e.id DESC LIMIT 1",
        "SELECT e.id FROM orders_entries e WHERE e.stream_key = 1 AND e.order_key = ?1
           AND e.order_key <> '' ORDER BY e.id LIMIT 10",
        "SELECT DISTINCT name FROM orders_streams WHERE live > 0 AND name > ?1 ORDER BY name LIMIT 5",
        "SELECT st.pruned_through, l.* FROM ledger_stores st LEFT JOIN orders_log l ON l.seq >= ?2
           WHERE st.name = ?1 ORDER BY l.seq LIMIT 9",
        "SELECT e.id, s.name FROM orders_entries e CROSS JOIN orders_streams s
           WHERE s.key = e.stream_key AND (e.stream_key, e.id) > (?1, ?2)
             AND (e.stream_key, e.id) <= (?3, ?4) ORDER BY e.stream_key, e.id LIMIT 5",
        "SELECT key FROM orders_streams WHERE name = ?1 ORDER BY key DESC LIMIT 1",
    ] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(&mut *writer)
                .await
                .unwrap();
        for (_, _, _, step) in plan {
            assert!(step.contains("SEARCH"), "{sql}: {step}");
        }
    }
}

#[tokio::test]
async fn every_call_after_closing_says_closed() {
    let store = memory().await;
    append(&store, "a", "1").await;
    let mut changes = store.changes(store.start());
    next(&mut changes).await.unwrap();
    let closing = store.clone();
    let (change, ()) = tokio::join!(next(&mut changes), async move {
        tokio::task::yield_now().await;
        closing.close().await;
        closing.close().await;
    });
    assert_eq!(change.unwrap_err().kind(), ErrorKind::Closed);
    let a = stream("a");
    assert_eq!(store.stat(&a).await.unwrap_err().kind(), ErrorKind::Closed);
    let appended = store.append(&a, vec![], ExpectedVersion::Any).await;
    assert_eq!(appended.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_copy_resumes_in_its_middle() {
    let store = memory().await;
    for n in 0..5 {
        append(&store, ["a", "b"][n % 2], &n.to_string()).await;
    }
    let all: Vec<Change> = store
        .snapshot(None)
        .map(|change| change.unwrap())
        .collect()
        .await;
    assert_eq!(all.len(), 7);
    for (index, change) in all.iter().enumerate() {
        let rest: Vec<_> = store
            .snapshot(Some(change.cursor.clone()))
            .map(|change| change.unwrap())
            .collect()
            .await;
        let same = |(a, b): (&Change, &Change)| a.mutation == b.mutation && a.cursor == b.cursor;
        assert_eq!(rest.len(), all.len() - index - 1);
        assert!(rest.iter().zip(&all[index + 1..]).all(same));
    }
}

#[tokio::test]
async fn lag_counts_the_changes_behind_a_cursor() {
    let store = memory().await;
    let entries = vec![NewEntry::new("1"), NewEntry::new("2"), NewEntry::new("3")];
    store
        .append(&stream("a"), entries, ExpectedVersion::Any)
        .await
        .unwrap();
    append(&store, "a", "4").await;
    assert_eq!(store.lag(&store.start()).await.unwrap().entries, 4);
    let first = next(&mut store.changes(store.start())).await.unwrap();
    assert_eq!(store.lag(&first.cursor).await.unwrap().entries, 3);
    let head = store.head().await.unwrap();
    let lag = store.lag(&head).await.unwrap();
    assert_eq!((lag.entries, lag.age), (0, Duration::ZERO));
}

#[tokio::test]
async fn the_head_is_the_last_change_also_where_duplicates_follow_it() {
    let store = memory().await;
    let entry = || NewEntry::new("1").dedup_key("k");
    store
        .append(&stream("a"), vec![entry(), entry()], ExpectedVersion::Any)
        .await
        .unwrap();
    let head = store.head().await.unwrap();
    assert_eq!(
        next(&mut store.changes(store.start()))
            .await
            .unwrap()
            .cursor,
        head
    );
    assert_eq!(store.lag(&head).await.unwrap().entries, 0);
    append(&store, "a", "2").await;
    let after = next(&mut store.changes(head)).await.unwrap();
    assert_eq!(after.cursor, store.head().await.unwrap());
}
