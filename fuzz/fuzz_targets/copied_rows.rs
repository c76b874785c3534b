//! Any bytes are rows of a copy or an error, and the same rows whatever pieces they come in.
#![no_main]

use bytes::Bytes;
use ledger_sources::postgres::capture::CopyText;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (columns, at, bytes) = input;
    let columns = usize::from(columns % 8);
    let read = |pieces: &[&[u8]]| {
        let (mut text, mut rows) = (CopyText::default(), Vec::new());
        for piece in pieces {
            text.rows(Bytes::copy_from_slice(piece), columns, &mut rows).ok()?;
        }
        Some((rows, text.is_cut()))
    };
    let (left, right) = bytes.split_at(usize::from(at).min(bytes.len()));
    assert_eq!(read(&[&bytes]), read(&[left, right]));
});
