//! Delivering batches.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use clickhouse::{Row, RowWrite};
use ledger_core::{
    Batch, Change, CursorStore, Error, ErrorKind, PipelineId, Replica, Result, Sink, StoreName,
};
use ledger_layout::clickhouse::rows::{Content, EntryRow, LabelRow, StreamRow};
use ledger_layout::clickhouse::{
    ClickHouseConfig, ClickHouseContents, Connection, Cursors, Dedup, Held, Pacer, Started, Tables,
};
use ledger_layout::{Relay, ReplicaOptions};
use xxhash_rust::xxh3::Xxh3;

use crate::delta::Delta;

const DELIVER: &str = "deliver to ClickHouse";

/// Bounds of a batch that suit a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBounds {
    /// The most items.
    pub items: usize,
    /// The most bytes, as [`Item::size`](ledger_core::Item::size) counts them.
    pub bytes: usize,
    /// The longest time that an item waits for others.
    pub wait: Duration,
}

/// A replica of one store in a ClickHouse database.
///
/// - A batch becomes at most one insert a table for entries, streams and labels, side by side; then
///   the trim boundaries, and the cursor row last. Each insert is one block, written wholly or not
///   at all, and synced to disk before it is acknowledged.
/// - The inserts of a batch are not one transaction: a reader may see a part of a batch. A batch
///   that fails half-way is delivered again, and comes to the same content, whatever the borders
///   of the batches are then.
/// - The fence is checked before anything is inserted; see [`Cursors`] for what that holds.
/// - A delivery waits up to a second while the server has many parts to merge.
/// - Trimmed entries are invisible at once, and stay on disk until [`purge`](Self::purge).
/// - A repair should run while no bridge delivers: it deletes rows by key, and a newer label that
///   arrives between the comparison and the deletion would go with them.
pub struct ClickHouseSink {
    pub(super) connection: Connection,
    pub(super) tables: Tables,
    pub(super) contents: ClickHouseContents,
    cursors: Cursors,
    pacer: Pacer,
}

impl ClickHouseSink {
    /// Opens the tables of `store`, creating those that are absent. `InvalidInput` where one has
    /// another shape, `AlreadyExists` where the store takes appends of its own, `NotFound` where the
    /// database does not exist.
    pub async fn open(config: &ClickHouseConfig, store: &StoreName) -> Result<Self> {
        Self::open_with(config, store, ReplicaOptions::default()).await
    }

    /// As [`open`](Self::open), with options; `Unsupported` for a relay.
    pub async fn open_with(
        config: &ClickHouseConfig,
        store: &StoreName,
        options: ReplicaOptions,
    ) -> Result<Self> {
        if options.relay == Relay::On {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "open replica",
                format!(
                    "relay: a replica in ClickHouse keeps no log of its own; carry {store} on from its \
                     source, or through SQLite, PostgreSQL or MongoDB"
                ),
            ));
        }
        let connection = Connection::new(config.clone());
        let tables = Tables::new(store);
        tables.open(&connection).await?;
        let cursors = Cursors::new(connection.clone(), store);
        cursors.reserve().await?;
        Ok(Self {
            contents: ClickHouseContents::new(connection.clone(), tables.clone()),
            connection,
            tables,
            cursors,
            pacer: Pacer::of_deliveries(),
        })
    }

    /// Opens tables that exist; `NotFound` where they do not.
    pub async fn open_existing(config: &ClickHouseConfig, store: &StoreName) -> Result<Self> {
        if Tables::new(store)
            .exist(&Connection::new(config.clone()))
            .await?
        {
            return Self::open(config, store).await;
        }
        Err(Error::new(
            ErrorKind::NotFound,
            "open replica",
            format!(
                "there is no store {store} in database {:?}",
                config.database
            ),
        ))
    }

    /// Forgets the cursor and empties the replica, so that the next run copies everything anew,
    /// from whichever source. An instance that works on the pipeline is fenced.
    pub async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        const OPERATION: &str = "empty replica";
        // One that was promoted is not emptied, and one that is being emptied is not promoted.
        let run = self.cursors.begin_emptying(OPERATION).await?;
        self.cursors.reset(pipeline).await?;
        self.cursors.check_emptying(OPERATION, run).await?;
        self.tables.clear(&self.connection).await?;
        self.cursors.end_emptying(OPERATION, pipeline, run).await
    }

    /// Large and rare batches: a part costs the server the same whatever its size. Two of them are
    /// in memory at a time, one on its way and one that fills, and small items take several times
    /// the bytes that are counted: that bounds the number of items.
    pub const fn recommended_batch() -> BatchBounds {
        BatchBounds {
            items: 50_000,
            bytes: 16 << 20,
            wait: Duration::from_millis(200),
        }
    }

    /// The names of the tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Writes the items of a batch, all of them idempotent, if the pipeline holds its fence.
    async fn write(&self, batch: &Batch<Change>) -> Result<Held> {
        let delta = Delta::of(&batch.items);
        let Tables {
            entries,
            labels,
            streams,
            ..
        } = &self.tables;

        let named: Vec<_> = delta
            .streams
            .values()
            .map(|stream| StreamRow::new(stream, false))
            .collect();
        let appended: Vec<_> = delta
            .entries
            .iter()
            .map(|(key, entry)| EntryRow::new(*key, entry))
            .collect();
        let labelled = LabelRow::all(&delta);
        // Side by side: most of the time the server waits for its disk, and this for the server.
        // Nothing is inserted before the fence has been found to hold.
        let (held, appended, named, labelled) = futures::try_join!(
            self.check(batch),
            self.start::<EntryRow<'static>>(batch, entries, &appended),
            self.start::<StreamRow<'static>>(batch, streams, &named),
            self.start::<LabelRow<'static>>(batch, labels, &labelled),
        )?;
        futures::try_join!(finish(appended), finish(named), finish(labelled))?;

        // Last: a boundary hides entries, and what the batch puts in their place is there by then.
        let trimmed = delta
            .streams
            .values()
            .filter(|stream| stream.trimmed_through > 0);
        let rows: Vec<_> = trimmed.map(|stream| StreamRow::new(stream, true)).collect();
        finish(
            self.start::<StreamRow<'static>>(batch, streams, &rows)
                .await?,
        )
        .await?;
        Ok(held)
    }

    async fn check(&self, batch: &Batch<Change>) -> Result<Held> {
        self.cursors
            .check(DELIVER, &batch.pipeline, batch.fence)
            .await
    }

    /// Sends rows, where there are any.
    async fn start<'v, T>(
        &self,
        batch: &Batch<Change>,
        table: &str,
        rows: &[T::Value<'v>],
    ) -> Result<Option<Started<'_, T>>>
    where
        T: Row + RowWrite,
        T::Value<'v>: Content + Clone + Send + Sync,
    {
        if rows.is_empty() {
            return Ok(None);
        }
        let dedup = Dedup::Token(token(batch, table, rows));
        let values = rows.iter().cloned();
        let started =
            self.connection
                .start_insert::<T, _>(DELIVER, table, values, rows.len(), dedup);
        started.await.map(Some)
    }
}

async fn finish<T>(started: Option<Started<'_, T>>) -> Result<()> {
    match started {
        Some(started) => started.finish().await,
        None => Ok(()),
    }
}

/// Names an insert, so that one that is sent again after its answer was lost costs nothing.
fn token<R: Content>(batch: &Batch<Change>, table: &str, rows: &[R]) -> String {
    let mut hash = Xxh3::new();
    for row in rows {
        row.hash(&mut hash);
    }
    let content = hash.digest128();
    let after = batch
        .after
        .as_ref()
        .map_or(&[][..], |cursor| cursor.as_bytes());
    let mut hash = Xxh3::new();
    for part in [batch.pipeline.as_str().as_bytes(), table.as_bytes(), after] {
        hash.update(&part.len().to_le_bytes());
        hash.update(part);
    }
    hash.update(batch.through.as_bytes());
    hash.update(&batch.fence.to_le_bytes());
    hash.update(&content.to_le_bytes());
    format!("{:032x}", hash.digest128())
}

#[async_trait]
impl Sink<Change> for ClickHouseSink {
    async fn deliver(&self, batch: &Batch<Change>) -> Result<()> {
        let held = if batch.items.is_empty() {
            self.check(batch).await?
        } else {
            let Tables {
                entries,
                labels,
                streams,
                ..
            } = &self.tables;
            self.pacer
                .wait(
                    &self.connection,
                    &[entries, labels, streams, Tables::CURSORS],
                )
                .await;
            Box::pin(self.write(batch)).await?
        };
        if let Some(ack) = &batch.ack {
            self.cursors
                .commit(DELIVER, &batch.pipeline, held, ack)
                .await?;
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

impl fmt::Debug for ClickHouseSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseSink")
            .field("connection", &self.connection)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ClickHouseSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} store {}",
            self.connection.config(),
            self.tables.store
        )
    }
}
