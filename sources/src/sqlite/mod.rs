//! The SQLite store: embedded, one file, one writer and many readers, several processes.

mod append;
mod changes;
mod consumers;
mod dead_letters;
mod group;
mod labels;
mod log;
mod read;
mod search;
mod snapshot;
mod store;
mod transaction;

pub use ledger_layout::sqlite::{Database, Durability, Location, SqliteConfig, Writer};
pub use ledger_layout::{Retention, StoreOptions};
pub use store::SqliteStore;
pub use transaction::SqliteTransaction;
