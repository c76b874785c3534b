//! The content, for verification and repair, and removing what was trimmed.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use ledger_core::{Contents, EntryKey, Record, Replica, Result, StreamKey, StreamState};
use ledger_layout::clickhouse::rows::{EntryRow, LabelRow, StreamRow, of_records};
use ledger_layout::clickhouse::{Dedup, KEYS, Tables, these_entries, these_streams};

use super::ClickHouseSink;

const REPAIR: &str = "repair ClickHouse content";

impl ClickHouseSink {
    async fn insert_records(&self, records: &[&Record]) -> Result<()> {
        let (entries, labels) = of_records(records);
        let Tables {
            entries: entries_table,
            labels: labels_table,
            ..
        } = &self.tables;
        let count = entries.len();
        let rows = entries.into_iter();
        self.connection
            .insert::<EntryRow<'static>, _>(REPAIR, entries_table, rows, count, Dedup::Off)
            .await?;
        if labels.is_empty() {
            return Ok(());
        }
        let count = labels.len();
        let rows = labels.into_iter();
        self.connection
            .insert::<LabelRow<'static>, _>(REPAIR, labels_table, rows, count, Dedup::Off)
            .await
    }

    /// Removes entries at or below their stream's trim boundary, and their labels, from disk, and
    /// returns how many streams had any. They were invisible before, so nothing changes for a
    /// reader; a replay may bring some back, as invisible as they were.
    ///
    /// It rewrites parts of the tables: call it rarely, at a quiet time.
    pub async fn purge(&self) -> Result<u64> {
        self.contents.purge().await
    }
}

#[async_trait]
impl Contents for ClickHouseSink {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.contents.entries(after, through, limit).await
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        self.contents.entries_at(keys).await
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        self.contents.streams(after, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        self.contents.streams_at(keys).await
    }
}

#[async_trait]
impl Replica for ClickHouseSink {
    async fn repair(
        &self,
        streams: &[StreamState],
        delete: &[EntryKey],
        insert: &[Record],
    ) -> Result<()> {
        for states in streams.chunks(KEYS) {
            let keys = these_streams(states.iter().map(|state| state.stream.key));
            self.contents
                .delete(REPAIR, &self.tables.streams, &keys)
                .await?;
            let rows = states.iter().map(StreamRow::of);
            let (table, count) = (&self.tables.streams, states.len());
            self.connection
                .insert::<StreamRow<'static>, _>(REPAIR, table, rows, count, Dedup::Off)
                .await?;
        }
        // Also those to insert: what replaces a row by its version may be lower than the row.
        let mut keys: Vec<EntryKey> = delete
            .iter()
            .copied()
            .chain(insert.iter().map(|record| record.key))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        for keys in keys.chunks(KEYS) {
            let keys = these_entries(keys);
            self.contents
                .delete(REPAIR, &self.tables.entries, &keys)
                .await?;
            self.contents
                .delete(REPAIR, &self.tables.labels, &keys)
                .await?;
        }
        let touched: BTreeSet<StreamKey> = insert.iter().map(|record| record.key.stream).collect();
        let touched: Vec<StreamKey> = touched.into_iter().collect();
        let boundaries: HashMap<StreamKey, u64> = self
            .streams_at(&touched)
            .await?
            .into_iter()
            .map(|state| (state.stream.key, state.trimmed_through))
            .collect();
        let visible = |record: &&Record| {
            record.key.id.0 > boundaries.get(&record.key.stream).copied().unwrap_or(0)
        };
        let records: Vec<&Record> = insert.iter().filter(visible).collect();
        for records in records.chunks(KEYS) {
            self.insert_records(records).await?;
        }
        Ok(())
    }

    async fn remove_streams(&self, keys: &[StreamKey]) -> Result<()> {
        for keys in keys.chunks(KEYS) {
            let condition = these_streams(keys.iter().copied());
            // The streams first: without them nothing of theirs is visible.
            for table in [
                &self.tables.streams,
                &self.tables.entries,
                &self.tables.labels,
            ] {
                self.contents.delete(REPAIR, table, &condition).await?;
            }
        }
        Ok(())
    }
}
