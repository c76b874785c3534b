//! Appends that come at the same moment share transactions.

use std::sync::Arc;

use futures::future::join_all;
use tokio::task::JoinSet;

use super::*;

/// Streams `s0`, `s1`, ... that exist.
async fn streams(store: &PostgresStore, count: usize) -> Vec<StreamName> {
    let streams: Vec<_> = (0..count).map(|at| stream(&format!("s{at}"))).collect();
    for stream in &streams {
        append(store, stream.as_str(), "0").await;
    }
    streams
}

async fn count(conn: &mut PgConnection, sql: &str) -> i64 {
    let counted = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
    counted.fetch_one(conn).await.unwrap()
}

async fn payloads(store: &PostgresStore, stream: &StreamName) -> Vec<String> {
    let page = store.page(stream, &ReadOptions::all()).await.unwrap();
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    let entries = page.entries.iter();
    entries.map(|entry| text(&entry.payload)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn single_appends_of_many_share_transactions() {
    let url = database().await;
    let store = Arc::new(open(&url).await);
    let streams = streams(&store, 40).await;
    let writers = streams.iter().map(|stream| {
        let (store, stream) = (Arc::clone(&store), stream.clone());
        tokio::spawn(async move {
            for at in 1..=10 {
                append(&store, stream.as_str(), &at.to_string()).await;
            }
        })
    });
    for ended in join_all(writers).await {
        ended.unwrap();
    }
    let expected: Vec<_> = (0..=10).map(|at| at.to_string()).collect();
    for stream in &streams {
        assert_eq!(payloads(&store, stream).await, expected);
        assert_eq!(store.stat(stream).await.unwrap().version, 11);
    }
    let mut conn = connect(&url).await;
    let sql = "SELECT count(DISTINCT xmin::text) FROM orders_entries WHERE payload::text <> '0'";
    let transactions = count(&mut conn, sql).await;
    assert!(transactions < 200, "{transactions} for 400 appends");
    // The log has them once each, in the order of each stream.
    let mut changes = changes(&store);
    for _ in 0..440 {
        next(&mut changes).await;
    }
    assert!(is_quiet(&mut changes).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_locked_holds_up_no_other() {
    let url = database().await;
    let store = Arc::new(open(&url).await);
    let streams = streams(&store, 20).await;
    let (held, others) = streams.split_at(5);
    let mut conn = connect(&url).await;
    let mut tx = conn.begin().await.unwrap();
    for stream in held {
        let mut ledger = store.within(&mut tx);
        let appended = ledger.append(stream, entries("first"), ExpectedVersion::Any);
        appended.await.unwrap();
    }
    // More than the pool has connections.
    let mut waiting = JoinSet::new();
    for (_, stream) in (0..50).zip(held.iter().cycle()) {
        let (store, stream) = (Arc::clone(&store), stream.clone());
        waiting.spawn(async move { append(&store, stream.as_str(), "later").await });
    }
    let appends = (0..200).zip(others.iter().cycle());
    let appends = appends.map(|(_, stream)| append(&store, stream.as_str(), "1"));
    tokio::time::timeout(SOON, join_all(appends))
        .await
        .expect("the other streams do not wait");
    assert!(waiting.try_join_next().is_none(), "the lock is held");
    tx.commit().await.unwrap();
    tokio::time::timeout(SOON, waiting.join_all())
        .await
        .expect("the stream goes on");
    for stream in held {
        let payloads = payloads(&store, stream).await;
        assert_eq!((payloads.len(), payloads[1].as_str()), (12, "first"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_alone() {
    let url = database().await;
    let store = Arc::new(open(&url).await);
    let streams = streams(&store, 30).await;
    let mut conn = connect(&url).await;
    let check = "ALTER TABLE orders_entries ADD CHECK (order_key <> 'poison')";
    run(&mut conn, check).await;
    // Of each stream one is wrong in its expectation, one is refused by the database.
    let appends = streams.iter().flat_map(|stream| {
        (0..6).map(|at| {
            let (store, stream) = (Arc::clone(&store), stream.clone());
            tokio::spawn(async move {
                let mut entries = entries(&at.to_string());
                let expected = match at {
                    2 => ExpectedVersion::Exactly(99),
                    _ => ExpectedVersion::Any,
                };
                if at == 4 {
                    entries[0].order_key = "poison".into();
                }
                (at, store.append(&stream, entries, expected).await)
            })
        })
    });
    for ended in join_all(appends.collect::<Vec<_>>()).await {
        match ended.unwrap() {
            (2, result) => assert_eq!(result.unwrap_err().kind(), ErrorKind::Conflict),
            (4, result) => {
                let error = one_line(&result.unwrap_err());
                assert!(error.contains("orders_entries_order_key_check"), "{error}");
            }
            (at, result) => assert_eq!(result.unwrap().len(), 1, "{at}"),
        }
    }
    for stream in &streams {
        let mut payloads = payloads(&store, stream).await;
        payloads.sort();
        assert_eq!(payloads, ["0", "0", "1", "3", "5"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_streams_and_dedup_keys_share_too() {
    let url = database().await;
    let store = Arc::new(open(&url).await);
    // Each key eight times, at once; each stream is new.
    let appends = (0..400).map(|at| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (name, key) = (at % 10, at % 50);
            let mut entries = vec![NewEntry::new("{}"), NewEntry::new("{}")];
            entries[0].dedup_key = format!("key {key}");
            let stream = stream(&format!("new-{name}"));
            let appended = store.append(&stream, entries, ExpectedVersion::Any).await;
            appended.unwrap()
        })
    });
    let (mut first, mut ids) = (0, Vec::new());
    for ended in join_all(appends.collect::<Vec<_>>()).await {
        let appended = ended.unwrap();
        first += usize::from(!appended[0].duplicate);
        assert!(!appended[1].duplicate);
        ids.push(appended[1].id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((first, ids.len()), (50, 400));
    let mut conn = connect(&url).await;
    let rows = count(&mut conn, "SELECT count(*) FROM orders_entries").await;
    assert_eq!(rows, 450);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_over_several_streams_meets_no_deadlock() {
    let url = database().await;
    let store = Arc::new(open(&url).await);
    let streams = streams(&store, 8).await;
    let ended = Arc::new(tokio::sync::Notify::new());
    let mut writers = JoinSet::new();
    for at in 0..32 {
        let (store, stream) = (Arc::clone(&store), streams[at % 8].clone());
        let ended = Arc::clone(&ended);
        writers.spawn(async move {
            let ended = ended.notified();
            tokio::pin!(ended);
            while futures::poll!(ended.as_mut()).is_pending() {
                append(&store, stream.as_str(), "1").await;
            }
        });
    }
    let mut conn = connect(&url).await;
    for round in 0..60 {
        let mut tx = conn.begin().await.unwrap();
        let (from, to) = if round % 2 == 0 { (0, 7) } else { (7, 0) };
        for at in [from, 3, to] {
            let mut ledger = store.within(&mut tx);
            let appended = ledger.append(&streams[at], entries("2"), ExpectedVersion::Any);
            appended.await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    ended.notify_waiters();
    tokio::time::timeout(SOON, writers.join_all())
        .await
        .expect("the writers end");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_takes_nobody_along() {
    let url = database().await;
    let store = Arc::new(open(&url).await);
    let streams = streams(&store, 16).await;
    let mut conn = connect(&url).await;
    let mut tx = conn.begin().await.unwrap();
    run(&mut tx, "LOCK TABLE orders_entries IN EXCLUSIVE MODE").await;
    let mut tasks: Vec<_> = (0..64)
        .map(|at| {
            let (store, stream) = (Arc::clone(&store), streams[at % 16].clone());
            tokio::spawn(async move { append(&store, stream.as_str(), "1").await })
        })
        .collect();
    // Some of them are under way, the others wait for these.
    let blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted \
                   AND relation = 'orders_entries'::regclass";
    while count(&mut tx, blocked).await < 3 {
        tokio::task::yield_now().await;
    }
    for task in tasks.drain(..32) {
        task.abort();
    }
    tx.commit().await.unwrap();
    let stayed = tasks.len();
    for task in tasks {
        let ended = tokio::time::timeout(SOON, task).await;
        ended.expect("who stays is answered").unwrap();
    }
    for stream in &streams {
        append(&store, stream.as_str(), "2").await;
    }
    let appended = count(
        &mut conn,
        "SELECT count(*) FROM orders_entries WHERE payload::text = '1'",
    )
    .await;
    assert!((stayed..=64).contains(&usize::try_from(appended).unwrap()));
}
