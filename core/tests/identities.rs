//! Cursors, names, ids and times: what prints parses back, what is stored reads back, and any
//! input is a value or an error.

use bytes::Bytes;
use ledger_core::{
    Cursor, EntryId, ErrorKind, PipelineId, Progress, SourceId, StoreName, StreamName, Timestamp,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

fn cursor() -> impl Strategy<Value = Cursor> {
    (any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(tag, position)| Cursor::new(tag, &position))
}

fn progress() -> impl Strategy<Value = Progress> {
    prop_oneof![snapshot(), cursor().prop_map(Progress::Follow)]
}

fn snapshot() -> impl Strategy<Value = Progress> {
    (cursor(), vec(any::<u8>(), 0..40)).prop_map(|(start, key)| Progress::Snapshot {
        start,
        key: key.into(),
    })
}

proptest! {
    #[test]
    fn a_cursor_prints_parses_and_is_stored(cursor in cursor()) {
        prop_assert_eq!(&cursor.to_string().parse::<Cursor>()?, &cursor);
        prop_assert_eq!(&Cursor::from_bytes(cursor.as_bytes().to_vec())?, &cursor);
        let position = cursor.position(cursor.tag())?;
        prop_assert_eq!(&Cursor::new(cursor.tag(), position), &cursor);
        let text = serde_json::to_string(&cursor).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Cursor>(&text).unwrap(), &cursor);
    }

    #[test]
    fn the_order_of_cursors_is_that_of_their_bytes_and_texts(a in cursor(), b in cursor()) {
        prop_assert_eq!(a.cmp(&b), a.as_bytes().cmp(b.as_bytes()));
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
    }

    #[test]
    fn a_cursor_of_another_log_is_told(cursor in cursor(), tag in any::<u8>()) {
        prop_assume!(tag != cursor.tag());
        prop_assert_eq!(cursor.position(tag).unwrap_err().kind(), ErrorKind::SourceDiverged);
    }

    #[test]
    fn any_text_is_a_cursor_or_an_error(text in prop_oneof![any::<String>(), "[0-9a-fA-F+ -]*"]) {
        match text.parse::<Cursor>() {
            Ok(cursor) => prop_assert_eq!(cursor.to_string(), text.to_ascii_lowercase()),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidInput),
        }
    }

    #[test]
    fn only_cursors_of_1_to_512_bytes_are_read(bytes in vec(any::<u8>(), 0..1100)) {
        let fits = (1..=512).contains(&bytes.len());
        prop_assert_eq!(Cursor::from_bytes(bytes).is_ok(), fits);
    }

    #[test]
    fn progress_is_stored_as_a_cursor(progress in progress()) {
        prop_assert_eq!(Progress::from_cursor(&progress.to_cursor())?, progress);
    }

    #[test]
    fn every_snapshot_sorts_before_every_following(
        snapshot in snapshot(),
        follow in cursor().prop_map(Progress::Follow),
    ) {
        prop_assert!(snapshot.to_cursor() < follow.to_cursor());
    }

    #[test]
    fn progress_sorts_as_its_position_does(a in cursor(), b in cursor()) {
        let follow = |cursor: &Cursor| Progress::Follow(cursor.clone()).to_cursor();
        prop_assert_eq!(follow(&a).cmp(&follow(&b)), a.cmp(&b));
        let copy = |key: &Cursor| {
            let key = Bytes::copy_from_slice(key.as_bytes());
            Progress::Snapshot { start: Cursor::new(1, b"start"), key }.to_cursor()
        };
        prop_assert_eq!(copy(&a).cmp(&copy(&b)), a.cmp(&b));
    }

    #[test]
    fn any_cursor_is_a_progress_or_an_error(
        tag in prop_oneof![Just(b'A'), Just(b'F'), any::<u8>()],
        position in vec(any::<u8>(), 0..40),
    ) {
        let cursor = Cursor::new(tag, &position);
        match Progress::from_cursor(&cursor) {
            Ok(progress) => prop_assert_eq!(progress.to_cursor(), cursor),
            Err(error) => prop_assert!(matches!(
                error.kind(),
                ErrorKind::SourceDiverged | ErrorKind::Corrupt | ErrorKind::InvalidInput
            )),
        }
    }

    #[test]
    fn an_id_prints_and_parses(id in 0..=i64::MAX.unsigned_abs()) {
        prop_assert_eq!(EntryId(id).to_string().parse::<EntryId>()?, EntryId(id));
    }

    #[test]
    fn only_decimal_digits_are_ids(text in prop_oneof![any::<String>(), "[+-]?[0-9]{0,22}"]) {
        if let Ok(id) = text.parse::<EntryId>() {
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(id.to_string(), text.trim_start_matches('0').to_owned()
                + if id.0 == 0 { "0" } else { "" });
        }
    }

    #[test]
    fn a_store_name_is_what_its_rule_says(
        name in prop_oneof![any::<String>(), "[a-zA-Z_][a-zA-Z0-9_]{0,60}"],
    ) {
        let head = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
        let rest = name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        let parsed = StoreName::new(&name);
        prop_assert_eq!(parsed.is_ok(), head && rest && name.len() <= 48);
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.to_string(), name);
        }
    }

    #[test]
    fn a_stream_name_is_any_text_in_bounds(
        name in prop_oneof![any::<String>(), ".{900,1100}", ".*\0.*"],
    ) {
        let fits = (1..=1024).contains(&name.len()) && !name.contains('\0');
        let parsed = StreamName::new(&name);
        prop_assert_eq!(parsed.is_ok(), fits);
        if let Ok(parsed) = parsed {
            let json = serde_json::to_string(&parsed).unwrap();
            prop_assert_eq!(serde_json::from_str::<StreamName>(&json).unwrap(), parsed);
        }
    }

    #[test]
    fn a_pipeline_name_is_what_its_rule_says(
        name in prop_oneof![any::<String>(), "[a-zA-Z0-9_.:-]{0,220}"],
    ) {
        let chars = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c));
        prop_assert_eq!(PipelineId::new(&name).is_ok(), chars && (1..=200).contains(&name.len()));
    }

    #[test]
    fn a_source_identity_prints_and_parses(
        store in any::<u128>(),
        system in any::<String>(),
        timeline in any::<u32>(),
        origins in prop::collection::vec(any::<u128>(), 0..4),
    ) {
        let origins = origins.into_iter().map(Uuid::from_u128).collect();
        let source = SourceId { store: Uuid::from_u128(store), system, timeline, origins };
        prop_assert_eq!(source.to_string().parse::<SourceId>()?, source);
    }

    #[test]
    fn a_sink_that_the_changes_came_through_is_a_loop(
        origins in prop::collection::vec(any::<u128>(), 0..4),
        store in any::<u128>(),
        sink in any::<u128>(),
    ) {
        let uuids = |ids: &[u128]| ids.iter().copied().map(Uuid::from_u128).collect::<Vec<_>>();
        let first = SourceId {
            store: Uuid::from_u128(store),
            system: "s".to_owned(),
            timeline: 1,
            origins: uuids(&origins),
        };
        for through in origins.iter().copied().chain([store]) {
            let error = first.check_sink(Uuid::from_u128(through), &"the sink").unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let again = format!("-> {}", Uuid::from_u128(through));
            prop_assert!(error.to_string().contains(&again), "{}", error);
        }
        let meets = origins.contains(&sink) || sink == store;
        prop_assert_eq!(first.check_sink(Uuid::from_u128(sink), &"the sink").is_err(), meets);
    }

    #[test]
    fn any_text_is_a_source_identity_or_an_error(text in any::<String>()) {
        if let Err(error) = text.parse::<SourceId>() {
            prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    /// From the year 0 to the year 9999, which is what RFC 3339 can write.
    #[test]
    fn a_time_prints_and_parses_to_the_microsecond(
        micros in -62_167_219_200_000_000_i64..=253_402_300_799_999_999,
    ) {
        let at = Timestamp::from_micros(micros);
        prop_assert_eq!(at.to_string().parse::<Timestamp>()?, at);
    }

    #[test]
    fn any_time_prints(micros in any::<i64>()) {
        prop_assert!(!Timestamp::from_micros(micros).to_string().is_empty());
    }

    #[test]
    fn any_text_is_a_time_or_an_error(
        text in prop_oneof![
            any::<String>(),
            "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,12})?(Z|[+-][0-2][0-9]:[0-6][0-9])",
        ],
    ) {
        if let Err(error) = text.parse::<Timestamp>() {
            prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_time_between_is_never_negative(a in any::<i64>(), b in any::<i64>()) {
        let (early, late) = (Timestamp::from_micros(a.min(b)), Timestamp::from_micros(a.max(b)));
        prop_assert!(early.since(late).is_zero());
        let between = i128::from(late.as_micros()) - i128::from(early.as_micros());
        let counted = i128::try_from(late.since(early).as_micros()).unwrap();
        prop_assert_eq!(counted, between.min(i128::from(i64::MAX)));
    }
}
