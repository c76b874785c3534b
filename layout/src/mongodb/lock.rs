//! The lock of a store, and the numbers that are drawn under it.

use ledger_core::{Error, ErrorKind, Result, StoreName, Timestamp};
use mongodb::bson::{Bson, Document, doc};

use super::database::{Deployment, MongoDatabase};
use super::error::failed;
use super::rows::{integer, now_of};
use super::schema::{Collections, Role, StoreRow};
use super::transaction::Tx;

/// How long a process on a standalone server holds a lock that it does not give back, in
/// milliseconds.
const HELD: i64 = 30_000;

/// What a mutation is given with the lock of its store.
#[derive(Debug, Clone, Copy)]
pub struct Locked {
    /// Whether the mutation is to be logged.
    pub log: bool,
    /// The last id that was given before; the ones behind it, as many as asked for, are the caller's.
    pub last_id: i64,
    /// The last row of the log that was numbered before.
    pub last_seq: i64,
    /// The time, by the server's clock.
    pub now: Timestamp,
    /// How many mutations the store has seen, this one included.
    pub writes: i64,
}

/// Takes the lock of a store until the transaction ends, and draws `ids` ids and `rows` numbers of
/// log rows; `ReadOnly` for a replica.
///
/// It is a write to the store's document, so of two transactions one fails and is tried again. What
/// is drawn is therefore in the order of the commits, without a gap that is still open.
pub async fn lock(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    ids: i64,
    rows: i64,
) -> Result<Locked> {
    let store = &collections.store;
    let mut set = doc! {
        "last_id": {"$add": ["$last_id", ids]},
        "last_seq": {"$add": ["$last_seq", rows]},
        "writes": {"$add": ["$writes", 1_i64]},
        "locked_at": "$$NOW",
    };
    let mut filter = doc! {"_id": store.as_str()};
    if tx.database().deployment() == Deployment::Standalone {
        set.insert("locked_until", doc! {"$add": ["$$NOW", HELD]});
        filter.insert(
            "$expr",
            doc! {"$lte": [{"$ifNull": ["$locked_until", Bson::Null]}, "$$NOW"]},
        );
    }
    let update = vec![doc! {"$set": set}];
    let Some(found) = take(tx, operation, store, filter, update).await? else {
        let what = format!("store {store}");
        return Err(Error::new(ErrorKind::NotFound, operation, what));
    };
    let row = StoreRow::decode(store, &found)?;
    if row.role == Role::Replica {
        return Err(Error::new(
            ErrorKind::ReadOnly,
            operation,
            format!(
                "store {store} is a replica, which only its bridge writes until it is promoted"
            ),
        ));
    }
    Ok(Locked {
        log: row.log,
        last_id: integer(&found, "last_id")? - ids,
        last_seq: integer(&found, "last_seq")? - rows,
        now: now_of(&found, "locked_at")?,
        writes: integer(&found, "writes")?,
    })
}

/// Takes the lock of a store or of a relay until the transaction ends, for work on its log, and tells
/// the time.
pub(super) async fn turn(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
) -> Result<Timestamp> {
    let store = &collections.store;
    let own = doc! {"_id": store.as_str()};
    let update = doc! {"$set": {
        "writes": {"$add": ["$writes", 1_i64]}, "locked_at": "$$NOW",
    }};
    match take(tx, operation, store, own, vec![update]).await? {
        Some(found) => now_of(&found, "locked_at"),
        None => Err(Error::new(
            ErrorKind::NotFound,
            operation,
            format!("store {store}"),
        )),
    }
}

async fn take(
    tx: &mut Tx<'_>,
    operation: &'static str,
    store: &StoreName,
    filter: Document,
    update: Vec<Document>,
) -> Result<Option<mongodb::bson::RawDocumentBuf>> {
    let mut attempts = tx.database().attempts();
    loop {
        let (filter, update) = (filter.clone(), update.clone());
        let found = tx
            .change(operation, Collections::STORES, filter, update)
            .await?;
        if tx.database().deployment() == Deployment::ReplicaSet {
            return Ok(found);
        }
        if found.is_some() {
            tx.locked = Some(store.clone());
            return Ok(found);
        }
        let there = tx.database().collection(Collections::STORES);
        let there = there.count_documents(doc! {"_id": store.as_str()}).await;
        if there.map_err(|error| failed(operation, "", error))? == 0 {
            return Ok(None);
        }
        if !attempts.wait().await {
            let what = format!("another process holds the lock of store {store}");
            return Err(Error::new(ErrorKind::Unavailable, operation, what));
        }
    }
}

/// Gives the lock of a store on a standalone server back.
pub async fn unlock(database: &MongoDatabase, store: &StoreName) -> Result<()> {
    database
        .collection(Collections::STORES)
        .update_one(
            doc! {"_id": store.as_str()},
            doc! {"$unset": {"locked_until": ""}},
        )
        .await
        .map_err(|error| failed("unlock store", "", error))?;
    Ok(())
}
