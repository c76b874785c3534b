//! PostgreSQL as a sink: a replica that is a store.

mod apply;
mod replica;
mod sink;
mod tables;

pub use sink::PostgresSink;
pub use tables::PostgresTables;
