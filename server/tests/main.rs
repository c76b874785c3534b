//! The service over real connections, on SQLite.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::pedantic,
    clippy::type_complexity,
    reason = "a test says plainly what it does, and says it again"
)]

mod behaviour;
mod codes;
mod counted;
mod example;
mod gateway;
mod harness;
mod limits;
mod operations;
mod python;
mod tail;
mod tls;
