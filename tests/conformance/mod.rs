//! The conformance suite, on each store.

mod clickhouse;
mod postgres;
mod postgres_wal;
mod sqlite;
