//! SQLite: connections, tables, and what a store and a replica read alike.

mod config;
mod contents;
mod cursors;
mod database;
mod error;
mod hooks;
mod notice;
mod prune;
mod relay;
mod rows;
mod schema;

pub use config::{Durability, Location, SqliteConfig};
pub use contents::{SqliteContents, entries, entries_at, streams, streams_at};
pub use cursors::{SqliteCursors, advance_within};
pub use database::{Database, Reader, Writer};
pub use error::{failed, rejected};
pub use hooks::SqliteHooks;
pub use notice::Waiter;
pub use prune::{PRUNE_ROWS, prune};
pub use relay::{Relayed, followers, forget_log, relayed, write_log};
pub use rows::{
    ENTRY_COLUMNS, LOG_COLUMNS, LOG_TAG, Payload, decode_entry, decode_log_row, decode_stream,
    from_micros, id_out, int_in, json_pairs, json_texts, payload_value, read_column, text_pairs,
    uint,
};
pub use schema::{
    Role, SCHEMA_VERSION, StoreRow, Tables, load, names, open_replica, open_source, promote,
};
