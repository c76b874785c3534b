//! Writing: what every mutation reads first, and the log row it leaves behind.

use std::collections::HashMap;
use std::time::Duration;

use ledger_core::{Error, ErrorKind, Result, StreamName, StreamRef, Timestamp};
use ledger_layout::Retention;
use ledger_layout::log::LogRow;
use ledger_layout::mongodb::{
    Collections, Locked, Rows, Tx, decode_stream, int_in, integer, lock, log_document, uint,
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

/// How many rows one call of [`prune`] removes.
pub(super) const PRUNE_ROWS: i64 = 256;

/// Removes up to [`PRUNE_ROWS`] of the oldest rows that nobody may need any more, and tells how many
/// it removed. The newest row always stays, and so does the row that a consumer's cursor points at:
/// by them cursors are told from those of another history.
pub(super) async fn prune(
    tx: &mut Tx<'_>,
    collections: &Collections,
    retention: Retention,
) -> Result<u64> {
    const OPERATION: &str = "prune the mutation log";
    let locked = lock(tx, collections, OPERATION, 0, 0).await?;
    let before = |age: Duration| {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        locked.now.as_micros().saturating_sub(age)
    };
    let database = tx.database().clone();
    let oldest = FindOptions::builder()
        .sort(doc! {"_id": 1})
        .limit(PRUNE_ROWS + 1)
        .projection(doc! {"at": 1})
        .build();
    let session = tx.session();
    let log = &collections.log;
    let mut found = Rows::find(&database, session, OPERATION, log, doc! {}, oldest).await?;
    let mut rows = Vec::new();
    while let Some(row) = found.next(OPERATION).await? {
        rows.push((integer(&row, "_id")?, integer(&row, "at")?));
    }
    drop(found);
    // Of the rows that are old enough the last stays, too: the cursor of a reader that has read all
    // but the young ones points to it. Where the page is full, its last row stands for what follows.
    let bound = |age: Duration| {
        let old = rows.iter().take_while(|(_, at)| *at <= before(age)).count();
        rows.get(old.checked_sub(2)?).map(|(seq, _)| *seq)
    };
    let expired = bound(retention.min);
    let overdue = retention.max.and_then(bound);
    let confirmed = FindOptions::builder()
        .sort(doc! {"confirmed_seq": 1})
        .limit(1)
        .build();
    let filter = doc! {"_id.store": collections.store.as_str()};
    let session = tx.session();
    let consumers = Collections::CONSUMERS;
    let mut found = Rows::find(&database, session, OPERATION, consumers, filter, confirmed).await?;
    let slowest = found.next(OPERATION).await?;
    drop(found);
    let slowest = match slowest {
        Some(consumer) => Some(int_in(uint(&consumer, "confirmed_seq")?) - 1),
        None => None,
    };
    let allowed = expired.map(|expired| slowest.map_or(expired, |slowest| slowest.min(expired)));
    let Some(through) = allowed.max(overdue).filter(|through| *through > 0) else {
        return Ok(0);
    };
    let removed = tx
        .delete(OPERATION, log, doc! {"_id": {"$lte": through}})
        .await?;
    if removed > 0 {
        let statement = doc! {
            "q": {"_id": collections.store.as_str()},
            "u": {"$max": {"pruned_through": through}},
        };
        tx.update(OPERATION, Collections::STORES, vec![statement])
            .await?;
    }
    Ok(removed)
}
