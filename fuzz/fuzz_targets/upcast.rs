//! Any payload of any version is a value of the present one, or corrupt.
#![no_main]

use ledger_core::{Codec, ErrorKind, FieldMapper, Json, MessagePack, Schema, Versioned};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[derive(Debug, Arbitrary)]
struct Input {
    renames: Vec<(String, String)>,
    defaults: Vec<(String, i64)>,
    removals: Vec<String>,
    present: u8,
    step: u8,
    strict: bool,
    written: u32,
    packed: bool,
    payload: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let step = FieldMapper::new();
    let step = input
        .renames
        .iter()
        .fold(step, |step, (from, to)| step.rename(from, to));
    let step = input
        .defaults
        .iter()
        .fold(step, |step, (at, value)| step.add_default(at, *value));
    let step = input.removals.iter().fold(step, FieldMapper::remove);
    let Ok(schema) = Schema::new(u32::from(input.present)).upcast(u32::from(input.step), step)
    else {
        return;
    };
    let schema = if input.strict {
        schema.strict()
    } else {
        schema
    };
    let removed = input.written.max(1) == u32::from(input.step)
        && u32::from(input.step) + 1 == u32::from(input.present);
    let read: Result<Value, _> = if input.packed {
        Versioned::new(MessagePack, schema).decode_version(input.written, &input.payload)
    } else {
        Versioned::new(Json, schema).decode_version(input.written, &input.payload)
    };
    match read {
        Ok(Value::Object(fields)) if removed => {
            assert!(
                input
                    .removals
                    .iter()
                    .all(|field| !fields.contains_key(field))
            );
        }
        Ok(value) => {
            assert!(!removed || value.is_null());
            // MessagePack nests deeper than JSON, so it is the one that takes every value.
            let again = MessagePack.encode(&value).unwrap();
            assert_eq!(Codec::<Value>::decode(&MessagePack, &again).unwrap(), value);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
});
