//! Comparing rows by their digests.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;

use async_trait::async_trait;
use ledger_core::{
    Contents, Entry, EntryKey, MutationKind, Record, Replica, Result, StreamKey, StreamState,
    entry_digest, stream_digest,
};

use super::{Difference, Kind};

/// Rows of one kind on both sides, by their keys.
#[async_trait]
pub(super) trait Compared: Sync {
    type Key: Copy + Eq + Hash + Debug + Send + Sync;

    async fn source_digests(&self, keys: &[Self::Key]) -> Result<HashMap<Self::Key, u128>>;
    async fn replica_digests(&self, keys: &[Self::Key]) -> Result<HashMap<Self::Key, u128>>;
}

/// Entries.
pub(super) struct Entries<'a> {
    pub(super) source: &'a dyn Contents,
    pub(super) replica: &'a dyn Replica,
    pub(super) skip: &'a BTreeSet<MutationKind>,
}

impl Entries<'_> {
    fn digests(&self, records: &[Record]) -> HashMap<EntryKey, u128> {
        records
            .iter()
            .map(|record| (record.key, entry_digest(&record.entry, self.skip)))
            .collect()
    }

    /// The keys behind `after`, up to `through`, whose rows differ from `here`.
    pub(super) async fn differing(
        &self,
        here: &[Record],
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        chunk: usize,
    ) -> Result<Vec<EntryKey>> {
        let mut here = self.digests(here);
        let mut suspects = Vec::new();
        let mut after = after;
        loop {
            let there = self.replica.entries(after, through, chunk).await?;
            let Some(last) = there.last() else { break };
            after = Some(last.key);
            for record in &there {
                if here.remove(&record.key) != Some(entry_digest(&record.entry, self.skip)) {
                    suspects.push(record.key);
                }
            }
        }
        suspects.extend(here.into_keys());
        suspects.sort_unstable();
        Ok(suspects)
    }

    /// Reads both sides again, and says of each key how they differ, if they still do.
    pub(super) async fn describe(&self, keys: &[EntryKey]) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for keys in keys.chunks(super::READ_AGAIN) {
            let by_key = |records: Vec<Record>| -> HashMap<EntryKey, Entry> {
                records
                    .into_iter()
                    .map(|record| (record.key, record.entry))
                    .collect()
            };
            let here = by_key(self.source.entries_at(keys).await?);
            let there = by_key(self.replica.entries_at(keys).await?);
            for key in keys {
                let (kind, entry, fields) = match (here.get(key), there.get(key)) {
                    (Some(a), Some(b)) => {
                        if entry_digest(a, self.skip) == entry_digest(b, self.skip) {
                            continue;
                        }
                        (Kind::Different, a, differing_fields(a, b, self.skip))
                    }
                    (Some(entry), None) => (Kind::Missing, entry, Vec::new()),
                    (None, Some(entry)) if self.keeps_trimmed(key).await? => {
                        tracing::debug!(id = %entry.id, "kept, since trims are skipped");
                        continue;
                    }
                    (None, Some(entry)) => (Kind::Extra, entry, Vec::new()),
                    (None, None) => continue,
                };
                let id = Some(key.id);
                differences.push(Difference {
                    stream: entry.stream.clone(),
                    id,
                    kind,
                    fields,
                });
            }
        }
        Ok(differences)
    }

    /// Whether the source has trimmed the entry, and the bridge does not carry that.
    async fn keeps_trimmed(&self, key: &EntryKey) -> Result<bool> {
        if !self.skip.contains(&MutationKind::Trim) {
            return Ok(false);
        }
        let state = self.source.streams_at(&[key.stream]).await?;
        Ok(state
            .first()
            .is_some_and(|state| key.id.0 <= state.trimmed_through))
    }
}

fn differing_fields(a: &Entry, b: &Entry, skip: &BTreeSet<MutationKind>) -> Vec<&'static str> {
    let tags = !skip.contains(&MutationKind::SetTags);
    let annotations = !skip.contains(&MutationKind::SetAnnotations);
    [
        ("payload", a.payload != b.payload),
        ("order_key", a.order_key != b.order_key),
        ("dedup_key", a.dedup_key != b.dedup_key),
        ("schema_version", a.schema_version != b.schema_version),
        ("metadata", a.metadata != b.metadata),
        ("tags", tags && a.tags != b.tags),
        ("annotations", annotations && a.annotations != b.annotations),
        (
            "label_version",
            tags && annotations && a.label_version != b.label_version,
        ),
        ("created_at", a.created_at != b.created_at),
        (
            "updated_at",
            tags && annotations && a.updated_at != b.updated_at,
        ),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

#[async_trait]
impl Compared for Entries<'_> {
    type Key = EntryKey;

    async fn source_digests(&self, keys: &[EntryKey]) -> Result<HashMap<EntryKey, u128>> {
        Ok(self.digests(&self.source.entries_at(keys).await?))
    }

    async fn replica_digests(&self, keys: &[EntryKey]) -> Result<HashMap<EntryKey, u128>> {
        Ok(self.digests(&self.replica.entries_at(keys).await?))
    }
}

/// Streams: their names and trim boundaries.
pub(super) struct Streams<'a> {
    pub(super) source: &'a dyn Contents,
    pub(super) replica: &'a dyn Replica,
    pub(super) skip: &'a BTreeSet<MutationKind>,
}

impl Streams<'_> {
    fn differing_fields(&self, a: &StreamState, b: &StreamState) -> Vec<&'static str> {
        let names = !self.skip.contains(&MutationKind::Rename);
        let trims = !self.skip.contains(&MutationKind::Trim);
        let mut fields = Vec::new();
        if names && a.stream.name != b.stream.name {
            fields.push("name");
        }
        if trims && a.trimmed_through != b.trimmed_through {
            fields.push("trimmed_through");
        }
        fields
    }

    /// The keys behind `after`, up to `through`, whose rows differ from `here`.
    pub(super) async fn differing(
        &self,
        here: &[StreamState],
        after: Option<StreamKey>,
        through: Option<StreamKey>,
        chunk: usize,
    ) -> Result<Vec<StreamKey>> {
        let mut here: HashMap<StreamKey, &StreamState> =
            here.iter().map(|state| (state.stream.key, state)).collect();
        let mut suspects = Vec::new();
        let mut after = after;
        'pages: loop {
            let there = self.replica.streams(after, chunk).await?;
            let Some(last) = there.last() else { break };
            after = Some(last.stream.key);
            for state in &there {
                let key = state.stream.key;
                if through.is_some_and(|through| key > through) {
                    break 'pages;
                }
                if !here
                    .remove(&key)
                    .is_some_and(|other| self.differing_fields(other, state).is_empty())
                {
                    suspects.push(key);
                }
            }
        }
        suspects.extend(here.into_keys());
        suspects.sort_unstable();
        Ok(suspects)
    }

    /// Reads both sides again, and says of each key how they differ, if they still do.
    pub(super) async fn describe(&self, keys: &[StreamKey]) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for keys in keys.chunks(super::READ_AGAIN) {
            let here = by_key(self.source.streams_at(keys).await?);
            let there = by_key(self.replica.streams_at(keys).await?);
            for key in keys {
                let (kind, state, fields) = match (here.get(key), there.get(key)) {
                    (Some(a), Some(b)) => {
                        let fields = self.differing_fields(a, b);
                        if fields.is_empty() {
                            continue;
                        }
                        (Kind::Different, a, fields)
                    }
                    (Some(state), None) => (Kind::Missing, state, Vec::new()),
                    (None, Some(state)) => (Kind::Extra, state, Vec::new()),
                    (None, None) => continue,
                };
                let stream = state.stream.name.clone();
                differences.push(Difference {
                    stream,
                    id: None,
                    kind,
                    fields,
                });
            }
        }
        Ok(differences)
    }

    /// What is compared, as one number.
    fn digests(&self, states: Vec<StreamState>) -> HashMap<StreamKey, u128> {
        states
            .into_iter()
            .map(|state| (state.stream.key, stream_digest(&state, self.skip)))
            .collect()
    }
}

fn by_key(states: Vec<StreamState>) -> HashMap<StreamKey, StreamState> {
    states
        .into_iter()
        .map(|state| (state.stream.key, state))
        .collect()
}

#[async_trait]
impl Compared for Streams<'_> {
    type Key = StreamKey;

    async fn source_digests(&self, keys: &[StreamKey]) -> Result<HashMap<StreamKey, u128>> {
        Ok(self.digests(self.source.streams_at(keys).await?))
    }

    async fn replica_digests(&self, keys: &[StreamKey]) -> Result<HashMap<StreamKey, u128>> {
        Ok(self.digests(self.replica.streams_at(keys).await?))
    }
}
