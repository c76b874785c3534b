//! Databases of the Go implementation, and copying them into stores of this one.
//!
//! A Go store is one table. Its column `stream` holds a UUID, which `ledger_stream_metadata` maps to
//! a name, or the name itself where the table was written by the library and not by the daemon. The
//! copy is made as a bridge would make it: into a replica, whose cursor commits with the data, so
//! that ids and times are kept and an interrupted copy goes on; then the replica is promoted.

mod copy;
mod entry;
mod position;
mod source;
mod sql;
mod verify;

pub(crate) use copy::{Copied, Copy, Refused};
pub(crate) use source::{Source, Table};
pub(crate) use verify::{Verified, verify};
