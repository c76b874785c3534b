//! PostgreSQL as a sink: a replica that is a store.

mod apply;
mod replica;
mod sink;

pub use sink::PostgresSink;
