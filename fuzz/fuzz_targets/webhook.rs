//! What a receiver reads of a delivery, and what a sender reads of a response and of a configuration:
//! nothing but what was signed is accepted, and networks read back as they print.
#![no_main]

use std::time::Duration;

use ledger_core::Timestamp;
use ledger_sinks::webhook::{
    Network, Signed, SigningKey, Target, VerifyingKey, retry_after, sign, verify, verify_compat,
};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fuzz_target!(|input: (&str, &str, &str, &[u8])| {
    let (id, timestamp, signature, body) = input;
    let (Ok(key), Ok(own)) = (VerifyingKey::parse(SECRET), SigningKey::parse(SECRET)) else {
        return;
    };
    let now = Timestamp::from_micros(0);
    let signed = Signed {
        id,
        timestamp,
        signature,
    };
    if verify(&[key], signed, body, now, Duration::MAX).is_ok() {
        let seconds = timestamp.parse().unwrap();
        let expected = sign(&[own], id, seconds, body);
        assert!(signature.split_ascii_whitespace().any(|part| part == expected));
    }
    let _ = verify_compat(body, signature, id.as_bytes());
    if let Some(wait) = retry_after(signature, now) {
        assert!(wait <= Duration::from_hours(24));
    }
    for text in [id, timestamp, signature] {
        let _ = SigningKey::parse(text);
        let _ = VerifyingKey::parse(text);
        let _ = Target::parse(text, &[]);
        if let Ok(network) = text.parse::<Network>() {
            assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
        }
    }
});
