//! The data of a store, and every mutation of it.
//!
//! Each mutation first checks everything that can refuse it; then it changes the data and adds to
//! the log, which cannot fail.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ledger_core::{
    Appended, Change, DeadLetter, Entry, EntryId, Error, ErrorKind, ExpectedVersion, Mutation,
    NewEntry, Pairs, PipelineId, Result, Stat, StreamKey, StreamName, StreamRef, StreamState,
    Timestamp, VersionConflict,
};
use uuid::Uuid;

use super::consumers::Registered;
use super::position::Position;

/// Everything a store holds.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) id: Uuid,
    pub(super) streams: BTreeMap<StreamKey, Stream>,
    /// The keys of the streams by their present names.
    pub(super) names: BTreeMap<StreamName, StreamKey>,
    last_id: u64,
    last_key: u64,
    /// The changes behind the first `pruned` ones.
    pub(super) log: VecDeque<Change>,
    pub(super) pruned: u64,
    pub(super) consumers: BTreeMap<PipelineId, Registered>,
    pub(super) letters: BTreeMap<(PipelineId, ledger_core::Cursor), DeadLetter>,
}

/// One stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) state: StreamState,
    pub(super) entries: BTreeMap<EntryId, Entry>,
    dedup: HashMap<String, EntryId>,
}

impl Stream {
    /// Count, first and last id, version.
    pub(super) fn stat(&self) -> Stat {
        Stat {
            count: u64::try_from(self.entries.len()).unwrap_or(u64::MAX),
            first_id: self.entries.keys().next().copied(),
            last_id: self.entries.keys().next_back().copied(),
            version: self.state.version,
        }
    }
}

fn not_found(operation: &'static str, what: String) -> Error {
    Error::new(ErrorKind::NotFound, operation, what)
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            id: Uuid::new_v4(),
            streams: BTreeMap::new(),
            names: BTreeMap::new(),
            last_id: 0,
            last_key: 0,
            log: VecDeque::new(),
            pruned: 0,
            consumers: BTreeMap::new(),
            letters: BTreeMap::new(),
        }
    }

    /// The stream of this name.
    pub(super) fn stream(&self, name: &StreamName) -> Option<&Stream> {
        self.streams.get(self.names.get(name)?)
    }

    fn stream_mut(&mut self, name: &StreamName) -> Option<&mut Stream> {
        self.streams.get_mut(self.names.get(name)?)
    }

    /// The last change's number.
    pub(super) fn last_seq(&self) -> u64 {
        self.pruned + u64::try_from(self.log.len()).unwrap_or(u64::MAX)
    }

    /// Adds a change to the log.
    fn record(&mut self, at: Timestamp, stream: StreamRef, mutation: Mutation) {
        let cursor = Position {
            seq: self.last_seq() + 1,
            store: self.id,
        }
        .to_cursor();
        self.log.push_back(Change {
            cursor,
            committed_at: at,
            stream,
            mutation,
        });
    }

    pub(super) fn append(
        &mut self,
        name: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        // Dedup is decided first, then the version, then anything is written.
        let mut taken = self
            .stream(name)
            .map(|stream| stream.dedup.clone())
            .unwrap_or_default();
        let mut next_id = self.last_id;
        let mut appended = Vec::with_capacity(entries.len());
        for entry in &entries {
            let original = taken.get(&entry.dedup_key).copied();
            let id = original.unwrap_or_else(|| {
                next_id += 1;
                EntryId(next_id)
            });
            if !entry.dedup_key.is_empty() {
                taken.insert(entry.dedup_key.clone(), id);
            }
            appended.push(Appended {
                id,
                duplicate: original.is_some(),
            });
        }
        if appended.iter().all(|appended| appended.duplicate) {
            return Ok(appended);
        }
        let actual = self.stream(name).map_or(0, |stream| stream.state.version);
        if !expected.accepts(actual) {
            let context = format!("stream {name:?}");
            return Err(Error::conflict(
                context,
                VersionConflict { expected, actual },
            ));
        }

        let at = Timestamp::now();
        let key = self.key_or_create(name);
        self.last_id = next_id;
        for (entry, appended) in entries.into_iter().zip(&appended) {
            let Some(stream) = self.streams.get_mut(&key).filter(|_| !appended.duplicate) else {
                continue;
            };
            let entry = stored(entry, appended.id, name, at);
            stream.state.version += 1;
            stream.entries.insert(entry.id, entry.clone());
            if !entry.dedup_key.is_empty() {
                stream.dedup.insert(entry.dedup_key.clone(), entry.id);
            }
            let (reference, version) = (stream.state.stream.clone(), stream.state.version);
            self.record(
                at,
                reference,
                Mutation::Append {
                    entry: Box::new(entry),
                    version,
                },
            );
        }
        Ok(appended)
    }

    fn key_or_create(&mut self, name: &StreamName) -> StreamKey {
        if let Some(key) = self.names.get(name) {
            return *key;
        }
        self.last_key += 1;
        let key = StreamKey(self.last_key);
        let stream = StreamRef {
            key,
            name: name.clone(),
            name_version: 1,
        };
        let state = StreamState {
            stream,
            version: 0,
            trimmed_through: 0,
        };
        let stream = Stream {
            state,
            entries: BTreeMap::new(),
            dedup: HashMap::new(),
        };
        self.streams.insert(key, stream);
        self.names.insert(name.clone(), key);
        key
    }

    pub(super) fn trim(&mut self, name: &StreamName, through: EntryId) -> u64 {
        let Some(stream) = self.stream_mut(name) else {
            return 0;
        };
        let removed: Vec<_> = stream
            .entries
            .range(..=through)
            .map(|(id, _)| *id)
            .collect();
        // The highest id that was really removed: what comes later may have a lower one than was
        // asked for.
        let Some(through) = removed.last().copied() else {
            return 0;
        };
        stream.entries.retain(|id, _| *id > through);
        stream.dedup.retain(|_, id| *id > through);
        stream.state.trimmed_through = through.0;
        let reference = stream.state.stream.clone();
        self.record(Timestamp::now(), reference, Mutation::Trim { through });
        u64::try_from(removed.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn rename(&mut self, from: &StreamName, to: &StreamName) -> Result<()> {
        let key = *self
            .names
            .get(from)
            .ok_or_else(|| not_found("rename stream", format!("stream {from:?}")))?;
        if from == to {
            return Ok(());
        }
        if self.names.contains_key(to) {
            let context = format!("stream {to:?}");
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "rename stream",
                context,
            ));
        }
        self.names.remove(from);
        self.names.insert(to.clone(), key);
        if let Some(stream) = self.streams.get_mut(&key) {
            for entry in stream.entries.values_mut() {
                entry.stream = to.clone();
            }
            stream.state.stream.name = to.clone();
            stream.state.stream.name_version += 1;
            let reference = stream.state.stream.clone();
            self.record(Timestamp::now(), reference, Mutation::Rename);
        }
        Ok(())
    }

    pub(super) fn set_tags(
        &mut self,
        name: &StreamName,
        id: EntryId,
        tags: Vec<String>,
    ) -> Result<()> {
        self.label(name, id, |entry| {
            entry.tags.clone_from(&tags);
            Mutation::SetTags {
                id,
                label_version: entry.label_version,
                tags,
            }
        })
    }

    pub(super) fn set_annotations(
        &mut self,
        name: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: &[String],
    ) -> Result<()> {
        self.label(name, id, |entry| {
            entry.annotations.extend(set);
            entry.annotations.retain(|key, _| !delete.contains(key));
            let (label_version, annotations) = (entry.label_version, entry.annotations.clone());
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            }
        })
    }

    fn label(
        &mut self,
        name: &StreamName,
        id: EntryId,
        change: impl FnOnce(&mut Entry) -> Mutation,
    ) -> Result<()> {
        let stream = self
            .stream_mut(name)
            .ok_or_else(|| not_found("set labels", format!("stream {name:?}")))?;
        let entry = stream
            .entries
            .get_mut(&id)
            .ok_or_else(|| not_found("set labels", format!("entry {id} of stream {name:?}")))?;
        let at = Timestamp::now();
        entry.label_version += 1;
        entry.updated_at = Some(at);
        let mutation = change(entry);
        let reference = stream.state.stream.clone();
        self.record(at, reference, mutation);
        Ok(())
    }
}

fn stored(new: NewEntry, id: EntryId, stream: &StreamName, at: Timestamp) -> Entry {
    Entry {
        id,
        stream: stream.clone(),
        payload: new.payload,
        order_key: new.order_key,
        dedup_key: new.dedup_key,
        schema_version: new.schema_version,
        metadata: new.metadata,
        tags: new.tags,
        annotations: Pairs::new(),
        label_version: 0,
        created_at: at,
        updated_at: None,
    }
}
