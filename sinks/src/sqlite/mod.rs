//! The SQLite sink: a replica of a store, which opens and reads like any other store.

mod apply;
mod replica;
mod sink;
mod tables;

pub use ledger_layout::sqlite::{Database, Durability, Location, SqliteConfig};
pub use sink::SqliteSink;
pub use tables::SqliteTables;
