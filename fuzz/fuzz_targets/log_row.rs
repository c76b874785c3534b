//! Any row of the mutation log is changes in ascending order, or corrupt.
#![no_main]

use ledger_core::{ErrorKind, StreamKey, StreamName, StreamRef, Timestamp};
use ledger_layout::log::LogRow;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Row {
    seq: i64,
    kind: u8,
    ids: Vec<i64>,
    version: i64,
    after: Option<u32>,
    body: Vec<u8>,
}

fuzz_target!(|row: Row| {
    let name = StreamName::new("s").unwrap();
    let after = row.after;
    let row = LogRow {
        // Backends number rows from 1.
        seq: row.seq & i64::MAX,
        at: Timestamp::from_micros(0),
        stream: StreamRef {
            key: StreamKey(1),
            name,
            name_version: 1,
        },
        kind: i16::from(row.kind % 8),
        ids: row.ids,
        version: row.version,
        body: row.body.into(),
    };
    let last = row.last_position().to_cursor(b'P');
    match row.into_changes(b'P', after) {
        Ok(changes) => {
            assert!(
                changes
                    .windows(2)
                    .all(|pair| pair[0].cursor < pair[1].cursor)
            );
            assert!(changes.iter().all(|change| change.cursor <= last));
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
});
