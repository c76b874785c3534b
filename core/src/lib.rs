//! The core of Ledger: entries and streams, cursors and changes, the contracts of stores and
//! sinks, the pipelines between them, codecs and the typed layer. It knows no database, no
//! configuration format and no command line.

mod change;
mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod cursor;
mod digest;
mod entry;
mod error;
pub mod hook;
mod log;
pub mod observe;
pub mod pipeline;
mod schema;
mod sink;
mod source;
mod store;
mod stream;
mod table;
mod table_replica;
mod timestamp;
mod typed;
mod wrap;

pub use change::{Change, Item, Mutation, MutationKind};
pub use codec::{Codec, Json, MessagePack, Protobuf, Raw, Zstd};
pub use cursor::{Cursor, Progress};
pub use digest::{entry_digest, stream_digest};
pub use entry::{Appended, Entry, EntryId, NewEntry, Pairs, check_text, checked_tags, is_json};
pub use error::{Error, ErrorKind, Result, VersionConflict};
pub use log::{
    ChangeLog, Consumer, Consumers, DeadLetter, DeadLetters, Lag, Lease, PipelineId, SourceId,
};
pub use schema::{FieldMapper, Schema, Upcaster, Versioned};
pub use sink::{Batch, Claim, Contents, CursorStore, EntryKey, Record, Replica, Sink};
pub use source::{Abandoned, Source};
pub use store::{ExpectedVersion, Labels, Page, Query, ReadOptions, Search, Stat, Store, StoreExt};
pub use stream::{StoreName, StreamKey, StreamName, StreamRef, StreamState};
pub use table::{
    Column, ColumnType, CopyState, Row, RowChange, RowOp, Table, TableContents, TableName,
    TableSink, TableState, Value, Version,
};
pub use table_replica::{HeldRow, TableReplica};
pub use timestamp::Timestamp;
pub use typed::{
    NewTyped, StreamLabels, TypedChange, TypedEntry, TypedPage, TypedStore, TypedStream,
};
pub use wrap::{AppendOnly, FanOut, Observed, ReadOnly};
