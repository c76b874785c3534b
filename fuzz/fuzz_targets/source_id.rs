//! Any text is the identity of a source, which prints and parses again, or an error.
#![no_main]

use ledger_core::{ErrorKind, SourceId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| match text.parse::<SourceId>() {
    Ok(source) => assert_eq!(source.to_string().parse::<SourceId>().unwrap(), source),
    Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidInput),
});
