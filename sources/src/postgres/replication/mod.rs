//! Logical replication: the connection, the frames that come over it, the messages in them.
//!
//! The log is read with the plugin `pgoutput`, protocol 1: a transaction comes whole, behind the
//! position of its commit. [`capture`](super::capture) makes rows of tables of it, `wal` the changes
//! of a store.

mod decode;
mod feed;
mod lsn;
mod transport;

pub use decode::{Message, Relation, RelationColumn, decode};

pub(super) use feed::{Feed, Frame, confirm};
pub(super) use lsn::{parsed, shown};
pub(super) use transport::{Replication, literal, quoted};
