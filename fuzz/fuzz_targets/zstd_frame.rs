//! Any bytes are a payload or an error, and nothing inflates above the limit.
#![no_main]

use bytes::Bytes;
use ledger_core::{Codec, ErrorKind, Raw, Zstd};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fuzz_target!(|payload: &[u8]| {
    let codec = Zstd::new(Raw).limit(LIMIT);
    match Codec::<Bytes>::decode(&codec, payload) {
        Ok(plain) => {
            assert!(plain.len() <= LIMIT.max(payload.len()));
            let again = codec.encode(&plain).unwrap();
            assert_eq!(codec.decode(&again).unwrap(), plain);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
});
