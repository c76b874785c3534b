//! Comparing both sides, and mending.

use std::collections::BTreeSet;
use std::time::Duration;

use ledger::bridge::{Report, VerifyOptions};
use ledger::{EntryId, NewEntry};

use crate::faults::doubles::{Double, Fault};
use crate::replication::content::{
    Writers, add, annotate, append, assert_equal, everything, fill, stream, tag,
};
use crate::replication::pair::{Kind, Pair};
use crate::replication::run::{Running, until};

/// What to alter, in each backend's own words.
struct Hand<'a> {
    pair: &'a Pair,
    statements: Vec<String>,
}

impl Hand<'_> {
    fn mongo_update(&mut self, collection: &str, condition: &str, set: &str) {
        let name = &self.pair.name;
        self.statements.push(format!(
            r#"{{"update": "{name}_{collection}", "updates": [{{"q": {condition}, "u": {{"$set": {set}}}}}]}}"#
        ));
    }

    fn update(&mut self, table: &str, set: &str, condition: &str) {
        let name = &self.pair.name;
        self.statements.push(match self.pair.to.kind {
            Kind::Mongo => unreachable!("altered by mongo_update"),
            Kind::Sqlite | Kind::Postgres | Kind::PostgresWal => {
                format!("UPDATE {name}_{table} SET {set} WHERE {condition}")
            }
            Kind::ClickHouse | Kind::ClickHouseOld => format!(
                "ALTER TABLE {name}_{table} UPDATE {set} WHERE {condition} \
                 SETTINGS mutations_sync = 2"
            ),
        });
    }

    fn delete(&mut self, id: EntryId) {
        let name = &self.pair.name;
        self.statements.push(match self.pair.to.kind {
            Kind::Mongo => format!(
                r#"{{"delete": "{name}_entries", "deletes": [{{"q": {{"_id": {id}}}, "limit": 1}}]}}"#
            ),
            Kind::Sqlite | Kind::Postgres | Kind::PostgresWal => format!("DELETE FROM {name}_entries WHERE id = {id}"),
            Kind::ClickHouse | Kind::ClickHouseOld => format!(
                "ALTER TABLE {name}_entries DELETE WHERE id = {id} SETTINGS mutations_sync = 2"
            ),
        });
    }

    /// A row like that of `id`, with another id.
    fn double(&mut self, id: EntryId, as_id: u64) {
        let name = &self.pair.name;
        if self.pair.to.kind == Kind::Mongo {
            self.statements.push(format!(
                r#"{{"aggregate": "{name}_entries", "cursor": {{}}, "pipeline": [
                    {{"$match": {{"_id": {id}}}}}, {{"$set": {{"_id": {{"$toLong": {as_id}}}}}}},
                    {{"$unset": "dedup_key"}}, {{"$merge": "{name}_entries"}}]}}"#
            ));
            return;
        }
        let columns = match self.pair.to.kind {
            Kind::Mongo => unreachable!("doubled above"),
            Kind::Sqlite => {
                "stream_key, created_at, order_key, dedup_key, schema_version, metadata, tags, payload"
            }
            Kind::Postgres | Kind::PostgresWal => "stream_key, created_at, payload",
            Kind::ClickHouse | Kind::ClickHouseOld => {
                "stream_key, label_version, payload, order_key, dedup_key, schema_version, \
                 metadata, tags, annotations, created_at"
            }
        };
        self.statements.push(format!(
            "INSERT INTO {name}_entries (id, {columns}) \
             SELECT {as_id}, {columns} FROM {name}_entries WHERE id = {id}"
        ));
    }

    fn payload(&mut self, id: EntryId) {
        if self.pair.to.kind == Kind::Mongo {
            let condition = format!(r#"{{"_id": {id}}}"#);
            // The bytes, which are read where they stand beside the document.
            let set = r#"{"raw": {"$binary": {"base64": "Zm9yZ2Vk", "subType": "00"}}}"#;
            self.mongo_update("entries", &condition, set);
            return;
        }
        let set = r#"payload = '{"forged": true}'"#;
        self.update("entries", set, &format!("id = {id}"));
    }

    fn tags(&mut self, id: EntryId) {
        if self.pair.to.kind == Kind::Mongo {
            let condition = format!(r#"{{"_id": {id}}}"#);
            self.mongo_update("entries", &condition, r#"{"tags": ["forged"]}"#);
            return;
        }
        let set = match self.pair.to.kind {
            Kind::Mongo => unreachable!("altered above"),
            Kind::Sqlite => r#"tags = '["forged"]'"#,
            Kind::Postgres | Kind::PostgresWal => "tags = ARRAY['forged']",
            Kind::ClickHouse | Kind::ClickHouseOld => "tags = ['forged']",
        };
        self.update("entries", set, &format!("id = {id}"));
    }

    /// The newer label of an entry, which a ClickHouse replica keeps apart.
    fn label(&mut self, id: EntryId) {
        if self.pair.to.kind == Kind::Mongo {
            let condition = format!(r#"{{"_id": {id}}}"#);
            let set = r#"{"annotations": [{"k": "note", "v": "forged"}]}"#;
            self.mongo_update("entries", &condition, set);
            return;
        }
        let (table, set) = match self.pair.to.kind {
            Kind::Mongo => unreachable!("altered above"),
            Kind::Sqlite | Kind::Postgres | Kind::PostgresWal => {
                ("entries", r#"annotations = '{"note": "forged"}'"#)
            }
            Kind::ClickHouse | Kind::ClickHouseOld => (
                "labels",
                "annotations = (tupleElement(annotations, 1), [('note', 'forged')])",
            ),
        };
        self.update(table, set, &format!("id = {id}"));
    }

    fn rename(&mut self, from: &str, to: &str) {
        if self.pair.to.kind == Kind::Mongo {
            let (from, to) = (
                format!(r#"{{"name": "{from}"}}"#),
                format!(r#"{{"name": "{to}"}}"#),
            );
            self.mongo_update("streams", &from, &to);
            return;
        }
        let (set, condition) = match self.pair.to.kind {
            Kind::Mongo => unreachable!("altered above"),
            Kind::Sqlite | Kind::Postgres | Kind::PostgresWal => {
                (format!("name = '{to}'"), format!("name = '{from}'"))
            }
            Kind::ClickHouse | Kind::ClickHouseOld => (
                format!("name = (tupleElement(name, 1), '{to}')"),
                format!("tupleElement(name, 2) = '{from}'"),
            ),
        };
        self.update("streams", &set, &condition);
    }

    async fn done(self) {
        self.pair.to.execute(&self.statements).await;
    }
}

fn lines(report: &Report) -> BTreeSet<String> {
    report.differences.iter().map(ToString::to_string).collect()
}

pub(crate) async fn rows_altered_by_hand_are_named_and_mended(pair: Pair) {
    everything(&pair.source).await;
    fill(&pair.source, 4, 60).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        let entry = NewEntry::new("{\"genuine\": 1}").tag("genuine");
        ids.push(append(&pair.source, "a", vec![entry]).await[0].id);
    }
    add(&pair.source, "named", "one").await;
    pair.once().await.unwrap();
    // A label of its own behind the copy.
    annotate(&pair.source, "a", ids[4], "genuine").await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;

    let mut hand = Hand {
        pair: &pair,
        statements: Vec::new(),
    };
    hand.payload(ids[0]);
    hand.delete(ids[1]);
    hand.tags(ids[2]);
    hand.double(ids[3], 9_000_000);
    hand.label(ids[4]);
    hand.rename("named", "forged");
    hand.done().await;

    let report = pair.verify(&pair.verify_options()).await;
    let expected = BTreeSet::from([
        format!("different \"a\" #{} (payload)", ids[0]),
        format!("missing \"a\" #{}", ids[1]),
        format!("different \"a\" #{} (tags)", ids[2]),
        "extra \"a\" #9000000".to_owned(),
        format!("different \"a\" #{} (annotations)", ids[4]),
        "different \"named\" (name)".to_owned(),
    ]);
    assert_eq!(lines(&report), expected);
    assert!(!report.is_equal() && report.repaired == 0);

    let repairing = VerifyOptions {
        repair: true,
        ..pair.verify_options()
    };
    let report = pair.verify(&repairing).await;
    assert_eq!(lines(&report), expected);
    assert_eq!((report.repaired, report.unrepaired), (6, 0));
    assert!(report.is_equal());
    assert_equal(&pair).await;

    // Twice in the same way: a repair that repeats an earlier one is not taken for a replay.
    let mut hand = Hand {
        pair: &pair,
        statements: Vec::new(),
    };
    hand.payload(ids[0]);
    hand.delete(ids[1]);
    hand.done().await;
    let report = pair.verify(&repairing).await;
    assert_eq!((report.repaired, report.unrepaired), (2, 0));
    assert_equal(&pair).await;

    // What was mended goes on being followed.
    tag(&pair.source, "a", ids[0], &["later"]).await;
    annotate(&pair.source, "a", ids[1], "later").await;
    pair.source.trim(&stream("a"), ids[2]).await.unwrap();
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn no_difference_is_seen_while_both_sides_move(pair: Pair) {
    everything(&pair.source).await;
    fill(&pair.source, 4, 100).await;
    let fault = if pair.to.is_clickhouse() {
        Fault::None
    } else {
        // The sink is always behind.
        Fault::Slow(Duration::from_millis(150))
    };
    let sink = Double::of(pair.sink.sink(), fault);
    let running = Running::start(pair.bridge_to(sink, pair.options()));
    pair.caught_up().await;
    // Small chunks, each with its wait for the sink, would not keep up with the writers.
    let options = VerifyOptions::new(pair.pipeline.clone());
    for _ in 0..2 {
        let report = verified_while_written(&pair, &options).await;
        assert!(report.differences.is_empty(), "{report:?}");
    }

    // Which does not keep it from seeing one that is there.
    let mut hand = Hand {
        pair: &pair,
        statements: Vec::new(),
    };
    let id = pair
        .source
        .stat(&stream("filled-1"))
        .await
        .unwrap()
        .first_id
        .unwrap();
    hand.payload(id);
    hand.done().await;
    let report = verified_while_written(&pair, &options).await;
    let expected = format!("different \"filled-1\" #{id} (payload)");
    assert_eq!(lines(&report), BTreeSet::from([expected]));
    pair.caught_up().await;
    running.stopped().await;
    let repairing = VerifyOptions {
        repair: true,
        ..options
    };
    assert_eq!(pair.verify(&repairing).await.repaired, 1);
    assert_equal(&pair).await;
    pair.close().await;
}

/// What a verification finds that begins while writers write. They end at some time, or rows that
/// change faster than a slow sink follows would be compared again and again.
async fn verified_while_written(pair: &Pair, options: &VerifyOptions) -> Report {
    let writers = Writers::start(&pair.source, 3);
    let written = async {
        until("the writers write", async || writers.made() > 150).await;
        writers.stop().await;
    };
    tokio::join!(pair.verify(options), written).0
}

pub(crate) async fn what_the_stopped_bridge_has_not_carried_is_pending(pair: Pair) {
    fill(&pair.source, 3, 10).await;
    let id = add(&pair.source, "a", "old").await;
    let altered = add(&pair.source, "a", "{\"to be\": \"altered\"}").await;
    add(&pair.source, "b", "old").await;
    pair.once().await.unwrap();
    let none = pair.verify(&pair.verify_options()).await;
    assert_eq!((none.pending, none.differences.len()), (0, 0));

    tag(&pair.source, "a", id, &["pending"]).await;
    add(&pair.source, "a", "pending").await;
    add(&pair.source, "new", "pending").await;
    let last = pair
        .source
        .stat(&stream("filled-0"))
        .await
        .unwrap()
        .last_id
        .unwrap();
    pair.source.trim(&stream("filled-0"), last).await.unwrap();
    pair.source
        .rename(&stream("b"), &stream("c"))
        .await
        .unwrap();
    let report = pair.verify(&pair.verify_options()).await;
    assert_eq!(report.differences, []);
    // Three entries that are there, ten that are gone; two streams renamed or new, one trimmed.
    assert_eq!(report.pending, 2 + 1 + 10 + 3, "{report:?}");

    // A repair leaves what is pending to the bridge, and mends the rest.
    let mut hand = Hand {
        pair: &pair,
        statements: Vec::new(),
    };
    hand.payload(altered);
    hand.done().await;
    let repairing = VerifyOptions {
        repair: true,
        ..pair.verify_options()
    };
    let report = pair.verify(&repairing).await;
    assert_eq!(lines(&report).len(), 1, "{report:?}");
    assert_eq!((report.repaired, report.pending), (1, 16));
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}
