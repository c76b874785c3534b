//! The cases, by area. [`conformance_tests!`](crate::conformance_tests) calls each.

pub mod append;
pub mod changes;
pub mod close;
pub mod consumers;
pub mod contents;
pub mod cursors;
pub mod dead_letters;
pub mod dedup;
pub mod handles;
pub mod input;
pub mod labels;
pub mod payload;
pub mod races;
pub mod read;
pub mod rename;
pub mod search;
pub mod snapshot;
pub mod streams;
pub mod transactions;
pub mod trim;
pub mod version;
