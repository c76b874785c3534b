//! Verifying what was received.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use ledger_core::{Result, Timestamp};

use super::VerifyingKey;
use super::sign::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, content};

/// How far the time of a delivery may be from the receiver's, as the standard recommends.
const TOLERANCE: Duration = Duration::from_mins(5);

/// The most signatures of one header that are looked at.
const MOST: usize = 32;

/// The three headers of a signed delivery.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signature: &'a str,
}

/// A delivery that is who it says it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The delivery's id: two deliveries of one id carry the same, and the second needs no work.
    pub id: String,
    /// When it was sent.
    pub timestamp: Timestamp,
}

/// Why a delivery is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unverified {
    /// A header is absent, or there twice, or not text.
    Header(&'static str),
    /// The time is not a number of seconds.
    Timestamp,
    /// The time is too far in the past: an old delivery that somebody sends again.
    TooOld,
    /// The time is too far in the future.
    TooNew,
    /// No signature is of any of the keys.
    Signature,
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the header {name} must be there once"),
            Self::Timestamp => f.write_str("webhook-timestamp must be seconds since 1970"),
            Self::TooOld => f.write_str("webhook-timestamp is too long ago"),
            Self::TooNew => f.write_str("webhook-timestamp is too far ahead"),
            Self::Signature => f.write_str("no signature is of a known key"),
        }
    }
}

impl std::error::Error for Unverified {}

/// Verifies deliveries with the keys of a receiver.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<VerifyingKey>,
    tolerance: Duration,
}

impl Verifier {
    /// A verifier with these secrets (`whsec_`) and public keys (`whpk_`): one that any of them
    /// accepts is accepted, so that both sides can change their keys in turn.
    pub fn new<T: AsRef<str>>(keys: impl IntoIterator<Item = T>) -> Result<Self> {
        let keys = keys.into_iter();
        let keys = keys.map(|key| VerifyingKey::parse(key.as_ref()));
        Ok(Self {
            keys: keys.collect::<Result<_>>()?,
            tolerance: TOLERANCE,
        })
    }

    /// Sets how far the time of a delivery may be from this machine's; five minutes by default.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Verifies a request by its headers and its body, which must be the bytes that came.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Unverified> {
        let header = |name: &'static str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().and_then(|value| value.to_str().ok());
            match (value, values.next()) {
                (Some(value), None) => Ok(value),
                _ => Err(Unverified::Header(name)),
            }
        };
        let signed = Signed {
            id: header(HEADER_ID)?,
            timestamp: header(HEADER_TIMESTAMP)?,
            signature: header(HEADER_SIGNATURE)?,
        };
        verify(&self.keys, signed, body, Timestamp::now(), self.tolerance)
    }
}

/// Verifies a delivery with any of `keys`, at the time `now`.
pub fn verify(
    keys: &[VerifyingKey],
    signed: Signed<'_>,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<Verified, Unverified> {
    let digits = signed.timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: Option<i64> = signed.timestamp.parse().ok().filter(|_| digits);
    let micros = seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
    let sent = Timestamp::from_micros(micros.ok_or(Unverified::Timestamp)?);
    // The signature first: who does not have the key is told nothing of the clock.
    let content = content(signed.id, signed.timestamp, body);
    let mut parts = signed.signature.split_ascii_whitespace().take(MOST);
    let accepted = parts.any(|part| {
        let Some((version, signature)) = part.split_once(',') else {
            return false;
        };
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        keys.iter()
            .any(|key| key.accepts(version, &signature, &content))
    });
    if !accepted {
        return Err(Unverified::Signature);
    }
    if now.since(sent) > tolerance {
        return Err(Unverified::TooOld);
    }
    if sent.since(now) > tolerance {
        return Err(Unverified::TooNew);
    }
    Ok(Verified {
        id: signed.id.to_owned(),
        timestamp: sent,
    })
}

/// Whether `signature`, the value of `X-Ledger-Signature`, is that of the secret over the body.
pub fn verify_compat(secret: &[u8], signature: &str, body: &[u8]) -> bool {
    let mut bytes = Vec::with_capacity(32);
    let digits = signature.as_bytes();
    if digits.len() != 64 {
        return false;
    }
    for pair in digits.chunks(2) {
        let value = pair.iter().try_fold(0_u8, |value, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            Some(value << 4 | u8::try_from(digit).ok()?)
        });
        let Some(value) = value else { return false };
        bytes.push(value);
    }
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    ring::hmac::verify(&key, body, &bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::{SigningKey, sign};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn check(
        keys: &[&str],
        signed: Signed<'_>,
        body: &[u8],
        now: i64,
    ) -> Result<Verified, Unverified> {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| VerifyingKey::parse(key).unwrap())
            .collect();
        let now = Timestamp::from_micros(now * 1_000_000);
        verify(&keys, signed, body, now, TOLERANCE)
    }

    #[test]
    fn the_standards_own_example_is_verified() {
        let signed = Signed {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        };
        let body = br#"{"test": 2432232314}"#;
        assert!(check(&[SECRET], signed, body, 1_614_265_330).is_ok());
        let told = check(&[SECRET], signed, body, 1_614_265_330 + 301);
        assert_eq!(told, Err(Unverified::TooOld));
        let told = check(&[SECRET], signed, body, 1_614_265_330 - 301);
        assert_eq!(told, Err(Unverified::TooNew));
        let told = check(&[SECRET], signed, b"{}", 1_614_265_330);
        assert_eq!(told, Err(Unverified::Signature));
    }

    #[test]
    fn any_of_several_keys_of_both_kinds_is_enough() {
        let own: Vec<_> = (0..2)
            .flat_map(|_| {
                [
                    SigningKey::generate_shared(),
                    SigningKey::generate_private(),
                ]
            })
            .map(Result::unwrap)
            .collect();
        let keys: Vec<_> = own
            .iter()
            .map(|key| SigningKey::parse(key).unwrap())
            .collect();
        let body = b"{}";
        let signature = sign(&keys, "msg_1", 1_000, body);
        assert_eq!(signature.split(' ').count(), 4);
        let signed = Signed {
            id: "msg_1",
            timestamp: "1000",
            signature: &signature,
        };
        for (own, key) in own.iter().zip(&keys) {
            let receivers = key.public().unwrap_or_else(|| own.clone());
            assert!(check(&[&receivers], signed, body, 1_000).is_ok());
            let altered = Signed {
                id: "msg_2",
                ..signed
            };
            assert_eq!(
                check(&[&receivers], altered, body, 1_000),
                Err(Unverified::Signature)
            );
        }
        assert_eq!(
            check(&[SECRET], signed, body, 1_000),
            Err(Unverified::Signature)
        );
    }

    #[test]
    fn what_is_no_header_of_ours_is_refused() {
        let body = b"{}";
        for signature in ["", " ", "v1", "v1,", ",", "v1,!", "v2,AAAA", "v1a,AAAA"] {
            let signed = Signed {
                id: "m",
                timestamp: "1",
                signature,
            };
            assert_eq!(
                check(&[SECRET], signed, body, 1),
                Err(Unverified::Signature)
            );
        }
        for timestamp in ["", "-1", "+1", "1.5", "x", "99999999999999999999"] {
            let signed = Signed {
                id: "m",
                timestamp,
                signature: "v1,AAAA",
            };
            assert_eq!(
                check(&[SECRET], signed, body, 1),
                Err(Unverified::Timestamp)
            );
        }
        let verifier = Verifier::new([SECRET]).unwrap();
        let told = verifier.verify(&HeaderMap::new(), body);
        assert_eq!(told, Err(Unverified::Header(HEADER_ID)));
    }

    #[test]
    fn the_older_signature_is_one_of_the_body_alone() {
        let key = SigningKey::shared(b"secret");
        let signature = key.sign_hex(b"body").unwrap();
        assert!(verify_compat(b"secret", &signature, b"body"));
        assert!(!verify_compat(b"secret", &signature, b"other"));
        assert!(!verify_compat(b"other", &signature, b"body"));
        assert!(!verify_compat(b"secret", "zz", b"body"));
        assert!(!verify_compat(b"secret", &"g".repeat(64), b"body"));
    }
}
