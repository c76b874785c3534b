//! Signing by Standard Webhooks 1.0.

use super::SigningKey;

/// The header with a delivery's id.
pub const HEADER_ID: &str = "webhook-id";
/// The header with the time of the attempt, in seconds since 1970.
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures.
pub const HEADER_SIGNATURE: &str = "webhook-signature";

/// The value of [`HEADER_SIGNATURE`]: one signature a key, separated by spaces.
pub fn sign(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let content = content(id, &timestamp.to_string(), body);
    let signatures: Vec<_> = keys.iter().map(|key| key.sign(&content)).collect();
    signatures.join(" ")
}

/// What is signed: id, time and body, joined by points.
pub(super) fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(id.len() + timestamp.len() + body.len() + 2);
    content.extend_from_slice(id.as_bytes());
    content.push(b'.');
    content.extend_from_slice(timestamp.as_bytes());
    content.push(b'.');
    content.extend_from_slice(body);
    content
}
