//! The ClickHouse store: the tables that a replica has, and a mutation log from which they follow.
//!
//! ClickHouse has no transactions. What commits a mutation is its row in the log, and the rows of a
//! group of mutations are one insert under a token that one writer can have
//! ([`LogTable`](ledger_layout::clickhouse::LogTable)). The other tables are derived from the log:
//! every row carries resulting state with a version, so that writing it again changes nothing. Who
//! ends between the two leaves a log that is ahead, by the rows of one group; whoever writes next,
//! or asks for the log's head, has the tables follow first.

mod append;
mod changes;
mod consumers;
mod dead_letters;
mod decide;
mod group;
mod labels;
mod promote;
mod prune;
mod read;
mod search;
mod snapshot;
mod store;
mod streams;

pub use ledger_layout::clickhouse::ClickHouseConfig;
pub use ledger_layout::{Retention, StoreOptions};
pub use store::ClickHouseStore;
