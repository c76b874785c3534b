//! A payload comes back from its document to the byte, and any document is an entry, a stream, a log
//! row or a row of a captured collection, or is refused.
#![no_main]

use ledger_core::{ErrorKind, StreamName, Value};
use ledger_layout::mongodb::{
    decode_entry, decode_log_row, decode_stream, payload_of, put_payload,
};
use ledger_sources::mongodb::capture::{as_columns, id_text, json};
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
    match as_columns(document) {
        Ok((table, row)) => {
            assert_eq!(table.columns.len(), row.len());
            let declared = |at: usize| table.columns[at].declared.as_str();
            for (at, value) in row.iter().enumerate().skip(2) {
                // Text throughout, and JSON where a column says so.
                let Value::Text(text) = value else {
                    assert_eq!(*value, Value::Null);
                    continue;
                };
                let text = std::str::from_utf8(text).unwrap();
                if declared(at) == "json" {
                    serde_json::from_str::<serde_json::Value>(text).unwrap();
                }
            }
        }
        Err(error) => corrupt(error.kind()),
    }
    if let Ok(Some(id)) = document.get("_id")
        && let Err(error) = id_text(id)
    {
        corrupt(error.kind());
    }
});
