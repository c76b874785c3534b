//! The walk over what several streams held before their tail began.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use globset::GlobMatcher;
use ledger_core::{
    Change, ChangeLog, Cursor, Entry, EntryId, Mutation, Progress, ReadOptions, Store, StreamName,
};
use tonic::{Code, Status};

use super::Terms;
use crate::feed::no_log;
use crate::service::answer;
use crate::status::{invalid, refusal, status};

/// The most entries that a tail of several streams may begin with by number.
const MAX_LAST: u64 = 10_000;
/// How many names of streams are asked for at a time.
const NAMES: usize = 200;
/// How many appends may happen while a tail reads what was there before.
const MAX_LATER: usize = 1_000_000;

/// A walk over the streams by name.
pub(super) struct Walk {
    /// The log's end before it.
    pub(super) start: Cursor,
    pub(super) later: Later,
    /// Names that are next, in falling order.
    names: Vec<StreamName>,
    /// The last name that was taken.
    name: Option<StreamName>,
    /// The stream that is being read, and behind which entry.
    pub(super) stream: Option<(StreamName, EntryId)>,
    done: bool,
}

/// What was appended since a walk began.
pub(super) struct Later {
    changes: BoxStream<'static, ledger_core::Result<Change>>,
    at: Cursor,
    pub(super) entries: HashSet<EntryId>,
}

impl Walk {
    /// A walk behind a stream's name and an entry in it.
    pub(super) fn new(
        store: &dyn Store,
        start: Cursor,
        name: Option<StreamName>,
        last: Option<EntryId>,
    ) -> Result<Self, Status> {
        Ok(Self {
            later: Later {
                changes: log(store)?.changes(start.clone()),
                at: start.clone(),
                entries: HashSet::new(),
            },
            start,
            names: Vec::new(),
            stream: name.clone().zip(last),
            name,
            done: false,
        })
    }

    /// Whether every stream has been read.
    pub(super) fn is_over(&self) -> bool {
        self.done && self.names.is_empty() && self.stream.is_none()
    }

    /// The stream to read, and behind which entry; none where every stream has been read.
    pub(super) async fn stream(
        &mut self,
        store: &dyn Store,
        pattern: Option<&GlobMatcher>,
    ) -> Result<Option<(StreamName, EntryId)>, Status> {
        if let Some(stream) = self.stream.take() {
            return Ok(Some(stream));
        }
        loop {
            if let Some(name) = self.names.pop() {
                return Ok(Some((name, EntryId(0))));
            }
            if self.done {
                return Ok(None);
            }
            let names = answer(store.streams(self.name.as_ref(), NAMES).await)?;
            self.done = names.len() < NAMES;
            self.name = names.last().cloned().or(self.name.take());
            self.names = names;
            self.names.retain(|name| matches(pattern, name));
            self.names.reverse();
        }
    }

    /// The cursor behind an entry of the walk. Empty where the stream's name is too long for one.
    pub(super) fn cursor(&self, entry: &Entry) -> String {
        let mut key = entry.id.0.to_be_bytes().to_vec();
        key.extend_from_slice(entry.stream.as_str().as_bytes());
        let start = self.start.clone();
        let cursor = Progress::Snapshot {
            start,
            key: Bytes::from(key),
        }
        .to_cursor();
        match Cursor::from_bytes(Bytes::copy_from_slice(cursor.as_bytes())) {
            Ok(cursor) => cursor.to_string(),
            Err(_) => String::new(),
        }
    }
}

impl Later {
    /// Reads the log up to what can be seen now.
    pub(super) async fn sync(&mut self, log: &dyn ChangeLog) -> Result<(), Status> {
        let head = answer(log.head().await)?;
        while self.at < head {
            let Some(change) = self.changes.next().await else {
                return Err(Status::internal("the log of changes ended"));
            };
            let change = answer(change)?;
            self.at = change.cursor;
            match change.mutation {
                Mutation::Append { entry, .. } => {
                    self.entries.insert(entry.id);
                }
                // The walk goes by name: it cannot tell whether it has met this stream.
                Mutation::Rename => {
                    return Err(refusal(
                        Code::Aborted,
                        "STREAM_RENAMED",
                        format!(
                            "a stream was renamed to {:?} while the tail read what was there \
                             before; start it again",
                            change.stream.name
                        ),
                        [],
                    ));
                }
                _ => {}
            }
            if self.entries.len() > MAX_LATER {
                return Err(refusal(
                    Code::ResourceExhausted,
                    "TAIL_TOO_SLOW",
                    format!(
                        "more than {MAX_LATER} entries were appended while the tail read what was \
                         there before; read it faster, or start it from now"
                    ),
                    [("limit", MAX_LATER.to_string())],
                ));
            }
        }
        Ok(())
    }
}

/// The newest entries of all streams that match, oldest first, without those that the log will
/// tell.
pub(super) async fn newest(
    store: &dyn Store,
    pattern: Option<&GlobMatcher>,
    terms: &Terms,
    mut walk: Walk,
    count: u64,
) -> Result<Vec<Entry>, Status> {
    if count > MAX_LAST {
        return Err(invalid(
            "last",
            format_args!("is at most {MAX_LAST} for several streams"),
        ));
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut newest = BinaryHeap::new();
    let mut bytes = 0;
    while let Some((stream, _)) = walk.stream(store, pattern).await? {
        let options = ReadOptions {
            descending: true,
            limit: Some(count),
            ..terms.filters.clone()
        };
        if count == 0 {
            break;
        }
        let page = answer(store.page(&stream, &options).await)?;
        for entry in page.entries {
            bytes += entry.payload.len();
            newest.push(Reverse(ByAge(entry)));
            if newest.len() > count
                && let Some(Reverse(ByAge(oldest))) = newest.pop()
            {
                bytes -= oldest.payload.len();
            }
        }
        if bytes > terms.message_bytes.saturating_mul(4) {
            return Err(refusal(
                Code::ResourceExhausted,
                "RESPONSE_TOO_LARGE",
                "the last entries of several streams are too large to be sorted; ask for fewer with last",
                [],
            ));
        }
    }
    walk.later.sync(log(store)?).await?;
    let sorted = newest.into_sorted_vec().into_iter().rev();
    let entries = sorted.map(|Reverse(ByAge(entry))| entry);
    Ok(entries
        .filter(|entry| !walk.later.entries.contains(&entry.id))
        .collect())
}

/// An entry in the order of time.
struct ByAge(Entry);

impl ByAge {
    fn key(&self) -> (ledger_core::Timestamp, EntryId) {
        (self.0.created_at, self.0.id)
    }
}

impl PartialEq for ByAge {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ByAge {}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

pub(super) fn matches(pattern: Option<&GlobMatcher>, stream: &StreamName) -> bool {
    pattern.is_none_or(|pattern| pattern.is_match(stream.as_str()))
}

pub(super) fn log(store: &dyn Store) -> Result<&dyn ChangeLog, Status> {
    store.log().ok_or_else(|| status(&no_log(store)))
}
