//! The MongoDB sink: a replica of a store, which opens and reads like any other store.

mod apply;
mod replica;
mod sink;

pub use ledger_layout::mongodb::{Deployment, MongoConfig, MongoDatabase};
pub use sink::MongoSink;
