//! What a bridge does when its sink misbehaves: nothing is lost, doubled or put in another order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod cut;
pub(crate) mod doubles;
mod hang;
mod poison;
mod source;
mod unavailable;
