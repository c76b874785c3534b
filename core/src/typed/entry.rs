//! Typed entries.

use crate::codec::Codec;
use crate::{Entry, EntryId, NewEntry, Pairs, Result, StreamName, Timestamp};

/// A value to append, with the options of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTyped<T> {
    value: T,
    entry: NewEntry,
}

impl<T> NewTyped<T> {
    /// An entry with this value, and nothing else.
    pub fn new(value: T) -> Self {
        Self {
            value,
            entry: NewEntry::new(Vec::new()),
        }
    }

    /// Sets the key to filter reads by.
    #[must_use]
    pub fn order_key(mut self, key: impl Into<String>) -> Self {
        self.entry.order_key = key.into();
        self
    }

    /// Sets the dedup key: the entry is skipped where the stream already holds one with it.
    #[must_use]
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.entry.dedup_key = key.into();
        self
    }

    /// Adds a metadata pair.
    #[must_use]
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.entry.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.entry.tags.push(tag.into());
        self
    }

    /// The entry, with the payload that the codec makes and its schema version.
    pub(super) fn encode(mut self, codec: &impl Codec<T>) -> Result<NewEntry> {
        self.entry.payload = codec.encode(&self.value)?;
        self.entry.schema_version = codec.version();
        Ok(self.entry)
    }
}

impl<T> From<T> for NewTyped<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// An entry with its payload decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedEntry<T> {
    /// The identity.
    pub id: EntryId,
    /// The stream's present name.
    pub stream: StreamName,
    /// The payload's value, in the schema's present version.
    pub value: T,
    /// The order key; empty for none.
    pub order_key: String,
    /// The dedup key; empty for none.
    pub dedup_key: String,
    /// The schema version it was written with.
    pub schema_version: u32,
    /// Immutable pairs.
    pub metadata: Pairs,
    /// The tags, sorted.
    pub tags: Vec<String>,
    /// The annotations.
    pub annotations: Pairs,
    /// Counts the changes of tags and annotations, from 0.
    pub label_version: u64,
    /// When it was appended, by the backend's clock.
    pub created_at: Timestamp,
    /// When its labels changed last; none when they never did.
    pub updated_at: Option<Timestamp>,
}

impl<T> TypedEntry<T> {
    /// Decodes an entry's payload; an error names the entry and the versions.
    pub fn decode(codec: &impl Codec<T>, entry: Entry) -> Result<Self> {
        let value = decode_value(codec, &entry)?;
        Ok(Self {
            id: entry.id,
            stream: entry.stream,
            value,
            order_key: entry.order_key,
            dedup_key: entry.dedup_key,
            schema_version: entry.schema_version,
            metadata: entry.metadata,
            tags: entry.tags,
            annotations: entry.annotations,
            label_version: entry.label_version,
            created_at: entry.created_at,
            updated_at: entry.updated_at,
        })
    }
}

pub(super) fn decode_value<T>(codec: &impl Codec<T>, entry: &Entry) -> Result<T> {
    codec
        .decode_version(entry.schema_version, &entry.payload)
        .map_err(|error| {
            error.within(format!(
                "entry {} of stream {:?}, written with schema version {} and read with {}",
                entry.id,
                entry.stream,
                entry.schema_version,
                codec.version(),
            ))
        })
}

/// Some typed entries, and whether there are more behind the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedPage<T> {
    /// The entries, in the order asked for.
    pub entries: Vec<TypedEntry<T>>,
    /// Whether the same conditions with `after` set to the last entry's id may give more.
    pub more: bool,
}
