//! The secrets of a hook: those of the configuration, and those that were drawn since.

use ledger::hook::Asked;
use ledger::webhook::{Format, SigningKey, VerifyingKey};
use ledger::{Error, ErrorKind, Result, Timestamp};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{aead, hkdf};
use serde::{Deserialize, Serialize};

use crate::config::{HookConfig, Secret, hook_key};

/// How many bytes of randomness stand before what is encrypted.
const NONCE: usize = aead::NONCE_LEN;

/// What is stored: secrets that were drawn, and until when each is signed with. Encrypted under the
/// configuration's own secrets: the database, or a copy of it, tells them to nobody who has not the
/// configuration too, and they hold as long as that has the secrets that they were drawn beside.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    /// Until when those are signed with.
    configured_until: Option<i64>,
    /// The newest first.
    drawn: Vec<Drawn>,
}

#[derive(Serialize, Deserialize)]
struct Drawn {
    secret: String,
    until: Option<i64>,
}

/// The secrets that hold at a time, the newest first.
pub(super) fn effective(config: &HookConfig, asked: &Asked, now: Timestamp) -> Vec<Secret> {
    let stored = stored(config, asked);
    let holds = |until: Option<i64>| until.is_none_or(|until| now.as_micros() < until);
    let drawn = stored.drawn.iter().filter(|drawn| holds(drawn.until));
    let mut secrets: Vec<_> = drawn.map(|drawn| Secret::new(&drawn.secret)).collect();
    if holds(stored.configured_until) {
        secrets.extend(config.secrets.iter().cloned());
    }
    secrets
}

/// The keys of secrets, to sign with.
pub(super) fn signing(format: Format, secrets: &[Secret]) -> Result<Vec<SigningKey>> {
    let keys = secrets.iter();
    keys.map(|secret| hook_key(format, secret.expose()))
        .collect()
}

/// The keys of secrets, to verify with.
pub(super) fn verifying(secrets: &[Secret]) -> Result<Vec<VerifyingKey>> {
    let keys = secrets.iter();
    keys.map(|secret| VerifyingKey::parse(secret.expose()))
        .collect()
}

/// Draws a secret. Every other one holds until `until` at most: what is to be stored, and what the
/// receiver needs.
pub(super) fn rotated(
    config: &HookConfig,
    asked: &Asked,
    until: Timestamp,
    asymmetric: bool,
) -> Result<(Asked, String)> {
    if config.format == Format::Compat {
        let what = format!(
            "hook {} is of format compat, which has one secret: change it in the configuration, or \
             use format standard",
            config.name
        );
        return Err(Error::new(ErrorKind::Unsupported, "rotate secret", what));
    }
    if config.secrets.is_empty() {
        let what = format!(
            "hook {} has no secret in the configuration: write one there, which is then rotated",
            config.name
        );
        return Err(Error::new(ErrorKind::Unsupported, "rotate secret", what));
    }
    let secret = if asymmetric {
        SigningKey::generate_private()?
    } else {
        SigningKey::generate_shared()?
    };
    let told = SigningKey::parse(&secret)?.public();
    let mut stored = stored(config, asked);
    let now = Timestamp::now().as_micros();
    let end = |at: &mut Option<i64>| {
        let earlier = at.map_or(until.as_micros(), |at| at.min(until.as_micros()));
        *at = Some(earlier);
    };
    stored
        .drawn
        .retain(|drawn| drawn.until.is_none_or(|until| now < until));
    for drawn in &mut stored.drawn {
        end(&mut drawn.until);
    }
    end(&mut stored.configured_until);
    let told = told.unwrap_or_else(|| secret.clone());
    stored.drawn.insert(
        0,
        Drawn {
            secret,
            until: None,
        },
    );
    let bytes = serde_json::to_vec(&stored).map_err(|error| {
        Error::new(ErrorKind::Internal, "rotate secret", "encode").with_source(error)
    })?;
    let sealed = seal(config, bytes).ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            "rotate secret",
            "it cannot be encrypted",
        )
    })?;
    let asked = Asked {
        secrets: Some(sealed.into()),
        ..asked.clone()
    };
    Ok((asked, told))
}

/// What is stored, where it stands beside the configuration's present secrets: whoever writes others
/// there means those.
fn stored(config: &HookConfig, asked: &Asked) -> Stored {
    let sealed = asked.secrets.as_deref().unwrap_or_default();
    let opened = unseal(config, sealed);
    let stored = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    stored.unwrap_or_default()
}

/// The key that the configuration's secrets make, for nothing else than this.
fn key(config: &HookConfig) -> Option<aead::LessSafeKey> {
    let mut text = String::new();
    for secret in &config.secrets {
        text.push_str(secret.expose());
        text.push('\n');
    }
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ledger: drawn secrets of hooks");
    let pseudorandom = salt.extract(text.as_bytes());
    let info = [config.name.as_bytes()];
    let key = pseudorandom.expand(&info, &aead::CHACHA20_POLY1305).ok()?;
    Some(aead::LessSafeKey::new(key.into()))
}

/// A nonce, and behind it the bytes, encrypted. The nonce is drawn each time: rotations are few.
fn seal(config: &HookConfig, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let unique = aead::Nonce::assume_unique_for_key(nonce);
    let sealing = key(config)?.seal_in_place_append_tag(unique, aead::Aad::empty(), &mut bytes);
    sealing.ok()?;
    Some([&nonce[..], &bytes].concat())
}

/// What [`seal`] has encrypted under the same secrets; none for anything else.
fn unseal(config: &HookConfig, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = sealed.to_vec();
    let opened = key(config)?.open_in_place(nonce, aead::Aad::empty(), &mut bytes);
    opened.ok().map(|bytes| bytes.to_vec())
}
