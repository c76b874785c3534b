//! Positions in a change stream.
//!
//! A cursor holds the cluster time, and not the server's resume token: a token may be longer than a
//! cursor is, and does not tell the order of what stands between two events. Its digest does stand
//! in the cursor, by which an event is known again.

use ledger_core::{Cursor, Error, ErrorKind, Result};
use mongodb::bson::Timestamp;

/// The tag of cursors of a change stream.
const TAG: u8 = b'o';

/// A position of a capture. Its cursor's byte order is its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    /// The cluster time. Between events: all before it are behind the position.
    pub(super) time: u64,
    /// The number of the event among those of its time, from 1; 0 between events.
    pub(super) ordinal: u64,
    /// Of items that stand between two events: their number from 1.
    pub(super) beside: u64,
    /// A digest of the event's resume token; 0 between events.
    pub(super) digest: u64,
}

impl Position {
    /// Before the events of a time.
    pub(super) fn before(time: u64) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    /// The next position of something that is no event.
    #[must_use]
    pub(super) fn next_beside(self) -> Self {
        Self {
            beside: self.beside + 1,
            ..self
        }
    }

    /// The position as a cursor.
    pub(super) fn to_cursor(self) -> Cursor {
        let mut bytes = [0; 32];
        let parts = [self.time, self.ordinal, self.beside, self.digest];
        for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_be_bytes());
        }
        Cursor::new(TAG, &bytes)
    }

    /// Reads it back; `SourceDiverged` for the cursor of another kind of log.
    pub(super) fn from_cursor(cursor: &Cursor) -> Result<Self> {
        let bytes = cursor.position(TAG)?;
        let mut parts = bytes.chunks_exact(8).map(|part| {
            let part = part.try_into().unwrap_or_default();
            u64::from_be_bytes(part)
        });
        let mut next = || parts.next().unwrap_or(0);
        if bytes.len() != 32 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "read cursor",
                format!("cursor {cursor} does not have the length of a change stream's position"),
            ));
        }
        Ok(Self {
            time: next(),
            ordinal: next(),
            beside: next(),
            digest: next(),
        })
    }
}

/// A cluster time as one number, which sorts the same.
pub(super) fn number(time: Timestamp) -> u64 {
    u64::from(time.time) << 32 | u64::from(time.increment)
}

/// A number as a cluster time.
pub(super) fn timestamp(number: u64) -> Timestamp {
    Timestamp {
        time: u32::try_from(number >> 32).unwrap_or(u32::MAX),
        increment: u32::try_from(number & 0xffff_ffff).unwrap_or(u32::MAX),
    }
}

/// The cluster time that a resume token begins with: 0x82, the type of a timestamp in the server's
/// key strings, and eight bytes (`src/mongo/db/pipeline/resume_token.h`); none for any other form.
pub(super) fn time_of(token: &str) -> Option<u64> {
    let time = token.strip_prefix("82")?.get(..16)?;
    u64::from_str_radix(time, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_sort_as_positions_do_and_read_back() {
        let at = |time, ordinal, beside| Position {
            time,
            ordinal,
            beside,
            digest: 7,
        };
        let ascending = [
            Position::default(),
            at(7, 0, 0),
            at(7, 0, 1),
            at(7, 1, 0),
            at(7, 1, 300),
            at(7, 2, 0),
            at(u64::MAX, u64::MAX, u64::MAX),
        ];
        let cursors = ascending.map(Position::to_cursor);
        assert!(ascending.is_sorted() && cursors.is_sorted());
        for (position, cursor) in ascending.iter().zip(&cursors) {
            assert_eq!(Position::from_cursor(cursor).unwrap(), *position);
        }
        assert!(Position::from_cursor(&Cursor::new(TAG, b"short")).is_err());
    }

    #[test]
    fn a_token_begins_with_its_time() {
        let time = time_of("826655D0F3000000042B0429296E1404").unwrap();
        assert_eq!(
            timestamp(time),
            Timestamp {
                time: 0x6655_D0F3,
                increment: 4
            }
        );
        assert_eq!(number(timestamp(time)), time);
        for odd in ["", "82", "82é6655D0F30000000", "0182"] {
            assert_eq!(time_of(odd), None, "{odd}");
        }
    }
}
