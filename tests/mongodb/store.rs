//! What MongoDB stores do beyond what every store does.

use std::sync::Arc;

use futures::TryStreamExt as _;
use ledger::mongodb::{MongoConfig, MongoStore};
use ledger::{
    ErrorKind, ExpectedVersion, NewEntry, Query, ReadOptions, Store, StoreExt as _, StoreName,
    StoreOptions, StreamName,
};
use ledger_harness::Mongo;
use mongodb::bson::{Document, doc};
use uuid::Uuid;

use crate::replication::run::until;

async fn open(url: &str, options: StoreOptions) -> Arc<MongoStore> {
    let name = StoreName::new(format!("m{}", Uuid::new_v4().simple())).unwrap();
    let config = MongoConfig::from_url(url).unwrap();
    Arc::new(MongoStore::open(config, name, options).await.unwrap())
}

async fn shared(options: StoreOptions) -> Arc<MongoStore> {
    open(&ledger_harness::shared::mongodb_url(), options).await
}

fn stream() -> StreamName {
    StreamName::new("s").unwrap()
}

async fn append(store: &MongoStore, payloads: &[&[u8]]) -> ledger::Result<usize> {
    let entries = payloads
        .iter()
        .map(|payload| NewEntry::new(payload.to_vec()))
        .collect();
    let appended = store
        .append(&stream(), entries, ExpectedVersion::Any)
        .await?;
    Ok(appended.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_payloads_come_back_to_the_byte_and_json_is_queried_as_documents() {
    let store = shared(StoreOptions::default()).await;
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(15_900_000));
    let numbers = format!("[{}1]", "1,".repeat(1_500_000));
    let payloads: Vec<&[u8]> = vec![
        br#"{"n":9223372036854775808,"name":"2^63"}"#,
        br#"{"n":1e400}"#,
        br#"{"n":0.1000000000000000000000000000000000000000}"#,
        br#"{"a":1,"a":2}"#,
        br#"{"a.b":{"$c":1,"$ref":"x","":2}}"#,
        br#"{ "spaced" : true }"#,
        deep.as_bytes(),
        large.as_bytes(),
        // As an array of numbers it would be five times as large.
        numbers.as_bytes(),
        b"no JSON",
        b"\xff\x00",
    ];
    for payload in &payloads {
        append(&store, &[payload]).await.unwrap();
    }
    let read: Vec<_> = store
        .read(&stream(), ReadOptions::all())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(read.len(), payloads.len());
    for (entry, payload) in read.iter().zip(&payloads) {
        assert_eq!(entry.payload[..], **payload);
    }
    let entries = store
        .database()
        .database()
        .collection::<Document>(&format!("{}_entries", store.name()));
    let count = async |filter| entries.count_documents(filter).await.unwrap();
    assert_eq!(count(doc! {"payload.n": {"$gt": 1e18}}).await, 2);
    assert_eq!(count(doc! {"payload.n": 0.1}).await, 1);
    assert_eq!(count(doc! {"payload.spaced": true}).await, 1);
    assert_eq!(count(doc! {"payload.a": 2}).await, 1);

    let too_large = vec![b'x'; 17 << 20];
    let error = append(&store, &[&too_large]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("entries[0].payload"), "{error}");
    assert_eq!(store.stat(&stream()).await.unwrap().count, 11);
}

#[tokio::test]
async fn full_text_needs_its_option_and_its_index() {
    let without = shared(StoreOptions::default()).await;
    append(&without, &[b"{}"]).await.unwrap();
    let words = Query::FullText("mills".to_owned());
    let search = async |store: &MongoStore| {
        store
            .search()
            .unwrap()
            .search(None, &words, &ReadOptions::all())
            .await
    };
    let error = search(&without).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let store = shared(StoreOptions {
        full_text: true,
        ..StoreOptions::default()
    })
    .await;
    append(
        &store,
        &[br#"{"text":"Wind mills"}"#, b"a mill in plain text"],
    )
    .await
    .unwrap();
    let error = search(&store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
    assert!(error.chain().contains("text index"), "{}", error.chain());
    store.ensure_search_index().await.unwrap();
    store.ensure_search_index().await.unwrap();
    assert_eq!(search(&store).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn entries_and_the_callers_documents_are_committed_together() {
    let store = shared(StoreOptions::default()).await;
    let orders = store
        .database()
        .database()
        .collection::<Document>(&format!("{}_o", store.name()));
    orders.insert_one(doc! {"_id": 0}).await.unwrap();
    for commits in [false, true] {
        let mut session = store.database().client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        orders
            .insert_one(doc! {"_id": 1})
            .session(&mut session)
            .await
            .unwrap();
        let mut within = store.within(&mut session);
        let entries = vec![NewEntry::new("{}").dedup_key("k")];
        let appended = within
            .append(&stream(), entries, ExpectedVersion::None)
            .await
            .unwrap();
        assert!(!appended[0].duplicate);
        let own = within.page(&stream(), &ReadOptions::all()).await.unwrap();
        assert_eq!(own.entries.len(), 1, "it sees what it has not committed");
        let tags = ["t".to_owned()];
        within
            .set_tags(&stream(), appended[0].id, &tags)
            .await
            .unwrap();
        assert_eq!(
            store.stat(&stream()).await.unwrap().count,
            0,
            "nobody else does"
        );
        if commits {
            session.commit_transaction().await.unwrap();
        } else {
            session.abort_transaction().await.unwrap();
        }
        let expected = u64::from(commits);
        assert_eq!(store.stat(&stream()).await.unwrap().count, expected);
        assert_eq!(orders.count_documents(doc! {}).await.unwrap(), 1 + expected);
    }
}

/// Appends while the server is killed, and while its primary steps down, and reads the log beside.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_and_a_stepdown_lose_and_double_nothing() {
    let mut server = Mongo::start().await;
    let store = open(&server.url(), StoreOptions::default()).await;
    let log = store.log().unwrap();
    let mut changes = log.changes(log.start());
    let (sent, writer) = (
        Arc::new(std::sync::atomic::AtomicUsize::new(0)),
        Arc::clone(&store),
    );
    let counter = Arc::clone(&sent);
    const APPENDS: usize = 600;
    let writes = tokio::spawn(async move {
        for n in 0..APPENDS {
            loop {
                // What may have been committed is met again as a duplicate.
                let entry = NewEntry::new(format!("{n}")).dedup_key(format!("k{n}"));
                match writer
                    .append(&stream(), vec![entry], ExpectedVersion::Any)
                    .await
                {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
                }
            }
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let reached = async |count: usize| {
        until("appends go on", async || {
            sent.load(std::sync::atomic::Ordering::Relaxed) >= count
        })
        .await;
    };
    reached(100).await;
    server.kill().await;
    server.restart().await;
    reached(300).await;
    let admin = store.database().client().database("admin");
    // The only member is elected again a second later.
    let _ = admin
        .run_command(doc! {"replSetStepDown": 1, "force": true})
        .await;
    reached(APPENDS).await;
    writes.await.unwrap();
    // A reader that lost its server ends, and is opened again at its cursor.
    let (mut seen, mut at) = (Vec::new(), log.start());
    while seen.len() < APPENDS {
        match changes.try_next().await {
            Ok(Some(change)) => {
                at = change.cursor.clone();
                if let ledger::Mutation::Append { entry, .. } = change.mutation {
                    seen.push((entry.id, entry.payload));
                }
            }
            Ok(None) => panic!("a log does not end"),
            Err(error) => {
                assert!(error.is_retryable(), "{}", error.chain());
                changes = log.changes(at.clone());
            }
        }
    }
    let expected: Vec<String> = (0..APPENDS).map(|n| n.to_string()).collect();
    let payloads: Vec<_> = seen.iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(payloads, expected);
    assert!(seen.is_sorted(), "ids ascend in the log");
    assert_eq!(store.stat(&stream()).await.unwrap().count, APPENDS as u64);
    store.close().await;
}

/// Carries what one client says to the server, until it is dropped.
async fn relay(server: &str) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server.to_owned();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(&server).await.unwrap();
            connections.spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, task)
}

/// A server would hold such a transaction for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_of_a_process_that_is_gone_holds_nobody_up() {
    let server = Mongo::start().await;
    let store = open(&server.url(), StoreOptions::default()).await;
    let (port, relay) = relay(&format!("127.0.0.1:{}", server.port())).await;
    let url = server
        .url()
        .replace(&server.port().to_string(), &port.to_string());
    // The same store, as another process has it open.
    let config = MongoConfig::from_url(&url).unwrap();
    let gone = MongoStore::open(config, store.name().clone(), StoreOptions::default()).await;
    let gone = gone.unwrap();
    let mut session = gone.database().client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    gone.within(&mut session)
        .append(&stream(), vec![NewEntry::new("{}")], ExpectedVersion::Any)
        .await
        .unwrap();
    let other = Arc::clone(&store);
    let mut append = tokio::spawn(async move {
        while let Err(error) = append(&other, &[b"{}"]).await {
            assert!(error.is_retryable(), "{}", error.chain());
        }
    });
    let held = tokio::time::timeout(std::time::Duration::from_millis(500), &mut append).await;
    assert!(held.is_err(), "an open transaction holds others up");
    // Its connections break, and it never says anything again.
    relay.abort();
    let _ = relay.await;
    std::mem::forget(session);
    let begun = std::time::Instant::now();
    append.await.unwrap();
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(store.stat(&stream()).await.unwrap().count, 1);
    store.close().await;
}
