//! The MongoDB store: documents that the database can query, a mutation log beside them, and the
//! caller's own sessions.

mod append;
pub mod capture;
mod changes;
mod consumers;
mod dead_letters;
mod group;
mod labels;
mod log;
mod read;
mod search;
mod snapshot;
mod store;
mod transaction;

pub use ledger_layout::mongodb::{Deployment, MongoConfig, MongoDatabase};
pub use ledger_layout::{Retention, StoreOptions};
pub use store::MongoStore;
pub use transaction::MongoTransaction;
