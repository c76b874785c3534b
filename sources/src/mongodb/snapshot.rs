//! Copying what the store holds, in chunks.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use ledger_core::{
    Change, Cursor, EntryId, EntryKey, Error, Mutation, Result, StreamKey, StreamState, Timestamp,
};
use ledger_layout::mongodb::{Collections, MongoDatabase, entries, int_in, streams, streams_at};

/// The tag of a copy's keys.
const TAG: u8 = b'c';
/// How many streams or entries are read at once.
const CHUNK: usize = 1_000;

/// How far the copy is: behind this stream, or behind this entry of the entries that follow all
/// streams. The keys of entries sort behind those of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Streams(Option<StreamKey>),
    Entries(Option<EntryKey>),
    End,
}

impl Key {
    fn cursor(self) -> Cursor {
        let bytes = match self {
            Self::Streams(key) => [&[0], &key.unwrap_or_default().0.to_be_bytes()[..]].concat(),
            Self::Entries(key) => {
                let (stream, id) = key.map_or((0, 0), |key| (key.stream.0, key.id.0));
                [&[1], &stream.to_be_bytes()[..], &id.to_be_bytes()[..]].concat()
            }
            Self::End => vec![2],
        };
        Cursor::new(TAG, &bytes)
    }

    fn from_cursor(cursor: &Cursor) -> Result<Self> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let parse = |bytes: &[u8]| match bytes.split_first()? {
            (0, key) => Some(Self::Streams(Some(StreamKey(number(key)?)))),
            (1, key) => {
                let (stream, id) = key.split_at_checked(8)?;
                let key = EntryKey {
                    stream: StreamKey(number(stream)?),
                    id: EntryId(number(id)?),
                };
                Some(Self::Entries(Some(key)))
            }
            _ => None,
        };
        parse(cursor.position(TAG)?).ok_or_else(|| {
            Error::invalid(
                "read snapshot",
                format!("{cursor} is not a key of a snapshot"),
            )
        })
    }
}

struct Copy {
    database: MongoDatabase,
    collections: Arc<Collections>,
    at: Key,
    chunk: VecDeque<Change>,
}

/// See [`ChangeLog::snapshot`](ledger_core::ChangeLog::snapshot).
pub(super) fn snapshot(
    database: MongoDatabase,
    collections: Arc<Collections>,
    after: Option<&Cursor>,
) -> BoxStream<'static, Result<Change>> {
    let at = match after.map(Key::from_cursor) {
        None => Key::Streams(None),
        Some(Ok(at)) => at,
        Some(Err(error)) => return stream::once(async { Err(error) }).boxed(),
    };
    let copy = Copy {
        database,
        collections,
        at,
        chunk: VecDeque::new(),
    };
    stream::try_unfold(copy, |mut copy| async move {
        Ok(copy.next().await?.map(|change| (change, copy)))
    })
    .boxed()
}

impl Copy {
    async fn next(&mut self) -> Result<Option<Change>> {
        loop {
            if let Some(change) = self.chunk.pop_front() {
                return Ok(Some(change));
            }
            match self.at {
                Key::Streams(after) => self.read_streams(after).await?,
                Key::Entries(after) => self.read_entries(after).await?,
                Key::End => return Ok(None),
            }
        }
    }

    async fn read_streams(&mut self, after: Option<StreamKey>) -> Result<()> {
        let states = streams(&self.database, &self.collections, after, CHUNK).await?;
        self.at = match states.last() {
            Some(state) => Key::Streams(Some(state.stream.key)),
            None => Key::Entries(None),
        };
        let at = Timestamp::now();
        self.chunk.extend(states.into_iter().map(|state| Change {
            cursor: Key::Streams(Some(state.stream.key)).cursor(),
            committed_at: at,
            stream: state.stream.clone(),
            mutation: Mutation::Stream(state),
        }));
        Ok(())
    }

    async fn read_entries(&mut self, after: Option<EntryKey>) -> Result<()> {
        let records = entries(&self.database, &self.collections, after, None, CHUNK).await?;
        let keys: BTreeSet<i64> = records
            .iter()
            .map(|record| int_in(record.key.stream.0))
            .collect();
        let keys: Vec<i64> = keys.into_iter().collect();
        let states = streams_at(&self.database, None, &self.collections.streams, &keys).await?;
        self.at = match records.last() {
            Some(record) => Key::Entries(Some(record.key)),
            None => Key::End,
        };
        for record in records {
            let of = |state: &StreamState| state.stream.key.cmp(&record.key.stream);
            // Streams are never removed, so each is there.
            let Some(state) = states
                .binary_search_by(of)
                .ok()
                .and_then(|at| states.get(at))
            else {
                continue;
            };
            self.chunk.push_back(Change {
                cursor: Key::Entries(Some(record.key)).cursor(),
                committed_at: record.entry.created_at,
                stream: state.stream.clone(),
                mutation: Mutation::Append {
                    entry: Box::new(record.entry),
                    version: 0,
                },
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_copy_parse_back_and_sort_in_its_order() {
        let entry = |stream, id| {
            Key::Entries(Some(EntryKey {
                stream: StreamKey(stream),
                id: EntryId(id),
            }))
        };
        let keys = [
            Key::Streams(Some(StreamKey(1))),
            Key::Streams(Some(StreamKey(u64::MAX))),
            entry(1, 9),
            entry(2, 3),
        ];
        for pair in keys.windows(2) {
            assert!(pair[0].cursor() < pair[1].cursor());
        }
        for key in keys {
            assert_eq!(Key::from_cursor(&key.cursor()).unwrap(), key);
        }
        assert!(Key::from_cursor(&Cursor::new(TAG, &[0, 1])).is_err());
    }
}
