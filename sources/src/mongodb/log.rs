//! Writing: what every mutation reads first, and the log row it leaves behind.

use std::collections::HashMap;

use ledger_core::{Error, ErrorKind, Result, StreamName, StreamRef, Timestamp};
use ledger_layout::log::LogRow;
use ledger_layout::mongodb::{
    Collections, Locked, Rows, Tx, decode_stream, int_in, integer, log_document,
};
use mongodb::bson::{RawDocumentBuf, cstr, doc};
use mongodb::options::FindOptions;

/// A stream as a mutation finds it.
pub(super) struct StreamRow {
    pub(super) stream: StreamRef,
    /// How many entries it ever had.
    pub(super) version: u64,
    /// Whether it has no document yet.
    pub(super) new: bool,
    /// How many entries this transaction appends.
    pub(super) added: u64,
}

impl StreamRow {
    pub(super) fn new(stream: StreamRef) -> Self {
        Self {
            stream,
            version: 0,
            new: true,
            added: 0,
        }
    }

    /// The document of a new stream.
    pub(super) fn document(&self, now: Timestamp) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), int_in(self.stream.key.0));
        document.append(cstr!("name"), self.stream.name.as_str());
        document.append(cstr!("name_version"), int_in(self.stream.name_version));
        document.append(cstr!("version"), int_in(self.version));
        document.append(cstr!("live"), int_in(self.added));
        document.append(cstr!("trimmed_through"), 0_i64);
        document.append(cstr!("created_at"), now.as_micros());
        document
    }
}

/// The streams of these names that exist.
pub(super) async fn stream_rows(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    names: &[&str],
) -> Result<HashMap<String, StreamRow>> {
    let filter = doc! {"name": {"$in": names}};
    let database = tx.database().clone();
    let options = FindOptions::default();
    let session = tx.session();
    let streams = &collections.streams;
    let mut found = Rows::find(&database, session, operation, streams, filter, options).await?;
    let mut rows = HashMap::new();
    while let Some(document) = found.next(operation).await? {
        let state = decode_stream(&document)?;
        let row = StreamRow {
            version: state.version,
            new: false,
            added: 0,
            stream: state.stream,
        };
        rows.insert(row.stream.name.as_str().to_owned(), row);
    }
    Ok(rows)
}

/// The stream of this name, where it exists.
pub(super) async fn find(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    name: &StreamName,
) -> Result<Option<StreamRef>> {
    let mut rows = stream_rows(tx, collections, operation, &[name.as_str()]).await?;
    Ok(rows.remove(name.as_str()).map(|row| row.stream))
}

/// Draws keys of new streams, and returns the first of them.
pub(super) async fn new_keys(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    count: i64,
) -> Result<i64> {
    let store = collections.store.as_str();
    let draw = vec![doc! {"$set": {"last_key": {"$add": ["$last_key", count]}}}];
    let drawn = tx
        .change(operation, Collections::STORES, doc! {"_id": store}, draw)
        .await?;
    let drawn = drawn
        .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, format!("store {store}")))?;
    Ok(integer(&drawn, "last_key")? - count + 1)
}

/// `NotFound` for a stream.
pub(super) fn no_stream(operation: &'static str, stream: &StreamName) -> Error {
    let what = format!("stream {stream:?} does not exist");
    Error::new(ErrorKind::NotFound, operation, what)
}

/// Writes the log row of a mutation that is one change, where mutations are logged.
pub(super) async fn write_one(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    locked: &Locked,
    row: LogRow,
) -> Result<()> {
    if !locked.log {
        return Ok(());
    }
    let row = LogRow {
        seq: locked.last_seq + 1,
        at: locked.now,
        ..row
    };
    let document = log_document(&row, 1)?;
    tx.insert(operation, &collections.log, &[document]).await
}
