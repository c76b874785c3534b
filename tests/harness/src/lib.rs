//! The real servers that the tests run on.
//!
//! Two ways to get one:
//!
//! - [`shared`] names the servers that `scripts/servers.sh start` runs for a whole test
//!   run. Cheap; a test keeps to a database or tables of its own.
//! - [`Postgres`], [`ClickHouse`] and [`Mongo`] start a private instance in a second or
//!   two: a test may kill it, restart it, or change its configuration.
//!
//! A private instance has its own loopback port and folder. It ends and its folder is
//! deleted when the value is dropped, also on a panic, and also when the test process
//! itself is killed: a watcher process holds a pipe to it and cleans up at its end.
//!
//! Nothing here returns an error: a server that does not start fails the test, with the
//! end of its log. A missing server fails it too, no test passes by skipping.

#![allow(
    clippy::panic,
    reason = "what fails here is a test, and is to fail at once"
)]

mod clickhouse;
mod mongo;
mod postgres;
mod receiver;
mod server;
pub mod shared;

pub use clickhouse::ClickHouse;
pub use mongo::Mongo;
pub use postgres::Postgres;
pub use receiver::{Received, Receiver, Reply};
