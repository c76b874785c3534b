//! The tests of the facade, on real servers: `scripts/test.sh` starts them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::pedantic,
    reason = "a test says plainly what it does, and says it again"
)]

mod capture;
mod clickhouse;
mod conformance;
mod examples;
mod faults;
mod postgres;
mod replication;
