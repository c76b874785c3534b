//! Real data: flights that left New York City in 2013, as documents, carried in both forms.

use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use ledger::mongodb::capture::Documents;
use ledger::{PipelineId, TableName, TableOptions};
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::collections::Captured;
use crate::capture::ends::{Ends, Engine};
use crate::replication::run::until;

/// `LEDGER_TEST_FLIGHTS` sets how many there are; the file has 336,776.
fn flights() -> Vec<Document> {
    let folder = std::env::var("LEDGER_FLIGHTS").expect("scripts/servers.sh names it");
    let count = std::env::var("LEDGER_TEST_FLIGHTS").map_or(20_000, |count| count.parse().unwrap());
    let text = std::fs::read_to_string(format!("{folder}/flights.csv")).unwrap();
    let lines = text.lines().skip(1).take(count).enumerate();
    lines.map(|(n, line)| flight(n, line)).collect()
}

fn flight(n: usize, line: &str) -> Document {
    let parts: Vec<&str> = line.split(',').collect();
    let number = |at: usize| parts[at].parse::<i32>().ok();
    let side = |from: usize| {
        let mut side = doc! {"sched": number(from + 1)};
        // What is not known is absent here, and null below.
        for (name, at) in [("time", from), ("delay", from + 2)] {
            if let Some(value) = number(at) {
                side.insert(name, value);
            }
        }
        side
    };
    let tail = if parts[11] == "NA" {
        Bson::Null
    } else {
        Bson::from(parts[11])
    };
    doc! {
        "_id": i32::try_from(n).unwrap(), "day": {"month": number(1), "day": number(2)},
        "dep": side(3), "arr": side(6), "carrier": parts[9], "flight": number(10), "tailnum": tail,
        "route": {"origin": parts[12], "dest": parts[13], "distance": parts[15].parse::<f64>().unwrap()},
        "air_time": number(14), "at": DateTime::parse_rfc3339_str(parts[18]).unwrap(),
        "legs": [parts[12], parts[13]],
    }
}

/// What is counted and added up: as an aggregation, of columns, and of documents.
fn sums() -> Vec<(&'static str, Document, String, String)> {
    let number = |name: &'static str, path: &str, rule: Document| {
        let parts: Vec<String> = path.split('.').map(|part| format!("'{part}'")).collect();
        let parts = parts.join(", ");
        let of_columns = format!("toInt64(sum(toFloat64OrZero(toString(`{path}`))))");
        let of_documents = format!("toInt64(sum(JSONExtractFloat(doc, {parts})))");
        (name, rule, of_columns, of_documents)
    };
    let plain = |path: &str| doc! {"$sum": format!("${path}")};
    let mut sums: Vec<_> = [
        ("month", "day.month"),
        ("sched", "dep.sched"),
        ("delay", "dep.delay"),
        ("arrival", "arr.delay"),
        ("flight", "flight"),
        ("air", "air_time"),
        ("distance", "route.distance"),
    ]
    .map(|(name, path)| number(name, path, plain(path)))
    .into();
    let there = |path: &str| {
        let of = format!("${path}");
        doc! {"$sum": {"$cond": [{"$gt": [of, Bson::Null]}, 1_i64, 0_i64]}}
    };
    for (name, path, last) in [
        ("tails", "tailnum", "'tailnum'"),
        ("left", "dep.time", "'dep', 'time'"),
    ] {
        let of_columns = format!("count(`{path}`)");
        let of_documents = format!("countIf(JSONType(doc, {last}) NOT IN ('Null'))");
        sums.push((name, there(path), of_columns, of_documents));
    }
    sums.push((
        "last",
        doc! {"$max": {"$toLong": "$at"}},
        "toInt64(max(toUnixTimestamp64Milli(at)))".to_owned(),
        "toInt64(max(toUnixTimestamp64Milli(parseDateTime64BestEffort(JSONExtractString(doc, 'at', '$date'), 3, 'UTC'))))".to_owned(),
    ));
    sums.push((
        "gates",
        there("gate"),
        "count(gate)".to_owned(),
        "countIf(JSONType(doc, 'gate') NOT IN ('Null'))".to_owned(),
    ));
    sums
}

/// What the source adds up.
async fn at_source(captured: &Captured) -> Vec<i64> {
    let mut group = doc! {"_id": Bson::Null, "rows": {"$sum": 1_i64}};
    for (name, rule, _, _) in sums() {
        group.insert(name, rule);
    }
    let flights = captured.collection("flights");
    let found = flights.aggregate([doc! {"$group": group}]).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let value = |name: &str| match found[0].get(name) {
        Some(Bson::Int32(n)) => i64::from(*n),
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Double(n)) => *n as i64,
        other => panic!("{name}: {other:?}"),
    };
    let mut values = vec![value("rows")];
    values.extend(sums().iter().map(|(name, ..)| value(name)));
    values
}

async fn at_sink(ends: &Ends, table: &str) -> Vec<i64> {
    let columns = ends.documents == Some(Documents::Columns);
    let mut values = vec!["count()".to_owned()];
    for (name, _, of_columns, of_documents) in sums() {
        let gone = name == "gates" && columns && !has_column(ends, table, "gate").await;
        values.push(match (gone, columns) {
            (true, _) => "0".to_owned(),
            (false, true) => of_columns,
            (false, false) => of_documents,
        });
    }
    let values: Vec<String> = values.iter().map(|v| format!("toString({v})")).collect();
    let sql = format!(
        "SELECT arrayStringConcat([{}], ' ') FROM {table}_current",
        values.join(", ")
    );
    let row = ends.sink(&sql).await;
    row[0]
        .split(' ')
        .map(|value| value.parse().unwrap())
        .collect()
}

async fn has_column(ends: &Ends, table: &str, column: &str) -> bool {
    let sql = format!(
        "SELECT count() FROM system.columns WHERE database = currentDatabase() \
         AND table = '{table}_current' AND name = '{column}'"
    );
    ends.number(&sql).await == 1
}

async fn types(ends: &Ends) -> Vec<String> {
    ends.sink(
        "SELECT concat(name, ' ', type) FROM system.columns WHERE database = currentDatabase() \
         AND table = 'flights' AND name NOT IN ('_version', '_deleted') ORDER BY position",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn flights_arrive_in_both_forms_and_stay_so() {
    let mut captured = Captured::shared(Engine::Today, "flights").await;
    captured.ends.documents = Some(Documents::Columns);
    let held = captured.collection("flights");
    let all = flights();
    for some in all.chunks(10_000) {
        held.insert_many(some).await.unwrap();
    }
    let columns = &captured.ends;
    let mut whole = columns.elsewhere(&columns.to);
    whole.documents = Some(Documents::Doc);
    whole.pipeline = PipelineId::new(format!("{}_doc", columns.pipeline)).unwrap();
    let options = TableOptions {
        target: Some("whole".to_owned()),
        ..TableOptions::default()
    };
    let table = TableName::new("public", "flights");
    whole.routes.tables.insert(table, options);

    let begun = Instant::now();
    columns.once().await.unwrap();
    let took = begun.elapsed();
    whole.once().await.unwrap();
    println!(
        "{} flights: columns {took:?}, doc {:?}",
        all.len(),
        begun.elapsed() - took
    );
    let expected = at_source(&captured).await;
    assert_eq!(at_sink(columns, "flights").await, expected);
    assert_eq!(at_sink(&whole, "whole").await, expected);
    let nullable = |name: &str, kind: &str| format!("{name} Nullable({kind})");
    let text = |name| nullable(name, "String");
    let int = |name| nullable(name, "Int32");
    let made = types(columns).await;
    for column in [
        "_id String".to_owned(),
        text("doc"),
        int("day.month"),
        int("dep.time"),
        int("flight"),
        text("tailnum"),
        nullable("route.distance", "Float64"),
        nullable("at", "DateTime64(6, 'UTC')"),
        text("legs"),
    ] {
        assert!(made.contains(&column), "{column}: {made:?}");
    }

    let (one, other) = (columns.start().await, whole.start().await);
    let set = async |filter: Document, values: Document| {
        let set = doc! {"$set": values};
        held.update_many(filter, set).await.unwrap();
    };
    // A new field; types that widen in place, and one for which all is copied anew; what goes.
    set(doc! {"carrier": "UA"}, doc! {"gate": "A1"}).await;
    set(doc! {"_id": 7}, doc! {"flight": 5_000_000_000_i64}).await;
    held.update_many(doc! {"_id": {"$lt": 100}}, doc! {"$inc": {"air_time": 0.5}})
        .await
        .unwrap();
    held.delete_many(doc! {"dep.time": {"$exists": false}})
        .await
        .unwrap();
    set(
        doc! {"_id": {"$in": [3, 5_000]}},
        doc! {"route.distance": "far"},
    )
    .await;
    set(doc! {"_id": 11}, doc! {"route.distance": 0.25}).await;
    let expected = at_source(&captured).await;
    let begun = Instant::now();
    until("the changes have arrived", async || {
        at_sink(columns, "flights").await == expected && at_sink(&whole, "whole").await == expected
    })
    .await;
    println!("changes followed in {:?}", begun.elapsed());
    for ends in [columns, &whole] {
        let verified = ends.verify(false).await;
        assert!(verified.equal, "{:#?}", verified.differences);
    }
    let wider = types(columns).await;
    for column in [
        nullable("flight", "Int64"),
        nullable("air_time", "Float64"),
        text("route.distance"),
        text("gate"),
    ] {
        assert!(wider.contains(&column), "{column}: {wider:?}");
    }
    let far = columns
        .sink("SELECT `route.distance` FROM flights_current WHERE _id IN ('3', '11') ORDER BY _id")
        .await;
    assert_eq!(far, ["0.25", "far"]);

    held.drop().await.unwrap();
    until("nothing is left", async || {
        columns.number("SELECT count() FROM flights_current").await == 0
            && columns.number("SELECT count() FROM whole_current").await == 0
    })
    .await;
    one.stopped().await;
    other.stopped().await;
    assert!(begun.elapsed() < Duration::from_mins(3));
    captured.close().await;
}
