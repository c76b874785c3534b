//! Cursors: positions in the log and in a copy of the content.

use ledger_core::{Cursor, EntryId, EntryKey, Error, ErrorKind, Result, StreamKey};
use uuid::Uuid;

/// The kind of this log; another kind's cursor is refused by its tag.
const LOG: u8 = b'M';
/// The kind of a copy's keys.
const COPY: u8 = b'm';

/// A position in the log: the change's number, and whose log it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) seq: u64,
    pub(super) store: Uuid,
}

impl Position {
    /// The number comes first, highest byte first, so that byte order is log order.
    pub(super) fn to_cursor(self) -> Cursor {
        Cursor::new(
            LOG,
            &[&self.seq.to_be_bytes()[..], self.store.as_bytes()].concat(),
        )
    }

    /// Reads a cursor of this store's log.
    pub(super) fn of(cursor: &Cursor, store: Uuid) -> Result<u64> {
        let bytes = cursor.position(LOG)?;
        let Some((seq, of)) = bytes.split_first_chunk::<8>() else {
            return Err(malformed(cursor));
        };
        if of != store.as_bytes() {
            let context = format!("cursor {cursor} is another store's; resync the pipeline");
            return Err(Error::new(
                ErrorKind::SourceDiverged,
                "read cursor",
                context,
            ));
        }
        Ok(u64::from_be_bytes(*seq))
    }
}

fn malformed(cursor: &Cursor) -> Error {
    Error::invalid(
        "read cursor",
        format!("cursor {cursor} is not a position in this log"),
    )
}

/// A key of a copy: first the states of all streams, then all entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyKey {
    Stream(StreamKey),
    Entry(EntryKey),
}

impl CopyKey {
    pub(super) fn to_cursor(self) -> Cursor {
        let (phase, stream, id) = match self {
            Self::Stream(key) => (0, key.0, 0),
            Self::Entry(key) => (1, key.stream.0, key.id.0),
        };
        let parts = [&[phase][..], &stream.to_be_bytes(), &id.to_be_bytes()];
        Cursor::new(COPY, &parts.concat())
    }

    pub(super) fn of(cursor: &Cursor) -> Result<Self> {
        let bytes: &[u8; 17] = cursor
            .position(COPY)?
            .try_into()
            .map_err(|_| malformed(cursor))?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(number)
        };
        let stream = StreamKey(number(1));
        match bytes[0] {
            0 => Ok(Self::Stream(stream)),
            1 => Ok(Self::Entry(EntryKey {
                stream,
                id: EntryId(number(9)),
            })),
            _ => Err(malformed(cursor)),
        }
    }
}
