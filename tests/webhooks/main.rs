//! Webhooks: what is promised of their delivery, on real databases and to real receivers.

// The exceptions for tests do not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod delivery;
mod endpoint;
mod failures;
mod hooked;
mod reference;
mod replay;
mod state;
