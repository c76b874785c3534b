//! Following the mutation log.
//!
//! Rows are numbered under the store's lock, so they are committed in the order of their numbers: who
//! sees a row sees all before it, and a page read by number skips none.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use ledger_core::{Change, Cursor, Error, ErrorKind, Lag, Result, StoreName, Timestamp};
use ledger_layout::log::{LogRow, Position};
use ledger_layout::mongodb::{
    Collections, LOG_TAG, MongoDatabase, Rows, Waiter, decode_log_row, failed, integer, load,
};
use mongodb::bson::{Document, doc};
use mongodb::options::FindOptions;

const OPERATION: &str = "read the mutation log";
/// How many rows a page may have.
const PAGE_ROWS: i64 = 512;
/// How many bytes of bodies a page may have before it is cut short.
const PAGE_BYTES: usize = 4 << 20;
/// How many rows are counted exactly to tell how far a reader is behind.
const COUNTED_ROWS: i64 = 10_000;

struct Follower {
    database: MongoDatabase,
    collections: Arc<Collections>,
    waiter: Waiter,
    at: Position,
    page: VecDeque<Change>,
    /// What ends the stream once the page is empty.
    failure: Option<Error>,
}

/// See [`ChangeLog::changes`](ledger_core::ChangeLog::changes).
pub(super) fn follow(
    database: MongoDatabase,
    collections: Arc<Collections>,
    after: &Cursor,
) -> BoxStream<'static, Result<Change>> {
    let at = match Position::from_cursor(after, LOG_TAG) {
        Ok(at) => at,
        Err(error) => return stream::once(async { Err(error) }).boxed(),
    };
    // Listening begins with the first poll, within the caller's runtime.
    stream::once(async move {
        let follower = Follower {
            waiter: database.waiter(&collections),
            database,
            collections,
            at,
            page: VecDeque::new(),
            failure: None,
        };
        stream::try_unfold(follower, |mut follower| async move {
            let change = follower.next().await?;
            Ok(Some((change, follower)))
        })
    })
    .flatten()
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> Result<Change> {
        loop {
            self.database.check_open()?;
            if let Some(change) = self.page.pop_front() {
                return Ok(change);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            self.waiter.mark();
            if !self.read().await? {
                self.waiter.changed().await?;
            }
        }
    }

    /// Reads a page behind the position; whether there was anything.
    async fn read(&mut self) -> Result<bool> {
        let (rows, failure) = page(&self.database, &self.collections, self.at).await?;
        self.failure = failure;
        let read = !rows.is_empty() || self.failure.is_some();
        for row in rows {
            let end = row.last_position();
            let after = (row.seq == self.at.seq).then_some(self.at.index);
            match row.into_changes(LOG_TAG, after) {
                Ok(changes) => self.page.extend(changes),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
            self.at = end;
        }
        Ok(read)
    }
}

/// Rows of the log behind a position, the position's own row included where it has more changes.
/// `CursorExpired` and `SourceDiverged` where the position is none any more, or never was. A row that
/// cannot be read ends the page, with its error beside the rows before it.
async fn page(
    database: &MongoDatabase,
    collections: &Collections,
    after: Position,
) -> Result<(Vec<LogRow>, Option<Error>)> {
    let filter = doc! {"_id": {"$gte": after.seq}};
    let options = FindOptions::builder()
        .sort(doc! {"_id": 1})
        .limit(PAGE_ROWS)
        .build();
    let log = &collections.log;
    let mut found = Rows::find(database, None, OPERATION, log, filter, options).await?;
    let (mut rows, mut bytes, mut own, mut failure) = (Vec::new(), 0, None, None);
    while let Some(document) = found.next(OPERATION).await? {
        let row = match decode_log_row(&document) {
            Ok(row) => row,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        if row.seq == after.seq {
            own = Some(row.digest());
            if row.last_position().index <= after.index {
                continue;
            }
        }
        bytes += row.body.len();
        rows.push(row);
        if bytes > PAGE_BYTES {
            break;
        }
    }
    // Asked for behind the rows: what had not been pruned then was there while they were read.
    check(database, &collections.store, after, own).await?;
    if rows.is_empty()
        && let Some(failure) = failure
    {
        return Err(failure);
    }
    Ok((rows, failure))
}

/// Checks that `after` is a position of this history from which nothing is missing; `own` is the
/// digest of its row.
async fn check(
    database: &MongoDatabase,
    store: &StoreName,
    after: Position,
    own: Option<u64>,
) -> Result<()> {
    let row = load(database, store).await?;
    let row =
        row.ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, format!("store {store}")))?;
    let pruned_through = row.pruned_through;
    if pruned_through > 0 && after.seq <= pruned_through {
        return Err(Error::new(
            ErrorKind::CursorExpired,
            OPERATION,
            format!(
                "store {store}: the log was pruned through row {pruned_through}, which the reader \
                 at row {} still needs; start it again with a snapshot",
                after.seq
            ),
        ));
    }
    if after.seq == 0 || own == Some(after.digest) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::SourceDiverged,
        OPERATION,
        format!(
            "store {store}: row {} of the log is not the one that was read, as after restoring an \
             older copy; start again with `ledger bridge run --resync`",
            after.seq
        ),
    ))
}

/// The row of the log that a query finds first.
async fn first(
    database: &MongoDatabase,
    collections: &Collections,
    filter: Document,
    order: i32,
) -> Result<Option<LogRow>> {
    let options = FindOptions::builder()
        .sort(doc! {"_id": order})
        .limit(1)
        .build();
    let log = &collections.log;
    let mut found = Rows::find(database, None, OPERATION, log, filter, options).await?;
    let found = found.next(OPERATION).await?;
    found.map(|document| decode_log_row(&document)).transpose()
}

/// See [`ChangeLog::head`](ledger_core::ChangeLog::head).
pub(super) async fn head(database: &MongoDatabase, collections: &Collections) -> Result<Cursor> {
    let position = match first(database, collections, doc! {}, -1).await? {
        Some(row) => row.last_position(),
        None => Position::START,
    };
    Ok(position.to_cursor(LOG_TAG))
}

/// See [`ChangeLog::lag`](ledger_core::ChangeLog::lag).
pub(super) async fn lag(
    database: &MongoDatabase,
    collections: &Collections,
    after: &Cursor,
) -> Result<Lag> {
    let after = Position::from_cursor(after, LOG_TAG)?;
    let stages = vec![
        doc! {"$match": {"_id": {"$gt": after.seq}}},
        doc! {"$sort": {"_id": 1}},
        doc! {"$limit": COUNTED_ROWS},
        doc! {"$group": {
            "_id": 0_i64, "entries": {"$sum": "$changes"}, "rows": {"$sum": 1_i64},
            "oldest": {"$min": "$at"}, "last": {"$max": "$_id"},
        }},
    ];
    database.check_open()?;
    let fail = |error| failed("measure lag", "", error);
    let log = database.collection(&collections.log);
    let mut counted = log.aggregate(stages).await.map_err(fail)?;
    let (mut entries, mut oldest) = (0, None);
    if let Some(counted) = counted.next().await {
        let counted = counted.map_err(fail)?;
        let number = |field| counted.get_i64(field).unwrap_or(0);
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        entries = count(number("entries"));
        oldest = Some(number("oldest"));
        if number("rows") >= COUNTED_ROWS {
            let end = first(database, collections, doc! {}, -1).await?;
            let uncounted = end.map_or(0, |row| row.seq - number("last"));
            entries += entries
                .saturating_mul(count(uncounted))
                .checked_div(count(number("rows")))
                .unwrap_or(0);
        }
    }
    let own = first(database, collections, doc! {"_id": after.seq}, 1).await?;
    if let Some(row) = own {
        let index = usize::try_from(after.index)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let left = row.ids.iter().skip(index).filter(|id| **id != 0).count();
        if left > 0 {
            entries += u64::try_from(left).unwrap_or(u64::MAX);
            oldest = Some(row.at.as_micros());
        }
    }
    let age = oldest.map_or_else(Default::default, |at| {
        Timestamp::now().since(Timestamp::from_micros(at))
    });
    Ok(Lag {
        bytes: None,
        entries,
        age,
        held_by: Vec::new(),
    })
}

/// The numbers of a document that an aggregate gives.
pub(super) async fn sum(database: &MongoDatabase, collection: &str, field: &str) -> Result<u64> {
    database.check_open()?;
    let fail = |error| failed("count entries", "", error);
    let stages = vec![doc! {"$group": {"_id": 0_i64, "sum": {"$sum": field}}}];
    let collection = database.collection(collection);
    let mut found = collection.aggregate(stages).await.map_err(fail)?;
    let Some(found) = found.next().await else {
        return Ok(0);
    };
    let found = mongodb::bson::RawDocumentBuf::try_from(&found.map_err(fail)?);
    let found = found.map_err(|error| {
        Error::new(ErrorKind::Corrupt, "count entries", "its answer").with_source(error)
    })?;
    Ok(integer(&found, "sum")?.unsigned_abs())
}
