//! PostgreSQL: connections, tables, rows, cursors and errors.

mod config;
mod contents;
mod cursors;
mod database;
mod error;
mod functions;
mod hooks;
mod promote;
mod prune;
mod relay;
mod rows;
mod schema;
mod transaction;
pub mod wal;

pub use config::PostgresConfig;
pub use contents::{PostgresContents, fetch_entries, select_entries, streams_after};
pub use cursors::PostgresCursors;
pub use database::PostgresDatabase;
pub use error::{failed, is_undefined_table};
pub use hooks::PostgresHooks;
pub use promote::promote;
pub use prune::{PRUNE_ROWS, prune};
pub use relay::{channel, followers, forget_log, notify, set_relay, stored_in, write_log};
pub use rows::{
    ENTRY_COLUMNS, Micros, array_literal, entry_from_row, json_object, log_row_from_row, micros,
    stream_state_from_row,
};
pub use schema::{RELAY, Role, StoreRow, Tables, check_server, find_store, migrate, open_store};
pub use transaction::{begin, begin_in};
