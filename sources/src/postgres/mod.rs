//! PostgreSQL as a store and as a source.

mod append;
pub mod capture;
mod changes;
mod consumers;
mod dead_letters;
mod group;
mod labels;
mod promote;
mod prune;
mod read;
mod registry;
mod replication;
mod search;
mod snapshot;
mod store;
mod transaction;
mod wake;
mod wal;

pub use ledger_layout::postgres::{PostgresConfig, PostgresDatabase};
pub use store::PostgresStore;
pub use transaction::PostgresTransaction;

/// The tag of cursors of a log that is kept in a PostgreSQL table.
pub(crate) const TAG: u8 = b'p';
