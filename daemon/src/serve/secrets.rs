//! The secrets of a hook: those of the configuration, and those that were drawn since.

use ledger::hook::Asked;
use ledger::webhook::{Format, SigningKey, VerifyingKey};
use ledger::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::{HookConfig, Secret, hook_key};

/// What is stored: secrets that were drawn, and until when each is signed with. It holds as long as
/// the configuration's secrets are those that it was drawn beside.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    /// Tells the configuration's secrets apart from others.
    beside: String,
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
    stored.beside = beside(config);
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
    let asked = Asked {
        secrets: Some(bytes.into()),
        ..asked.clone()
    };
    Ok((asked, told))
}

/// What is stored, where it stands beside the configuration's present secrets: whoever writes others
/// there means those.
fn stored(config: &HookConfig, asked: &Asked) -> Stored {
    let bytes = asked.secrets.as_deref().unwrap_or_default();
    let stored: Option<Stored> = serde_json::from_slice(bytes).ok();
    let stored = stored.filter(|stored| stored.beside == beside(config));
    stored.unwrap_or_default()
}

/// A fingerprint of the configuration's secrets, which are not guessed from it: they are drawn.
fn beside(config: &HookConfig) -> String {
    let mut text = String::new();
    for secret in &config.secrets {
        text.push_str(secret.expose());
        text.push('\n');
    }
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}
