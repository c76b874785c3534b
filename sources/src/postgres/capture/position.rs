//! Positions in the write-ahead log.

use ledger_core::{Cursor, Error, ErrorKind, Result};

/// The tag of cursors of a write-ahead log.
const TAG: u8 = b'w';

/// How long a position is as bytes; its timeline, where it is told, stands behind.
const BYTES: usize = 24;

/// A position of a capture. Its cursor's byte order is its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    /// Between transactions: every one whose commit record begins below is behind it. Within one:
    /// where its commit record begins.
    pub(super) commit: u64,
    /// The number of the change within its transaction; 0 between transactions.
    pub(super) ordinal: u64,
    /// Of items that stand between two of the log's: their number from 1.
    pub(super) beside: u64,
}

impl Position {
    /// Between transactions.
    pub(super) fn between(commit: u64) -> Self {
        Self {
            commit,
            ..Self::default()
        }
    }

    /// The next position of something that is not in the log itself.
    #[must_use]
    pub(super) fn next_beside(self) -> Self {
        Self {
            beside: self.beside + 1,
            ..self
        }
    }

    /// Up to where the log may be forgotten, where that can be told.
    pub(super) fn boundary(self) -> Option<u64> {
        (self.ordinal == 0).then_some(self.commit)
    }

    /// The position as a cursor.
    pub(super) fn to_cursor(self) -> Cursor {
        Cursor::new(TAG, &self.to_bytes())
    }

    /// The position as a cursor that tells on which timeline it was met.
    pub(super) fn to_cursor_on(self, timeline: u32) -> Cursor {
        let mut bytes = [0; BYTES + 4];
        let (position, on) = bytes.split_at_mut(BYTES);
        position.copy_from_slice(&self.to_bytes());
        on.copy_from_slice(&timeline.to_be_bytes());
        Cursor::new(TAG, &bytes)
    }

    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let parts = [self.commit, self.ordinal, self.beside];
        for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_be_bytes());
        }
        bytes
    }

    /// The timeline on which a cursor's position was met, where it tells that.
    pub(super) fn timeline_of(cursor: &Cursor) -> Option<u32> {
        let timeline = cursor.position(TAG).ok()?.get(BYTES..)?;
        Some(u32::from_be_bytes(timeline.try_into().ok()?))
    }

    /// Reads it back; `SourceDiverged` for the cursor of another kind of log.
    pub(super) fn from_cursor(cursor: &Cursor) -> Result<Self> {
        let bytes = cursor.position(TAG)?;
        let mut parts = bytes.chunks_exact(8).map(|part| {
            let part = part.try_into().unwrap_or_default();
            u64::from_be_bytes(part)
        });
        let known = [BYTES, BYTES + 4].contains(&bytes.len());
        match (known, parts.next(), parts.next(), parts.next()) {
            (true, Some(commit), Some(ordinal), Some(beside)) => Ok(Self {
                commit,
                ordinal,
                beside,
            }),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "read cursor",
                format!("cursor {cursor} does not have the length of a log position"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_sort_as_positions_do_and_read_back() {
        let at = |commit, ordinal, beside| Position {
            commit,
            ordinal,
            beside,
        };
        let ascending = [
            at(0, 0, 0),
            at(7, 0, 0),
            at(7, 0, 1),
            at(7, 0, 256),
            at(7, 1, 0),
            at(7, 3, 0),
            at(300, 0, 0),
            at(u64::MAX, u64::MAX, u64::MAX),
        ];
        assert!(ascending.is_sorted());
        let cursors = ascending.map(Position::to_cursor);
        assert!(cursors.is_sorted());
        for (position, cursor) in ascending.iter().zip(&cursors) {
            assert_eq!(Position::from_cursor(cursor).unwrap(), *position);
            assert_eq!(Position::timeline_of(cursor), None);
        }
        let cursors = ascending.map(|position| position.to_cursor_on(7));
        assert!(cursors.is_sorted());
        for (position, cursor) in ascending.iter().zip(&cursors) {
            assert_eq!(Position::from_cursor(cursor).unwrap(), *position);
            assert_eq!(Position::timeline_of(cursor), Some(7));
        }
    }

    #[test]
    fn only_between_transactions_may_the_log_be_forgotten() {
        let within = Position {
            commit: 9,
            ordinal: 1,
            beside: 0,
        };
        assert_eq!(within.boundary(), None);
        assert_eq!(Position::between(9).next_beside().boundary(), Some(9));
    }
}
