//! A payload comes back from its document to the byte, and any document is an entry, a stream, a log
//! row or a row of a captured collection, or is refused.
#![no_main]

use ledger_core::{ErrorKind, StreamName};
use ledger_layout::mongodb::{
    decode_entry, decode_log_row, decode_stream, payload_of, put_payload,
};
use ledger_sources::mongodb::capture::{id_text, json};
use libfuzzer_sys::fuzz_target;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf};

fuzz_target!(|data: &[u8]| {
    let mut stored = RawDocumentBuf::new();
    put_payload(&mut stored, data);
    assert_eq!(payload_of(&stored).unwrap(), data);

    let Ok(document) = RawDocument::from_bytes(data) else {
        return;
    };
    let corrupt = |kind| assert_eq!(kind, ErrorKind::Corrupt);
    if let Err(error) = decode_entry(document, StreamName::new("s").unwrap()) {
        corrupt(error.kind());
    }
    if let Err(error) = decode_stream(document) {
        corrupt(error.kind());
    }
    if let Err(error) = decode_log_row(document) {
        corrupt(error.kind());
    }
    if let Err(error) = json(RawBsonRef::Document(document)) {
        corrupt(error.kind());
    }
    if let Ok(Some(id)) = document.get("_id")
        && let Err(error) = id_text(id)
    {
        corrupt(error.kind());
    }
});
