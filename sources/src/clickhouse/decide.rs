//! Deciding what mutations come to, on the state that the log has led to.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use ledger_core::{
    Appended, EntryId, EntryKey, Error, ErrorKind, ExpectedVersion, Pairs, Result, StreamKey,
    StreamName, StreamRef, StreamState, Timestamp, VersionConflict,
};
use ledger_layout::clickhouse::{Connection, Head, NewRow, Tables};
use ledger_layout::log::{
    APPEND, RENAME, SET_ANNOTATIONS, SET_TAGS, TRIM, encode_annotations, encode_tags,
};

use super::append::{Prepared, Taken, taken};
use super::labels::{Labelled, labelled};
use super::streams::{count, find};

/// What a caller asks for.
#[derive(Debug)]
pub(super) enum Work {
    Append {
        stream: StreamName,
        prepared: Prepared,
        expected: ExpectedVersion,
    },
    Trim {
        stream: StreamName,
        through: EntryId,
    },
    Rename {
        from: StreamName,
        to: StreamName,
    },
    SetTags {
        stream: StreamName,
        id: EntryId,
        tags: Vec<String>,
    },
    SetAnnotations {
        stream: StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    },
    /// Nothing but to know how far the log is.
    Head,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    Appended(Vec<Appended>),
    Trimmed(u64),
    Nothing,
    /// The number of the last row.
    At(i64),
}

impl Work {
    /// About how many entries and bytes it brings.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Self::Append { prepared, .. } => (prepared.entries.len(), prepared.bytes()),
            _ => (1, 64),
        }
    }

    fn names(&self) -> Vec<&StreamName> {
        match self {
            Self::Append { stream, .. }
            | Self::Trim { stream, .. }
            | Self::SetTags { stream, .. }
            | Self::SetAnnotations { stream, .. } => vec![stream],
            Self::Rename { from, to } => vec![from, to],
            Self::Head => Vec::new(),
        }
    }
}

/// What the members of a group touch. Each is decided on the state before the group, so that who
/// would have to see what another one does waits for the next group.
#[derive(Debug, Default)]
pub(super) struct Touched {
    appended: HashSet<StreamName>,
    labelled: HashSet<(StreamName, EntryId)>,
    labelled_streams: HashSet<StreamName>,
    alone: HashSet<StreamName>,
}

impl Touched {
    /// Whether the group may take this too, and takes note of it.
    pub(super) fn admits(&mut self, work: &Work) -> bool {
        match work {
            Work::Head => true,
            // Appends to one stream see each other.
            Work::Append { stream, .. } => {
                !self.alone.contains(stream) && {
                    self.appended.insert(stream.clone());
                    true
                }
            }
            Work::SetTags { stream, id, .. } | Work::SetAnnotations { stream, id, .. } => {
                !self.alone.contains(stream)
                    && !self.appended.contains(stream)
                    && self.labelled.insert((stream.clone(), *id))
                    && {
                        self.labelled_streams.insert(stream.clone());
                        true
                    }
            }
            Work::Trim { .. } | Work::Rename { .. } => {
                let names = work.names();
                let free = names.iter().all(|name| {
                    !self.alone.contains(*name)
                        && !self.appended.contains(*name)
                        && !self.labelled_streams.contains(*name)
                });
                if free {
                    self.alone.extend(names.into_iter().cloned());
                }
                free
            }
        }
    }
}

/// The state as far as it is known: that of the log's head, as long as nobody else writes.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) head: Head,
    /// Streams by name; none where there is no stream of that name.
    pub(super) streams: HashMap<StreamName, Option<StreamState>>,
}

/// The most names that are kept.
const NAMES: usize = 100_000;

/// What a group comes to.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) rows: Vec<NewRow>,
    pub(super) answers: Vec<Result<Done>>,
    /// Streams whose state changes with the rows.
    pub(super) changed: HashMap<StreamName, Option<StreamState>>,
    pub(super) last_id: u64,
    pub(super) last_key: u64,
}

/// Decides on the members of a group, in their order; writes nothing.
pub(super) async fn decide(
    connection: &Connection,
    tables: &Tables,
    known: &mut Known,
    group: &[&Work],
) -> Result<Decided> {
    let names: BTreeSet<&StreamName> = group.iter().flat_map(|work| work.names()).collect();
    if known.streams.len() + names.len() > NAMES {
        known.streams.clear();
    }
    let unknown = names
        .into_iter()
        .filter(|name| !known.streams.contains_key(*name));
    let unknown: Vec<&StreamName> = unknown.collect();
    let mut found = find(connection, tables, "find streams", &unknown).await?;
    for name in unknown {
        known.streams.insert(name.clone(), found.remove(name));
    }
    let (taken, labelled) = futures::try_join!(
        keys_taken(connection, tables, known, group),
        labels_of(connection, tables, known, group),
    )?;
    let mut decider = Decider {
        connection,
        tables,
        known,
        taken,
        labelled,
        at: Timestamp::now(),
        decided: Decided {
            last_id: known.head.last_id,
            last_key: known.head.last_key,
            ..Decided::default()
        },
    };
    for work in group {
        let answer = decider.one(work).await;
        match answer {
            // A failure to read is that of all; a refusal that of its caller.
            Err(error) if is_failure(error.kind()) => return Err(error),
            answer => decider.decided.answers.push(answer),
        }
    }
    Ok(decider.decided)
}

fn is_failure(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Conflict
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidInput
    )
}

async fn keys_taken(
    connection: &Connection,
    tables: &Tables,
    known: &Known,
    group: &[&Work],
) -> Result<Taken> {
    let (mut keys, mut boundaries) = (Vec::new(), HashMap::new());
    for work in group {
        let Work::Append {
            stream, prepared, ..
        } = work
        else {
            continue;
        };
        let Some(Some(state)) = known.streams.get(stream) else {
            continue;
        };
        boundaries.insert(state.stream.key, state.trimmed_through);
        let texts = prepared
            .entries
            .iter()
            .map(|entry| entry.dedup_key.as_str());
        keys.extend(
            texts
                .filter(|key| !key.is_empty())
                .map(|key| (state.stream.key, key)),
        );
    }
    keys.sort_unstable();
    keys.dedup();
    taken(connection, tables, &keys, &boundaries).await
}

async fn labels_of(
    connection: &Connection,
    tables: &Tables,
    known: &Known,
    group: &[&Work],
) -> Result<HashMap<EntryKey, Labelled>> {
    let keys: Vec<EntryKey> = group
        .iter()
        .filter_map(|work| match work {
            Work::SetTags { stream, id, .. } | Work::SetAnnotations { stream, id, .. } => {
                let state = known.streams.get(stream)?.as_ref()?;
                (id.0 > state.trimmed_through).then_some(EntryKey {
                    stream: state.stream.key,
                    id: *id,
                })
            }
            _ => None,
        })
        .collect();
    labelled(connection, tables, &keys).await
}

struct Decider<'a> {
    connection: &'a Connection,
    tables: &'a Tables,
    known: &'a Known,
    taken: Taken,
    labelled: HashMap<EntryKey, Labelled>,
    at: Timestamp,
    decided: Decided,
}

impl Decider<'_> {
    async fn one(&mut self, work: &Work) -> Result<Done> {
        match work {
            Work::Append {
                stream,
                prepared,
                expected,
            } => self.append(stream, prepared, *expected).map(Done::Appended),
            Work::Trim { stream, through } => self.trim(stream, *through).await.map(Done::Trimmed),
            Work::Rename { from, to } => self.rename(from, to).map(|()| Done::Nothing),
            Work::SetTags { stream, id, tags } => {
                const OPERATION: &str = "set tags";
                let (stream, labels) = self.entry(OPERATION, stream, *id)?;
                let body = encode_tags(tags)?;
                self.label(&stream, *id, labels.version + 1, SET_TAGS, body);
                Ok(Done::Nothing)
            }
            Work::SetAnnotations {
                stream,
                id,
                set,
                delete,
            } => {
                const OPERATION: &str = "set annotations";
                let (stream, labels) = self.entry(OPERATION, stream, *id)?;
                let (version, mut annotations) = (labels.version + 1, labels.annotations);
                annotations.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
                for key in delete {
                    annotations.remove(key);
                }
                let body = encode_annotations(&annotations)?;
                self.label(&stream, *id, version, SET_ANNOTATIONS, body);
                Ok(Done::Nothing)
            }
            Work::Head => Ok(Done::At(0)),
        }
    }

    /// A stream as it is behind the members before.
    fn stream(&self, name: &StreamName) -> Option<StreamState> {
        let changed = self.decided.changed.get(name);
        changed.or_else(|| self.known.streams.get(name))?.clone()
    }

    fn append(
        &mut self,
        name: &StreamName,
        prepared: &Prepared,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let state = self.stream(name);
        let actual = state.as_ref().map_or(0, |state| state.version);
        let conflict = || {
            let versions = VersionConflict { expected, actual };
            Error::conflict(format!("stream {name:?}"), versions)
        };
        if prepared.entries.is_empty() {
            // Nothing is created, but the expectation holds.
            return if expected.accepts(actual) {
                Ok(Vec::new())
            } else {
                Err(conflict())
            };
        }
        let created = state.is_none();
        let mut state = state.unwrap_or_else(|| StreamState {
            stream: StreamRef {
                key: StreamKey(self.decided.last_key + 1),
                name: name.clone(),
                name_version: 1,
            },
            version: 0,
            trimmed_through: 0,
        });
        let key = state.stream.key;
        let mut last_id = self.decided.last_id;
        let mut fresh: Vec<(String, u64)> = Vec::new();
        let mut own: HashMap<&str, u64> = HashMap::new();
        let mut appended = Vec::with_capacity(prepared.entries.len());
        for entry in &prepared.entries {
            let text = entry.dedup_key.as_str();
            let held = if text.is_empty() {
                None
            } else {
                let before = own.get(text).copied();
                before.or_else(|| self.taken.get(&(key, text.to_owned())).copied())
            };
            if let Some(id) = held {
                let id = EntryId(id);
                appended.push(Appended {
                    id,
                    duplicate: true,
                });
                continue;
            }
            last_id += 1;
            if !text.is_empty() {
                own.insert(text, last_id);
                fresh.push((text.to_owned(), last_id));
            }
            let id = EntryId(last_id);
            appended.push(Appended {
                id,
                duplicate: false,
            });
        }
        if last_id == self.decided.last_id {
            return Ok(appended);
        }
        if !expected.accepts(actual) {
            return Err(conflict());
        }
        for (range, body) in &prepared.bodies {
            let these = appended.get(range.clone()).unwrap_or_default();
            let ids: Vec<i64> = these
                .iter()
                .map(|entry| {
                    if entry.duplicate {
                        0
                    } else {
                        signed(entry.id.0)
                    }
                })
                .collect();
            let kept = ids.iter().filter(|id| **id != 0).count();
            if kept == 0 {
                continue;
            }
            state.version += u64::try_from(kept).unwrap_or(0);
            self.decided.rows.push(NewRow {
                at: self.at,
                stream: state.stream.clone(),
                kind: APPEND,
                ids,
                version: signed(state.version),
                body: body.clone(),
            });
        }
        self.decided.last_id = last_id;
        if created {
            self.decided.last_key = key.0;
        }
        let fresh = fresh.into_iter().map(|(text, id)| ((key, text), id));
        self.taken.extend(fresh);
        self.decided.changed.insert(name.clone(), Some(state));
        Ok(appended)
    }

    async fn trim(&mut self, name: &StreamName, through: EntryId) -> Result<u64> {
        let Some(mut state) = self.stream(name) else {
            return Ok(0);
        };
        let (removed, _, highest) =
            count(self.connection, self.tables, "trim", &state, through.0).await?;
        if removed == 0 {
            return Ok(0);
        }
        state.trimmed_through = highest;
        self.row(&state.stream, TRIM, vec![signed(highest)], 0, Bytes::new());
        self.decided.changed.insert(name.clone(), Some(state));
        Ok(removed)
    }

    fn rename(&mut self, from: &StreamName, to: &StreamName) -> Result<()> {
        const OPERATION: &str = "rename stream";
        let mut state = self
            .stream(from)
            .ok_or_else(|| no_stream(OPERATION, from))?;
        if from == to {
            return Ok(());
        }
        if self.stream(to).is_some() {
            let taken = format!("stream {to:?} exists");
            return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, taken));
        }
        state.stream.name = to.clone();
        state.stream.name_version += 1;
        self.row(&state.stream, RENAME, Vec::new(), 0, Bytes::new());
        self.decided.changed.insert(from.clone(), None);
        self.decided.changed.insert(to.clone(), Some(state));
        Ok(())
    }

    fn entry(
        &self,
        operation: &'static str,
        name: &StreamName,
        id: EntryId,
    ) -> Result<(StreamRef, Labelled)> {
        let state = self
            .stream(name)
            .ok_or_else(|| no_stream(operation, name))?;
        let stream = state.stream;
        let key = EntryKey {
            stream: stream.key,
            id,
        };
        let labels = self.labelled.get(&key).cloned().ok_or_else(|| {
            let missing = format!("stream {name:?} has no entry {id}");
            Error::new(ErrorKind::NotFound, operation, missing)
        })?;
        Ok((stream, labels))
    }

    fn label(&mut self, stream: &StreamRef, id: EntryId, version: u64, kind: i16, body: Vec<u8>) {
        self.row(stream, kind, vec![signed(id.0)], version, Bytes::from(body));
    }

    fn row(&mut self, stream: &StreamRef, kind: i16, ids: Vec<i64>, version: u64, body: Bytes) {
        self.decided.rows.push(NewRow {
            at: self.at,
            stream: stream.clone(),
            kind,
            ids,
            version: signed(version),
            body,
        });
    }
}

fn no_stream(operation: &'static str, name: &StreamName) -> Error {
    let missing = format!("there is no stream {name:?}");
    Error::new(ErrorKind::NotFound, operation, missing)
}

/// Ids and versions begin at 1 and are counted up one by one.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
