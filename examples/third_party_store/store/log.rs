//! The log: following it, its end, and copies of the content.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use ledger_core::{
    Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryKey, Error, ErrorKind, Lag,
    Mutation, Result, SourceId, StreamState, Timestamp,
};

use super::MemoryStore;
use super::contents::{entries_after, streams_after};
use super::position::{CopyKey, Position};
use super::state::State;

/// How many changes a reader holds in memory.
const CHUNK: usize = 100;

impl State {
    /// The number of the change at this cursor, where the log can go on behind it.
    fn seq_of(&self, cursor: &Cursor) -> Result<u64> {
        let seq = Position::of(cursor, self.id)?;
        if seq > self.last_seq() {
            let context = format!("cursor {cursor} is past the log's end; resync the pipeline");
            return Err(Error::new(
                ErrorKind::SourceDiverged,
                "read the log",
                context,
            ));
        }
        if seq < self.pruned {
            let context = format!("what is behind cursor {cursor} was pruned; resync the pipeline");
            return Err(Error::new(
                ErrorKind::CursorExpired,
                "read the log",
                context,
            ));
        }
        Ok(seq)
    }

    /// The changes behind a position, up to a chunk.
    fn changes_after(&self, after: &Cursor) -> Result<VecDeque<Change>> {
        let skip = usize::try_from(self.seq_of(after)? - self.pruned).unwrap_or(usize::MAX);
        Ok(self.log.iter().skip(skip).take(CHUNK).cloned().collect())
    }
}

/// A reader of the log.
struct Reader {
    store: MemoryStore,
    after: Cursor,
    ahead: VecDeque<Change>,
}

impl Reader {
    /// The next change; waits for one.
    async fn next(&mut self) -> Result<Change> {
        // Subscribed before looking, so that no commit falls between looking and waiting.
        let mut committed = self.store.shared.committed.subscribe();
        let mut closed = self.store.closed.subscribe();
        loop {
            self.store.check_open()?;
            if let Some(change) = self.ahead.pop_front() {
                self.after = change.cursor.clone();
                return Ok(change);
            }
            committed.mark_unchanged();
            self.ahead = self.store.view(|state| state.changes_after(&self.after))?;
            if self.ahead.is_empty() {
                tokio::select! {
                    _ = committed.changed() => {}
                    _ = closed.changed() => {}
                }
            }
        }
    }
}

#[async_trait]
impl ChangeLog for MemoryStore {
    async fn identity(&self) -> Result<SourceId> {
        self.view(|state| {
            Ok(SourceId {
                store: state.id,
                system: "memory".into(),
                timeline: 1,
                origins: Vec::new(),
            })
        })
    }

    fn start(&self) -> Cursor {
        Position {
            seq: 0,
            store: self.shared.lock().id,
        }
        .to_cursor()
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        let reader = Reader {
            store: self.clone(),
            after,
            ahead: VecDeque::new(),
        };
        // After an error the stream ends.
        stream::try_unfold(reader, |mut reader| async {
            let change = reader.next().await?;
            Ok(Some((change, reader)))
        })
        .boxed()
    }

    async fn head(&self) -> Result<Cursor> {
        // A place in the log is drawn at the commit, so nobody can still write below the end.
        self.view(|state| {
            Ok(Position {
                seq: state.last_seq(),
                store: state.id,
            }
            .to_cursor())
        })
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        self.view(|state| {
            let seq = state.seq_of(after)?;
            let skip = usize::try_from(seq - state.pruned).unwrap_or(usize::MAX);
            let oldest = state.log.get(skip).map(|change| change.committed_at);
            Ok(Lag {
                entries: state.last_seq() - seq,
                age: oldest.map_or(Duration::ZERO, |oldest| Timestamp::now().since(oldest)),
                held_by: Vec::new(),
                bytes: None,
            })
        })
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        let store = self.clone();
        let after = match after.as_ref().map(CopyKey::of).transpose() {
            Ok(after) => after,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        // Each chunk is read anew, so that a slow reader of the copy holds nothing up.
        stream::try_unfold((store, after), |(store, after)| async move {
            let chunk = store.view(|state| Ok(chunk(state, after)))?;
            Ok(chunk.map(|(changes, last)| {
                (
                    stream::iter(changes.into_iter().map(Ok)),
                    (store, Some(last)),
                )
            }))
        })
        .try_flatten()
        .boxed()
    }

    async fn size(&self) -> Result<u64> {
        self.view(|state| {
            Ok(state
                .streams
                .values()
                .map(|stream| stream.stat().count)
                .sum())
        })
    }

    fn contents(&self) -> &dyn Contents {
        self
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }
}

/// The next changes of a copy and the last one's key; none at its end.
fn chunk(state: &State, after: Option<CopyKey>) -> Option<(Vec<Change>, CopyKey)> {
    let at = Timestamp::now();
    let after = match after {
        Some(CopyKey::Entry(key)) => Some(key),
        None | Some(CopyKey::Stream(_)) => {
            let after = match after {
                Some(CopyKey::Stream(key)) => Some(key),
                _ => None,
            };
            let states: Vec<StreamState> = streams_after(state, after).take(CHUNK).collect();
            if let Some(last) = states.last() {
                let last = CopyKey::Stream(last.stream.key);
                let changes = states.into_iter().map(|state| Change {
                    cursor: CopyKey::Stream(state.stream.key).to_cursor(),
                    committed_at: at,
                    stream: state.stream.clone(),
                    mutation: Mutation::Stream(state),
                });
                return Some((changes.collect(), last));
            }
            None::<EntryKey>
        }
    };
    let mut last = None;
    let mut changes = Vec::new();
    for (stream, record) in entries_after(state, after).take(CHUNK) {
        let key = CopyKey::Entry(record.key);
        last = Some(key);
        changes.push(Change {
            cursor: key.to_cursor(),
            committed_at: at,
            stream: stream.state.stream.clone(),
            mutation: Mutation::Append {
                entry: Box::new(record.entry),
                version: 0,
            },
        });
    }
    last.map(|last| (changes, last))
}
