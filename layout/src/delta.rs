//! What a batch of changes comes to.
//!
//! Every change carries full resulting state with a version, so a batch can be reduced before it
//! is written: of several states of one thing only the highest version is left. Applying the
//! parts in the order streams, entries, labels, trims gives what applying the changes one by one
//! would give, and applying them twice changes nothing.

use std::collections::BTreeMap;

use ledger_core::{
    Change, Cursor, Entry, EntryId, EntryKey, Mutation, Pairs, StreamKey, StreamRef, Timestamp,
};

/// The reduced batch. It borrows from the changes.
#[derive(Debug, Default)]
pub struct Delta<'a> {
    /// Every stream that the batch mentions.
    pub streams: BTreeMap<StreamKey, StreamDelta<'a>>,
    /// The entries appended, those with the highest label version where one came twice.
    pub entries: BTreeMap<EntryKey, &'a Entry>,
    /// The newest tags of entries.
    pub tags: BTreeMap<EntryKey, Label<&'a [String]>>,
    /// The newest annotations of entries.
    pub annotations: BTreeMap<EntryKey, Label<&'a Pairs>>,
}

/// What a batch says of a stream.
#[derive(Debug)]
pub struct StreamDelta<'a> {
    /// The newest name.
    pub stream: &'a StreamRef,
    /// The highest version seen; 0 where the batch tells none.
    pub version: u64,
    /// The highest trim boundary; 0 where the batch holds none.
    pub trimmed_through: u64,
}

/// A label state.
#[derive(Debug)]
pub struct Label<T> {
    /// The entry's label version after the change.
    pub version: u64,
    /// All of it.
    pub value: T,
    /// When it was changed.
    pub at: Timestamp,
}

impl<'a> Delta<'a> {
    /// Reduces the items of a batch.
    pub fn of(items: &'a [(Cursor, Change)]) -> Self {
        Self::of_changes(items.iter().map(|(_, change)| change))
    }

    /// Reduces changes.
    pub fn of_changes(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        let mut delta = Self::default();
        for change in changes {
            delta.add(change);
        }
        delta
    }

    fn add(&mut self, change: &'a Change) {
        let stream = self
            .streams
            .entry(change.stream.key)
            .or_insert(StreamDelta {
                stream: &change.stream,
                version: 0,
                trimmed_through: 0,
            });
        if change.stream.name_version > stream.stream.name_version {
            stream.stream = &change.stream;
        }
        let key = |id: EntryId| EntryKey {
            stream: change.stream.key,
            id,
        };
        match &change.mutation {
            Mutation::Append { entry, version } => {
                stream.version = stream.version.max(*version);
                let present = self.entries.entry(key(entry.id)).or_insert(entry);
                if entry.label_version > present.label_version {
                    *present = entry;
                }
            }
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => {
                let value = tags.as_slice();
                newest(
                    &mut self.tags,
                    key(*id),
                    *label_version,
                    value,
                    change.committed_at,
                );
            }
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                let at = change.committed_at;
                newest(
                    &mut self.annotations,
                    key(*id),
                    *label_version,
                    annotations,
                    at,
                );
            }
            Mutation::Trim { through } => {
                stream.trimmed_through = stream.trimmed_through.max(through.0);
            }
            Mutation::Rename => {}
            Mutation::Stream(state) => {
                stream.version = stream.version.max(state.version);
                stream.trimmed_through = stream.trimmed_through.max(state.trimmed_through);
            }
        }
    }
}

fn newest<T>(
    labels: &mut BTreeMap<EntryKey, Label<T>>,
    key: EntryKey,
    version: u64,
    value: T,
    at: Timestamp,
) {
    if labels.get(&key).is_none_or(|label| label.version < version) {
        labels.insert(key, Label { version, value, at });
    }
}
