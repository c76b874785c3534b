//! Rows as they are inserted, and what a batch comes to in them.

use std::collections::BTreeMap;

use clickhouse::Row;
use ledger_core::{Entry, EntryKey, Pairs, Record, StreamState, Timestamp};
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::delta::{Delta, Label, StreamDelta};

/// A row whose content can be told from another's.
pub trait Content {
    /// Feeds the row to a hash.
    fn hash(&self, hash: &mut Xxh3);
}

/// Ends each value with its length, so that no two rows run together into the same bytes.
fn text(hash: &mut Xxh3, value: &[u8]) {
    hash.update(value);
    number(hash, u64::try_from(value.len()).unwrap_or(u64::MAX));
}

fn number(hash: &mut Xxh3, value: u64) {
    hash.update(&value.to_le_bytes());
}

fn texts<'a>(hash: &mut Xxh3, values: impl Iterator<Item = &'a str>) {
    let mut count = 0;
    for value in values {
        text(hash, value.as_bytes());
        count += 1;
    }
    number(hash, count);
}

fn pairs(hash: &mut Xxh3, values: &Pairs) {
    texts(
        hash,
        values
            .iter()
            .flat_map(|(key, value)| [key.as_str(), value.as_str()]),
    );
}

/// A row of `s_entries`.
#[derive(Debug, Clone, Row, Serialize)]
pub struct EntryRow<'a> {
    stream_key: u64,
    id: u64,
    label_version: u64,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    order_key: &'a str,
    dedup_key: &'a str,
    schema_version: i64,
    metadata: &'a Pairs,
    tags: &'a [String],
    annotations: &'a Pairs,
    created_at: i64,
}

impl<'a> EntryRow<'a> {
    /// An entry at its place.
    pub fn new(key: EntryKey, entry: &'a Entry) -> Self {
        Self {
            stream_key: key.stream.0,
            id: key.id.0,
            label_version: entry.label_version,
            payload: &entry.payload,
            order_key: &entry.order_key,
            dedup_key: &entry.dedup_key,
            schema_version: i64::from(entry.schema_version),
            metadata: &entry.metadata,
            tags: &entry.tags,
            annotations: &entry.annotations,
            created_at: entry.created_at.as_micros(),
        }
    }
}

impl Content for EntryRow<'_> {
    fn hash(&self, hash: &mut Xxh3) {
        number(hash, self.stream_key);
        number(hash, self.id);
        number(hash, self.label_version);
        text(hash, self.payload);
        texts(hash, [self.order_key, self.dedup_key].into_iter());
        number(hash, self.schema_version.cast_unsigned());
        pairs(hash, self.metadata);
        texts(hash, self.tags.iter().map(String::as_str));
        pairs(hash, self.annotations);
        number(hash, self.created_at.cast_unsigned());
    }
}

/// A row of `s_labels`. Versions of 0 stand for a state that the row does not tell; they never win.
#[derive(Debug, Clone, Row, Serialize)]
pub struct LabelRow<'a> {
    stream_key: u64,
    id: u64,
    tags: (u64, &'a [String]),
    annotations: (u64, Vec<(&'a str, &'a str)>),
    updated_at: (u64, i64),
}

impl<'a> LabelRow<'a> {
    fn empty(key: EntryKey) -> Self {
        Self {
            stream_key: key.stream.0,
            id: key.id.0,
            tags: (0, &[]),
            annotations: (0, Vec::new()),
            updated_at: (0, 0),
        }
    }

    fn touch(&mut self, version: u64, at: Timestamp) {
        if version > self.updated_at.0 {
            self.updated_at = (version, at.as_micros());
        }
    }

    /// When the labels changed that are part of the entry's own row, which has no place for it.
    pub fn of(key: EntryKey, entry: &Entry) -> Option<Self> {
        let mut row = Self::empty(key);
        row.touch(entry.label_version, entry.updated_at?);
        Some(row)
    }

    /// The label states of a batch, one row an entry.
    pub fn all(delta: &Delta<'a>) -> Vec<Self> {
        let mut rows: BTreeMap<EntryKey, Self> = BTreeMap::new();
        for (key, entry) in &delta.entries {
            if let Some(row) = Self::of(*key, entry) {
                rows.insert(*key, row);
            }
        }
        for (key, Label { version, value, at }) in &delta.tags {
            let row = rows.entry(*key).or_insert_with(|| Self::empty(*key));
            row.tags = (*version, value);
            row.touch(*version, *at);
        }
        for (key, Label { version, value, at }) in &delta.annotations {
            let row = rows.entry(*key).or_insert_with(|| Self::empty(*key));
            row.annotations = (
                *version,
                value
                    .iter()
                    .map(|(k, v)| (k.as_str(), v.as_str()))
                    .collect(),
            );
            row.touch(*version, *at);
        }
        rows.into_values().collect()
    }
}

impl Content for LabelRow<'_> {
    fn hash(&self, hash: &mut Xxh3) {
        number(hash, self.stream_key);
        number(hash, self.id);
        number(hash, self.tags.0);
        texts(hash, self.tags.1.iter().map(String::as_str));
        number(hash, self.annotations.0);
        texts(
            hash,
            self.annotations
                .1
                .iter()
                .flat_map(|(key, value)| [*key, *value]),
        );
        number(hash, self.updated_at.0);
        number(hash, self.updated_at.1.cast_unsigned());
    }
}

/// A row of `s_streams`.
#[derive(Debug, Clone, Row, Serialize)]
pub struct StreamRow<'a> {
    stream_key: u64,
    name: (u64, &'a str),
    version: u64,
    trimmed_through: u64,
}

impl<'a> StreamRow<'a> {
    /// What a batch says of a stream; its trim boundary only where `trimmed` is set.
    pub fn new(delta: &StreamDelta<'a>, trimmed: bool) -> Self {
        let stream = delta.stream;
        Self {
            stream_key: stream.key.0,
            name: (stream.name_version, stream.name.as_str()),
            version: delta.version,
            trimmed_through: if trimmed { delta.trimmed_through } else { 0 },
        }
    }

    /// The state of a stream.
    pub fn of(state: &'a StreamState) -> Self {
        Self {
            stream_key: state.stream.key.0,
            name: (state.stream.name_version, state.stream.name.as_str()),
            version: state.version,
            trimmed_through: state.trimmed_through,
        }
    }
}

impl Content for StreamRow<'_> {
    fn hash(&self, hash: &mut Xxh3) {
        number(hash, self.stream_key);
        number(hash, self.name.0);
        text(hash, self.name.1.as_bytes());
        number(hash, self.version);
        number(hash, self.trimmed_through);
    }
}

/// The entry rows and label rows of records.
pub fn of_records<'a>(records: &[&'a Record]) -> (Vec<EntryRow<'a>>, Vec<LabelRow<'a>>) {
    let entries = records
        .iter()
        .map(|record| EntryRow::new(record.key, &record.entry))
        .collect();
    let labels = records
        .iter()
        .filter_map(|record| LabelRow::of(record.key, &record.entry));
    (entries, labels.collect())
}
