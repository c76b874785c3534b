//! What a relay tells is what it was told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use ledger_core::{
    Batch, Change, Cursor, Entry, EntryId, Mutation, Pairs, PipelineId, StreamKey, StreamName,
    StreamRef, StreamState, Timestamp,
};
use ledger_layout::log::{LogRow, ROW_BYTES, ROW_ENTRIES};
use ledger_layout::relay::{beginning, rows};
use proptest::prelude::*;

const TAG: u8 = b't';

fn stream(key: u64) -> StreamRef {
    StreamRef {
        key: StreamKey(key),
        name: StreamName::new(format!("s{key}")).unwrap(),
        name_version: key + 1,
    }
}

fn entry(id: u64, payload: Vec<u8>, at: i64) -> Entry {
    Entry {
        id: EntryId(id),
        stream: stream(1).name,
        payload: payload.into(),
        order_key: format!("o{id}"),
        dedup_key: String::new(),
        schema_version: 3,
        metadata: Pairs::from([("k".to_owned(), "v".to_owned())]),
        tags: vec!["t".to_owned()],
        annotations: Pairs::new(),
        label_version: 0,
        created_at: Timestamp::from_micros(at),
        updated_at: None,
    }
}

fn at(place: u64) -> Cursor {
    Cursor::new(TAG, &place.to_be_bytes())
}

fn change(place: u64, stream: StreamRef, committed_at: i64, mutation: Mutation) -> Change {
    Change {
        cursor: at(place),
        committed_at: Timestamp::from_micros(committed_at),
        stream,
        mutation,
    }
}

fn append(entry: Entry, version: u64) -> Mutation {
    Mutation::Append {
        entry: Box::new(entry),
        version,
    }
}

fn batch(changes: &[Change]) -> Batch<Change> {
    let items: Vec<_> = changes
        .iter()
        .map(|change| (change.cursor.clone(), change.clone()))
        .collect();
    Batch {
        after: Some(at(0)),
        through: items.last().map_or(at(0), |(cursor, _)| cursor.clone()),
        ack: Some(at(u64::MAX)),
        items,
        pipeline: PipelineId::new("p").unwrap(),
        fence: 1,
    }
}

/// What rows tell, numbered as a log numbers them; without positions.
fn told(rows: Vec<LogRow>) -> Vec<Change> {
    let mut told = Vec::new();
    for (seq, row) in (1..).zip(rows) {
        let changes = row.changes();
        let row = LogRow { seq, ..row }.into_changes(TAG, None).unwrap();
        assert_eq!(row.len(), changes);
        told.extend(row.into_iter().map(|change| Change {
            cursor: at(0),
            ..change
        }));
    }
    told
}

/// The changes without positions.
fn placeless(changes: &[Change]) -> Vec<Change> {
    let placeless = |change: &Change| Change {
        cursor: at(0),
        ..change.clone()
    };
    changes.iter().map(placeless).collect()
}

/// One kind of change of stream 1 or 2, at place `place`, where the stream has had `version` entries.
fn any_change() -> impl Strategy<Value = (u8, bool, bool, Vec<u8>)> {
    (0_u8..6, any::<bool>(), any::<bool>(), any::<Vec<u8>>())
}

proptest! {
    #[test]
    fn every_change_is_told_as_it_was(kinds in prop::collection::vec(any_change(), 0..60)) {
        let mut versions = [0, 0];
        let mut changes = Vec::new();
        for (place, (kind, second, later, payload)) in (1..).zip(kinds) {
            let stream = stream(u64::from(second) + 1);
            let version = &mut versions[usize::from(second)];
            let time = 1_000 + i64::from(later);
            let id = EntryId(place);
            let mutation = match kind {
                0 | 1 => {
                    *version += 1;
                    let mut entry = entry(place, payload, 1_000);
                    entry.stream = stream.name.clone();
                    append(entry, *version)
                }
                2 => Mutation::SetTags { id, label_version: place, tags: vec!["x".to_owned()] },
                3 => Mutation::SetAnnotations {
                    id,
                    label_version: place,
                    annotations: Pairs::from([("a".to_owned(), String::new())]),
                },
                4 => Mutation::Trim { through: id },
                _ => Mutation::Rename,
            };
            changes.push(change(place, stream, time, mutation));
        }
        let batch = batch(&changes);
        prop_assert_eq!(told(rows(&batch, None).unwrap()), placeless(&changes));
        // What is in the log already is left out.
        let half = changes.len() / 2;
        let stored = changes.get(half).map_or(at(0), |change| change.cursor.clone());
        let rest = told(rows(&batch, Some(&stored)).unwrap());
        let behind = changes.get(half + 1..).unwrap_or_default();
        prop_assert_eq!(rest, placeless(behind));
    }
}

#[test]
fn what_was_copied_is_told_whole() {
    let mut labelled = entry(7, b"{}".to_vec(), 5);
    labelled.label_version = 4;
    labelled.annotations = Pairs::from([("note".to_owned(), "n".to_owned())]);
    labelled.updated_at = Some(Timestamp::from_micros(9));
    let state = StreamState {
        stream: stream(1),
        version: 12,
        trimmed_through: 6,
    };
    let changes = [
        change(1, stream(1), 3, Mutation::Stream(state)),
        change(2, stream(1), 5, append(labelled, 0)),
        change(3, stream(1), 6, append(entry(8, b"x".to_vec(), 6), 0)),
    ];
    let rows = rows(&batch(&changes), None).unwrap();
    assert_eq!(rows.len(), 2, "the entries share a row");
    let told = told(rows);
    let mutations = |changes: &[Change]| -> Vec<Mutation> {
        changes
            .iter()
            .map(|change| change.mutation.clone())
            .collect()
    };
    assert_eq!(mutations(&told), mutations(&changes));
    // It is as old as the copy, not as its entries.
    assert!(told[1].committed_at > Timestamp::from_micros(6));
}

#[test]
fn rows_are_split_as_those_of_a_store() {
    let count = ROW_ENTRIES as u64 * 2 + 1;
    let many: Vec<_> = (1..=count)
        .map(|id| change(id, stream(1), 1, append(entry(id, vec![], 1), id)))
        .collect();
    let split = rows(&batch(&many), None).unwrap();
    let sizes: Vec<_> = split.iter().map(LogRow::changes).collect();
    assert_eq!(sizes, [ROW_ENTRIES, ROW_ENTRIES, 1]);
    assert_eq!(told(split), placeless(&many));
    let large: Vec<_> = (1..=3)
        .map(|id| {
            let entry = entry(id, vec![b'x'; ROW_BYTES / 2 + 1], 1);
            change(id, stream(1), 1, append(entry, id))
        })
        .collect();
    assert_eq!(rows(&batch(&large), None).unwrap().len(), 3);
}

#[test]
fn a_dead_letter_is_told_though_the_cursor_is_behind_it() {
    let changes = [change(3, stream(1), 1, Mutation::Rename)];
    let stored = at(9);
    let replayed = batch(&changes);
    assert!(rows(&replayed, Some(&stored)).unwrap().is_empty());
    let letter = Batch {
        after: None,
        ack: None,
        ..replayed
    };
    assert_eq!(rows(&letter, Some(&stored)).unwrap().len(), 1);
}

#[test]
fn the_row_that_begins_a_log_is_no_change() {
    let row = beginning(2).unwrap();
    assert_eq!((row.changes(), row.last_position().seq), (0, 2));
    assert!(row.into_changes(TAG, None).unwrap().is_empty());
}
