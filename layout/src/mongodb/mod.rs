//! MongoDB: connections, collections, and what a store and a replica read alike.

mod config;
mod contents;
mod cursors;
mod database;
mod error;
mod hooks;
mod lock;
mod orphans;
mod payload;
mod promote;
mod prune;
mod relay;
mod rows;
mod schema;
mod transaction;

pub use config::MongoConfig;
pub use contents::{MongoContents, Rows, entries, entries_at, streams, streams_at};
pub use cursors::{MongoCursors, advance_within};
pub use database::{Deployment, MongoDatabase, Waiter};
pub use error::{failed, is_conflict, is_duplicate, rejected};
pub use hooks::MongoHooks;
pub use lock::{Locked, lock, unlock};
pub use payload::{json_of, payload_of, put_payload};
pub use promote::promote;
pub use prune::{PRUNE_ROWS, prune};
pub use relay::{Relayed, followers, forget_log, no_relays, relayed, remove_pruned, write_log};
pub use rows::{
    EntryRow, LOG_TAG, MAX_DOCUMENT, decode_entry, decode_log_row, decode_stream, int_in, integer,
    key_of, label_fields, log_document, now_of, optional_integer, pairs_array, text, uint,
};
pub use schema::{Collections, Role, SCHEMA_VERSION, StoreRow, load, open_replica, open_source};
pub use transaction::{Attempts, Tx};
