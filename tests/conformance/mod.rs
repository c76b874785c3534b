//! The conformance suite, on each store.

mod postgres;
mod sqlite;
