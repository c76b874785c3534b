//! Rows as the bytes of an insert.

use bytes::Bytes;
use ledger_core::{Error, Result, Row, RowChange, Value, Version};

use super::destination::{Destination, Slot};
use super::kind::push_count;
use crate::rejected::rejected;

/// The bytes of one value as the destination has them, `NULL` mark included.
pub(super) type Raw = Bytes;

/// A value that a row itself does not tell, by its place in the source's row.
#[derive(Debug, Clone)]
pub(super) enum Fill {
    /// As the source told it in an earlier row.
    Told(Value),
    /// As it is at the destination.
    Held(Raw),
}

/// Where a row comes from and where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) destination: &'a Destination,
    /// For each slot the place of its value in the row.
    pub(super) places: &'a [Option<usize>],
    pub(super) change: &'a RowChange,
}

/// What a row is at the destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) version: Version,
    pub(super) deleted: bool,
    /// What tells rows of one version apart, in a table without a key.
    pub(super) row: u128,
}

impl Target<'_> {
    /// Appends a row with its values; `fills` are those that it does not tell.
    pub(super) fn encode(
        &self,
        row: &Row,
        fills: &[(usize, Fill)],
        mark: Mark,
        to: &mut Vec<u8>,
    ) -> Result<()> {
        for (slot, place) in self.destination.slots.iter().zip(self.places) {
            let told = place
                .and_then(|place| row.get(place))
                .unwrap_or(&Value::Null);
            if *told != Value::Absent {
                self.value(slot, told, to)?;
                continue;
            }
            let fill = fills.iter().find(|(at, _)| Some(*at) == *place);
            match fill {
                Some((_, Fill::Told(value))) => self.value(slot, value, to)?,
                Some((_, Fill::Held(bytes))) => to.extend_from_slice(bytes),
                None => self.value(slot, &Value::Null, to)?,
            }
        }
        self.finish(mark, to);
        Ok(())
    }

    /// Appends a removed row, of which only the sorting key is kept.
    pub(super) fn encode_removed(&self, row: &Row, mark: Mark, to: &mut Vec<u8>) -> Result<()> {
        for (slot, place) in self.destination.slots.iter().zip(self.places) {
            match place.and_then(|place| row.get(place)) {
                Some(told) if slot.sorted => self.value(slot, told, to)?,
                _ => self.value(slot, &Value::Null, to)?,
            }
        }
        self.finish(mark, to);
        Ok(())
    }

    /// Appends the sorting key of a row, as the destination tells rows apart.
    pub(super) fn encode_key(&self, row: &Row, to: &mut Vec<u8>) -> Result<()> {
        for at in &self.destination.order {
            let slot = self.destination.slots.get(*at);
            let told = self.places.get(*at).copied().flatten();
            if let (Some(slot), Some(told)) = (slot, told.and_then(|place| row.get(place))) {
                self.value(slot, told, to)?;
            }
        }
        Ok(())
    }

    /// Whether a row is at another place of the destination than before.
    pub(super) fn moves(&self, row: &Row, before: &Row) -> bool {
        self.destination.order.iter().any(|at| {
            let place = self.places.get(*at).copied().flatten();
            let (now, then) = (
                place.and_then(|p| row.get(p)),
                place.and_then(|p| before.get(p)),
            );
            then.is_some_and(|value| *value != Value::Absent) && now != then
        })
    }

    fn finish(&self, mark: Mark, to: &mut Vec<u8>) {
        to.extend_from_slice(&mark.version.as_u128().to_le_bytes());
        to.push(u8::from(mark.deleted));
        if !self.destination.is_keyed() {
            to.extend_from_slice(&mark.row.to_le_bytes());
        }
    }

    fn value(&self, slot: &Slot, value: &Value, to: &mut Vec<u8>) -> Result<()> {
        match value {
            Value::Text(text) => {
                if !slot.sorted && !slot.kind.is_composed() {
                    to.push(0);
                }
                slot.kind
                    .encode(text, to)
                    .map_err(|refused| self.rejected(slot, refused.0))?;
                if slot.kind.is_composed() {
                    to.push(0);
                }
            }
            Value::Null | Value::Absent if slot.sorted => {
                return Err(self.rejected(slot, "is not there, and is a part of the sorting key"));
            }
            Value::Null | Value::Absent if slot.kind.is_composed() => {
                push_count(0, to);
                to.push(1);
            }
            Value::Null | Value::Absent => to.push(1),
        }
        Ok(())
    }

    fn rejected(&self, slot: &Slot, rule: &str) -> Error {
        rejected(self.change, &slot.name, rule)
    }
}
