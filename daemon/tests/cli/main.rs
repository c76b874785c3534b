//! The program, run as a user runs it.

// The exceptions for tests do not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bridges;
mod chains;
mod clickhouse;
mod collections;
mod daemon;
mod hooks;
mod imports;
mod kills;
mod listing;
mod loads;
mod mongodb;
mod process;
mod program;
mod running;
mod service_manager;
mod streams;
mod telemetry;
mod tls;
mod wrong_input;
