//! What is PostgreSQL's own: gaps of the log, transactions, refusals.

mod group;
mod wal;

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{
    Change, Error, ErrorKind, ExpectedVersion, Mutation, NewEntry, Pairs, Query, ReadOptions,
    Result, Store, StoreName, StoreOptions, StreamName,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// Long enough for a change that could come to have come.
const QUIET: Duration = Duration::from_millis(400);
const SOON: Duration = Duration::from_secs(20);

/// A database of the test's own, on the shared server.
async fn database() -> String {
    let server = ledger_harness::shared::postgres_url();
    let name = format!("t{}", uuid::Uuid::new_v4().simple());
    let mut conn = PgConnection::connect(&server).await.unwrap();
    let create = format!("CREATE DATABASE {name}");
    conn.execute(AssertSqlSafe(create)).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    format!("{base}/{name}")
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn run(conn: &mut PgConnection, sql: &str) {
    conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

async fn open_with(url: &str, options: StoreOptions) -> Result<PostgresStore> {
    let name = StoreName::new("orders")?;
    PostgresStore::open(PostgresConfig::from_url(url)?, name, options).await
}

async fn open(url: &str) -> PostgresStore {
    open_with(url, StoreOptions::default()).await.unwrap()
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn entries(payload: &str) -> Vec<NewEntry> {
    vec![NewEntry::new(payload.to_owned())]
}

async fn append(store: &PostgresStore, name: &str, payload: &str) {
    let (stream, entries) = (stream(name), entries(payload));
    store
        .append(&stream, entries, ExpectedVersion::Any)
        .await
        .unwrap();
}

fn changes(store: &PostgresStore) -> BoxStream<'static, Result<Change>> {
    let log = store.log().unwrap();
    log.changes(log.start())
}

/// The next payload that the log tells.
async fn next(changes: &mut BoxStream<'static, Result<Change>>) -> String {
    let change = tokio::time::timeout(SOON, changes.next())
        .await
        .expect("a change")
        .unwrap();
    match change.unwrap().mutation {
        Mutation::Append { entry, .. } => String::from_utf8(entry.payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn is_quiet(changes: &mut BoxStream<'static, Result<Change>>) -> bool {
    tokio::time::timeout(QUIET, changes.next()).await.is_err()
}

fn one_line(error: &Error) -> String {
    let line = error.chain();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_holds_the_reader_until_it_is_filled() {
    let url = database().await;
    let store = open(&url).await;
    let mut changes = changes(&store);
    let mut conn = connect(&url).await;
    let mut tx = conn.begin().await.unwrap();
    let slow = entries("\"slow\"");
    store
        .within(&mut tx)
        .append(&stream("a"), slow, ExpectedVersion::Any)
        .await
        .unwrap();
    append(&store, "b", "\"quick\"").await;
    assert!(is_quiet(&mut changes).await, "the reader ran past a gap");
    let lag = store
        .log()
        .unwrap()
        .lag(&store.log().unwrap().start())
        .await
        .unwrap();
    assert_eq!(lag.entries, 1);
    assert!(
        lag.held_by.iter().any(|who| who.contains("process")),
        "{lag:?}"
    );
    tx.commit().await.unwrap();
    assert_eq!(next(&mut changes).await, "\"slow\"");
    assert_eq!(next(&mut changes).await, "\"quick\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_holds_the_reader_until_it_is_dead() {
    let url = database().await;
    let store = open(&url).await;
    let mut changes = changes(&store);
    let mut conn = connect(&url).await;
    let mut tx = conn.begin().await.unwrap();
    let gone = entries("\"gone\"");
    store
        .within(&mut tx)
        .append(&stream("a"), gone, ExpectedVersion::Any)
        .await
        .unwrap();
    append(&store, "b", "\"stays\"").await;
    assert!(is_quiet(&mut changes).await, "the reader ran past a gap");
    tx.rollback().await.unwrap();
    assert_eq!(next(&mut changes).await, "\"stays\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_holds_the_reader() {
    let url = database().await;
    let store = open(&url).await;
    for (name, ending, expected) in [
        ("one", "COMMIT PREPARED", vec!["\"prepared\"", "\"later\""]),
        ("two", "ROLLBACK PREPARED", vec!["\"later\""]),
    ] {
        let log = store.log().unwrap();
        let mut changes = log.changes(log.head().await.unwrap());
        let mut conn = connect(&url).await;
        let mut tx = conn.begin().await.unwrap();
        let prepared = entries("\"prepared\"");
        store
            .within(&mut tx)
            .append(&stream(name), prepared, ExpectedVersion::Any)
            .await
            .unwrap();
        let id = format!("t{}", uuid::Uuid::new_v4().simple());
        tx.execute(AssertSqlSafe(format!("PREPARE TRANSACTION '{id}'")))
            .await
            .unwrap();
        // The session has no transaction any more; ending it rolls nothing back.
        drop(tx);
        append(&store, "other", "\"later\"").await;
        assert!(
            is_quiet(&mut changes).await,
            "the reader ran past a prepared transaction"
        );
        let mut conn = connect(&url).await;
        run(&mut conn, &format!("{ending} '{id}'")).await;
        for payload in expected {
            assert_eq!(next(&mut changes).await, payload, "{ending}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_long_transaction_holds_nobody() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    let mut tx = conn.begin().await.unwrap();
    run(&mut tx, "CREATE TABLE unrelated (x int)").await;
    run(&mut tx, "INSERT INTO unrelated VALUES (1)").await;
    let mut changes = changes(&store);
    append(&store, "a", "1").await;
    assert_eq!(next(&mut changes).await, "1");
    let head = tokio::time::timeout(SOON, store.log().unwrap().head()).await;
    head.expect("head waits for nobody who does not write the log")
        .unwrap();
    tx.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_durable_whatever_the_session_says() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    run(&mut conn, "SET synchronous_commit = off").await;
    let mut tx = conn.begin().await.unwrap();
    store
        .within(&mut tx)
        .append(&stream("a"), entries("1"), ExpectedVersion::Any)
        .await
        .unwrap();
    let setting: String = sqlx::query_scalar("SHOW synchronous_commit")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(setting, "on");
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_joins_the_callers_transaction() {
    let url = database().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    run(&mut conn, "CREATE TABLE business (x int)").await;
    let (a, b) = (stream("a"), stream("b"));
    for commit in [false, true] {
        let mut tx = conn.begin().await.unwrap();
        run(&mut tx, "INSERT INTO business VALUES (1)").await;
        let mut ledger = store.within(&mut tx);
        let id = ledger
            .append(&a, entries("1"), ExpectedVersion::None)
            .await
            .unwrap()[0]
            .id;
        ledger.set_tags(&a, id, vec!["t".into()]).await.unwrap();
        let set = Pairs::from([("k".into(), "v".into())]);
        ledger.set_annotations(&a, id, set, vec![]).await.unwrap();
        ledger.rename(&a, &b).await.unwrap();
        // A conflict must not end the transaction.
        let stale = ledger
            .append(&b, entries("2"), ExpectedVersion::Exactly(7))
            .await
            .unwrap_err();
        let conflict = stale.version_conflict().unwrap();
        assert_eq!((stale.kind(), conflict.actual), (ErrorKind::Conflict, 1));
        let taken = ledger.rename(&a, &b).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::NotFound);
        let page = ledger.page(&b, &ReadOptions::all()).await.unwrap();
        assert_eq!(page.entries[0].tags, ["t"]);
        assert_eq!(
            ledger.streams(None, 10).await.unwrap(),
            std::slice::from_ref(&b)
        );
        assert_eq!(ledger.stat(&b).await.unwrap().count, 1);
        assert!(
            store
                .page(&b, &ReadOptions::all())
                .await
                .unwrap()
                .entries
                .is_empty()
        );
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    assert_eq!(store.stat(&b).await.unwrap().count, 1);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM business")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serializable_caller_that_would_read_stale_state_is_told_to_retry() {
    let url = database().await;
    let store = open(&url).await;
    append(&store, "a", "1").await;
    let mut conn = connect(&url).await;
    let mut tx = conn
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    run(&mut tx, "SELECT 1 FROM orders_entries").await;
    append(&store, "a", "2").await;
    let stale = store
        .within(&mut tx)
        .append(&stream("a"), entries("3"), ExpectedVersion::Any)
        .await;
    let error = stale.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_databases_own_json_functions_work_on_payloads() {
    let url = database().await;
    let store = open(&url).await;
    let odd = "{ \"a\" : 1.50, \"a\":  2e400 }";
    append(&store, "a", odd).await;
    append(&store, "a", "not json").await;
    let mut conn = connect(&url).await;
    let sql = "SELECT payload->>'a', payload::text FROM orders_entries WHERE payload IS NOT NULL";
    let row: (String, String) = sqlx::query_as(sql).fetch_one(&mut conn).await.unwrap();
    assert_eq!(row, ("2e400".into(), odd.into()));
    let page = store.page(&stream("a"), &ReadOptions::all()).await.unwrap();
    assert_eq!(page.entries[1].payload, "not json");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_text_search_uses_its_index() {
    let url = database().await;
    let plain = open(&url).await;
    let error = plain.ensure_search_index().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let options = StoreOptions {
        full_text: true,
        ..StoreOptions::default()
    };
    let store = open_with(&url, options).await.unwrap();
    append(&store, "a", "\"the quick brown fox\"").await;
    append(&store, "a", "\"a lazy dog\"").await;
    // Longer than what an index takes of one text.
    append(
        &store,
        "a",
        &format!("{{\"long\": \"{}\"}}", "word ".repeat(500_000)),
    )
    .await;
    store.ensure_search_index().await.unwrap();
    store.ensure_search_index().await.unwrap();
    append(&store, "a", &format!("[\"{}\"]", "other ".repeat(500_000))).await;
    let search = store.search().unwrap();
    let query = Query::FullText("fox quick".into());
    let page = search
        .search(None, &query, &ReadOptions::all())
        .await
        .unwrap();
    assert_eq!(page.entries.len(), 1);
    let mut conn = connect(&url).await;
    run(&mut conn, "SET enable_seqscan = off").await;
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT * FROM orders_entries e WHERE to_tsvector('simple', left(\
         coalesce(e.payload::text, ledger_text(e.payload_bytes)), 200000)) @@ \
         plainto_tsquery('simple', 'fox')",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert!(
        plan.iter().any(|line| line.contains("orders_text")),
        "{plan:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_log_has_none() {
    let url = database().await;
    let options = StoreOptions {
        log: false,
        ..StoreOptions::default()
    };
    let store = open_with(&url, options).await.unwrap();
    append(&store, "a", "1").await;
    store.trim(&stream("a"), ledger::EntryId(1)).await.unwrap();
    assert!(store.log().is_none());
    // It is fixed at the store's creation.
    assert!(open(&url).await.log().is_none());
    let mut conn = connect(&url).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders_log")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ledgers_is_refused_untouched() {
    let refused = async |setup: &str, kind: ErrorKind, words: &str| {
        let url = database().await;
        let mut conn = connect(&url).await;
        run(&mut conn, setup).await;
        let error = open_with(&url, StoreOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", one_line(&error));
        assert!(one_line(&error).contains(words), "{}", one_line(&error));
        let tables: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_tables WHERE tablename IN ('orders_log', 'ledger_consumers')",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        assert_eq!(tables, 0, "{setup}");
    };
    refused(
        "CREATE TABLE orders (id int); CREATE TABLE orders_cursors (id int); \
         CREATE TABLE ledger_stream_metadata (store_name text, name text, stream_id uuid)",
        ErrorKind::Unsupported,
        "ledger import go",
    )
    .await;
    refused(
        "CREATE TABLE orders_entries (id int)",
        ErrorKind::AlreadyExists,
        "orders_entries",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_from_the_future_is_refused() {
    let url = database().await;
    open(&url).await.close().await;
    let mut conn = connect(&url).await;
    run(&mut conn, "UPDATE ledger_stores SET schema_version = 99").await;
    let error = open_with(&url, StoreOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(one_line(&error).contains("99"), "{}", one_line(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_sequence_is_refused() {
    let url = database().await;
    open(&url).await.close().await;
    let mut conn = connect(&url).await;
    run(&mut conn, "ALTER SEQUENCE orders_log_seq CACHE 20").await;
    let error = open_with(&url, StoreOptions::default()).await.unwrap_err();
    assert!(one_line(&error).contains("CACHE 1"), "{}", one_line(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_is_noticed() {
    let url = database().await;
    let store = open(&url).await;
    append(&store, "a", "1").await;
    let log = store.log().unwrap();
    let head = log.head().await.unwrap();
    let mut conn = connect(&url).await;
    run(
        &mut conn,
        "UPDATE orders_log SET at = at + interval '1 second'",
    )
    .await;
    let error = log.changes(head).next().await.unwrap().unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::SourceDiverged,
        "{}",
        one_line(&error)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_mutation_is_named() {
    let url = database().await;
    let store = open(&url).await;
    append(&store, "a", "1").await;
    let mut conn = connect(&url).await;
    run(&mut conn, "UPDATE orders_log SET kind = 77").await;
    let error = changes(&store).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let line = one_line(&error);
    assert!(line.contains("row 1") && line.contains("77"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_fails_with_the_cause_and_no_secret() {
    let url = database().await;
    let refused = async |url: &str, kind: ErrorKind, words: &str| {
        let error = open_with(url, StoreOptions::default()).await.unwrap_err();
        let line = one_line(&error);
        assert_eq!(error.kind(), kind, "{line}");
        assert!(line.contains(words), "{line}");
        assert!(
            !line.contains("hunter2") && !format!("{error:?}").contains("hunter2"),
            "{line}"
        );
    };
    let (_, host) = url.split_once('@').unwrap();
    let (address, _) = host.split_once('/').unwrap();
    let wrong_user = format!("postgres://nobody:hunter2@{host}");
    refused(&wrong_user, ErrorKind::InvalidInput, "user or password").await;
    let (base, _) = url.rsplit_once('/').unwrap();
    refused(
        &format!("{base}/nowhere"),
        ErrorKind::InvalidInput,
        "database",
    )
    .await;
    let unreachable = "postgres://u:hunter2@127.0.0.1:1/x";
    refused(unreachable, ErrorKind::Unavailable, "127.0.0.1:1").await;
    refused("mysql://u:hunter2@h/x", ErrorKind::InvalidInput, "mysql").await;
    let unknown_mode = format!("postgres://u:hunter2@{address}/x?sslmode=maybe");
    refused(&unknown_mode, ErrorKind::InvalidInput, "parameter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_holds_the_reader_over_a_restart() {
    let mut server = ledger_harness::Postgres::start().await;
    let url = server.url();
    let store = open(&url).await;
    let log = store.log().unwrap();
    let mut reader = log.changes(log.start());
    let mut conn = connect(&url).await;
    let mut tx = conn.begin().await.unwrap();
    let first = entries("\"prepared\"");
    store
        .within(&mut tx)
        .append(&stream("a"), first, ExpectedVersion::Any)
        .await
        .unwrap();
    run(&mut tx, "PREPARE TRANSACTION 'over'").await;
    drop(tx);
    append(&store, "b", "\"later\"").await;
    assert!(is_quiet(&mut reader).await);
    server.kill().await;
    server.restart().await;
    // The reader goes on by itself, or ends with an error that can be retried: so may its
    // successors, which are given the connections that the restart cut.
    loop {
        match tokio::time::timeout(QUIET * 4, reader.next()).await {
            Err(_) => break,
            Ok(Some(Err(error))) if error.is_retryable() => reader = log.changes(log.start()),
            Ok(other) => panic!("the reader ran past it: {other:?}"),
        }
    }
    run(&mut connect(&url).await, "COMMIT PREPARED 'over'").await;
    assert_eq!(next(&mut reader).await, "\"prepared\"");
    assert_eq!(next(&mut reader).await, "\"later\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_spares_who_has_read_all_but_the_young() {
    let url = database().await;
    let store = open(&url).await;
    let log = store.log().unwrap();
    for number in 1..=3 {
        append(&store, "a", &number.to_string()).await;
    }
    let head = log.head().await.unwrap();
    append(&store, "a", "4").await;
    let mut conn = connect(&url).await;
    run(
        &mut conn,
        "UPDATE orders_log SET at = at - interval '30 h' WHERE seq < 3",
    )
    .await;
    assert_eq!(store.prune().await.unwrap(), 1);
    let mut changes = log.changes(head);
    assert_eq!(next(&mut changes).await, "4");
    let error = log.changes(log.start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired);
}

#[tokio::test]
async fn a_consumer_that_has_read_all_leaves_the_young_to_the_others() {
    let store = open(&database().await).await;
    let log = store.log().unwrap();
    for number in 1..=3 {
        append(&store, "a", &number.to_string()).await;
    }
    let consumers = log.consumers();
    let pipeline = ledger::PipelineId::new("p").unwrap();
    let head = log.head().await.unwrap();
    consumers.register(&pipeline, &head).await.unwrap();
    assert_eq!(
        store.prune().await.unwrap(),
        0,
        "all are younger than a day"
    );
    let mut changes = log.changes(log.start());
    assert_eq!(next(&mut changes).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_one_source_and_a_promoted_one_none() {
    use ledger::postgres::PostgresSink;
    use ledger::{Batch, PipelineId, Progress, Sink as _, SourceId};
    let url = database().await;
    let config = PostgresConfig::from_url(&url).unwrap();
    let name = StoreName::new("orders").unwrap();
    let sink = PostgresSink::open(&config, &name).await.unwrap();
    let source = |number: u128| SourceId {
        store: uuid::Uuid::from_u128(number),
        system: "s".into(),
        timeline: 1,
        origins: Vec::new(),
    };
    let (one, two) = (
        PipelineId::new("one").unwrap(),
        PipelineId::new("two").unwrap(),
    );
    let cursors = sink.cursors().unwrap();
    let claim = cursors.claim(&one, &source(1)).await.unwrap();
    let other = cursors.claim(&two, &source(2)).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::SourceDiverged);

    let origin = open(&database().await).await;
    append(&origin, "a", "1").await;
    let change = changes(&origin).next().await.unwrap().unwrap();
    let cursor = Progress::Follow(change.cursor.clone()).to_cursor();
    let batch = |fence| Batch {
        items: vec![(cursor.clone(), change.clone())],
        after: None,
        through: cursor.clone(),
        ack: Some(cursor.clone()),
        pipeline: one.clone(),
        fence,
    };
    sink.deliver(&batch(claim.fence)).await.unwrap();
    let replica = open(&url).await;
    assert!(replica.is_replica());
    let refused = replica
        .append(&stream("a"), entries("2"), ExpectedVersion::Any)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    replica.promote().await.unwrap();
    sink.deliver(&batch(claim.fence)).await.unwrap_err();
    assert!(cursors.claim(&one, &source(1)).await.is_err());

    let promoted = open(&url).await;
    append(&promoted, "a", "2").await;
    let page = promoted
        .page(&stream("a"), &ReadOptions::all())
        .await
        .unwrap();
    assert_eq!(page.entries.len(), 2);
    // What it held as a replica is not in its log.
    let error = changes(&promoted).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired);

    let sink = PostgresSink::open(&config, &StoreName::new("others").unwrap())
        .await
        .unwrap();
    let cursors = sink.cursors().unwrap();
    let claim = cursors.claim(&one, &source(1)).await.unwrap();
    sink.resync().await.unwrap();
    let fenced = sink.deliver(&batch(claim.fence)).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    cursors.claim(&two, &source(2)).await.unwrap();
}
