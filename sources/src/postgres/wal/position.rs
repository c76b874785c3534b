//! Positions of a store's changes in the write-ahead log.

use ledger_core::{Cursor, Error, ErrorKind, Result};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

/// The tag of cursors of a store whose log is the write-ahead log.
const TAG: u8 = b'l';

/// The length of a cursor's position.
const LENGTH: usize = 28;

/// A position; its cursor's byte order is its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    /// Where the commit record of the transaction begins.
    pub(super) commit: u64,
    /// The number of the message in the transaction, from 1; 0 before all of them.
    pub(super) ordinal: u32,
    /// The highest entry id up to here, by which it is counted what is behind.
    pub(super) id: u64,
    /// A digest of the transaction; 0 before all of its messages.
    pub(super) digest: u32,
}

impl Position {
    /// The position before the first change.
    pub(super) const START: Self = Self {
        commit: 0,
        ordinal: 0,
        id: 0,
        digest: 0,
    };

    /// Before everything of the transactions whose commit records begin here or behind.
    pub(super) fn before(commit: u64, id: u64) -> Self {
        Self {
            commit,
            id,
            ..Self::START
        }
    }

    /// The position as a cursor of this store, which no other store takes for its own.
    pub(super) fn to_cursor(self, store: &Uuid) -> Cursor {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(&self.commit.to_be_bytes());
        bytes.extend_from_slice(&self.ordinal.to_be_bytes());
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(&self.digest.to_be_bytes());
        let seal = seal(store, &bytes);
        bytes.extend_from_slice(&seal.to_be_bytes());
        Cursor::new(TAG, &bytes)
    }

    /// Reads it back; `SourceDiverged` for the cursor of another kind of log, or of another store.
    pub(super) fn from_cursor(cursor: &Cursor, store: &Uuid) -> Result<Self> {
        const OPERATION: &str = "read cursor";
        let malformed = || {
            let what =
                format!("cursor {cursor} does not have the length of a position in this log");
            Error::invalid(OPERATION, what)
        };
        let bytes: &[u8; LENGTH] = cursor.position(TAG)?.try_into().map_err(|_| malformed())?;
        let (position, sealed) = bytes.split_at(LENGTH - 4);
        if seal(store, position).to_be_bytes() != sealed {
            return Err(Error::new(
                ErrorKind::SourceDiverged,
                OPERATION,
                format!("cursor {cursor} is of another store; resync the pipeline"),
            ));
        }
        let number = |range: std::ops::Range<usize>| {
            let bytes = position.get(range).unwrap_or_default();
            bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        let small = |range| u32::try_from(number(range)).unwrap_or(0);
        Ok(Self {
            commit: number(0..8),
            ordinal: small(8..12),
            id: number(12..20),
            digest: small(20..24),
        })
    }
}

fn seal(store: &Uuid, position: &[u8]) -> u32 {
    let mut hash = Xxh3::new();
    hash.update(store.as_bytes());
    hash.update(position);
    low(hash.digest())
}

/// The digest of a transaction, by which its history is known again.
pub(super) fn digest(commit: u64, at: i64) -> u32 {
    let mut hash = Xxh3::new();
    hash.update(&commit.to_be_bytes());
    hash.update(&at.to_be_bytes());
    // 0 stands for none.
    low(hash.digest()).max(1)
}

fn low(digest: u64) -> u32 {
    u32::try_from(digest & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn position()(commit: u64, ordinal: u32, id: u64, digest: u32) -> Position {
            Position { commit, ordinal, id, digest }
        }
    }

    proptest! {
        #[test]
        fn cursors_sort_as_positions_do_and_read_back(a in position(), b in position()) {
            let store = Uuid::from_u128(7);
            let (cursor, other) = (a.to_cursor(&store), b.to_cursor(&store));
            prop_assert_eq!(Position::from_cursor(&cursor, &store).unwrap(), a);
            prop_assert_eq!(a.cmp(&b), cursor.cmp(&other));
        }

        #[test]
        fn another_stores_cursor_or_a_damaged_one_is_refused(a in position(), at in 0_usize..28, bit in 0_u8..8) {
            let store = Uuid::from_u128(7);
            let cursor = a.to_cursor(&store);
            let foreign = Position::from_cursor(&cursor, &Uuid::from_u128(8)).unwrap_err();
            prop_assert_eq!(foreign.kind(), ErrorKind::SourceDiverged);
            let mut bytes = cursor.as_bytes().to_vec();
            bytes[at + 1] ^= 1 << bit;
            let damaged = Cursor::from_bytes(bytes).unwrap();
            prop_assert!(Position::from_cursor(&damaged, &store).is_err());
        }
    }

    #[test]
    fn the_start_is_before_all_and_before_a_transaction_is_before_its_messages() {
        let store = Uuid::from_u128(7);
        let start = Position::START.to_cursor(&store);
        let before = Position::before(9, 4).to_cursor(&store);
        let first = Position {
            ordinal: 1,
            ..Position::before(9, 1)
        };
        assert!(start < before && before < first.to_cursor(&store));
    }
}
