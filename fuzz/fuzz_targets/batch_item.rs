//! Any bytes are a change in MessagePack, which writes and reads again, or an error.
#![no_main]

use ledger_core::{Change, Item as _};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(change) = rmp_serde::from_slice::<Change>(bytes) {
        let again = rmp_serde::to_vec(&change).unwrap();
        assert_eq!(rmp_serde::from_slice::<Change>(&again).unwrap(), change);
        assert!(change.size() > 0);
        assert!(!change.describe().is_empty());
    }
});
