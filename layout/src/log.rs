//! The stored form of the mutation log, the same on every backend that keeps one in a table.
//!
//! A row stands for one mutation of one stream; an append of many entries is one row (large ones
//! are split, see [`split`]), whose body holds the entries and whose `ids` tell which id each got.
//! The body is MessagePack.

mod body;

use bytes::Bytes;
use ledger_core::{
    Change, Cursor, EntryId, Error, ErrorKind, Mutation, NewEntry, Result, StreamRef, StreamState,
    Timestamp,
};
use xxhash_rust::xxh3::Xxh3;

pub(crate) use body::{Told, encode_state, encode_told};
use body::{decode, decode_entries, decode_whole};
pub use body::{encode_annotations, encode_entries, encode_tags};

/// The number that stands for `append` in a log row.
pub const APPEND: i16 = 1;
/// The number that stands for `set_tags` in a log row.
pub const SET_TAGS: i16 = 2;
/// The number that stands for `set_annotations` in a log row.
pub const SET_ANNOTATIONS: i16 = 3;
/// The number that stands for `trim` in a log row.
pub const TRIM: i16 = 4;
/// The number that stands for `rename` in a log row.
pub const RENAME: i16 = 5;
/// The number of the row at which a log begins, which stands for no change.
pub const BEGIN: i16 = 6;
/// The number that stands for the state of a stream, which a relay was given by a snapshot.
pub const STREAM: i16 = 7;
/// The number that stands for `append` where the entries are told whole, with labels and times.
pub const WHOLE: i16 = 8;

/// A row of the log, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// The place in the log, from 1.
    pub seq: i64,
    /// When it was written.
    pub at: Timestamp,
    /// The stream, with the name it had then.
    pub stream: StreamRef,
    /// One of this module's numbers.
    pub kind: i16,
    /// The ids concerned. Of an append: one an entry of the body, 0 where the entry was a
    /// duplicate; of a label: the entry's; of a trim: the highest removed.
    pub ids: Vec<i64>,
    /// Of an append: how many entries the stream ever had after it, 0 where entries that are told
    /// whole do not tell it; of a label: the entry's label version; of a stream: how many entries it
    /// ever had.
    pub version: i64,
    /// Of an append the entries, of a label all of it, of a stream how far it is trimmed; empty for the
    /// rest.
    pub body: Bytes,
}

impl LogRow {
    /// A digest of everything in the row, by which a cursor knows its own history again.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.seq.to_be_bytes());
        hash.update(&self.at.as_micros().to_be_bytes());
        hash.update(&self.stream.key.0.to_be_bytes());
        hash.update(&self.stream.name_version.to_be_bytes());
        hash.update(self.stream.name.as_str().as_bytes());
        hash.update(&self.kind.to_be_bytes());
        for id in &self.ids {
            hash.update(&id.to_be_bytes());
        }
        hash.update(&self.version.to_be_bytes());
        hash.update(&self.body);
        hash.digest()
    }

    /// How many changes the row stands for.
    pub fn changes(&self) -> usize {
        match self.kind {
            APPEND | WHOLE => self.ids.iter().filter(|id| **id != 0).count(),
            BEGIN => 0,
            _ => 1,
        }
    }

    /// The position of the row's last change.
    pub fn last_position(&self) -> Position {
        // Duplicates of an append are no changes.
        let last = self.ids.iter().rposition(|id| *id != 0).unwrap_or(0);
        let index = u32::try_from(last).unwrap_or(u32::MAX);
        Position {
            seq: self.seq,
            index,
            digest: self.digest(),
        }
    }

    /// The changes that the row stands for, behind `after` where that is given as an index of this
    /// row; an error of kind `Corrupt` names the row.
    pub fn into_changes(self, tag: u8, after: Option<u32>) -> Result<Vec<Change>> {
        let seq = self.seq;
        self.decode(tag, after)
            .map_err(|error| error.within(format!("log row {seq}")))
    }

    fn decode(self, tag: u8, after: Option<u32>) -> Result<Vec<Change>> {
        let digest = self.digest();
        let Self {
            seq,
            at,
            stream,
            kind,
            ids,
            version,
            body,
        } = self;
        let cursor = |index| Position { seq, index, digest }.to_cursor(tag);
        let first = || {
            ids.first()
                .copied()
                .ok_or_else(|| corrupt("it names no entry"))
                .and_then(entry_id)
        };
        let one = |mutation| {
            vec![Change {
                cursor: cursor(0),
                committed_at: at,
                stream: stream.clone(),
                mutation,
            }]
        };
        let version = u64::try_from(version).map_err(|_| corrupt("its version is negative"))?;
        let mut changes = match kind {
            APPEND | WHOLE => {
                let entries = if kind == WHOLE {
                    decode_whole(&body)?
                } else {
                    decode_entries(&body)?
                };
                if entries.len() != ids.len() {
                    return Err(corrupt("it has another number of ids than of entries"));
                }
                let told = kind == APPEND || version > 0;
                let kept = u64::try_from(ids.iter().filter(|id| **id != 0).count()).unwrap_or(0);
                let mut version = version
                    .checked_sub(if told { kept } else { 0 })
                    .ok_or_else(|| corrupt("its version is below its number of entries"))?;
                let mut changes = Vec::with_capacity(entries.len());
                for (index, (id, entry)) in (0_u32..).zip(ids.iter().zip(entries)) {
                    if *id == 0 {
                        continue;
                    }
                    version += u64::from(told);
                    let entry = Box::new(entry.into_entry(entry_id(*id)?, &stream, at));
                    changes.push(Change {
                        cursor: cursor(index),
                        committed_at: at,
                        stream: stream.clone(),
                        mutation: Mutation::Append { entry, version },
                    });
                }
                changes
            }
            SET_TAGS => one(Mutation::SetTags {
                id: first()?,
                label_version: version,
                tags: decode(&body)?,
            }),
            SET_ANNOTATIONS => one(Mutation::SetAnnotations {
                id: first()?,
                label_version: version,
                annotations: decode(&body)?,
            }),
            TRIM => one(Mutation::Trim { through: first()? }),
            RENAME => one(Mutation::Rename),
            STREAM => one(Mutation::Stream(StreamState {
                stream: stream.clone(),
                version,
                trimmed_through: decode(&body)?,
            })),
            BEGIN => Vec::new(),
            other => {
                return Err(corrupt(&format!(
                    "mutation {other} is not known to this version"
                )));
            }
        };
        if let Some(after) = after {
            changes.retain(|change| {
                Position::from_cursor(&change.cursor, tag).is_ok_and(|at| at.index > after)
            });
        }
        Ok(changes)
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read the mutation log", what)
}

fn entry_id(id: i64) -> Result<EntryId> {
    match u64::try_from(id) {
        Ok(id) if id > 0 => Ok(EntryId(id)),
        _ => Err(corrupt("an id is not positive")),
    }
}

/// A position in a log that is kept in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The row.
    pub seq: i64,
    /// The change within the row.
    pub index: u32,
    /// The row's [`LogRow::digest`].
    pub digest: u64,
}

impl Position {
    /// The position before the first change.
    pub const START: Self = Self {
        seq: 0,
        index: 0,
        digest: 0,
    };

    /// As a cursor of the log kind `tag`.
    pub fn to_cursor(self, tag: u8) -> Cursor {
        let mut bytes = [0; 20];
        let (seq, rest) = bytes.split_at_mut(8);
        let (index, digest) = rest.split_at_mut(4);
        // Sequences begin at 1, so the sign bit is never set and byte order is number order.
        seq.copy_from_slice(&self.seq.to_be_bytes());
        index.copy_from_slice(&self.index.to_be_bytes());
        digest.copy_from_slice(&self.digest.to_be_bytes());
        Cursor::new(tag, &bytes)
    }

    /// Reads a cursor of the log kind `tag`.
    pub fn from_cursor(cursor: &Cursor, tag: u8) -> Result<Self> {
        let malformed = || {
            Error::invalid(
                "read cursor",
                format!("cursor {cursor} is not a position in this log"),
            )
        };
        let bytes: &[u8; 20] = cursor.position(tag)?.try_into().map_err(|_| malformed())?;
        let (seq, rest) = bytes.split_first_chunk::<8>().ok_or_else(malformed)?;
        let (index, digest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let digest: &[u8; 8] = digest.try_into().map_err(|_| malformed())?;
        let seq = i64::from_be_bytes(*seq);
        if seq < 0 {
            return Err(malformed());
        }
        Ok(Self {
            seq,
            index: u32::from_be_bytes(*index),
            digest: u64::from_be_bytes(*digest),
        })
    }
}

/// The most entries of one log row.
pub const ROW_ENTRIES: usize = 1_000;
/// The size at which an append's body is split into several rows; one entry is never split.
pub const ROW_BYTES: usize = 1 << 20;

/// The borders at which an append is split into log rows: the end of each row, ascending.
pub fn split(entries: &[NewEntry]) -> Vec<usize> {
    let mut ends = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, entry) in entries.iter().enumerate() {
        if index > begin
            && (index - begin >= ROW_ENTRIES || bytes + entry.payload.len() > ROW_BYTES)
        {
            ends.push(index);
            (begin, bytes) = (index, 0);
        }
        bytes += entry.payload.len();
    }
    if !entries.is_empty() {
        ends.push(entries.len());
    }
    ends
}

/// The most ids that a row is believed to have; far above what is ever written.
const MAX_IDS: usize = 1 << 20;

/// The ids of a log row: runs of consecutive ids as (first, how many), in MessagePack. A run of
/// duplicates has the first id 0.
pub fn encode_ids(ids: &[i64]) -> Result<Vec<u8>> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some((0, count)) if *id == 0 => *count += 1,
            Some((first, count)) if *first != 0 && *id == *first + *count => *count += 1,
            _ => runs.push((*id, 1)),
        }
    }
    rmp_serde::to_vec(&runs).map_err(|error| {
        Error::new(ErrorKind::Internal, "write the mutation log", "encode").with_source(error)
    })
}

/// Reads what [`encode_ids`] made; `Corrupt` for anything else.
pub fn decode_ids(bytes: &[u8]) -> Result<Vec<i64>> {
    let runs: Vec<(i64, i64)> =
        rmp_serde::from_slice(bytes).map_err(|error| corrupt("its ids").with_source(error))?;
    let mut ids = Vec::new();
    for (first, count) in runs {
        let fits = usize::try_from(count).is_ok_and(|count| ids.len() + count <= MAX_IDS);
        let Some(end) = first.checked_add(count).filter(|_| fits && first >= 0) else {
            return Err(corrupt("its ids are not ids"));
        };
        if first == 0 {
            ids.extend((0..count).map(|_| 0));
        } else {
            ids.extend(first..end);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_log_row_survive_being_stored() {
        for ids in [
            vec![],
            vec![7],
            vec![1, 2, 3],
            vec![0, 0, 5, 6, 0, 9, 8],
            vec![i64::MAX - 1, 0, 1],
        ] {
            assert_eq!(decode_ids(&encode_ids(&ids).unwrap()).unwrap(), ids);
        }
        let bomb = rmp_serde::to_vec(&[(1_i64, 1_i64 << 40)]).unwrap();
        assert_eq!(decode_ids(&bomb).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
