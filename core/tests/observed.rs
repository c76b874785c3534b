//! What the observing wrapper tells.

#![allow(
    clippy::unwrap_used,
    reason = "a failing helper fails the test that called it"
)]

mod memory;
mod recorded;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{
    AppendOnly, Batch, Change, CursorStore, EntryId, Error, ErrorKind, ExpectedVersion, NewEntry,
    Observed, Pairs, PipelineId, Query, ReadOptions, Result, Sink, Store, StreamName,
};
use memory::MemoryStore;
use recorded::Recorded;

fn named(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

#[tokio::test]
async fn every_call_is_counted_once_with_its_entries_and_its_error() {
    let recorder = Arc::new(Recorded::default());
    let store = Observed::new(MemoryStore::shared("orders"), "memory");
    let store = store.recorded_by(recorder.clone());
    let (s, t, all) = (named("s"), named("t"), ReadOptions::all());
    let entries = vec![NewEntry::new("1"), NewEntry::new("2")];
    let any = ExpectedVersion::Any;
    store.append(&s, entries, any).await.unwrap();
    store.page(&s, &all).await.unwrap();
    store.stat(&s).await.unwrap();
    store.streams(None, 10).await.unwrap();
    let labels = store.labels().unwrap();
    labels.set_tags(&s, EntryId(1), vec![]).await.unwrap();
    let missing = labels
        .set_annotations(&s, EntryId(9), Pairs::new(), vec![])
        .await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let query = Query::Substring("1".to_owned());
    let found = store.search().unwrap().search(None, &query, &all).await;
    let found = found.unwrap().entries.len();
    store.trim(&s, EntryId(1)).await.unwrap();
    store.rename(&s, &t).await.unwrap();
    assert_eq!(
        recorder.take(),
        [
            "append memory/orders/s 2 ok".to_owned(),
            "read memory/orders/s 2 ok".to_owned(),
            "stat memory/orders/s 0 ok".to_owned(),
            "list_stream_ids memory/orders/- 0 ok".to_owned(),
            "set_tags memory/orders/s 0 ok".to_owned(),
            "set_annotations memory/orders/s 0 not_found".to_owned(),
            format!("search memory/orders/- {found} ok"),
            "trim memory/orders/s 1 ok".to_owned(),
            "rename_stream memory/orders/s 0 ok".to_owned(),
        ]
    );
}

#[tokio::test]
async fn what_the_store_inside_lacks_is_not_offered() {
    let inner = MemoryStore::shared("orders");
    let store = Observed::new(AppendOnly::new(inner.clone()), "memory");
    assert!(store.labels().is_none());
    assert!(store.search().is_some() && store.log().is_some());
    assert_eq!(
        store.to_string(),
        "observed(append-only(memory store orders))"
    );
    store.close().await;
    assert!(inner.is_closed());
}

/// A sink that takes everything, or nothing.
#[derive(Debug)]
struct Plain(bool);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain")
    }
}

#[async_trait]
impl Sink<Change> for Plain {
    async fn deliver(&self, _: &Batch<Change>) -> Result<()> {
        if self.0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "deliver", "away"))
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        None
    }
}

#[tokio::test]
async fn a_delivery_is_counted_with_its_mutations_by_kind() {
    let store = MemoryStore::shared("orders");
    let entries = vec![NewEntry::new("1"), NewEntry::new("2")];
    store
        .append(&named("s"), entries, ExpectedVersion::Any)
        .await
        .unwrap();
    let log = store.log().unwrap();
    let changes: Vec<Change> =
        futures::TryStreamExt::try_collect(futures::StreamExt::take(log.changes(log.start()), 2))
            .await
            .unwrap();
    let through = changes.last().unwrap().cursor.clone();
    let batch = Batch {
        items: changes
            .into_iter()
            .map(|change| (change.cursor.clone(), change))
            .collect(),
        after: None,
        ack: Some(through.clone()),
        through,
        pipeline: PipelineId::new("copy").unwrap(),
        fence: 1,
    };
    let recorder = Arc::new(Recorded::default());
    for (takes, said) in [
        (true, "copy append=2 ok"),
        (false, "copy append=2 internal"),
    ] {
        let sink: Arc<dyn Sink<Change>> = Arc::new(Plain(takes));
        let sink = Observed::new(sink, "").recorded_by(recorder.clone());
        assert_eq!(sink.deliver(&batch).await.is_ok(), takes);
        assert_eq!(recorder.take(), [said]);
    }
}
