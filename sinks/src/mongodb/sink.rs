//! The sink.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{Batch, Change, CursorStore, Replica, Result, Sink, StoreName};
use ledger_layout::mongodb::{
    Collections, Deployment, MongoConfig, MongoContents, MongoCursors, MongoDatabase, PRUNE_ROWS,
    Tx, advance_within, failed, no_relays, open_replica, prune, relayed, remove_pruned, write_log,
};
use ledger_layout::{ReplicaOptions, Retention, mongodb_transaction, relay};
use mongodb::bson::doc;

use super::apply;
use crate::delta::Delta;

/// A replica in a MongoDB database, as a sink.
///
/// # Behavior
/// - On a replica set a batch's data and its cursor are one transaction, in which the fence is
///   checked. On a standalone server the data is written first, by the source's ids and so that
///   writing it again changes nothing, and the cursor behind it.
/// - Entries and streams keep the ids and keys that they have in the source.
/// - The replica belongs to one source: claiming it for another is `SourceDiverged`, until it has
///   been [emptied](Self::clear).
/// - Once the replica is promoted every delivery is `Fenced`.
/// - Of a relay the log row is a part of the same transaction, whichever handle delivers; on a
///   standalone server there are no relays.
pub struct MongoSink {
    pub(super) database: MongoDatabase,
    pub(super) collections: Arc<Collections>,
    pub(super) contents: MongoContents,
    cursors: MongoCursors,
    retention: Retention,
    prune_turn: relay::PruneTurn,
}

impl MongoSink {
    /// Opens a replica, and creates it where it does not exist and may be created.
    ///
    /// `InvalidInput` where the database has a store of this name that is a source of its own;
    /// `Unsupported` where it is a relay and the server is no replica set any more.
    pub async fn open(config: MongoConfig, store: StoreName) -> Result<Self> {
        Self::open_with(config, store, ReplicaOptions::default()).await
    }

    /// As [`open`](Self::open), with options; `InvalidInput` where a log would end that consumers are
    /// registered at.
    pub async fn open_with(
        config: MongoConfig,
        store: StoreName,
        options: ReplicaOptions,
    ) -> Result<Self> {
        let database = MongoDatabase::open(config).await?;
        Self::open_on(&database, store, options).await
    }

    /// Opens a replica on the connections of an open database.
    pub async fn open_on(
        database: &MongoDatabase,
        store: StoreName,
        options: ReplicaOptions,
    ) -> Result<Self> {
        let collections = Collections::of(&store);
        open_replica(database, &collections, options.relay).await?;
        let database = database.share();
        Ok(Self {
            contents: MongoContents::new(database.clone(), Arc::clone(&collections)),
            cursors: MongoCursors::new(database.clone(), Arc::clone(&collections)),
            database,
            collections,
            retention: options.retention,
            prune_turn: relay::PruneTurn::default(),
        })
    }

    /// The database, for the replica to be opened as a store on the same connections.
    pub fn database(&self) -> &MongoDatabase {
        &self.database
    }

    /// Empties the replica and forgets its source and the cursors of its pipelines; whoever claimed
    /// one of them before is fenced, before anything is removed. Where it breaks off, the replica
    /// stays bound to its source, and is emptied by the next call. Of a relay the log begins anew, as
    /// that of another store: who followed it is told to resync.
    pub async fn clear(&self) -> Result<()> {
        const OPERATION: &str = "empty replica";
        let store = self.collections.store.as_str();
        mongodb_transaction!(self.database, OPERATION, tx => apply::fence(tx, store))?;
        for collection in [&self.collections.entries, &self.collections.streams] {
            let removed = self
                .database
                .collection(collection)
                .delete_many(doc! {})
                .await;
            removed.map_err(|error| failed(OPERATION, "", error))?;
        }
        let collections = &*self.collections;
        mongodb_transaction!(self.database, OPERATION, tx => apply::unbind(tx, collections))?;
        remove_pruned(&self.database, collections).await
    }

    /// Closes the database. Every later call is `Closed`.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Writes a batch, and tells whether the replica is a relay.
    async fn write(
        &self,
        tx: &mut Tx<'_>,
        batch: &Batch<Change>,
        delta: &Delta<'_>,
    ) -> Result<bool> {
        let store = self.collections.store.as_str();
        let (pipeline, fence, ack) = (&batch.pipeline, batch.fence, batch.ack.as_ref());
        match self.database.deployment() {
            Deployment::ReplicaSet => {
                let found = relayed(tx, &self.collections, pipeline).await?;
                advance_within(tx, store, pipeline, fence, ack).await?;
                apply::delta(tx, &self.collections, delta).await?;
                if found.relay {
                    let rows = relay::rows(batch, found.stored.as_ref())?;
                    write_log(tx, &self.collections, rows).await?;
                }
                Ok(found.relay)
            }
            Deployment::Standalone => {
                // It was made one while the server was a member of a replica set.
                if relayed(tx, &self.collections, pipeline).await?.relay {
                    return Err(no_relays(&self.database, "deliver"));
                }
                advance_within(tx, store, pipeline, fence, None).await?;
                apply::delta(tx, &self.collections, delta).await?;
                let touched = delta.streams.keys().copied().collect();
                apply::count_again(tx, &self.collections, touched).await?;
                advance_within(tx, store, pipeline, fence, ack).await?;
                Ok(false)
            }
        }
    }

    async fn prune_chunk(&self) -> Result<u64> {
        let (collections, retention) = (&*self.collections, self.retention);
        mongodb_transaction!(self.database, "prune the log of a relay", tx => {
            prune(tx, collections, retention)
        })
    }
}

#[async_trait]
impl Sink<Change> for MongoSink {
    async fn deliver(&self, batch: &Batch<Change>) -> Result<()> {
        let delta = Delta::of(&batch.items);
        let relay = mongodb_transaction!(self.database, "deliver", tx => {
            self.write(tx, batch, &delta)
        })?;
        if relay {
            self.database.committed(&self.collections.store);
            self.prune_turn
                .prune(batch.items.len(), PRUNE_ROWS.unsigned_abs(), || {
                    self.prune_chunk()
                })
                .await;
        }
        Ok(())
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        Some(&self.cursors)
    }

    fn replica(&self) -> Option<&dyn Replica> {
        Some(self)
    }
}

impl fmt::Display for MongoSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}",
            self.collections.store,
            self.database.config()
        )
    }
}

impl fmt::Debug for MongoSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoSink")
            .field("store", &self.collections.store)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
