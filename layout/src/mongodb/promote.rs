//! Making a replica a store of its own.

use futures::StreamExt as _;
use ledger_core::{Error, ErrorKind, Result};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use uuid::Uuid;

use super::contents::Rows;
use super::database::{Deployment, MongoDatabase};
use super::error::{failed, is_duplicate};
use super::relay::{load_in, remove_pruned};
use super::rows::{decode_stream, integer, log_document};
use super::schema::{Collections, PLAIN, Role, StoreRow, dedup_index, load, name_index};
use super::transaction::Tx;
use crate::log::{LogRow, RENAME};
use crate::mongodb_transaction;

const OPERATION: &str = "promote replica";

/// Makes a replica a source of its own: names and dedup keys become unique, a new identity is
/// drawn, and the bridges that wrote it are fenced off. `AlreadyExists` names what is there twice.
pub async fn promote(
    database: &MongoDatabase,
    collections: &Collections,
    log: bool,
) -> Result<StoreRow> {
    let store = &collections.store;
    let missing = || Error::new(ErrorKind::NotFound, OPERATION, format!("store {store}"));
    let row = load(database, store).await?;
    if row.is_none_or(|row| row.role != Role::Replica) {
        let what = format!("store {store} is not a replica");
        return Err(Error::invalid(OPERATION, what));
    }
    let doubles = doubles(database, collections).await?;
    if !doubles.is_empty() {
        let what = format!(
            "store {store} holds these more than once: {}",
            doubles.join(", ")
        );
        return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, what));
    }
    for (collection, index) in [
        (&collections.streams, name_index(Role::Source)),
        (&collections.entries, dedup_index()),
    ] {
        let made = database.collection(collection).create_index(index).await;
        made.map_err(|error| {
            let what = if is_duplicate(&error) {
                format!("store {store} holds a name or a dedup key more than once")
            } else {
                format!("store {store}")
            };
            failed(OPERATION, what, error)
        })?;
    }
    let log = log && database.deployment() == Deployment::ReplicaSet;
    mongodb_transaction!(database, OPERATION, tx => take_over(tx, collections, log))?;
    // A replica's own index is of no more use; a failure here leaves it, and does no harm.
    let _ = database
        .collection(&collections.streams)
        .drop_index("name_of_replica")
        .await;
    // So does what is left of the log of one that was a relay.
    let _ = remove_pruned(database, collections).await;
    load(database, store).await?.ok_or_else(missing)
}

async fn take_over(tx: &mut Tx<'_>, collections: &Collections, log: bool) -> Result<()> {
    let store = collections.store.as_str();
    // Whoever delivers at this moment has written its cursor, or will fail to.
    let fence = doc! {
        "q": {"_id.store": store}, "u": {"$inc": {"fence": 1_i64}}, "multi": true,
    };
    tx.update(OPERATION, Collections::CURSORS, vec![fence])
        .await?;
    // Ids that were trimmed before they arrived were given nevertheless.
    let last_id = highest(tx, &collections.entries, "_id").await?;
    let trimmed = highest(tx, &collections.streams, "trimmed_through").await?;
    let last_key = highest(tx, &collections.streams, "_id").await?;
    // A relay keeps its identity, and its log goes on, so that who follows it does.
    let row = load_in(tx, collections).await?;
    // The log of one that was a relay has ended here.
    let ended = row.as_ref().map_or(0, |row| row.last_seq);
    let before = row.filter(|row| row.relay);
    let relayed = before.is_some();
    let mut set = doc! {
        "role": "source",
        "uuid": before.map_or_else(Uuid::new_v4, |row| row.uuid).to_string(),
        "schema_version": PLAIN,
        "log": i64::from(log || relayed),
        "last_id": last_id.max(trimmed),
        "last_key": last_key,
    };
    if log
        && !relayed
        && let Some(first) = first(tx, &collections.streams, doc! {"_id": 1}).await?
    {
        // A reader that begins before the log of a promoted store starts from a snapshot: what the
        // store holds is not in its log. The first row counts as pruned, and the second repeats a
        // name, which changes nothing.
        let row = LogRow {
            seq: ended + 2,
            at: ledger_core::Timestamp::now(),
            stream: decode_stream(&first)?.stream,
            kind: RENAME,
            ids: Vec::new(),
            version: 0,
            body: bytes::Bytes::new(),
        };
        let row = log_document(&row, 1)?;
        tx.insert(OPERATION, &collections.log, &[row]).await?;
        set.extend(doc! {"pruned_through": ended + 1, "last_seq": ended + 2});
    }
    let statement = doc! {
        "q": {"_id": store, "role": "replica"},
        "u": {"$set": set, "$unset": {"source": ""}},
    };
    if tx
        .update(OPERATION, Collections::STORES, vec![statement])
        .await?
        == 0
    {
        let what = format!("store {store} is not a replica");
        return Err(Error::invalid(OPERATION, what));
    }
    Ok(())
}

async fn highest(tx: &mut Tx<'_>, collection: &str, field: &str) -> Result<i64> {
    let mut order = Document::new();
    order.insert(field, -1);
    match first(tx, collection, order).await? {
        Some(document) => integer(&document, field),
        None => Ok(0),
    }
}

async fn first(
    tx: &mut Tx<'_>,
    collection: &str,
    order: Document,
) -> Result<Option<RawDocumentBuf>> {
    let database = tx.database().clone();
    let options = mongodb::options::FindOptions::builder()
        .sort(order)
        .limit(1)
        .build();
    let session = tx.session();
    let mut rows = Rows::find(&database, session, OPERATION, collection, doc! {}, options).await?;
    rows.next(OPERATION).await
}

/// What is there more than once, up to ten of each kind.
async fn doubles(database: &MongoDatabase, collections: &Collections) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let names = vec![
        doc! {"$group": {"_id": "$name", "count": {"$sum": 1}}},
        doc! {"$match": {"count": {"$gt": 1}}},
        doc! {"$limit": 10},
        doc! {"$project": {"name": "$_id", "_id": 0}},
    ];
    let keys = vec![
        doc! {"$match": {"dedup_key": {"$exists": true}}},
        doc! {"$group": {"_id": {"s": "$stream", "k": "$dedup_key"}, "count": {"$sum": 1}}},
        doc! {"$match": {"count": {"$gt": 1}}},
        doc! {"$limit": 10},
        doc! {"$lookup": {
            "from": &collections.streams, "localField": "_id.s", "foreignField": "_id", "as": "s",
        }},
        doc! {"$project": {"key": "$_id.k", "name": {"$first": "$s.name"}, "_id": 0}},
    ];
    for (collection, stages) in [(&collections.streams, names), (&collections.entries, keys)] {
        let fail = |error| failed(OPERATION, "", error);
        let collection = database.collection(collection);
        let aggregate = collection.aggregate(stages).allow_disk_use(true);
        let mut doubles = aggregate.await.map_err(fail)?;
        while let Some(double) = doubles.next().await {
            let double = double.map_err(fail)?;
            let name = double.get_str("name").unwrap_or_default();
            found.push(match double.get_str("key") {
                Ok(key) => format!("dedup key {key:?} in stream {name:?}"),
                Err(_) => format!("stream name {name:?}"),
            });
        }
    }
    Ok(found)
}
