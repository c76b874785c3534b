//! The tables that a backend's store and its sink share: connection settings, migrations, cursors,
//! error mapping, and the stored form of the mutation log. Sources and sinks depend on this crate
//! and never on each other.

#[cfg(feature = "clickhouse")]
pub mod clickhouse;
pub mod delta;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongodb"))]
mod hook_bounds;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod hooks;
pub mod log;
#[cfg(feature = "mongodb")]
pub mod mongodb;
mod options;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod relay;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod tables;

pub use options::{Retention, StoreOptions};
pub use relay::{Relay, ReplicaOptions};
