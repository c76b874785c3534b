//! Webhooks: changes posted to an endpoint over HTTP, signed, and the verifier for who receives them.
//!
//! [`WebhookEndpoint`] makes single attempts; who keeps order, retries and state is its user.
//! [`WebhookSink`] is a sink like any other, for a pipeline that delivers everything in order.

mod address;
mod body;
mod client;
mod config;
mod endpoint;
#[cfg(feature = "webhook-axum")]
mod extract;
mod keys;
mod sign;
mod sink;
mod target;
#[cfg(test)]
mod testing;
mod tls;
mod verify;

pub use address::Network;
pub use body::Format;
pub use client::{Resolve, SystemResolver};
pub use config::WebhookConfig;
pub use endpoint::{WebhookEndpoint, retry_after};
#[cfg(feature = "webhook-axum")]
pub use extract::{Webhook, WebhookRejection};
pub use keys::{SigningKey, VerifyingKey};
pub use sign::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, sign};
pub use sink::WebhookSink;
pub use target::Target;
pub use verify::{Signed, Unverified, Verified, Verifier, verify, verify_compat};
