//! Collections of a real MongoDB, captured into ClickHouse and PostgreSQL.

use ledger::ErrorKind;
use ledger::mongodb::{MongoConfig, MongoDatabase};
use ledger_harness::Mongo;
use mongodb::Collection;
use mongodb::bson::{Bson, DateTime, Decimal128, Document, doc, oid::ObjectId};
use uuid::Uuid;

use crate::capture::ends::{Ends, Engine};
use crate::replication::run::until;

/// A MongoDB database, and a bridge from it; `postgres` is where the source of [`Ends`] was.
pub(crate) struct Captured {
    pub(crate) ends: Ends,
    pub(crate) source: MongoDatabase,
    pub(crate) postgres: String,
}

impl Captured {
    pub(crate) async fn open(engine: Engine, server: &str, collections: &str) -> Self {
        let mut ends = Ends::open(engine, collections, "").await;
        let (server, _) = server.rsplit_once('/').unwrap();
        let database = format!("c{}", Uuid::new_v4().simple());
        let url = format!("{server}/{database}?directConnection=true");
        let postgres = std::mem::replace(&mut ends.from, url);
        Self {
            source: MongoDatabase::open(MongoConfig::from_url(&ends.from).unwrap())
                .await
                .unwrap(),
            ends,
            postgres,
        }
    }

    pub(crate) async fn shared(engine: Engine, collections: &str) -> Self {
        Self::open(engine, &ledger_harness::shared::mongodb_url(), collections).await
    }

    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        self.source.database().collection(name)
    }

    pub(crate) async fn close(mut self) {
        self.source.database().drop().await.unwrap();
        self.source.close().await;
        self.ends.from = self.postgres;
        self.ends.drop_databases().await;
    }
}

fn orders(range: std::ops::Range<i32>) -> Vec<Document> {
    let order = |n: i32| doc! {"_id": n, "n": i64::from(n) * 3, "name": format!("order {n}")};
    range.map(order).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collection_held_and_every_change_of_it_arrive_today() {
    Box::pin(what_a_collection_held_and_every_change_of_it_arrive(
        Engine::Today,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collection_held_and_every_change_of_it_arrive_on_the_oldest_engine() {
    Box::pin(what_a_collection_held_and_every_change_of_it_arrive(
        Engine::Oldest,
    ))
    .await;
}

async fn what_a_collection_held_and_every_change_of_it_arrive(engine: Engine) {
    let captured = Captured::shared(engine, "orders,events,!secret").await;
    let ends = &captured.ends;
    let held = captured.collection("orders");
    held.insert_many(orders(0..5_000)).await.unwrap();
    captured
        .collection("secret")
        .insert_one(doc! {"x": 1})
        .await
        .unwrap();
    let running = ends.start().await;
    until("the table is made", async || {
        ends.has("orders_current").await
    })
    .await;
    // While it is copied, and after: every kind of change, new fields, types that change.
    for round in 0..10 {
        let base = 10_000 + round * 100;
        held.insert_many(orders(base..base + 100)).await.unwrap();
        held.update_many(
            doc! {"_id": {"$mod": [10, round]}},
            doc! {"$set": {"new": round}},
        )
        .await
        .unwrap();
        held.replace_one(
            doc! {"_id": round},
            doc! {"n": "a text now", "deep": {"a": [1.5]}},
        )
        .await
        .unwrap();
        held.delete_many(doc! {"_id": {"$gte": 1_000 + round * 50, "$lt": 1_020 + round * 50}})
            .await
            .unwrap();
        // A collection that is made while the bridge runs.
        captured
            .collection("events")
            .insert_one(doc! {"round": round})
            .await
            .unwrap();
    }
    // One transaction: its events have one cluster time.
    let mut session = captured.source.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..50 {
        let one = doc! {"_id": 7};
        held.update_one(one, doc! {"$set": {"step": n}})
            .session(&mut session)
            .await
            .unwrap();
    }
    session.commit_transaction().await.unwrap();
    let count = held.count_documents(doc! {}).await.unwrap();
    until("everything has arrived", async || {
        let shown = ends
            .sink("SELECT concat(toString(count()), ' ', toString(countIf(doc LIKE '%\"step\":49%'))) FROM orders_current")
            .await;
        let events = ends.has("events_current").await
            && ends.number("SELECT count() FROM events_current").await == 10;
        shown == [format!("{count} 1")] && events
    })
    .await;
    let verified = ends.verify(false).await;
    assert!(verified.equal, "{:#?}", verified.differences);
    assert!(
        !ends.has("secret").await,
        "what is not selected is not carried"
    );
    running.stopped().await;

    // Drops and renames, which the bridge meets when it comes back.
    captured.collection("events").drop().await.unwrap();
    let to = format!("{}.events", captured.source.config().database);
    let from = format!("{}.orders", captured.source.config().database);
    captured
        .source
        .client()
        .database("admin")
        .run_command(doc! {"renameCollection": from, "to": to})
        .await
        .unwrap();
    ends.once().await.unwrap();
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT count() FROM orders_current").await, 0);
    assert_eq!(
        ends.number("SELECT count() FROM events_current").await,
        count
    );
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_told_exactly_and_postgresql_holds_jsonb() {
    let captured = Captured::shared(Engine::Today, "odd").await;
    let odd = captured.collection("odd");
    let oid = ObjectId::parse_str("64b0000000000000000000ff").unwrap();
    let decimal: Decimal128 = "12345678901234567890.1234567890".parse().unwrap();
    odd.insert_many([
        doc! {"_id": oid, "long": i64::MAX, "decimal": decimal, "at": DateTime::from_millis(1)},
        doc! {"_id": "5", "text": "the text"},
        doc! {"_id": 5, "null": Bson::Null, "a.b": 1, "$c": 2},
        doc! {"_id": {"composed": [1, "x"]}, "bytes": mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![0, 255],
        }},
        doc! {"_id": 2.5, "big": "x".repeat(15_900_000)},
    ])
    .await
    .unwrap();
    let ends = &captured.ends;
    ends.once().await.unwrap();
    odd.update_one(doc! {"_id": 2.5}, doc! {"$set": {"small": 1}})
        .await
        .unwrap();
    ends.assert_equal().await;
    let docs = ends
        .sink("SELECT left(doc, 200) FROM odd_current ORDER BY length(_id), _id")
        .await;
    assert!(
        docs.iter()
            .any(|doc| doc.contains(r#""long":9223372036854775807"#)),
        "{docs:?}"
    );
    assert!(
        docs.iter()
            .any(|doc| doc.contains(r#"{"$numberDecimal":"12345678901234567890.1234567890"}"#)),
        "{docs:?}"
    );
    assert_eq!(
        ends.number("SELECT uniqExact(_id) FROM odd_current").await,
        5
    );

    let replica = ends.elsewhere(&captured.postgres);
    replica.once().await.unwrap();
    odd.delete_one(doc! {"_id": "5"}).await.unwrap();
    replica.assert_equal().await;
    let mut at = ends.elsewhere(&captured.postgres);
    at.from = captured.postgres.clone();
    let held = at
        .source("SELECT doc -> 'long' FROM odd WHERE _id = '64b0000000000000000000ff'")
        .await;
    assert_eq!(held, ["(9223372036854775807)"]);
    let kinds = at
        .source("SELECT pg_typeof(doc)::text FROM odd LIMIT 1")
        .await;
    assert_eq!(kinds, ["(jsonb)"]);
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_a_write_load_loses_nothing() {
    let mut server = Mongo::start().await;
    let captured = Captured::open(Engine::Today, &server.url(), "load").await;
    let load = captured.collection("load");
    load.insert_many(orders(0..2_000)).await.unwrap();
    let running = captured.ends.start().await;
    let mut sent = 2_000;
    for round in 0..3 {
        for _ in 0..10 {
            load.insert_many(orders(sent..sent + 100)).await.unwrap();
            load.delete_one(doc! {"_id": sent - 50}).await.unwrap();
            load.update_many(
                doc! {"_id": {"$mod": [7, round]}},
                doc! {"$inc": {"n": 1_i64}},
            )
            .await
            .unwrap();
            sent += 100;
        }
        server.kill().await;
        server.restart().await;
        until("the server is reached again", async || {
            load.count_documents(doc! {}).await.is_ok()
        })
        .await;
    }
    let count = load.count_documents(doc! {}).await.unwrap();
    until("everything has arrived", async || {
        captured.ends.has("load_current").await
            && captured
                .ends
                .number("SELECT count() FROM load_current")
                .await
                == count
    })
    .await;
    let verified = captured.ends.verify(false).await;
    assert!(verified.equal, "{:#?}", verified.differences);
    running.stopped().await;
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_has_rolled_over_is_said_and_a_resync_mends_it() {
    let server = Mongo::start().await;
    let captured = Captured::open(Engine::Today, &server.url(), "t").await;
    let t = captured.collection("t");
    t.insert_many(orders(0..100)).await.unwrap();
    captured.ends.once().await.unwrap();
    t.delete_many(doc! {"_id": {"$lt": 10}}).await.unwrap();
    t.insert_one(doc! {"_id": 1_000}).await.unwrap();
    let first = async || {
        let oplog = captured
            .source
            .client()
            .database("local")
            .collection::<Document>("oplog.rs");
        let oldest = oplog
            .find_one(doc! {})
            .sort(doc! {"$natural": 1})
            .await
            .unwrap()
            .unwrap();
        oldest.get_timestamp("ts").unwrap()
    };
    let (before, filler) = (first().await, captured.collection("filler"));
    let big = doc! {"x": "y".repeat(4 << 20)};
    until("the oplog rolls over", async || {
        for _ in 0..8 {
            filler.insert_one(&big).await.unwrap();
        }
        // Not only its beginning: the bridge's own place too.
        first().await.time > before.time + 1 && captured.ends.once().await.is_err()
    })
    .await;
    let error = captured.ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{}", error.chain());
    assert!(error.chain().contains("--resync"), "{}", error.chain());
    let flow = captured.ends.flow().await.unwrap();
    flow.resync(&captured.ends.pipeline).await.unwrap();
    captured.ends.assert_equal().await;
    assert_eq!(
        captured.ends.number("SELECT count() FROM t_current").await,
        91
    );
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_is_said() {
    let captured = Captured::shared(Engine::Today, "nothing_here").await;
    let error = captured.ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    let server = Mongo::start_standalone().await;
    let mut ends = captured.ends.elsewhere(&captured.ends.to);
    ends.from = server.url();
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
    assert!(error.chain().contains("--replSet"), "{}", error.chain());
    ends.from = captured.ends.from.clone();
    ends.options.slot = Some("mine".to_owned());
    let error = ends.once().await.unwrap_err();
    assert!(error.to_string().contains("slot"), "{}", error.chain());
    captured.close().await;
}
