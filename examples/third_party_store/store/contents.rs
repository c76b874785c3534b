//! The content in the order of its keys.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;
use ledger_core::{Contents, EntryKey, Record, Result, StreamKey, StreamState};

use super::MemoryStore;
use super::state::{State, Stream};

/// The states of the streams behind a key.
pub(super) fn streams_after(
    state: &State,
    after: Option<StreamKey>,
) -> impl Iterator<Item = StreamState> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    state
        .streams
        .range((after, Bound::Unbounded))
        .map(|(_, stream)| stream.state.clone())
}

/// The entries behind a key, each with its stream.
pub(super) fn entries_after(
    state: &State,
    after: Option<EntryKey>,
) -> impl Iterator<Item = (&Stream, Record)> {
    let first = after.map(|after| after.stream).unwrap_or_default();
    state.streams.range(first..).flat_map(move |(key, stream)| {
        let begin = match after {
            Some(after) if after.stream == *key => Bound::Excluded(after.id),
            _ => Bound::Unbounded,
        };
        stream
            .entries
            .range((begin, Bound::Unbounded))
            .map(move |(id, entry)| {
                let key = EntryKey {
                    stream: *key,
                    id: *id,
                };
                (
                    stream,
                    Record {
                        key,
                        entry: entry.clone(),
                    },
                )
            })
    })
}

#[async_trait]
impl Contents for MemoryStore {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.view(|state| {
            let records = entries_after(state, after).map(|(_, record)| record);
            let within = |record: &Record| through.is_none_or(|through| record.key <= through);
            Ok(records.take_while(within).take(limit).collect())
        })
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        let keys: BTreeSet<_> = keys.iter().copied().collect();
        self.view(|state| {
            let find = |key: EntryKey| {
                let entry = state.streams.get(&key.stream)?.entries.get(&key.id)?;
                Some(Record {
                    key,
                    entry: entry.clone(),
                })
            };
            Ok(keys.into_iter().filter_map(find).collect())
        })
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        self.view(|state| Ok(streams_after(state, after).take(limit).collect()))
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        let keys: BTreeSet<_> = keys.iter().copied().collect();
        self.view(|state| {
            let find = |key| state.streams.get(&key).map(|stream| stream.state.clone());
            Ok(keys.into_iter().filter_map(find).collect())
        })
    }
}
