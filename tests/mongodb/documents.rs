//! Documents as typed columns, in each sink.

use ledger::mongodb::capture::Documents;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, doc};

use super::collections::Captured;
use crate::capture::ends::{Ends, Engine};
use crate::replication::run::until;

async fn columns(engine: Engine, collections: &str) -> Captured {
    let mut captured = Captured::shared(engine, collections).await;
    captured.ends.documents = Some(Documents::Columns);
    captured
}

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    let bytes = bytes.to_vec();
    Bson::Binary(Binary { subtype, bytes })
}

/// A value of each type, and the names of those for which another type has everything copied anew.
fn of_each_type() -> Vec<(&'static str, Bson)> {
    let decimal: Decimal128 = "12345678901234567890.1234567890".parse().unwrap();
    vec![
        ("bool", Bson::from(true)),
        ("int", Bson::from(-7)),
        ("long", Bson::from(i64::MAX)),
        ("double", Bson::from(1.0e-7)),
        ("decimal", Bson::from(decimal)),
        ("string", Bson::from("it's \"ä\"")),
        (
            "oid",
            Bson::from(ObjectId::parse_str("64b0000000000000000000ff").unwrap()),
        ),
        ("date", Bson::from(DateTime::from_millis(1_700_000_000_123))),
        ("uuid", binary(BinarySubtype::Uuid, &[7; 16])),
        ("bytes", binary(BinarySubtype::Generic, &[0, 255])),
        ("other", binary(BinarySubtype::UserDefined(0x80), &[1])),
        ("array", Bson::from(vec![1, 2])),
    ]
}

const COPIED_ANEW: [&str; 3] = ["double", "date", "bytes"];

/// Each type beside each other one in a column of its own, in documents that come one after the other.
async fn every_type_widens_exactly(captured: &Captured, ends: &Ends) {
    let types = of_each_type();
    for (name, odd) in [("quick", false), ("anew", true)] {
        let held = captured.collection(name);
        held.delete_many(doc! {}).await.unwrap();
        let first: Vec<_> = types
            .iter()
            .filter(|(first, _)| COPIED_ANEW.contains(first) == odd)
            .collect();
        let mut document = doc! {"_id": "first"};
        for (one, value) in &first {
            for (other, _) in &types {
                document.insert(format!("{one}_{other}"), value.clone());
            }
        }
        held.insert_one(document).await.unwrap();
        ends.once().await.unwrap();
        ends.assert_equal().await;
        for (other, value) in &types {
            let mut document = doc! {"_id": *other, "beside": {"a": 1}};
            for (one, _) in &first {
                document.insert(format!("{one}_{other}"), value.clone());
            }
            held.insert_one(document).await.unwrap();
        }
        ends.once().await.unwrap();
        ends.assert_equal().await;
    }
}

async fn every_type_widens_exactly_in_clickhouse(engine: Engine) {
    let captured = columns(engine, "quick,anew").await;
    captured
        .collection("quick")
        .insert_one(doc! {"_id": 0})
        .await
        .unwrap();
    every_type_widens_exactly(&captured, &captured.ends).await;
    let shown = captured
        .ends
        .sink(
            "SELECT arrayStringConcat([toString(int_long), toString(int_double), ifNull(int_string, '~'), \
             ifNull(bool_int, '~'), ifNull(oid_string, '~'), ifNull(uuid_int, '~')], ' ') \
             FROM quick_current WHERE _id = 'first'",
        )
        .await;
    assert_eq!(
        shown,
        ["-7 -7 -7 true 64b0000000000000000000ff 07070707-0707-0707-0707-070707070707"]
    );
    let shown = captured
        .ends
        .sink(
            "SELECT arrayStringConcat([ifNull(double_string, '~'), ifNull(date_int, '~'), \
             ifNull(bytes_bool, '~')], ' ') FROM anew_current WHERE _id = 'first'",
        )
        .await;
    assert_eq!(shown, ["1e-07 2023-11-14 22:13:20.123+00 \\x00ff"]);
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_widens_exactly_in_clickhouse_today() {
    Box::pin(every_type_widens_exactly_in_clickhouse(Engine::Today)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_widens_exactly_in_the_oldest_clickhouse() {
    Box::pin(every_type_widens_exactly_in_clickhouse(Engine::Oldest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_widens_exactly_in_postgresql() {
    let captured = columns(Engine::Today, "quick,anew").await;
    captured
        .collection("quick")
        .insert_one(doc! {"_id": 0})
        .await
        .unwrap();
    let ends = captured.ends.elsewhere(&captured.postgres);
    every_type_widens_exactly(&captured, &ends).await;
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_widens_exactly_in_sqlite() {
    let captured = columns(Engine::Today, "quick,anew").await;
    captured
        .collection("quick")
        .insert_one(doc! {"_id": 0})
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ends = captured
        .ends
        .elsewhere(&format!("sqlite:{}/copy.db", folder.path().display()));
    every_type_widens_exactly(&captured, &ends).await;
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_sink_lacks_stay_in_the_document() {
    let captured = columns(Engine::Today, "odd").await;
    let odd = captured.collection("odd");
    let long = "x".repeat(70);
    odd.insert_many([
        doc! {"_id": 1, "Name": 1, "name": 2, "doc": 3, "_version": 4, "_deleted": 5, "xmin": 6},
        doc! {"_id": 2, "a": 1, "a.b": 2, "$c": 3, "": 4, "it's \"`a`\\": 5, "ö d": {"null": 6, "size": 7}},
        doc! {"_id": 3, "a": {"b": "x", "null": 8}, &long: 9, "odd": {"odd": 1}, "_id_": {"_id": 2}},
        doc! {"_id": 4, "deep": {"b": {"c": {"d": {"e": {"f": 1}}}}}},
    ])
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}/copy.db", folder.path().display());
    for to in [captured.ends.to.clone(), captured.postgres.clone(), sqlite] {
        let ends = captured.ends.elsewhere(&to);
        ends.once().await.unwrap();
        ends.assert_equal().await;
    }
    let found = captured
        .ends
        .sink(
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'odd_current' \
             ORDER BY position",
        )
        .await;
    let expected = [
        "_id",
        "doc",
        "Name",
        "name",
        "xmin",
        "a",
        "it's \"`a`\\",
        "a.b",
        &long,
        "odd.odd",
        "_id_._id",
        "deep.b.c.d.e",
    ];
    assert_eq!(found, expected);
    let values = captured
        .ends
        .sink("SELECT concat(ifNull(toString(a), '~'), ' ', ifNull(`a.b`, '~')) FROM odd_current ORDER BY _id")
        .await;
    assert_eq!(values, ["~ ~", "1 ~", "~ x", "~ ~"]);
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_given_the_other_form_goes_on_in_it() {
    let mut captured = Captured::shared(Engine::Today, "t").await;
    let t = captured.collection("t");
    let of =
        |range: std::ops::Range<i32>| range.map(|n| doc! {"_id": n, "n": n, "s": format!("{n}")});
    t.insert_many(of(0..100)).await.unwrap();
    captured.ends.assert_equal().await;
    for (round, form) in [Documents::Columns, Documents::Doc, Documents::Columns]
        .into_iter()
        .enumerate()
    {
        let base = 1_000 * (i32::try_from(round).unwrap() + 1);
        t.insert_many(of(base..base + 10)).await.unwrap();
        t.delete_many(doc! {"_id": {"$lt": 10 * (round as i32 + 1)}})
            .await
            .unwrap();
        captured.ends.documents = Some(form);
        captured.ends.assert_equal().await;
        if form == Documents::Columns {
            let sums = captured
                .ends
                .sink("SELECT toString(sum(n) - sum(toInt64(s))) FROM t_current")
                .await;
            assert_eq!(sums, ["0"]);
            assert_eq!(
                captured
                    .ends
                    .number("SELECT count(n) - count() FROM t_current")
                    .await,
                0
            );
        }
    }
    // Without what a column would be written anew from.
    captured.ends.options.copy = false;
    let error = captured.ends.once().await.unwrap_err();
    assert!(error.to_string().contains("copy"), "{}", error.chain());
    captured.ends.options.copy = true;
    captured.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_while_it_takes_the_other_form_copies_every_collection() {
    let mut captured = Captured::shared(Engine::Today, "a,b,empty").await;
    let (a, b, empty) = (
        captured.collection("a"),
        captured.collection("b"),
        captured.collection("empty"),
    );
    let of = |range: std::ops::Range<i32>| range.map(|n| doc! {"_id": n, "n": n});
    a.insert_many(of(0..20_000)).await.unwrap();
    b.insert_many(of(0..100)).await.unwrap();
    empty
        .insert_many((0..10).map(|n| doc! {"_id": n}))
        .await
        .unwrap();
    captured.ends.once().await.unwrap();
    captured.ends.documents = Some(Documents::Columns);
    // A change of a collection that waits for its copy.
    b.insert_many(of(1_000..1_010)).await.unwrap();
    let running = captured.ends.start().await;
    until("the change has arrived", async || {
        let sql = "SELECT count() FROM b WHERE _id = '1005'";
        captured.ends.number(sql).await > 0
    })
    .await;
    running.task.abort();
    let _ = running.task.await;
    captured.ends.assert_equal().await;
    for (table, count) in [("a", 20_000), ("b", 110)] {
        let sql = format!("SELECT count(n) FROM {table}_current");
        assert_eq!(captured.ends.number(&sql).await, count, "{table}");
    }
    let sql = "SELECT count() FROM empty_current";
    assert_eq!(captured.ends.number(sql).await, 10);
    captured.close().await;
}

/// A document whose fields and their types depend on its number.
fn odd(n: i32) -> Document {
    let value = match n % 7 {
        0 => Bson::from(n),
        1 => Bson::from(i64::from(n) << 33),
        2 => Bson::from(f64::from(n) / 4.0),
        3 => Bson::from(DateTime::from_millis(i64::from(n) * 1_000_003)),
        4 => Bson::from(n % 2 == 0),
        5 => Bson::Null,
        _ => Bson::from(format!("text {n}")),
    };
    // The later the field, the later it comes; the types of each come one after the other.
    let field = format!("f{}", n / 100);
    doc! {"_id": n, field: {"x": value, "n": n % 3}, "common": n}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_while_fields_come_and_widen_loses_nothing() {
    let captured = columns(Engine::Today, "load").await;
    let load = captured.collection("load");
    // Enough that the copy is still on its way when the changes come.
    load.insert_many((0..600).map(odd)).await.unwrap();
    load.insert_many((100_000..106_000).map(|n| doc! {"_id": n, "common": n}))
        .await
        .unwrap();
    let mut sent = 600;
    for round in 0..6 {
        let running = captured.ends.start().await;
        load.insert_many((sent..sent + 120).map(odd)).await.unwrap();
        load.delete_one(doc! {"_id": sent}).await.unwrap();
        load.update_many(
            doc! {"_id": {"$mod": [50, round]}},
            doc! {"$set": {format!("late{round}"): round, "common": if round == 4 { Bson::from("x") } else { Bson::from(round) }}},
        )
        .await
        .unwrap();
        sent += 120;
        let seen = format!("SELECT count() FROM load WHERE doc LIKE '%late{round}%'");
        until("some of it has arrived", async || {
            captured.ends.has("load").await && captured.ends.number(&seen).await > 0
        })
        .await;
        // As where the process dies: in the middle of whatever it does.
        running.task.abort();
        let _ = running.task.await;
    }
    captured.ends.assert_equal().await;
    let count = load.count_documents(doc! {}).await.unwrap();
    let shown = captured
        .ends
        .number("SELECT count() FROM load_current")
        .await;
    assert_eq!(shown, count);
    captured.close().await;
}
