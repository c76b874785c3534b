//! The SQLite sink, fed from real stores.
#![cfg(feature = "sqlite")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

use futures::StreamExt as _;
use ledger_core::{
    Batch, Change, ChangeLog as _, Contents as _, Cursor, CursorStore, EntryId, EntryKey,
    ErrorKind, ExpectedVersion, Labels as _, NewEntry, PipelineId, ReadOptions, Record, Replica,
    Result, Sink, SourceId, Store as _, StoreName, StreamKey, StreamName, StreamState,
};
use ledger_sinks::sqlite::SqliteSink;
use ledger_sources::sqlite::{SqliteConfig, SqliteStore, StoreOptions};
use proptest::prelude::*;
use tempfile::TempDir;

fn orders() -> StoreName {
    StoreName::new("orders").unwrap()
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn bridge() -> PipelineId {
    PipelineId::new("bridge").unwrap()
}

async fn source() -> SqliteStore {
    SqliteStore::open(SqliteConfig::memory(), orders(), StoreOptions::default())
        .await
        .unwrap()
}

async fn replica() -> SqliteSink {
    SqliteSink::open(SqliteConfig::memory(), orders())
        .await
        .unwrap()
}

async fn append(store: &SqliteStore, name: &str, entry: NewEntry) -> EntryId {
    store
        .append(&stream(name), vec![entry], ExpectedVersion::Any)
        .await
        .unwrap()[0]
        .id
}

/// The log from `after` to its present end.
async fn log(store: &SqliteStore, after: Cursor) -> Vec<Change> {
    let head = store.head().await.unwrap();
    let mut all = Vec::new();
    if head > after {
        let mut changes = store.changes(after);
        while all
            .last()
            .is_none_or(|change: &Change| change.cursor < head)
        {
            all.push(changes.next().await.unwrap().unwrap());
        }
    }
    all
}

fn batch(changes: &[Change], fence: u64) -> Batch<Change> {
    let through = changes.last().unwrap().cursor.clone();
    Batch {
        items: changes
            .iter()
            .map(|change| (change.cursor.clone(), change.clone()))
            .collect(),
        after: None,
        through: through.clone(),
        ack: Some(through),
        pipeline: bridge(),
        fence,
    }
}

fn cursors(sink: &SqliteSink) -> &dyn CursorStore {
    Sink::cursors(sink).unwrap()
}

async fn claim(store: &SqliteStore, sink: &SqliteSink) -> (u64, Option<Cursor>) {
    let identity = store.identity().await.unwrap();
    let claim = cursors(sink).claim(&bridge(), &identity).await.unwrap();
    (claim.fence, claim.cursor)
}

type Everything = (Vec<StreamState>, Vec<Record>);

async fn everything(contents: &dyn ledger_core::Contents) -> Everything {
    let streams = contents.streams(None, 10_000).await.unwrap();
    (streams, contents.entries(None, None, 10_000).await.unwrap())
}

/// The replica holds what the source holds, and its counters agree with its rows.
async fn assert_equal(store: &SqliteStore, sink: &SqliteSink) {
    assert_eq!(everything(sink).await, everything(store.contents()).await);
    let copy = SqliteStore::open_on(sink.database(), orders(), StoreOptions::default()).await;
    let copy = copy.unwrap();
    for state in store.contents().streams(None, 10_000).await.unwrap() {
        let name = &state.stream.name;
        assert_eq!(
            copy.stat(name).await.unwrap(),
            store.stat(name).await.unwrap(),
            "{name}"
        );
    }
}

/// A mutation of a stream, chosen by numbers.
#[derive(Debug, Clone)]
enum Step {
    Append {
        stream: usize,
        entries: usize,
        dedup: bool,
    },
    Tag {
        nth: usize,
    },
    Annotate {
        nth: usize,
    },
    Trim {
        nth: usize,
    },
    Rename {
        stream: usize,
        to: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_usize, 1..4_usize, any::<bool>())
            .prop_map(|(stream, entries, dedup)| Step::Append { stream, entries, dedup }),
        2 => any::<usize>().prop_map(|nth| Step::Tag { nth }),
        2 => any::<usize>().prop_map(|nth| Step::Annotate { nth }),
        1 => any::<usize>().prop_map(|nth| Step::Trim { nth }),
        1 => (0..4_usize, 0..6_usize).prop_map(|(stream, to)| Step::Rename { stream, to }),
    ];
    prop::collection::vec(step, 0..30)
}

async fn perform(store: &SqliteStore, steps: &[Step]) {
    let name = |index: usize| stream(&format!("stream-{index}"));
    for (index, step) in steps.iter().enumerate() {
        let (_, entries) = everything(store.contents()).await;
        let nth = |nth: usize| {
            entries
                .get(nth % entries.len().max(1))
                .map(|record| &record.entry)
        };
        match step {
            Step::Append {
                stream,
                entries,
                dedup,
            } => {
                let entries = (0..*entries).map(|n| {
                    let key = if *dedup {
                        format!("{}", n % 2)
                    } else {
                        String::new()
                    };
                    NewEntry::new(format!("[{index}, {n}]"))
                        .dedup_key(key)
                        .tag("new")
                });
                let entries = entries.collect();
                store
                    .append(&name(*stream), entries, ExpectedVersion::Any)
                    .await
                    .unwrap();
            }
            Step::Tag { nth: at } => {
                if let Some(entry) = nth(*at) {
                    let tags = vec![format!("tag-{index}")];
                    store.set_tags(&entry.stream, entry.id, tags).await.unwrap();
                }
            }
            Step::Annotate { nth: at } => {
                if let Some(entry) = nth(*at) {
                    let set = [(format!("k{}", index % 3), index.to_string())].into();
                    store
                        .set_annotations(&entry.stream, entry.id, set, vec![])
                        .await
                        .unwrap();
                }
            }
            Step::Trim { nth: at } => {
                if let Some(entry) = nth(*at) {
                    store.trim(&entry.stream, entry.id).await.unwrap();
                }
            }
            Step::Rename { stream, to } => {
                let renamed = store.rename(&name(*stream), &name(*to)).await;
                if let Err(error) = renamed {
                    let kind = error.kind();
                    assert!(matches!(
                        kind,
                        ErrorKind::NotFound | ErrorKind::AlreadyExists
                    ));
                }
            }
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_borders_and_any_replays_give_the_sources_content(
        steps in steps(),
        hops in prop::collection::vec((1..9_usize, 0..12_usize), 1..60),
    ) {
        block_on(async {
            let (store, sink) = (source().await, replica().await);
            perform(&store, &steps).await;
            let changes = log(&store, store.start()).await;
            let (fence, _) = claim(&store, &sink).await;
            let mut at = 0;
            for (size, back) in hops.iter().cycle().take(400) {
                if at == changes.len() {
                    break;
                }
                let end = changes.len().min(at + size);
                sink.deliver(&batch(&changes[at..end], fence)).await.unwrap();
                // A replay begins somewhere before, but the whole gets on.
                at = if *back < *size { end - (*back).min(end) } else { end };
            }
            if let Some(rest) = changes.get(at..).filter(|rest| !rest.is_empty()) {
                sink.deliver(&batch(rest, fence)).await.unwrap();
            }
            assert_equal(&store, &sink).await;
            if let Some(last) = changes.last() {
                assert_eq!(claim(&store, &sink).await.1.as_ref(), Some(&last.cursor));
                let (fence, _) = claim(&store, &sink).await;
                sink.deliver(&batch(&changes, fence)).await.unwrap();
                assert_equal(&store, &sink).await;
                // What is old changes nothing, also where nothing newer follows it.
                for (size, back) in &hops {
                    let begin = (size * back) % changes.len();
                    let end = changes.len().min(begin + size);
                    sink.deliver(&batch(&changes[begin..end], fence)).await.unwrap();
                }
                assert_equal(&store, &sink).await;
            }
        });
    }

    #[test]
    fn a_copy_and_the_changes_since_it_began_give_the_sources_content(
        before in steps(),
        during in steps(),
        after in steps(),
        taken in 0..20_usize,
    ) {
        block_on(async {
            let (store, sink) = (source().await, replica().await);
            perform(&store, &before).await;
            let head = store.head().await.unwrap();
            let mut copy = store.snapshot(None);
            let mut copied = Vec::new();
            for _ in 0..taken {
                copied.extend(copy.next().await.transpose().unwrap());
            }
            perform(&store, &during).await;
            while let Some(change) = copy.next().await {
                copied.push(change.unwrap());
            }
            perform(&store, &after).await;
            let (fence, _) = claim(&store, &sink).await;
            for chunk in copied.chunks(7) {
                sink.deliver(&batch(chunk, fence)).await.unwrap();
            }
            for chunk in log(&store, head).await.chunks(5) {
                sink.deliver(&batch(chunk, fence)).await.unwrap();
            }
            assert_equal(&store, &sink).await;
        });
    }
}

/// A source with three entries, one of them labelled, and its replica.
async fn pair(folder: &TempDir) -> (SqliteStore, SqliteSink, u64) {
    let store = source().await;
    let config = SqliteConfig::file(folder.path().join("replica.db"));
    let sink = SqliteSink::open(config, orders()).await.unwrap();
    let first = append(&store, "a", NewEntry::new("{\"n\": 1}").dedup_key("k")).await;
    append(&store, "a", NewEntry::new("2").tag("t")).await;
    append(&store, "b", NewEntry::new("3")).await;
    store
        .set_tags(&stream("a"), first, vec!["x".into()])
        .await
        .unwrap();
    let (fence, _) = claim(&store, &sink).await;
    sink.deliver(&batch(&log(&store, store.start()).await, fence))
        .await
        .unwrap();
    (store, sink, fence)
}

async fn open_copy(folder: &TempDir) -> SqliteStore {
    let config = SqliteConfig::file(folder.path().join("replica.db"));
    SqliteStore::open(config, orders(), StoreOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_replica_opens_and_reads_like_any_other_store_and_takes_no_writes() {
    let folder = TempDir::new().unwrap();
    let (store, _sink, _) = pair(&folder).await;
    let copy = open_copy(&folder).await;
    for name in ["a", "b", "c"] {
        let options = ReadOptions::all();
        let page = copy.page(&stream(name), &options).await.unwrap();
        assert_eq!(page, store.page(&stream(name), &options).await.unwrap());
    }
    assert_eq!(
        copy.streams(None, 10).await.unwrap(),
        [stream("a"), stream("b")]
    );
    assert!(copy.is_replica().await.unwrap() && copy.log().is_none());
    let a = stream("a");
    let entries = vec![NewEntry::new("4")];
    let refused = [
        copy.append(&a, entries, ExpectedVersion::Any)
            .await
            .map(drop),
        copy.trim(&a, EntryId(1)).await.map(drop),
        copy.rename(&a, &stream("z")).await,
        copy.set_tags(&a, EntryId(1), vec![]).await,
        copy.set_annotations(&a, EntryId(1), [].into(), vec![])
            .await,
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}

#[tokio::test]
async fn a_promoted_replica_is_a_source_and_its_bridge_is_fenced() {
    let folder = TempDir::new().unwrap();
    let (store, sink, fence) = pair(&folder).await;
    // Trimmed at the source before the bridge ever saw it.
    let unseen = append(&store, "b", NewEntry::new("4")).await;
    store.trim(&stream("b"), unseen).await.unwrap();
    let rest = log(
        &store,
        cursors(&sink).stored(&bridge()).await.unwrap().unwrap(),
    )
    .await;
    sink.deliver(&batch(&rest, fence)).await.unwrap();

    let copy = open_copy(&folder).await;
    copy.promote().await.unwrap();
    assert_ne!(
        copy.identity().await.unwrap(),
        store.identity().await.unwrap()
    );
    let promoted_at = copy.head().await.unwrap();
    assert!(append(&copy, "b", NewEntry::new("5")).await > unseen);
    let again = vec![NewEntry::new("6").dedup_key("k")];
    let again = copy
        .append(&stream("a"), again, ExpectedVersion::Any)
        .await
        .unwrap();
    assert!(again[0].duplicate, "dedup keys are unique again");
    assert_eq!(log(&copy, promoted_at).await.len(), 1);
    let from_start = copy.changes(copy.start()).next().await.unwrap();
    assert_eq!(
        from_start.unwrap_err().kind(),
        ErrorKind::CursorExpired,
        "what was copied is not in its log: START would skip it"
    );

    let fenced = sink.deliver(&batch(&rest, fence)).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    let identity = store.identity().await.unwrap();
    let refused = cursors(&sink)
        .claim(&bridge(), &identity)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    assert_eq!(
        sink.repair(&[], &[], &[]).await.unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    assert_eq!(
        copy.promote().await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let config = SqliteConfig::file(folder.path().join("replica.db"));
    let reopened = SqliteSink::open(config, orders()).await.unwrap_err();
    assert_eq!(reopened.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn promotion_names_what_is_there_twice() {
    let folder = TempDir::new().unwrap();
    let (store, sink, fence) = pair(&folder).await;
    // The trim that frees the dedup key, and the rename that frees the name, are skipped.
    store.trim(&stream("a"), EntryId(1)).await.unwrap();
    append(&store, "a", NewEntry::new("again").dedup_key("k")).await;
    store.rename(&stream("b"), &stream("c")).await.unwrap();
    append(&store, "b", NewEntry::new("new")).await;
    let mut rest = log(
        &store,
        cursors(&sink).stored(&bridge()).await.unwrap().unwrap(),
    )
    .await;
    rest.retain(|change| change.mutation.kind().as_str() == "append");
    sink.deliver(&batch(&rest, fence)).await.unwrap();
    let copy = open_copy(&folder).await;
    let error = copy.promote().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    for named in ["stream name \"b\"", "dedup key \"k\" in stream \"a\""] {
        assert!(error.to_string().contains(named), "{error}");
    }
    assert!(copy.is_replica().await.unwrap());
}

#[tokio::test]
async fn a_batch_of_an_older_claim_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let (store, sink, old) = pair(&folder).await;
    let before = everything(&sink).await;
    append(&store, "a", NewEntry::new("4")).await;
    let stored = cursors(&sink).stored(&bridge()).await.unwrap().unwrap();
    let rest = log(&store, stored.clone()).await;
    let (new, resume) = claim(&store, &sink).await;
    assert!(new > old);
    assert_eq!(resume.as_ref(), Some(&stored));
    let delivered: Result<()> = sink.deliver(&batch(&rest, old)).await;
    assert_eq!(delivered.unwrap_err().kind(), ErrorKind::Fenced);
    let advanced = cursors(&sink)
        .advance(&bridge(), old, &rest[0].cursor)
        .await;
    assert_eq!(advanced.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(everything(&sink).await, before);
    assert_eq!(
        cursors(&sink).stored(&bridge()).await.unwrap(),
        Some(stored.clone())
    );

    // The cursor goes forward only, also by a batch without items.
    let mut empty = batch(&rest, new);
    empty.items.clear();
    sink.deliver(&empty).await.unwrap();
    let kept = cursors(&sink)
        .advance(&bridge(), new, &stored)
        .await
        .unwrap();
    assert_eq!(kept, rest[0].cursor);
}

#[tokio::test]
async fn a_replica_belongs_to_one_source_until_it_is_emptied() {
    let folder = TempDir::new().unwrap();
    let (store, sink, fence) = pair(&folder).await;
    let other = source().await;
    append(&other, "o", NewEntry::new("other")).await;
    let identity: SourceId = other.identity().await.unwrap();
    for pipeline in ["bridge", "another"] {
        let pipeline = PipelineId::new(pipeline).unwrap();
        let error = cursors(&sink)
            .claim(&pipeline, &identity)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceDiverged);
        assert!(error.to_string().contains("--resync"), "{error}");
    }
    sink.clear().await.unwrap();
    assert_eq!(everything(&sink).await, (vec![], vec![]));
    let late = sink
        .deliver(&batch(&log(&store, store.start()).await, fence))
        .await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    let (fence, resume) = claim(&other, &sink).await;
    assert_eq!(resume, None);
    sink.deliver(&batch(&log(&other, other.start()).await, fence))
        .await
        .unwrap();
    assert_equal(&other, &sink).await;
}

#[tokio::test]
async fn a_reset_forgets_the_cursor_and_keeps_the_fence() {
    let folder = TempDir::new().unwrap();
    let (store, sink, old) = pair(&folder).await;
    cursors(&sink).reset(&bridge()).await.unwrap();
    assert_eq!(cursors(&sink).stored(&bridge()).await.unwrap(), None);
    let (fence, resume) = claim(&source().await, &sink).await;
    assert!(fence > old && resume.is_none());
    let changes = log(&store, store.start()).await;
    let late = sink.deliver(&batch(&changes, old)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_repair_mends_what_was_altered_and_leaves_trimmed_entries_out() {
    let folder = TempDir::new().unwrap();
    let (store, sink, fence) = pair(&folder).await;
    let (_, trimmed) = everything(&sink).await;
    store.trim(&stream("a"), EntryId(1)).await.unwrap();
    let rest = log(
        &store,
        cursors(&sink).stored(&bridge()).await.unwrap().unwrap(),
    )
    .await;
    sink.deliver(&batch(&rest, fence)).await.unwrap();
    let (states, records) = everything(store.contents()).await;

    let key = |stream, id| EntryKey {
        stream: StreamKey(stream),
        id: EntryId(id),
    };
    sink.remove_streams(&[StreamKey(2)]).await.unwrap();
    assert_eq!(sink.entries_at(&[key(2, 3)]).await.unwrap(), []);
    let mut altered = records[0].clone();
    altered.entry.payload = "altered".into();
    let extra = Record {
        key: key(1, 77),
        ..altered.clone()
    };
    let extra = Record {
        entry: ledger_core::Entry {
            id: EntryId(77),
            ..extra.entry
        },
        ..extra
    };
    sink.repair(&[], &[], &[altered, extra]).await.unwrap();
    assert_ne!(everything(&sink).await.1, records);

    let mut insert = records.clone();
    insert.push(trimmed[0].clone());
    sink.repair(&states, &[key(1, 77)], &insert).await.unwrap();
    assert_equal(&store, &sink).await;
    sink.repair(&states, &[key(9, 9)], &records).await.unwrap();
    assert_equal(&store, &sink).await;
    assert_eq!(
        sink.streams_at(&[StreamKey(2), StreamKey(9)])
            .await
            .unwrap(),
        states[1..]
    );
}
