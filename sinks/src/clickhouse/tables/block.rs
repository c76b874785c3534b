//! The rows of one table on their way into one insert.

use std::sync::Arc;

use ledger_core::{Error, ErrorKind, Result, RowChange, RowOp, Value, Version};
use xxhash_rust::xxh3::xxh3_128;

use super::DELIVER;
use super::decode::Reader;
use super::destination::Destination;
use super::images::Fills;
use super::rows::{Fill, Mark, Target};
use super::work::Entry;
use crate::rejected::rejected;

/// The rows of one table, as they are sent.
pub(super) struct Block {
    pub(super) table: u64,
    pub(super) destination: Arc<Destination>,
    /// Whether a row of it does not tell all of its values.
    pub(super) lacks: bool,
    pub(super) fills: Fills,
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
    /// What the last copied row of a table without a key is told by.
    copied: Option<u128>,
}

impl Block {
    /// No rows yet.
    pub(super) fn new(table: u64, destination: Arc<Destination>) -> Self {
        Self {
            table,
            destination,
            lacks: false,
            fills: Fills::default(),
            bytes: Vec::new(),
            count: 0,
            copied: None,
        }
    }

    /// Takes a change: its rows, or what it says of the table.
    pub(super) fn push(
        &mut self,
        entry: &mut Entry,
        change: &RowChange,
        cursor: &[u8],
        item: usize,
    ) -> Result<()> {
        match &change.op {
            RowOp::Truncate => entry.raise(change.version),
            RowOp::Copied(state) => entry.copied(state),
            RowOp::Shape => {}
            RowOp::Insert(_) | RowOp::Update { .. } | RowOp::Delete(_) => {
                let places = entry.places(change)?;
                let destination = Arc::clone(&self.destination);
                let target = Target {
                    destination: &destination,
                    places: &places,
                    change,
                };
                if destination.is_keyed() {
                    self.push_keyed(&target, item)?;
                } else {
                    self.push_keyless(&target, cursor, item)?;
                }
            }
        }
        Ok(())
    }

    /// A change with the values that it does not tell.
    pub(super) fn told(
        &self,
        entry: &mut Entry,
        change: &RowChange,
        fills: &[(usize, Fill)],
    ) -> Result<RowChange> {
        let places = entry.places(change)?;
        let mut told = change.clone();
        let RowOp::Update { row, .. } = &mut told.op else {
            return Ok(told);
        };
        for (place, fill) in fills {
            let slot = places.iter().position(|other| *other == Some(*place));
            let slot = slot.and_then(|slot| self.destination.slots.get(slot));
            if let (Some(slot), Some(value)) = (slot, row.get_mut(*place)) {
                *value = match fill {
                    Fill::Told(value) => value.clone(),
                    Fill::Held(bytes) => slot.read(&mut Reader::new(bytes))?,
                };
            }
        }
        Ok(told)
    }

    fn push_keyed(&mut self, target: &Target<'_>, item: usize) -> Result<()> {
        let change = target.change;
        let mark = |version: Version, deleted| Mark {
            version,
            deleted,
            row: 0,
        };
        let version = change.version;
        match &change.op {
            RowOp::Insert(row) => {
                target.encode(row, &[], mark(version, false), &mut self.bytes)?;
            }
            RowOp::Update { row, before } => {
                if let Some(before) = before
                    && target.moves(row, before)
                {
                    // Another key of the source is a change of two parts.
                    let version = if change.moves() {
                        version.removal()
                    } else {
                        version
                    };
                    let mark = mark(version, true);
                    if target.destination.soft_delete {
                        target.encode(before, self.fills.of(item), mark, &mut self.bytes)?;
                    } else {
                        target.encode_removed(before, mark, &mut self.bytes)?;
                    }
                    self.count += 1;
                }
                if self.fills.skips(item) {
                    return Ok(());
                }
                let fills = self.fills.of(item);
                target.encode(row, fills, mark(version, false), &mut self.bytes)?;
            }
            RowOp::Delete(_) if self.fills.skips(item) => return Ok(()),
            RowOp::Delete(row) => {
                let mark = mark(version, true);
                if target.destination.soft_delete {
                    target.encode(row, self.fills.of(item), mark, &mut self.bytes)?;
                } else {
                    target.encode_removed(row, mark, &mut self.bytes)?;
                }
            }
            _ => return Ok(()),
        }
        self.count += 1;
        Ok(())
    }

    /// Every change is a row of its own. Those of a copy have one version and are told apart by
    /// their positions.
    fn push_keyless(&mut self, target: &Target<'_>, cursor: &[u8], item: usize) -> Result<()> {
        let change = target.change;
        let version = change.version;
        let mark = |deleted, row| Mark {
            version,
            deleted,
            row,
        };
        let row_of_copy = if version.ordinal == 0 {
            xxh3_128(cursor)
        } else {
            0
        };
        // Two rows of one position would be one row.
        if row_of_copy != 0 && self.copied.replace(row_of_copy) == Some(row_of_copy) {
            let what = format!(
                "table {}: two copied rows have one cursor",
                change.table.name
            );
            return Err(Error::new(ErrorKind::Internal, DELIVER, what));
        }
        let written = mark(false, row_of_copy);
        let removed = mark(true, 1);
        match &change.op {
            RowOp::Insert(row) => target.encode(row, &[], written, &mut self.bytes)?,
            RowOp::Update { .. } | RowOp::Delete(_) if !target.destination.multiset => {
                let rule = "was changed in a table without a key, which only takes new rows; set \
                            REPLICA IDENTITY FULL and the table's option `keyless_changes`";
                return Err(rejected(change, "", rule));
            }
            RowOp::Update {
                row,
                before: Some(before),
            } => {
                target.encode(before, &[], removed, &mut self.bytes)?;
                self.count += 1;
                target.encode(row, self.fills.of(item), written, &mut self.bytes)?;
            }
            RowOp::Delete(row) if !row.contains(&Value::Absent) => {
                target.encode(row, &[], removed, &mut self.bytes)?;
            }
            RowOp::Update { .. } | RowOp::Delete(_) => {
                let rule = "is not told as it was before; set REPLICA IDENTITY FULL";
                return Err(rejected(change, "", rule));
            }
            _ => return Ok(()),
        }
        self.count += 1;
        Ok(())
    }
}
