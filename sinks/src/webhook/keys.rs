//! Secrets and keys in the forms of Standard Webhooks.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger_core::{Error, ErrorKind, Result};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use ring::{hmac, rand::SecureRandom as _};

/// How a shared secret begins.
const SHARED: &str = "whsec_";
/// How a private key begins, and how its public one does.
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// What a delivery is signed with. Prints as `***`.
#[derive(Clone)]
pub struct SigningKey(Signing);

#[derive(Clone)]
enum Signing {
    Shared(hmac::Key),
    Private(Arc<Ed25519KeyPair>),
}

impl SigningKey {
    /// Reads `whsec_` and 24 to 64 bytes in base64 (HMAC-SHA256), or `whsk_` and an ed25519 key: its
    /// seed of 32 bytes, or seed and public key. An error repeats nothing of it.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(seed) = text.strip_prefix(PRIVATE) {
            let bytes = decode(seed, "whsk_")?;
            let pair = match bytes.split_at_checked(32) {
                Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
                Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
                None => return Err(invalid("whsk_ must hold 32 or 64 bytes in base64")),
            };
            let pair = pair.map_err(|_| invalid("whsk_ holds no ed25519 key"))?;
            return Ok(Self(Signing::Private(Arc::new(pair))));
        }
        Ok(Self::shared(&shared(text)?))
    }

    /// A shared secret of any bytes.
    pub fn shared(secret: &[u8]) -> Self {
        Self(Signing::Shared(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Draws a new shared secret, in the form that [`parse`](Self::parse) reads.
    pub fn generate_shared() -> Result<String> {
        let mut bytes = [0; 32];
        random(&mut bytes)?;
        Ok(format!("{SHARED}{}", STANDARD.encode(bytes)))
    }

    /// Draws a new ed25519 key: the private one, in the form that [`parse`](Self::parse) reads.
    pub fn generate_private() -> Result<String> {
        let mut seed = [0; 32];
        random(&mut seed)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::new(ErrorKind::Internal, "draw key", "ed25519"))?;
        let mut bytes = seed.to_vec();
        bytes.extend_from_slice(pair.public_key().as_ref());
        Ok(format!("{PRIVATE}{}", STANDARD.encode(bytes)))
    }

    /// The public key, as receivers need it (`whpk_`); none for a shared secret.
    pub fn public(&self) -> Option<String> {
        match &self.0 {
            Signing::Shared(_) => None,
            Signing::Private(pair) => {
                let public = STANDARD.encode(pair.public_key().as_ref());
                Some(format!("{PUBLIC}{public}"))
            }
        }
    }

    /// The signature of a content with its version, as it stands in the header.
    pub(super) fn sign(&self, content: &[u8]) -> String {
        match &self.0 {
            Signing::Shared(key) => {
                format!("v1,{}", STANDARD.encode(hmac::sign(key, content)))
            }
            Signing::Private(pair) => format!("v1a,{}", STANDARD.encode(pair.sign(content))),
        }
    }

    /// The signature in hexadecimal; none for a key that is no shared secret.
    pub(super) fn sign_hex(&self, content: &[u8]) -> Option<String> {
        match &self.0 {
            Signing::Shared(key) => {
                let tag = hmac::sign(key, content);
                let mut text = String::with_capacity(64);
                for byte in tag.as_ref() {
                    text.push_str(&format!("{byte:02x}"));
                }
                Some(text)
            }
            Signing::Private(_) => None,
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a signature is verified with. Prints as `***`.
#[derive(Clone)]
pub struct VerifyingKey(Verifying);

#[derive(Clone)]
enum Verifying {
    Shared(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl VerifyingKey {
    /// Reads `whsec_`, a shared secret, or `whpk_`, a public key of 32 bytes in base64. An error
    /// repeats nothing of it.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(public) = text.strip_prefix(PUBLIC) {
            let bytes = decode(public, "whpk_")?;
            if bytes.len() != 32 {
                return Err(invalid("whpk_ must hold 32 bytes in base64"));
            }
            return Ok(Self(Verifying::Public(UnparsedPublicKey::new(
                &ED25519, bytes,
            ))));
        }
        if text.starts_with(PRIVATE) {
            let own = SigningKey::parse(text)?;
            return Self::parse(&own.public().unwrap_or_default());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &shared(text)?);
        Ok(Self(Verifying::Shared(key)))
    }

    /// Whether a signature of the header, `version,signature`, is this key's over the content.
    pub(super) fn accepts(&self, version: &str, signature: &[u8], content: &[u8]) -> bool {
        match &self.0 {
            // In constant time.
            Verifying::Shared(key) => {
                version == "v1" && hmac::verify(key, content, signature).is_ok()
            }
            Verifying::Public(key) => version == "v1a" && key.verify(content, signature).is_ok(),
        }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn shared(text: &str) -> Result<Vec<u8>> {
    let rule = "must be whsec_ and base64, or whsk_ and base64";
    let secret = text.strip_prefix(SHARED).ok_or_else(|| invalid(rule))?;
    let bytes = decode(secret, "whsec_")?;
    if !(24..=64).contains(&bytes.len()) {
        return Err(invalid("whsec_ must hold 24 to 64 bytes in base64"));
    }
    Ok(bytes)
}

fn decode(text: &str, prefix: &str) -> Result<Vec<u8>> {
    let padded = text.trim_end_matches('=');
    let padding = "=".repeat((4 - padded.len() % 4) % 4);
    STANDARD
        .decode(format!("{padded}{padding}"))
        .map_err(|_| invalid(&format!("what follows {prefix} must be base64")))
}

fn random(bytes: &mut [u8]) -> Result<()> {
    let drawn = SystemRandom::new().fill(bytes);
    drawn.map_err(|_| Error::new(ErrorKind::Unavailable, "draw secret", "no randomness"))
}

fn invalid(rule: &str) -> Error {
    Error::invalid("read secret", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_in_their_forms_and_never_repeated() {
        for text in [
            SigningKey::generate_shared().unwrap(),
            SigningKey::generate_private().unwrap(),
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            format!("whsk_{}", STANDARD.encode([7; 32])),
        ] {
            let key = SigningKey::parse(&text).unwrap();
            VerifyingKey::parse(&text).unwrap();
            assert_eq!(format!("{key:?}"), "***");
        }
        for wrong in [
            "hunter2",
            "whsec_hunter2!",
            "whsec_aHVudGVyMg==",
            "whsk_aHVudGVyMg==",
            "whpk_aHVudGVyMg==",
        ] {
            for error in [
                SigningKey::parse(wrong).map(drop).unwrap_err(),
                VerifyingKey::parse(wrong).map(drop).unwrap_err(),
            ] {
                let told = error.to_string();
                assert!(told.contains("wh") && !told.contains("hunter2"), "{told}");
                assert!(!told.contains("aHVudGVyMg"), "{told}");
            }
        }
    }
}
