//! The sink of ledgers for ClickHouse: a replica that the view `<store>_current` shows.
//!
//! The layout of the tables, and how to read one stream fast, is told in
//! [`ledger_layout::clickhouse`].

mod replica;
mod sink;
mod tables;

pub use ledger_layout::clickhouse::ClickHouseConfig;
pub use sink::{BatchBounds, ClickHouseSink};
pub use tables::{ClickHouseTables, ClusterOptions};
