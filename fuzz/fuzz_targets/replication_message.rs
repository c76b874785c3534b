//! Any bytes are a message of the output plugin or an error, and never a panic.
#![no_main]

use ledger_sources::postgres::capture::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode(bytes::Bytes::copy_from_slice(bytes));
});
