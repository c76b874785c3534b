//! The sink.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{Batch, Change, CursorStore, Replica, Result, Sink, StoreName, Timestamp};
use ledger_layout::sqlite::{
    Database, PRUNE_ROWS, SqliteConfig, SqliteContents, SqliteCursors, Tables, advance_within,
    failed, open_replica, prune, relayed, write_log,
};
use ledger_layout::{ReplicaOptions, Retention, relay};
use sqlx::{Sqlite, Transaction};

use super::apply;
use crate::delta::Delta;

/// A replica in an SQLite database, as a sink.
///
/// # Behavior
/// - A batch's data and its cursor are one transaction, in which the fence is checked.
/// - Entries and streams keep the ids and keys that they have in the source.
/// - The replica belongs to one source: claiming it for another is `SourceDiverged`, until it has
///   been [emptied](Self::clear).
/// - Once the replica is promoted every delivery is `Fenced`.
/// - Of a relay the log row is a part of the same transaction, whichever handle delivers.
pub struct SqliteSink {
    pub(super) database: Database,
    pub(super) tables: Arc<Tables>,
    pub(super) contents: SqliteContents,
    cursors: SqliteCursors,
    retention: Retention,
    prune_turn: relay::PruneTurn,
}

impl SqliteSink {
    /// Opens a replica, and creates file and replica where they do not exist and may be created.
    ///
    /// `InvalidInput` where the file has a store of this name that is a source of its own.
    pub async fn open(config: SqliteConfig, store: StoreName) -> Result<Self> {
        Self::open_with(config, store, ReplicaOptions::default()).await
    }

    /// As [`open`](Self::open), with options; `InvalidInput` where a log would end that consumers are
    /// registered at.
    pub async fn open_with(
        config: SqliteConfig,
        store: StoreName,
        options: ReplicaOptions,
    ) -> Result<Self> {
        let database = Database::open(config).await?;
        let sink = Self::open_on(&database, store, options).await;
        // The sink has a handle of its own.
        database.close().await;
        sink
    }

    /// Opens a replica on the connections of an open database.
    pub async fn open_on(
        database: &Database,
        store: StoreName,
        options: ReplicaOptions,
    ) -> Result<Self> {
        let tables = Tables::of(&store);
        open_replica(database, &tables, options.relay).await?;
        let database = database.share();
        Ok(Self {
            contents: SqliteContents::new(database.clone(), Arc::clone(&tables)),
            cursors: SqliteCursors::new(database.clone(), Arc::clone(&tables)),
            database,
            tables,
            retention: options.retention,
            prune_turn: relay::PruneTurn::default(),
        })
    }

    /// The database, for the replica to be opened as a store on the same connections.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Empties the replica and forgets its source and the cursors of its pipelines, in one
    /// transaction; whoever claimed one of them before is fenced. Of a relay the log begins anew, as
    /// that of another store: who followed it is told to resync.
    pub async fn clear(&self) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        apply::clear(&mut transaction, &self.tables).await?;
        commit(transaction, "empty replica").await
    }

    async fn prune_chunk(&self) -> Result<u64> {
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let now = Timestamp::now();
        let removed = prune(&mut transaction, &self.tables, self.retention, now).await?;
        commit(transaction, "prune the log of a relay").await?;
        Ok(removed)
    }

    /// Closes the database. Every later call is `Closed`.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

pub(super) async fn commit(
    transaction: Transaction<'_, Sqlite>,
    operation: &'static str,
) -> Result<()> {
    transaction
        .commit()
        .await
        .map_err(|error| failed(operation, error))
}

#[async_trait]
impl Sink<Change> for SqliteSink {
    async fn deliver(&self, batch: &Batch<Change>) -> Result<()> {
        let delta = Delta::of(&batch.items);
        let mut writer = self.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let store = &self.tables.store;
        let found = relayed(&mut transaction, store, batch.pipeline.as_str()).await?;
        let (store, ack) = (store.as_str(), batch.ack.as_ref());
        advance_within(&mut transaction, store, &batch.pipeline, batch.fence, ack).await?;
        apply::delta(&mut transaction, &self.tables, &delta).await?;
        if found.relay {
            let rows = relay::rows(batch, found.stored.as_ref())?;
            write_log(&mut transaction, &self.tables, &rows).await?;
        }
        commit(transaction, "deliver").await?;
        drop(writer);
        if found.relay {
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

impl fmt::Display for SqliteSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.tables.store, self.database.config())
    }
}

impl fmt::Debug for SqliteSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSink")
            .field("store", &self.tables.store)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
