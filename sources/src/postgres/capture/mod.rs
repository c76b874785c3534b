//! Table capture: the rows of a database's tables, copied and then followed in its write-ahead log.
//!
//! The log is read by logical replication with the plugin `pgoutput`, protocol 1: a transaction comes
//! whole, behind the position of its commit. That position and a change's number in its transaction
//! are the change's version. What was acknowledged by the sink is told to the slot, at borders of
//! transactions only.
//!
//! Tables are copied beside the following: ranges of a table are read and handed on while the log
//! waits, then the log goes on for a while, and so on. See `copy.rs` for why that ends with the right
//! content.

mod begin;
mod catalog;
mod contents;
mod copy;
mod follow;
mod in_flight;
mod options;
mod position;
mod rows;
pub(super) mod slot;
mod source;
mod text;
mod timeline;
mod types;

pub use super::replication::{Message, Relation, RelationColumn, decode};
pub use crate::select::TableSelection;
pub use options::{CaptureOptions, TableFilter, WalBudget, WalExceeded};
pub use source::PostgresCapture;
pub(super) use source::end;
pub use text::CopyText;
