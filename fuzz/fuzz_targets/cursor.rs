//! Cursors from text and bytes: what reads, writes back the same.
#![no_main]

use ledger_core::{Cursor, Progress};
use ledger_layout::log::Position;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(cursor) = text.parse::<Cursor>()
    {
        assert_eq!(cursor.to_string(), text.to_ascii_lowercase());
        read(&cursor);
    }
    if let Ok(cursor) = Cursor::from_bytes(bytes.to_vec()) {
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        read(&cursor);
    }
});

fn read(cursor: &Cursor) {
    if let Ok(progress) = Progress::from_cursor(cursor) {
        assert_eq!(progress.to_cursor(), *cursor);
    }
    if let Ok(position) = Position::from_cursor(cursor, cursor.tag()) {
        assert_eq!(position.to_cursor(cursor.tag()), *cursor);
    }
}
