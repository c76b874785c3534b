//! Delivering batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use ledger_core::{
    CopyState, Cursor, CursorStore, Error, ErrorKind, Result, RowChange, RowOp, Sink, Value,
    Version,
};
use ledger_layout::clickhouse::{CapturedTables, Dedup, Deferred, Held, StartedRows, Tables};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::block::Block;
use super::images::wanted;
use super::work::{Entry, Work};
use super::{Batch, ClickHouseTables, DELIVER};

#[async_trait]
impl Sink<RowChange> for ClickHouseTables {
    async fn deliver(&self, batch: &Batch) -> Result<()> {
        let mut kept = self.work.lock().await;
        let mut held = None;
        if !batch.items.is_empty() {
            // Only what succeeded is kept: after a failure it is read again what was noted.
            let taken = kept.take();
            let mut work = match taken {
                Some(work) if work.fence == batch.fence && work.pipeline == batch.pipeline => work,
                _ => self.load(batch).await?,
            };
            self.pace(&work).await;
            Box::pin(self.apply(batch, &mut work, &mut held)).await?;
            *kept = Some(work);
        }
        let held = match held {
            Some(held) => held,
            None => self.check(batch).await?,
        };
        if let Some(ack) = &batch.ack {
            let cursors = self.cursors.of(&batch.pipeline);
            cursors.commit(DELIVER, &batch.pipeline, held, ack).await?;
        }
        Ok(())
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        Some(&self.cursors)
    }
}

impl ClickHouseTables {
    async fn check(&self, batch: &Batch) -> Result<Held> {
        let cursors = self.cursors.of(&batch.pipeline);
        cursors.check(DELIVER, &batch.pipeline, batch.fence).await
    }

    async fn load(&self, batch: &Batch) -> Result<Work> {
        let noted = self.captured.load(DELIVER, &batch.pipeline).await?;
        let entries = noted
            .into_iter()
            .map(|noted| (noted.table_id, Entry::new(noted)));
        Ok(Work {
            pipeline: batch.pipeline.clone(),
            fence: batch.fence,
            entries: entries.collect(),
        })
    }

    async fn pace(&self, work: &Work) {
        let targets = work
            .entries
            .values()
            .map(|entry| entry.noted.target.as_str());
        let mut names: Vec<&str> = targets.collect();
        names.extend([CapturedTables::NAME, Tables::CURSORS]);
        self.pacer.wait(&self.connection, &names).await;
    }

    /// Applies the items in their order: rows that stand together at once, and between them what
    /// changes a table.
    async fn apply(&self, batch: &Batch, work: &mut Work, held: &mut Option<Held>) -> Result<()> {
        let mut begun = 0;
        let mut lookups = 0;
        let most = self.lookups.load(Ordering::Relaxed);
        for (at, (_, change)) in batch.items.iter().enumerate() {
            let entry = work.entries.get(&change.table.id);
            if !entry.is_some_and(|entry| entry.admits(change)) {
                self.write(batch, between(batch, begun, at), work, held)
                    .await?;
                begun = at;
                if held.is_none() {
                    *held = Some(self.check(batch).await?);
                }
                self.admit(work, change).await?;
            }
            if let RowOp::Copied(state @ CopyState::Done { .. }) = &change.op {
                // Some of these may have to wait, until now.
                self.write(batch, between(batch, begun, at), work, held)
                    .await?;
                begun = at;
                let entry = work.entries.get(&change.table.id);
                if entry.is_some_and(|entry| entry.note().is_ok_and(|note| note.deferred)) {
                    self.catch_up(batch, change, state, work, held).await?;
                }
            }
            if lacks(change) {
                lookups += 1;
                if lookups > most {
                    self.write(batch, between(batch, begun, at), work, held)
                        .await?;
                    (begun, lookups) = (at, 1);
                }
            }
        }
        self.write(batch, between(batch, begun, batch.items.len()), work, held)
            .await?;
        self.note(work, held, batch).await
    }

    /// Notes what has changed, now that the rows are written.
    async fn note(&self, work: &mut Work, held: &mut Option<Held>, batch: &Batch) -> Result<()> {
        let mut notes = Vec::new();
        for entry in work.entries.values_mut().filter(|entry| entry.dirty) {
            entry.dirty = false;
            entry.noted.written += 1;
            entry.noted.fence = batch.fence;
            notes.push(&entry.noted);
        }
        if notes.is_empty() {
            return Ok(());
        }
        if held.is_none() {
            *held = Some(self.check(batch).await?);
        }
        self.captured
            .note(DELIVER, &work.pipeline, work.fence, &notes)
            .await
    }

    /// Writes the rows of some items, and takes into the notes what else they say.
    async fn write(
        &self,
        batch: &Batch,
        items: &[(Cursor, RowChange)],
        work: &mut Work,
        held: &mut Option<Held>,
    ) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let mut blocks: Vec<Block> = Vec::new();
        let mut of_item = Vec::with_capacity(items.len());
        for (_, change) in items {
            let id = change.table.id;
            let known = blocks.iter().position(|block| block.table == id);
            of_item.push(known.unwrap_or(blocks.len()));
            if known.is_none() {
                let entry = work.entry(&change.table)?;
                let destination = entry.destination.clone();
                let destination = destination.ok_or_else(|| unready(change))?;
                blocks.push(Block::new(id, destination));
            }
            if let Some(block) = of_item.last().and_then(|of| blocks.get_mut(*of)) {
                block.lacks |= !wanted(change, block.destination.soft_delete).is_empty();
            }
        }
        for (at, block) in blocks
            .iter_mut()
            .enumerate()
            .filter(|(_, block)| block.lacks)
        {
            let own = items.iter().zip(&of_item).enumerate();
            let own = own.filter(|(_, (_, of))| **of == at);
            let own: Vec<_> = own
                .map(|(place, ((_, change), _))| (place, change))
                .collect();
            let destination = Arc::clone(&block.destination);
            if let Some(entry) = work.entries.get_mut(&block.table) {
                block.fills = self.fills(entry, &destination, &own).await?;
            }
        }
        for (place, ((cursor, change), of)) in items.iter().zip(&of_item).enumerate() {
            if let Some(block) = blocks.get_mut(*of) {
                let entry = work.entry(&change.table)?;
                block.push(entry, change, cursor.as_bytes(), place)?;
            }
        }
        let mut deferred = Vec::new();
        for block in &blocks {
            let mut kept = Vec::new();
            for waiting in block.fills.deferred() {
                let Some((_, change)) = items.get(waiting.item) else {
                    continue;
                };
                let told = match &waiting.held {
                    Some(held) => Some(block.told(work.entry(&change.table)?, change, held)?),
                    None => None,
                };
                kept.push(Deferred {
                    change: change.clone(),
                    told,
                });
            }
            if let (false, Some(entry)) = (kept.is_empty(), work.entries.get_mut(&block.table)) {
                let target = &entry.noted.target;
                tracing::debug!(target, rows = kept.len(), "rows wait for the copy");
                deferred.push((entry.defer(), kept));
            }
        }
        blocks.retain(|block| block.count > 0);
        // Side by side: most of the time the server waits for its disk, and this for the server.
        // Nothing is inserted before the fence has been found to hold.
        let starts = blocks.into_iter().map(|block| self.start(batch, block));
        let starts = try_join_all(starts);
        let started = if held.is_none() {
            let (found, started) = futures::try_join!(self.check(batch), starts)?;
            *held = Some(found);
            started
        } else {
            starts.await?
        };
        try_join_all(started.into_iter().map(StartedRows::finish)).await?;
        for (point, changes) in deferred {
            self.captured
                .defer(DELIVER, &batch.pipeline, point, &changes)
                .await?;
        }
        Ok(())
    }

    /// The copy is complete: what waited for it finds now what it lacked.
    async fn catch_up(
        &self,
        batch: &Batch,
        change: &RowChange,
        state: &CopyState,
        work: &mut Work,
        held: &mut Option<Held>,
    ) -> Result<()> {
        let table = change.table.id;
        if held.is_none() {
            *held = Some(self.check(batch).await?);
        }
        if let Some(entry) = work.entries.get_mut(&table) {
            entry.copied(state);
        }
        let mut after = Version::default();
        loop {
            let limit = self.lookups.load(Ordering::Relaxed);
            let at = (table, state.point());
            let captured = &self.captured;
            let found = captured.deferred(DELIVER, &batch.pipeline, at, after, limit);
            let through = match state {
                CopyState::Done { through, .. } => *through,
                _ => u64::MAX,
            };
            let choose = |deferred: Deferred| match deferred.told {
                Some(told) if told.version.commit >= through => told,
                _ => deferred.change,
            };
            let items: Vec<_> = (found.await?.into_iter().map(choose))
                .map(|change| (change.cursor.clone(), change))
                .collect();
            let Some((_, last)) = items.last() else {
                break;
            };
            after = last.version;
            self.write(batch, &items, work, held).await?;
        }
        if let Some(entry) = work.entries.get_mut(&table) {
            entry.caught_up();
        }
        self.captured
            .forget_deferred(DELIVER, &batch.pipeline, table)
            .await
    }

    async fn start(&self, batch: &Batch, block: Block) -> Result<StartedRows<'_>> {
        let token = token(batch, &block.destination.target, &block.bytes);
        let sql = block.destination.insert();
        let (rows, count) = (Bytes::from(block.bytes), block.count);
        self.connection
            .start_rows(DELIVER, sql, rows, count, Dedup::Token(token))
            .await
    }
}

/// The items of a batch from one place up to another.
fn between(batch: &Batch, from: usize, to: usize) -> &[(Cursor, RowChange)] {
    batch.items.get(from..to).unwrap_or_default()
}

/// Whether a change may need values that only the destination has.
fn lacks(change: &RowChange) -> bool {
    match &change.op {
        RowOp::Update { row, .. } => row.contains(&Value::Absent),
        _ => false,
    }
}

fn unready(change: &RowChange) -> Error {
    Error::new(
        ErrorKind::Internal,
        DELIVER,
        format!("table {} was not made ready", change.table.name),
    )
}

/// Names an insert, so that one that is sent again after its answer was lost costs nothing.
fn token(batch: &Batch, table: &str, rows: &[u8]) -> String {
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
    hash.update(&xxh3_128(rows).to_le_bytes());
    format!("{:032x}", hash.digest128())
}
