//! Typed streams: options, labels, changes, and errors that name the entry.

#![allow(
    clippy::unwrap_used,
    reason = "a failing helper fails the test that called it"
)]

mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use ledger_core::{
    ChangeLog as _, EntryId, ErrorKind, ExpectedVersion, FieldMapper, Json, MessagePack, NewEntry,
    NewTyped, Pairs, ReadOptions, Schema, Store, StreamName, TypedStore, TypedStream, Versioned,
    Zstd,
};
use memory::MemoryStore;
use serde_json::{Value, json};

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

async fn write(store: &Arc<MemoryStore>, to: &str, version: u32, payload: &'static [u8]) {
    let entry = NewEntry::new(payload).schema_version(version);
    store
        .append(&stream(to), vec![entry], ExpectedVersion::Any)
        .await
        .unwrap();
}

#[tokio::test]
async fn values_come_back_with_the_options_of_their_entries() {
    let store: Arc<dyn Store> = MemoryStore::shared("orders");
    let orders = TypedStream::<Value, _>::new(store, stream("s"), Zstd::new(MessagePack));
    let first = NewTyped::new(json!({"n": 1}))
        .order_key("o")
        .dedup_key("d")
        .meta("m", "1")
        .tag("t");
    let appended = orders.append(first.clone()).await.unwrap();
    assert!(!appended.duplicate);
    assert!(orders.append(first).await.unwrap().duplicate);
    let expected = ExpectedVersion::Exactly(1);
    orders
        .append_all([json!(2), json!(3)], expected)
        .await
        .unwrap();

    let page = orders
        .page(&ReadOptions {
            limit: Some(2),
            ..ReadOptions::all()
        })
        .await
        .unwrap();
    assert!(page.more);
    let entry = &page.entries[0];
    assert_eq!(entry.id, appended.id);
    assert_eq!(entry.value, json!({"n": 1}));
    assert_eq!(
        (entry.order_key.as_str(), entry.dedup_key.as_str()),
        ("o", "d")
    );
    assert_eq!(
        (&entry.metadata["m"], &entry.tags[0]),
        (&"1".to_owned(), &"t".to_owned())
    );
    let tagged = ReadOptions {
        tag: Some("t".into()),
        ..ReadOptions::all()
    };
    let tagged: Vec<_> = orders.read(tagged).try_collect().await.unwrap();
    assert_eq!(tagged.len(), 1);

    assert_eq!(orders.stat().await.unwrap().count, 3);
    assert_eq!(orders.trim(appended.id).await.unwrap(), 1);
    assert_eq!(orders.stat().await.unwrap().count, 2);
}

#[tokio::test]
async fn labels_of_a_typed_stream_are_those_of_the_store() {
    let store: Arc<dyn Store> = MemoryStore::shared("orders");
    let orders = TypedStream::<Value, _>::new(store, stream("s"), Json);
    let id = orders.append(json!(1)).await.unwrap().id;
    let labels = orders.labels().unwrap();
    labels.set_tags(id, vec!["t".into()]).await.unwrap();
    labels
        .set_annotations(id, Pairs::from([("a".into(), "b".into())]), vec![])
        .await
        .unwrap();
    let entry = orders
        .page(&ReadOptions::all())
        .await
        .unwrap()
        .entries
        .remove(0);
    assert_eq!(entry.tags, ["t"]);
    assert_eq!(entry.annotations["a"], "b");
    assert_eq!(entry.label_version, 2);
}

#[tokio::test]
async fn an_entry_reports_the_version_it_was_written_with() {
    let store = MemoryStore::shared("orders");
    write(&store, "s", 1, br#"{"a": 1}"#).await;
    write(&store, "s", 3, br#"{"c": 3}"#).await;
    let schema = Schema::new(2)
        .upcast(1, FieldMapper::new().rename("a", "b"))
        .unwrap();
    let orders = TypedStream::<Value, _, _>::new(store, stream("s"), Versioned::new(Json, schema));
    orders.append(json!({"b": 2})).await.unwrap();
    let read: Vec<_> = orders.read(ReadOptions::all()).try_collect().await.unwrap();
    let read: Vec<_> = read
        .into_iter()
        .map(|entry| (entry.schema_version, entry.value))
        .collect();
    assert_eq!(
        read,
        [
            (1, json!({"b": 1})),
            (3, json!({"c": 3})),
            (2, json!({"b": 2}))
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_named_with_its_versions_and_reading_goes_on() {
    let store = MemoryStore::shared("orders");
    write(&store, "s", 1, b"{}").await;
    write(&store, "s", 3, b"no json").await;
    write(&store, "s", 4, b"{}").await;
    write(&store, "s", 3, b"{}").await;
    let schema = Schema::new(3)
        .upcast(2, FieldMapper::new())
        .unwrap()
        .strict();
    let codec = Versioned::new(Json, schema);
    let orders = TypedStream::<Value, _, _>::new(store, stream("s"), codec);
    let read: Vec<_> = orders.read(ReadOptions::all()).collect().await;
    let expected = [
        "entry 1 of stream \"s\", written with schema version 1 and read with 3: from version 1 to \
         version 3 the step from 1 to 2 is missing",
        "entry 2 of stream \"s\", written with schema version 3 and read with 3: the payload is \
         not JSON",
        "entry 3 of stream \"s\", written with schema version 4 and read with 3: version 4 is newer",
    ];
    for (entry, expected) in read.iter().zip(expected) {
        let error = entry.as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(read[3].as_ref().unwrap().id, EntryId(4));
    assert_eq!(
        orders.page(&ReadOptions::all()).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn a_value_that_cannot_be_encoded_is_named_and_nothing_is_appended() {
    let store = MemoryStore::shared("orders");
    let orders = TypedStream::<BTreeMap<Vec<u8>, u8>, _, _>::new(store, stream("s"), Json);
    let values = [BTreeMap::new(), BTreeMap::from([(vec![1], 1)])];
    let error = orders
        .append_all(values, ExpectedVersion::Any)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("values[1]"), "{error}");
    assert_eq!(orders.stat().await.unwrap().count, 0);
}

#[tokio::test]
async fn changes_carry_values_and_end_at_the_first_that_cannot_be_read() {
    let store = MemoryStore::shared("orders");
    write(&store, "a", 1, b"1").await;
    write(&store, "b", 1, b"no json").await;
    write(&store, "a", 1, b"2").await;
    let orders = TypedStore::<Value, _, _>::new(store.clone(), Json);

    // The other stream's poison is not this stream's.
    let changes = orders.stream(stream("a")).changes(store.start()).unwrap();
    let values: Vec<_> = changes
        .map_ok(|change| change.value)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(values, [Some(json!(1)), Some(json!(2))]);

    let changes: Vec<_> = orders.changes(store.start()).unwrap().collect().await;
    assert_eq!(
        changes.len(),
        2,
        "nothing follows an error, else its position would be passed"
    );
    assert_eq!(changes[0].as_ref().unwrap().value, Some(json!(1)));
    let error = changes[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("entry 2 of stream \"b\""), "{error}");
}
