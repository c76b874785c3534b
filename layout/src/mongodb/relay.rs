//! The log of a replica that is a relay.

use futures::StreamExt as _;
use ledger_core::{Cursor, Error, ErrorKind, PipelineId, Result};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use uuid::Uuid;

use super::cursors::{cursor, id};
use super::database::{Deployment, MongoDatabase};
use super::error::failed;
use super::rows::{MAX_DOCUMENT, integer, log_document, text};
use super::schema::{Collections, PLAIN, Role, SCHEMA_VERSION, StoreRow, load};
use super::transaction::Tx;
use crate::log::LogRow;
use crate::mongodb_transaction;
use crate::relay::{Relay, beginning, followed};

const OPERATION: &str = "keep the log of a relay";

/// What a delivery finds, in its transaction.
#[derive(Debug, Default)]
pub struct Relayed {
    /// Whether what is delivered is to be written into the log.
    pub relay: bool,
    /// The pipeline's cursor, of a relay.
    pub stored: Option<Cursor>,
}

/// Looks up whether a replica is a relay, and where a pipeline into it stands. Who makes it one, or
/// none, writes the cursors' documents, as every delivery does, so that of the two one is tried again.
pub async fn relayed(
    tx: &mut Tx<'_>,
    collections: &Collections,
    pipeline: &PipelineId,
) -> Result<Relayed> {
    if !load_in(tx, collections).await?.is_some_and(|row| row.relay) {
        return Ok(Relayed::default());
    }
    let own = id(collections.store.as_str(), pipeline);
    let found = find_one(tx, Collections::CURSORS, own).await?;
    let stored = match found {
        Some(found) => cursor(&found)?,
        None => None,
    };
    Ok(Relayed {
        relay: true,
        stored,
    })
}

/// What is known of a store, within the transaction.
pub(super) async fn load_in(
    tx: &mut Tx<'_>,
    collections: &Collections,
) -> Result<Option<StoreRow>> {
    let store = &collections.store;
    let found = find_one(tx, Collections::STORES, doc! {"_id": store.as_str()}).await?;
    found
        .map(|document| StoreRow::decode(store, &document))
        .transpose()
}

async fn find_one(
    tx: &mut Tx<'_>,
    collection: &str,
    filter: Document,
) -> Result<Option<RawDocumentBuf>> {
    let collection = tx.database().collection(collection);
    let find = collection.find_one(filter);
    let found = match tx.session() {
        Some(session) => find.session(session).await,
        None => find.await,
    };
    found.map_err(|error| failed(OPERATION, "", error))
}

/// Writes rows into the log, and draws their numbers, which are given in the order of the commits;
/// `Rejected` where MongoDB will never take one.
pub async fn write_log(
    tx: &mut Tx<'_>,
    collections: &Collections,
    rows: Vec<LogRow>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let draw = doc! {"$set": {"last_seq": {"$add": ["$last_seq", count]}}};
    let last = change(tx, collections, draw).await?;
    let documents = (last - count + 1..).zip(rows);
    let documents = documents.map(|(seq, row)| document(&LogRow { seq, ..row }));
    let documents = documents.collect::<Result<Vec<_>>>()?;
    let log = &collections.log;
    tx.insert_delivered(OPERATION, log, &documents).await
}

/// `Rejected` for a row that MongoDB cannot hold.
fn document(row: &LogRow) -> Result<RawDocumentBuf> {
    let changes = i64::try_from(row.changes()).unwrap_or(i64::MAX);
    let document = log_document(row, changes)?;
    let size = document.as_bytes().len();
    if size <= MAX_DOCUMENT {
        return Ok(document);
    }
    let what = format!(
        "a change of stream {:?} becomes a log row of {size} bytes, and MongoDB holds at most \
         {MAX_DOCUMENT}",
        row.stream.name
    );
    Err(Error::new(ErrorKind::Rejected, OPERATION, what))
}

/// Changes the store's document, and tells the last number that was drawn.
async fn change(tx: &mut Tx<'_>, collections: &Collections, update: Document) -> Result<i64> {
    let own = doc! {"_id": collections.store.as_str(), "role": "replica"};
    let stores = Collections::STORES;
    let changed = tx.change(OPERATION, stores, own, vec![update]).await?;
    let changed = changed.ok_or_else(|| {
        let what = format!("store {} is no replica any more", collections.store);
        Error::new(ErrorKind::Fenced, OPERATION, what)
    })?;
    integer(&changed, "last_seq")
}

/// Makes a replica a relay, or no relay any more. `InvalidInput` names the consumers that follow the
/// log that would end; `Unsupported` on a standalone server, where a delivery and its row of the log
/// could part.
pub(super) async fn set_relay(
    database: &MongoDatabase,
    collections: &Collections,
    relay: Relay,
) -> Result<()> {
    let wanted = match relay {
        Relay::AsIs => return Ok(()),
        Relay::On => true,
        Relay::Off => false,
    };
    let row = load(database, &collections.store).await?;
    if row.is_some_and(|row| row.relay == wanted) {
        // Who switched it may have broken off before.
        return remove_pruned(database, collections).await;
    }
    if wanted && database.deployment() == Deployment::Standalone {
        return Err(no_relays(database, "open replica"));
    }
    if !wanted {
        let followers = followers(database, collections).await?;
        if !followers.is_empty() {
            return Err(followed(&collections.store, &followers));
        }
    }
    mongodb_transaction!(database, OPERATION, tx => switch(tx, collections, wanted))?;
    remove_pruned(database, collections).await
}

/// Why there are no relays on a standalone server.
pub fn no_relays(database: &MongoDatabase, operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        format!(
            "relay: {} is no replica set, and without transactions a delivery and its row of the log \
             could part; start mongod with --replSet",
            database.config()
        ),
    )
}

async fn switch(tx: &mut Tx<'_>, collections: &Collections, wanted: bool) -> Result<()> {
    let Some(row) = load_in(tx, collections).await? else {
        return Ok(());
    };
    if row.role != Role::Replica || row.relay == wanted {
        return Ok(());
    }
    let every = doc! {
        "q": {"_id.store": collections.store.as_str()},
        "u": {"$inc": {"deliveries": 1_i64}},
        "multi": true,
    };
    tx.update(OPERATION, Collections::CURSORS, vec![every])
        .await?;
    // What a replica that was never written holds is all in its log from the beginning.
    let written =
        row.pruned_through > 0 || find_one(tx, &collections.streams, doc! {}).await?.is_some();
    if !wanted || written {
        begin_anew(tx, collections, wanted).await?;
    }
    let set = doc! {"$set": {
        "log": i64::from(wanted),
        "schema_version": if wanted { SCHEMA_VERSION } else { PLAIN },
    }};
    change(tx, collections, set).await.map(drop)
}

/// Marks all rows of the log, and a number behind them, as pruned: who has read all of it is told as
/// well. With `begin` another log begins behind it.
async fn begin_anew(tx: &mut Tx<'_>, collections: &Collections, begin: bool) -> Result<()> {
    let end = doc! {"$set": {
        "last_seq": {"$add": ["$last_seq", 1_i64]}, "pruned_through": {"$add": ["$last_seq", 1_i64]},
    }};
    change(tx, collections, end).await?;
    if begin {
        write_log(tx, collections, vec![beginning(0)?]).await?;
    }
    Ok(())
}

/// Gives a relay that was emptied another history: a new identity and a new log. Nothing, where the
/// replica is no relay.
pub async fn forget_log(tx: &mut Tx<'_>, collections: &Collections) -> Result<()> {
    if !load_in(tx, collections).await?.is_some_and(|row| row.relay) {
        return Ok(());
    }
    begin_anew(tx, collections, true).await?;
    let new = doc! {"$set": {"uuid": Uuid::new_v4().to_string()}};
    change(tx, collections, new).await.map(drop)
}

/// Removes the rows that are marked as pruned, which nobody reads any more.
pub async fn remove_pruned(database: &MongoDatabase, collections: &Collections) -> Result<()> {
    let Some(row) = load(database, &collections.store).await? else {
        return Ok(());
    };
    let pruned = doc! {"_id": {"$lte": row.pruned_through}};
    let log = database.collection(&collections.log);
    let removed = log.delete_many(pruned).await;
    removed
        .map(drop)
        .map_err(|error| failed(OPERATION, "", error))
}

/// The consumers that are registered at a store, by name.
pub async fn followers(database: &MongoDatabase, collections: &Collections) -> Result<Vec<String>> {
    let fail = |error| failed(OPERATION, "", error);
    let consumers = database.collection(Collections::CONSUMERS);
    let filter = doc! {"_id.store": collections.store.as_str()};
    let mut found = consumers.find(filter).await.map_err(fail)?;
    let mut names = Vec::new();
    while let Some(consumer) = found.next().await {
        let consumer = consumer.map_err(fail)?;
        let id = consumer.get_document("_id").map_err(|error| {
            Error::new(ErrorKind::Corrupt, OPERATION, "a consumer has no name").with_source(error)
        })?;
        names.push(text(id, "pipeline")?.to_owned());
    }
    names.sort();
    Ok(names)
}
