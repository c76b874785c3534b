//! What the changes of a log come to.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Change, Cursor, Entry, EntryId, EntryKey, Mutation, StreamKey, StreamRef, StreamState,
};

/// The content that changes lead to, applied as any sink may: by versions, so that a change twice
/// or an old one after a new one does no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) streams: BTreeMap<StreamKey, StreamState>,
    pub(super) entries: BTreeMap<EntryKey, Entry>,
}

impl Model {
    /// What these changes come to.
    pub(super) fn of<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        let mut model = Self::default();
        for change in changes {
            model.apply(change);
        }
        model
    }

    /// Applies one change.
    pub(super) fn apply(&mut self, change: &Change) {
        let stream = self
            .streams
            .entry(change.stream.key)
            .or_insert_with(|| StreamState {
                stream: change.stream.clone(),
                version: 0,
                trimmed_through: 0,
            });
        if change.stream.name_version > stream.stream.name_version {
            stream.stream = change.stream.clone();
        }
        let key = |id: EntryId| EntryKey {
            stream: change.stream.key,
            id,
        };
        match &change.mutation {
            Mutation::Append { entry, version } => {
                stream.version = stream.version.max(*version);
                let newer = |have: &Entry| have.label_version < entry.label_version;
                if entry.id.0 > stream.trimmed_through
                    && self.entries.get(&key(entry.id)).is_none_or(newer)
                {
                    self.entries.insert(key(entry.id), Entry::clone(entry));
                }
            }
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => {
                let set = |entry: &mut Entry| entry.tags.clone_from(tags);
                label(&mut self.entries, key(*id), *label_version, change, set);
            }
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                let set = |entry: &mut Entry| entry.annotations.clone_from(annotations);
                label(&mut self.entries, key(*id), *label_version, change, set);
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
        let boundary = stream.trimmed_through;
        if matches!(change.mutation, Mutation::Trim { .. } | Mutation::Stream(_)) {
            self.entries
                .retain(|key, _| key.stream != change.stream.key || key.id.0 > boundary);
        }
    }

    /// With every entry under its stream's present name, as reads show them.
    pub(super) fn named(mut self) -> Self {
        for (key, entry) in &mut self.entries {
            if let Some(state) = self.streams.get(&key.stream) {
                entry.stream = state.stream.name.clone();
            }
        }
        self
    }
}

fn label(
    entries: &mut BTreeMap<EntryKey, Entry>,
    key: EntryKey,
    version: u64,
    change: &Change,
    set: impl Fn(&mut Entry),
) {
    // An entry that is not there has been trimmed since.
    if let Some(entry) = entries.get_mut(&key)
        && version > entry.label_version
    {
        set(entry);
        entry.label_version = version;
        entry.updated_at = Some(change.committed_at);
    }
}

/// Checks that changes come as the log's contract says.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: Option<Cursor>,
    streams: HashMap<StreamKey, Seen>,
    labels: HashMap<EntryKey, u64>,
}

#[derive(Debug)]
struct Seen {
    stream: StreamRef,
    version: u64,
    last_id: u64,
    trimmed_through: u64,
}

impl Order {
    /// Checks a whole log, from its start.
    pub(super) fn check<'a>(changes: impl IntoIterator<Item = &'a Change>) {
        let mut order = Self::default();
        for change in changes {
            order.next(change);
        }
    }

    /// Checks the next change of a log that has been seen from its start.
    pub(super) fn next(&mut self, change: &Change) {
        if let Some(last) = &self.last {
            assert!(
                change.cursor > *last,
                "cursors ascend: {last} before {change:?}"
            );
        }
        self.last = Some(change.cursor.clone());
        let first = matches!(change.mutation, Mutation::Append { version: 1, .. });
        let seen = self.streams.entry(change.stream.key).or_insert_with(|| {
            assert!(
                first,
                "a stream begins with its first append, not with {change:?}"
            );
            Seen {
                stream: change.stream.clone(),
                version: 0,
                last_id: 0,
                trimmed_through: 0,
            }
        });
        let renamed = change.mutation == Mutation::Rename;
        if renamed {
            assert!(
                change.stream.name_version > seen.stream.name_version,
                "a rename raises the name's version from {}: {change:?}",
                seen.stream.name_version
            );
            seen.stream = change.stream.clone();
        }
        assert_eq!(
            change.stream, seen.stream,
            "the name at this point of the log: {change:?}"
        );
        match &change.mutation {
            Mutation::Append { entry, version } => {
                assert_eq!(
                    *version,
                    seen.version + 1,
                    "versions have no gap: {change:?}"
                );
                assert!(
                    entry.id.0 > seen.last_id,
                    "ids ascend in the log: {change:?}"
                );
                assert!(
                    entry.id.0 > seen.trimmed_through,
                    "an id was used again: {change:?}"
                );
                assert_eq!(
                    entry.stream, change.stream.name,
                    "the entry's stream: {change:?}"
                );
                assert_eq!(
                    entry.label_version, 0,
                    "an entry begins without labels: {change:?}"
                );
                seen.version = *version;
                seen.last_id = entry.id.0;
            }
            Mutation::SetTags {
                id, label_version, ..
            }
            | Mutation::SetAnnotations {
                id, label_version, ..
            } => {
                assert!(
                    id.0 <= seen.last_id,
                    "a label of what was not appended: {change:?}"
                );
                assert!(
                    id.0 > seen.trimmed_through,
                    "a label of what was trimmed: {change:?}"
                );
                let key = EntryKey {
                    stream: change.stream.key,
                    id: *id,
                };
                let version = self.labels.entry(key).or_default();
                assert_eq!(
                    *label_version,
                    *version + 1,
                    "label versions count: {change:?}"
                );
                *version = *label_version;
            }
            Mutation::Trim { through } => {
                assert!(
                    through.0 > seen.trimmed_through,
                    "a trim of nothing: {change:?}"
                );
                assert!(
                    through.0 <= seen.last_id,
                    "a trim of what is not there: {change:?}"
                );
                seen.trimmed_through = through.0;
            }
            Mutation::Rename => {}
            Mutation::Stream(_) => panic!("only snapshots hold stream states: {change:?}"),
        }
    }
}
