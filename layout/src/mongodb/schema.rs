//! The collections of a store, and what is known of it.

use std::sync::Arc;

use ledger_core::{Error, ErrorKind, Result, SourceId, StoreName, Timestamp};
use mongodb::IndexModel;
use mongodb::bson::{Document, RawDocument, doc};
use mongodb::options::IndexOptions;
use uuid::Uuid;

use super::database::{Deployment, MongoDatabase};
use super::error::{failed, is_duplicate};
use super::relay::set_relay;
use super::rows::{integer, text};
use crate::relay::Relay;

/// The version of the collections' form that this software writes. The second is that of relays: a
/// program of before would deliver to one and leave its log out.
pub const SCHEMA_VERSION: i64 = 2;
/// The version of everything that is no relay.
pub(super) const PLAIN: i64 = 1;

/// The names of a store's collections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collections {
    /// The store.
    pub store: StoreName,
    /// Its streams.
    pub streams: String,
    /// Its entries.
    pub entries: String,
    /// Its mutation log.
    pub log: String,
}

impl Collections {
    /// What is known of each store.
    pub const STORES: &'static str = "ledger_stores";
    /// The cursors of pipelines that deliver here.
    pub const CURSORS: &'static str = "ledger_cursors";
    /// Who reads the logs of stores.
    pub const CONSUMERS: &'static str = "ledger_consumers";
    /// What they could not deliver.
    pub const DEAD_LETTERS: &'static str = "ledger_dead_letters";

    /// The collections of this store.
    pub fn of(store: &StoreName) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            streams: format!("{store}_streams"),
            entries: format!("{store}_entries"),
            log: format!("{store}_log"),
        })
    }
}

/// Whether a store takes its entries from callers or from a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// From callers.
    Source,
    /// From a bridge, until it is promoted.
    Replica,
}

/// What `ledger_stores` tells of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRow {
    /// The store's own id.
    pub uuid: Uuid,
    /// Who writes it.
    pub role: Role,
    /// Whether there is a log: mutations of a source, or deliveries to a relay, are written there.
    pub log: bool,
    /// Whether it is a replica that keeps a log.
    pub relay: bool,
    /// The last row that was pruned from its log; 0 where none was.
    pub pruned_through: i64,
    /// The last row that was numbered.
    pub last_seq: i64,
    /// Of a replica: whose it is.
    pub source: Option<SourceId>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl StoreRow {
    pub(super) fn decode(store: &StoreName, document: &RawDocument) -> Result<Self> {
        const OPERATION: &str = "open store";
        let version = integer(document, "schema_version")?;
        if version > SCHEMA_VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                format!(
                    "store {store} has schema version {version}, this software knows \
                     {SCHEMA_VERSION}; use a newer one"
                ),
            ));
        }
        let corrupt = |what: &str| {
            let what = format!("store {store}: its {what} is malformed");
            Error::new(ErrorKind::Corrupt, OPERATION, what)
        };
        let source = text(document, "source")?;
        let role = match text(document, "role")? {
            "source" => Role::Source,
            "replica" => Role::Replica,
            _ => return Err(corrupt("role")),
        };
        let relay = role == Role::Replica && version > PLAIN;
        Ok(Self {
            uuid: text(document, "uuid")?
                .parse()
                .map_err(|_| corrupt("uuid"))?,
            role,
            log: relay || (role == Role::Source && integer(document, "log")? != 0),
            relay,
            pruned_through: integer(document, "pruned_through")?,
            last_seq: integer(document, "last_seq")?,
            source: match source {
                "" => None,
                source => Some(source.parse().map_err(|_| corrupt("source"))?),
            },
            created_at: Timestamp::from_micros(integer(document, "created_at")?),
        })
    }
}

/// Reads what `ledger_stores` tells of a store; none where it does not exist. `Unsupported` where a
/// newer version of this software has written it.
pub async fn load(database: &MongoDatabase, store: &StoreName) -> Result<Option<StoreRow>> {
    database.check_open()?;
    let found = database
        .collection(Collections::STORES)
        .find_one(doc! {"_id": store.as_str()})
        .await
        .map_err(|error| failed("open store", database.config().to_string(), error))?;
    found
        .map(|document| StoreRow::decode(store, &document))
        .transpose()
}

/// Opens a store for callers, and creates it where it does not exist and may be created. One that
/// exists is taken as it is, also where it is a replica.
pub async fn open_source(
    database: &MongoDatabase,
    collections: &Collections,
    log: bool,
) -> Result<StoreRow> {
    open(database, collections, Role::Source, log).await
}

/// Opens a replica, and creates it where it does not exist and may be created; `InvalidInput` for a
/// store that callers write, `Unsupported` for a relay whose server is no replica set any more.
pub async fn open_replica(
    database: &MongoDatabase,
    collections: &Collections,
    relay: Relay,
) -> Result<()> {
    let row = open(database, collections, Role::Replica, false).await?;
    if row.role == Role::Replica {
        return set_relay(database, collections, relay).await;
    }
    Err(Error::invalid(
        "open replica",
        format!(
            "store {} in {} is a source of its own; replicate into another database or store",
            collections.store,
            database.config()
        ),
    ))
}

async fn open(
    database: &MongoDatabase,
    collections: &Collections,
    role: Role,
    log: bool,
) -> Result<StoreRow> {
    let store = &collections.store;
    let found = load(database, store).await?;
    if found.is_none() && !database.config().create {
        let what = format!("{} has no store {store}", database.config());
        return Err(Error::new(ErrorKind::NotFound, "open store", what));
    }
    // Also one that is there: its server may have been a member of a replica set before.
    let logs = found.as_ref().map_or(log, |row| row.log);
    if logs && database.deployment() == Deployment::Standalone {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "open store",
            format!(
                "{} is no replica set, and without transactions a mutation and its row of the log \
                 could part; start mongod with --replSet, or create store {store} without a log",
                database.config()
            ),
        ));
    }
    if let Some(row) = found {
        return Ok(row);
    }
    create(database, collections, role, log).await?;
    load(database, store).await?.ok_or_else(|| {
        let what = format!("store {store} is not there");
        Error::new(ErrorKind::Internal, "create store", what)
    })
}

async fn create(
    database: &MongoDatabase,
    collections: &Collections,
    role: Role,
    log: bool,
) -> Result<()> {
    const OPERATION: &str = "create store";
    let fail = |error| failed(OPERATION, database.config().to_string(), error);
    refuse_foreign(database, collections).await?;
    let index = |keys: Document, name: &str, options: IndexOptions| {
        let mut options = options;
        options.name = Some(name.to_owned());
        IndexModel::builder().keys(keys).options(options).build()
    };
    let partial = |field: &str, unique: bool| {
        let mut there = Document::new();
        there.insert(field, doc! {"$exists": true});
        IndexOptions::builder()
            .unique(unique.then_some(true))
            .partial_filter_expression(there)
            .build()
    };
    let mut entries = vec![
        index(
            doc! {"stream": 1, "_id": 1},
            "stream",
            IndexOptions::default(),
        ),
        index(
            doc! {"stream": 1, "order_key": 1, "_id": 1},
            "order_key",
            partial("order_key", false),
        ),
    ];
    entries.extend((role == Role::Source).then(dedup_index));
    database
        .collection(&collections.entries)
        .create_indexes(entries)
        .await
        .map_err(fail)?;
    database
        .collection(&collections.streams)
        .create_index(name_index(role))
        .await
        .map_err(fail)?;
    // A transaction finds it, and a change stream on it may be opened.
    let made = database
        .database()
        .create_collection(&collections.log)
        .await;
    if let Err(error) = made
        && super::error::code(&error) != Some(48)
    {
        return Err(fail(error));
    }
    let row = doc! {
        "_id": collections.store.as_str(),
        "uuid": Uuid::new_v4().to_string(),
        "schema_version": PLAIN,
        "role": match role { Role::Source => "source", Role::Replica => "replica" },
        "log": i64::from(log),
        "pruned_through": 0_i64,
        "last_id": 0_i64,
        "last_seq": 0_i64,
        "last_key": 0_i64,
        "writes": 0_i64,
        "created_at": Timestamp::now().as_micros(),
    };
    let stores = database
        .database()
        .collection::<Document>(Collections::STORES);
    match stores.insert_one(row).await {
        // Another process was faster.
        Err(error) if is_duplicate(&error) => Ok(()),
        made => made.map(drop).map_err(fail),
    }
}

/// A dedup key is there once in a stream.
pub(super) fn dedup_index() -> IndexModel {
    let options = IndexOptions::builder()
        .name("dedup_key".to_owned())
        .unique(true)
        .partial_filter_expression(doc! {"dedup_key": {"$exists": true}})
        .build();
    IndexModel::builder()
        .keys(doc! {"stream": 1, "dedup_key": 1})
        .options(options)
        .build()
}

/// A name is there once in a source. A replica is unique by the source's identities only: a name
/// comes again when its stream was renamed, possibly before the replica knows.
pub(super) fn name_index(role: Role) -> IndexModel {
    let unique = role == Role::Source;
    let name = if unique { "name" } else { "name_of_replica" };
    let options = IndexOptions::builder()
        .name(name.to_owned())
        .unique(unique.then_some(true))
        .build();
    // Another order of the keys, so that both may be there while a replica is promoted.
    let keys = if unique {
        doc! {"name": 1}
    } else {
        doc! {"name": 1, "_id": -1}
    };
    IndexModel::builder().keys(keys).options(options).build()
}

/// A database that the Go implementation made, and collections that are not this store's, are left
/// untouched.
async fn refuse_foreign(database: &MongoDatabase, collections: &Collections) -> Result<()> {
    const OPERATION: &str = "open store";
    let fail = |error| failed(OPERATION, database.config().to_string(), error);
    let names = database
        .database()
        .list_collection_names()
        .await
        .map_err(fail)?;
    if names.iter().any(|name| name == "ledger_stream_metadata") {
        return Err(Error::invalid(
            OPERATION,
            "the database was made by the Go implementation, whose MongoDB databases are not \
             imported; name another database",
        ));
    }
    for name in [&collections.streams, &collections.entries, &collections.log] {
        if names.contains(name) {
            let taken = database.collection(name).find_one(doc! {}).await;
            if taken.map_err(fail)?.is_some() {
                let taken = format!("the collection {name} exists and is not this store's");
                return Err(Error::new(ErrorKind::AlreadyExists, "create store", taken));
            }
        }
    }
    Ok(())
}
