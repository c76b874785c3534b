//! The stored form of the mutation log gives back what was written, byte for byte, and answers
//! any bytes with changes or an error.

#![allow(
    clippy::unwrap_used,
    reason = "a failing helper fails the test that called it"
)]

use bytes::Bytes;
use ledger_core::{
    Change, Cursor, ErrorKind, Mutation, NewEntry, Pairs, StreamKey, StreamName, StreamRef,
    Timestamp,
};
use ledger_layout::log::{
    APPEND, LogRow, Position, RENAME, ROW_BYTES, ROW_ENTRIES, SET_ANNOTATIONS, SET_TAGS, TRIM,
    encode_annotations, encode_entries, encode_tags, split,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

const TAG: u8 = b'P';

fn pairs() -> impl Strategy<Value = Pairs> {
    btree_map(any::<String>(), any::<String>(), 0..4)
}

prop_compose! {
    fn new_entry()(
        payload in vec(any::<u8>(), 0..100),
        order_key in any::<String>(),
        dedup_key in any::<String>(),
        schema_version in any::<u32>(),
        metadata in pairs(),
        tags in vec(any::<String>(), 0..4),
    ) -> NewEntry {
        NewEntry { payload: payload.into(), order_key, dedup_key, schema_version, metadata, tags }
    }
}

prop_compose! {
    /// Some mutation's row, without a body.
    fn row(kind: i16)(
        seq in 1..=i64::MAX,
        at in any::<i64>(),
        key in any::<u64>(),
        name in "[^\0]{1,20}",
        name_version in any::<u64>(),
        version in 0..=i64::MAX,
    ) -> LogRow {
        let name = StreamName::new(name).unwrap();
        LogRow {
            seq,
            at: Timestamp::from_micros(at),
            stream: StreamRef { key: StreamKey(key), name, name_version },
            kind,
            ids: vec![],
            version,
            body: Bytes::new(),
        }
    }
}

/// An append: its entries, whether each was a duplicate, and its row.
fn append() -> impl Strategy<Value = (Vec<NewEntry>, LogRow)> {
    let written = (new_entry(), any::<bool>());
    (
        vec(written, 1..12),
        row(APPEND),
        1..=i64::MAX - 100,
        0..1_000_i64,
    )
        .prop_map(|(written, mut row, first_id, before)| {
            let (entries, duplicate): (Vec<_>, Vec<_>) = written.into_iter().unzip();
            let id = |(index, skipped): (i64, bool)| if skipped { 0 } else { first_id + index };
            row.ids = (0..).zip(duplicate).map(id).collect();
            let kept = row.ids.iter().filter(|id| **id != 0).count();
            row.version = before + i64::try_from(kept).unwrap();
            row.body = encode_entries(&entries).unwrap().into();
            (entries, row)
        })
}

/// Any row with any body, some of the bodies being near to a right one.
fn any_row() -> impl Strategy<Value = LogRow> {
    let body = prop_oneof![
        vec(any::<u8>(), 0..200),
        (
            vec(new_entry(), 0..4),
            any::<prop::sample::Index>(),
            any::<u8>()
        )
            .prop_map(|(entries, at, byte)| {
                let mut body = encode_entries(&entries).unwrap();
                let at = at.index(body.len());
                body[at] = byte;
                body
            }),
    ];
    let kind = prop_oneof![0_i16..8, any::<i16>()];
    let ids = vec(prop_oneof![-1_i64..5, any::<i64>()], 0..5);
    (row(APPEND), kind, ids, any::<i64>(), body).prop_map(|(row, kind, ids, version, body)| {
        LogRow {
            kind,
            ids,
            version,
            body: body.into(),
            ..row
        }
    })
}

fn position() -> impl Strategy<Value = Position> {
    // Small numbers too, so that sequences are often equal.
    let seq = prop_oneof![0..4_i64, 0..=i64::MAX];
    let index = prop_oneof![0..4_u32, any::<u32>()];
    (seq, index, any::<u64>()).prop_map(|(seq, index, digest)| Position { seq, index, digest })
}

fn indexes(changes: &[Change]) -> Vec<u32> {
    let index = |change: &Change| Position::from_cursor(&change.cursor, TAG).unwrap().index;
    changes.iter().map(index).collect()
}

proptest! {
    #[test]
    fn an_append_gives_back_its_entries_byte_for_byte((entries, row) in append()) {
        let changes = row.clone().into_changes(TAG, None)?;
        let kept: Vec<_> = row.ids.iter().zip(entries).filter(|(id, _)| **id != 0).collect();
        prop_assert_eq!(changes.len(), kept.len());
        let first = row.version - i64::try_from(kept.len()).unwrap() + 1;
        for (version, (change, (id, written))) in (first..).zip(changes.iter().zip(kept)) {
            prop_assert_eq!(&change.stream, &row.stream);
            prop_assert_eq!(change.committed_at, row.at);
            let Mutation::Append { entry, version: told } = &change.mutation else {
                return Err(TestCaseError::fail("an append gave another mutation"));
            };
            prop_assert_eq!(i64::try_from(*told).unwrap(), version);
            prop_assert_eq!(i64::try_from(entry.id.0).unwrap(), *id);
            prop_assert_eq!(&entry.stream, &row.stream.name);
            prop_assert_eq!(&entry.payload, &written.payload);
            prop_assert_eq!(&entry.order_key, &written.order_key);
            prop_assert_eq!(&entry.dedup_key, &written.dedup_key);
            prop_assert_eq!(entry.schema_version, written.schema_version);
            prop_assert_eq!(&entry.metadata, &written.metadata);
            prop_assert_eq!(&entry.tags, &written.tags);
            prop_assert_eq!((entry.created_at, entry.updated_at), (row.at, None));
            prop_assert_eq!((&entry.annotations, entry.label_version), (&Pairs::new(), 0));
        }
    }

    #[test]
    fn an_appends_cursors_ascend_and_resuming_behind_one_gives_the_rest(
        (_, row) in append(),
        after in 0_u32..14,
    ) {
        let all = row.clone().into_changes(TAG, None)?;
        prop_assert!(all.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
        let last = row.last_position().to_cursor(TAG);
        prop_assert!(all.iter().all(|change| change.cursor <= last));
        let rest = row.into_changes(TAG, Some(after))?;
        let expected: Vec<_> =
            all.into_iter().filter(|change| indexes(std::slice::from_ref(change))[0] > after).collect();
        prop_assert_eq!(rest, expected);
    }

    #[test]
    fn labels_come_back(
        tags_row in row(SET_TAGS),
        pairs_row in row(SET_ANNOTATIONS),
        id in 1..=i64::MAX,
        tags in vec(any::<String>(), 0..5),
        annotations in pairs(),
    ) {
        let ids = vec![id];
        let body = encode_tags(&tags)?.into();
        let label_version = u64::try_from(tags_row.version).unwrap();
        let changes = LogRow { ids: ids.clone(), body, ..tags_row }.into_changes(TAG, None)?;
        let id = ledger_core::EntryId(u64::try_from(id).unwrap());
        prop_assert_eq!(changes.len(), 1);
        prop_assert_eq!(&changes[0].mutation, &Mutation::SetTags { id, label_version, tags });

        let body = encode_annotations(&annotations)?.into();
        let label_version = u64::try_from(pairs_row.version).unwrap();
        let changes = LogRow { ids, body, ..pairs_row }.into_changes(TAG, None)?;
        prop_assert_eq!(changes.len(), 1);
        let expected = Mutation::SetAnnotations { id, label_version, annotations };
        prop_assert_eq!(&changes[0].mutation, &expected);
    }

    #[test]
    fn trims_and_renames_come_back(trim in row(TRIM), rename in row(RENAME), id in 1..=i64::MAX) {
        let changes = LogRow { ids: vec![id], ..trim }.into_changes(TAG, None)?;
        let through = ledger_core::EntryId(u64::try_from(id).unwrap());
        prop_assert_eq!(changes.len(), 1);
        prop_assert_eq!(&changes[0].mutation, &Mutation::Trim { through });
        let stream = rename.stream.clone();
        let changes = rename.into_changes(TAG, None)?;
        prop_assert_eq!(changes.len(), 1);
        prop_assert_eq!(&changes[0].mutation, &Mutation::Rename);
        prop_assert_eq!(&changes[0].stream, &stream);
    }

    #[test]
    fn any_row_is_changes_or_corrupt_and_the_error_names_it(row in any_row()) {
        let seq = row.seq;
        if let Err(error) = row.into_changes(TAG, None) {
            prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
            prop_assert!(error.to_string().contains(&format!("log row {seq}")), "{error}");
        }
    }

    #[test]
    fn an_unknown_mutation_is_corrupt_and_named(row in row(APPEND), kind in 6_i16..) {
        let error = LogRow { kind, ids: vec![1], ..row }.into_changes(TAG, None).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
        prop_assert!(error.to_string().contains(&format!("mutation {kind}")), "{error}");
    }

    #[test]
    fn a_body_that_is_cut_short_is_corrupt(
        (_, row) in append(),
        at in any::<prop::sample::Index>(),
    ) {
        let cut = LogRow { body: row.body.slice(..at.index(row.body.len())), ..row };
        prop_assert_eq!(cut.into_changes(TAG, None).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn another_row_has_another_digest((_, row) in append(), (_, other) in append()) {
        prop_assert_eq!(row.digest(), row.clone().digest());
        prop_assume!(row != other);
        prop_assert_ne!(row.digest(), other.digest());
    }

    #[test]
    fn a_position_is_stored_as_a_cursor(position in position()) {
        prop_assert_eq!(Position::from_cursor(&position.to_cursor(TAG), TAG)?, position);
        let error = Position::from_cursor(&position.to_cursor(TAG), TAG + 1).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    }

    #[test]
    fn cursors_sort_by_row_then_by_change(a in position(), b in position()) {
        let key = |position: Position| (position.seq, position.index, position.digest);
        prop_assert_eq!(a.to_cursor(TAG).cmp(&b.to_cursor(TAG)), key(a).cmp(&key(b)));
        prop_assert!(Position::START.to_cursor(TAG) <= a.to_cursor(TAG));
    }

    #[test]
    fn any_cursor_is_a_position_or_an_error(
        bytes in prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 20..=20)],
    ) {
        let cursor = Cursor::new(TAG, &bytes);
        match Position::from_cursor(&cursor, TAG) {
            Ok(position) => prop_assert_eq!(position.to_cursor(TAG), cursor),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidInput),
        }
    }
}

proptest! {
    // Each case allocates megabytes.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn splitting_covers_every_entry_once_and_keeps_the_limits(
        sizes in prop_oneof![
            vec(0..600_000_usize, 0..20),
            vec(prop_oneof![9 => 0..10_usize, 1 => 900_000..1_200_000_usize], 0..20),
            vec(0..3_usize, 990..2_100),
        ],
    ) {
        let entries: Vec<_> = sizes.iter().map(|size| NewEntry::new(vec![0; *size])).collect();
        let ends = split(&entries);
        prop_assert_eq!(ends.last().copied().unwrap_or(0), entries.len());
        let mut begin = 0;
        for (row, end) in ends.iter().enumerate() {
            prop_assert!(*end > begin, "row {row} is empty");
            let size: usize = sizes[begin..*end].iter().sum();
            prop_assert!(end - begin <= ROW_ENTRIES);
            prop_assert!(size <= ROW_BYTES || end - begin == 1, "{size} bytes in row {row}");
            if let Some(next) = sizes.get(*end) {
                let full = end - begin == ROW_ENTRIES || size + next > ROW_BYTES;
                prop_assert!(full, "row {row} is split without need");
            }
            begin = *end;
        }
    }
}

#[test]
fn a_deeply_nested_body_is_corrupt_and_no_overflow() {
    for depth in [100, 1_000, 1_000_000] {
        let nested = [vec![0x91; depth], vec![0xc0]].concat();
        // As an entry, as a field that is not known, and in a field's place.
        for head in [&[0x91][..], &[0x91, 0x81, 0xa1, b'x'], &[0x91, 0x96]] {
            let row = LogRow {
                seq: 7,
                at: Timestamp::from_micros(0),
                stream: StreamRef {
                    key: StreamKey(1),
                    name: StreamName::new("s").unwrap(),
                    name_version: 1,
                },
                kind: APPEND,
                ids: vec![1],
                version: 1,
                body: [head, &nested].concat().into(),
            };
            assert_eq!(
                row.into_changes(TAG, None).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
    }
}
