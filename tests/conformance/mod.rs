//! The conformance suite, on each store.

mod postgres;
mod postgres_wal;
mod sqlite;
