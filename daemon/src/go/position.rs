//! How far a store has been copied.

use ledger::{Cursor, SourceId};

/// The tag of these cursors.
const TAG: u8 = b'G';

/// How far a store has been copied, and from where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The last id that was copied, or could not be.
    pub(super) id: u64,
    /// How many rows could not be kept so far. It only grows, so it may stand in a cursor.
    pub(super) refused: u64,
    /// Of which database.
    pub(super) source: u128,
}

impl Position {
    /// Before the first row.
    pub(super) fn start(source: &SourceId) -> Self {
        Self {
            id: 0,
            refused: 0,
            source: source.store.as_u128(),
        }
    }

    pub(super) fn to_cursor(self) -> Cursor {
        let mut bytes = [0; 32];
        let (id, rest) = bytes.split_at_mut(8);
        let (refused, source) = rest.split_at_mut(8);
        id.copy_from_slice(&self.id.to_be_bytes());
        refused.copy_from_slice(&self.refused.to_be_bytes());
        source.copy_from_slice(&self.source.to_be_bytes());
        Cursor::new(TAG, &bytes)
    }

    pub(super) fn from_cursor(cursor: &Cursor) -> ledger::Result<Self> {
        let bytes = cursor.position(TAG)?;
        let parts = || {
            let (id, rest) = bytes.split_first_chunk::<8>()?;
            let (refused, rest) = rest.split_first_chunk::<8>()?;
            Some(Self {
                id: u64::from_be_bytes(*id),
                refused: u64::from_be_bytes(*refused),
                source: u128::from_be_bytes(rest.try_into().ok()?),
            })
        };
        parts().ok_or_else(|| {
            let text = format!("position {cursor} of an import is cut short");
            ledger::Error::new(ledger::ErrorKind::Corrupt, "read cursor", text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_cursors_is_that_of_ids_and_they_read_back() {
        let at = |id, refused| Position {
            id,
            refused,
            source: u128::MAX,
        };
        let positions = [at(0, 0), at(1, 0), at(255, 3), at(256, 3), at(u64::MAX, 9)];
        let cursors = positions.map(Position::to_cursor);
        assert!(cursors.is_sorted());
        for (position, cursor) in positions.iter().zip(&cursors) {
            assert_eq!(Position::from_cursor(cursor).unwrap(), *position);
        }
    }

    #[test]
    fn a_position_that_is_cut_short_or_anothers_is_an_error() {
        for cursor in [Cursor::new(TAG, &[0; 31]), Cursor::new(b'F', &[0; 32])] {
            assert!(Position::from_cursor(&cursor).is_err());
        }
    }
}
