//! What the view and the replica show, and repairing it.

use ledger_core::{
    Change, Contents as _, EntryId, EntryKey, Mutation, Record, Replica as _, StreamKey,
    StreamState,
};

use crate::database::{Database, append, change, claim, deliver, entry, stream, tags, trim};
use crate::model::{Model, assert_equals, contents};

pub(crate) async fn labels_before_and_after_their_entry_come_to_the_same(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let a = stream(1, "a", 1);
    deliver(
        &sink,
        fence,
        &[tags(&a, 7, 2, "second"), tags(&a, 8, 1, "first")],
    )
    .await;
    assert!(
        database.view().await.is_empty(),
        "labels of entries that are not there"
    );
    deliver(&sink, fence, &[append(&a, 7), append(&a, 8)]).await;
    deliver(&sink, fence, &[tags(&a, 8, 3, "third")]).await;
    deliver(
        &sink,
        fence,
        &[tags(&a, 7, 1, "old"), tags(&a, 8, 1, "first")],
    )
    .await;
    let found: Vec<_> = database
        .view()
        .await
        .into_iter()
        .map(|row| (row.id, row.tags))
        .collect();
    assert_eq!(
        found,
        [
            (7, vec!["second".to_owned()]),
            (8, vec!["third".to_owned()])
        ]
    );
    database.drop().await;
}

pub(crate) async fn a_replayed_append_below_the_boundary_stays_invisible(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let a = stream(1, "a", 1);
    let changes = [append(&a, 1), append(&a, 2), append(&a, 3), trim(&a, 2)];
    deliver(&sink, fence, &changes).await;
    assert_equals(&database, &sink, &Model::of(&changes)).await;
    assert_eq!(sink.purge().await.unwrap(), 1);
    assert_eq!(
        database.count("SELECT count() FROM orders_entries").await,
        1
    );
    assert_eq!(sink.purge().await.unwrap(), 0);
    let fence = claim(&sink).await;
    deliver(&sink, fence, &changes[..3]).await;
    assert_eq!(
        database
            .count("SELECT count() FROM orders_entries FINAL")
            .await,
        3
    );
    assert_equals(&database, &sink, &Model::of(&changes)).await;
    assert_eq!(contents(&sink, 1).await, Model::of(&changes).records());
    database.drop().await;
}

pub(crate) async fn a_name_goes_from_stream_to_stream(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let (a1, a2, b1) = (stream(1, "x", 1), stream(1, "y", 2), stream(2, "x", 1));
    let renamed = change(&a2, 0, Mutation::Rename);
    let changes = [append(&a1, 1), renamed, append(&b1, 2), append(&a2, 3)];
    deliver(&sink, fence, &changes).await;
    let model = Model::of(&changes);
    assert_equals(&database, &sink, &model).await;
    let fence = claim(&sink).await;
    deliver(&sink, fence, &changes[..1]).await;
    assert_equals(&database, &sink, &model).await;
    database.drop().await;
}

pub(crate) async fn a_repair_mends_what_hands_have_changed(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let (a, b) = (stream(1, "a", 1), stream(2, "b", 1));
    let mut changes: Vec<Change> = (1..=6).map(|id| append(&a, id)).collect();
    changes.extend([
        tags(&a, 4, 1, "tagged"),
        trim(&a, 1),
        append(&b, 7),
        tags(&b, 7, 1, "x"),
    ]);
    deliver(&sink, fence, &changes).await;
    let model = Model::of(&changes);
    assert_equals(&database, &sink, &model).await;

    let settings = "SETTINGS mutations_sync = 2";
    for sql in [
        "ALTER TABLE orders_entries UPDATE payload = 'forged' WHERE id = 2",
        "ALTER TABLE orders_entries DELETE WHERE id = 3",
        "ALTER TABLE orders_labels UPDATE tags = (99, ['forged']) WHERE id = 4",
        "ALTER TABLE orders_streams UPDATE name = (9, 'forged'), trimmed_through = 99 \
         WHERE stream_key = 2",
    ] {
        database.execute(&format!("{sql} {settings}")).await;
    }
    database
        .execute("INSERT INTO orders_streams VALUES (5, (1, 'not-there'), 1, 0)")
        .await;
    database
        .execute(
            "INSERT INTO orders_entries (stream_key, id, label_version, payload) \
             VALUES (1, 90, 0, 'x'), (5, 91, 0, 'x'), (1, 5, 50, 'forged')",
        )
        .await;
    let damaged = contents(&sink, 2).await;
    assert_ne!(damaged, model.records());

    // As a verification finds it.
    let records = model.records();
    let delete: Vec<EntryKey> = damaged
        .iter()
        .filter(|record| !records.contains(record))
        .map(|r| r.key)
        .collect();
    let insert: Vec<Record> = records
        .iter()
        .filter(|record| !damaged.contains(record))
        .cloned()
        .collect();
    assert!(insert.len() >= 4, "{insert:?}");
    let states: Vec<StreamState> = model.streams.values().cloned().collect();
    // Twice, as a second repair of the same rows within the window must work too.
    for _ in 0..2 {
        sink.repair(&states, &delete, &insert).await.unwrap();
        sink.remove_streams(&[StreamKey(5)]).await.unwrap();
        assert_equals(&database, &sink, &model).await;
        database
            .execute("DELETE FROM orders_entries WHERE id > 1")
            .await;
        assert!(database.view().await.is_empty());
        sink.repair(&[], &[], &records).await.unwrap();
        assert_equals(&database, &sink, &model).await;
    }
    let trimmed = Record {
        key: EntryKey {
            stream: StreamKey(1),
            id: EntryId(1),
        },
        entry: entry(1),
    };
    sink.repair(&[], &[], &[trimmed]).await.unwrap();
    assert_eq!(
        database
            .count("SELECT count() FROM orders_entries WHERE id = 1")
            .await,
        0
    );

    let keys: Vec<EntryKey> = records.iter().map(|record| record.key).collect();
    assert_eq!(sink.entries_at(&keys).await.unwrap(), records);
    let absent = EntryKey {
        stream: StreamKey(9),
        id: EntryId(9),
    };
    assert_eq!(sink.entries_at(&[absent]).await.unwrap(), []);
    assert_eq!(
        sink.streams_at(&[StreamKey(2), StreamKey(9)])
            .await
            .unwrap(),
        states[1..]
    );
    assert_eq!(
        sink.streams(Some(StreamKey(1)), 1).await.unwrap(),
        states[1..]
    );
    assert_eq!(
        sink.entries(Some(keys[0]), Some(keys[2]), 9).await.unwrap(),
        records[1..3]
    );
    // After a repair the sink is an ordinary target again.
    deliver(&sink, claim(&sink).await, &changes).await;
    assert_equals(&database, &sink, &model).await;
    database.drop().await;
}

pub(crate) async fn an_insert_sent_twice_is_one_block_written_once(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let a = stream(1, "a", 1);
    let changes: Vec<Change> = (1..=30_000).map(|id| append(&a, id)).collect();
    database.execute("SYSTEM STOP MERGES orders_entries").await;
    deliver(&sink, fence, &changes).await;
    deliver(&sink, fence, &changes).await;
    let parts = "SELECT count() FROM system.parts WHERE active AND table = 'orders_entries' \
        AND database = currentDatabase()";
    assert_eq!(database.count(parts).await, 1);
    // Under a new fence the same rows are written again, and merged away when they are read.
    let fence = claim(&sink).await;
    deliver(&sink, fence, &changes).await;
    assert_eq!(database.count(parts).await, 2);
    assert_eq!(
        database.count("SELECT count() FROM orders_current").await,
        30_000
    );
    database.drop().await;
}

pub(crate) async fn large_payloads_cut_a_chunk_short(database: Database) {
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let a = stream(1, "a", 1);
    let mut changes: Vec<Change> = (1..=5).map(|id| append(&a, id)).collect();
    for change in &mut changes {
        if let Mutation::Append { entry, .. } = &mut change.mutation {
            entry.payload = vec![b'x'; 6 << 20].into();
        }
    }
    deliver(&sink, fence, &changes).await;
    let page = sink.entries(None, None, 100).await.unwrap();
    assert_eq!(page.len(), 2, "12 MiB of 16");
    assert_eq!(contents(&sink, 100).await, Model::of(&changes).records());
    database.drop().await;
}
