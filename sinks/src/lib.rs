//! The sinks: where pipelines deliver. Each backend has a folder with the same file names.

#[cfg(any(
    feature = "clickhouse",
    feature = "mongodb",
    feature = "postgres",
    feature = "sqlite"
))]
use ledger_layout::delta;

#[cfg(feature = "clickhouse")]
pub mod clickhouse;
#[cfg(feature = "mongodb")]
pub mod mongodb;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "clickhouse", feature = "postgres", feature = "sqlite"))]
mod rejected;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "webhook")]
pub mod webhook;
