//! Going through the changes of one table for what each of them does not tell.

use std::collections::{HashMap, HashSet};

use ledger_core::{CopyState, Result, Row, RowChange, RowOp, Value, Version};

use super::destination::Destination;
use super::images::{Fills, Image, Waiting, wanted};
use super::rows::{Fill, Target};
use super::work::Places;
use crate::rejected::rejected;

/// What the batch itself says of a key.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// The row that this change has written.
    Row(usize),
    /// Nothing that could be relied on.
    Unknown,
}

/// Where a row's values are that a change does not tell.
enum Origin<'a> {
    /// In an earlier change of the batch.
    Batch(usize),
    /// At the destination, under the key before.
    Held(&'a Image),
    /// At the destination, under the new key.
    New(&'a Image),
    /// It does not matter: the destination has a newer row of this key. That one's values are not
    /// those of this change, so nothing is written, and nothing taken from it further on.
    Hidden,
    /// Nowhere.
    Nowhere,
}

impl Origin<'_> {
    fn is_under_new_key(&self) -> bool {
        matches!(self, Self::New(_))
    }
}

/// The walk over the changes of one table.
pub(super) struct Walk<'a> {
    pub(super) destination: &'a Destination,
    pub(super) items: &'a [(usize, &'a RowChange)],
    pub(super) places: &'a [Places],
    pub(super) keys: Vec<Option<Keys>>,
}

/// The keys of a row after and before a change, as the destination writes them.
pub(super) struct Keys {
    new: Vec<u8>,
    /// Where it is another one.
    old: Option<Vec<u8>>,
}

impl Keys {
    fn before(&self) -> &[u8] {
        self.old.as_ref().unwrap_or(&self.new)
    }
}

impl<'a> Walk<'a> {
    fn target(&self, at: usize) -> Option<Target<'a>> {
        Some(Target {
            destination: self.destination,
            places: self.places.get(at)?,
            change: self.items.get(at)?.1,
        })
    }

    pub(super) fn keys(&mut self) -> Result<()> {
        for (at, (_, change)) in self.items.iter().enumerate() {
            let Some(target) = self.target(at) else {
                continue;
            };
            let key = |row: &Row| {
                let mut key = Vec::new();
                target.encode_key(row, &mut key).map(|()| key)
            };
            let keys = match &change.op {
                RowOp::Insert(row) | RowOp::Delete(row) => Some(Keys {
                    new: key(row)?,
                    old: None,
                }),
                RowOp::Update { row, before } => Some(Keys {
                    new: key(row)?,
                    old: match before {
                        Some(before) if target.moves(row, before) => Some(key(before)?),
                        _ => None,
                    },
                }),
                _ => None,
            };
            self.keys.push(keys);
        }
        Ok(())
    }

    /// The keys whose rows the batch does not tell, and the slots that are asked of them.
    pub(super) fn unknown(&self) -> (Vec<&[u8]>, Vec<usize>) {
        // Of these the batch tells every value.
        let mut told: HashSet<&[u8]> = HashSet::new();
        let mut asked: HashSet<&[u8]> = HashSet::new();
        let mut slots = HashSet::new();
        for (at, ((_, change), keys)) in self.items.iter().zip(&self.keys).enumerate() {
            let Some(keys) = keys else {
                continue;
            };
            let wanted = wanted(change, self.destination.soft_delete);
            if wanted.is_empty() || told.contains(keys.before()) {
                told.insert(&keys.new);
                continue;
            }
            asked.insert(keys.before());
            asked.insert(&keys.new);
            told.remove(keys.new.as_slice());
            let places = self.places.get(at).map_or(&[][..], |places| places);
            let places = places.iter().enumerate();
            slots.extend(
                places
                    .filter(|(_, place)| place.is_some_and(|place| wanted.contains(&place)))
                    .map(|(slot, _)| slot),
            );
        }
        let mut slots: Vec<usize> = slots.into_iter().collect();
        slots.sort_unstable();
        (asked.into_iter().collect(), slots)
    }

    /// Goes through the changes in their order and gives each what it lacks.
    pub(super) fn fill(
        &self,
        images: &HashMap<Vec<u8>, Image>,
        copy: Option<&CopyState>,
        boundary: u128,
    ) -> Result<Fills> {
        let mut fills = Fills::default();
        let mut last: HashMap<&[u8], Last> = HashMap::new();
        let mut boundary = boundary;
        let mut copy = copy;
        // What is there from before a copy began may have changed unseen.
        let begun = |copy: &CopyState| Version::new(copy.point(), 0).as_u128();
        boundary = boundary.max(copy.map_or(0, begun));
        for (at, (item, change)) in self.items.iter().enumerate() {
            match &change.op {
                RowOp::Truncate => {
                    last.clear();
                    boundary = boundary.max(change.version.as_u128());
                }
                RowOp::Copied(state) => {
                    copy = Some(state);
                    boundary = boundary.max(begun(state));
                }
                _ => {}
            }
            let keys = self.keys.get(at).and_then(Option::as_ref);
            let wanted = wanted(change, self.destination.soft_delete);
            if !wanted.is_empty() {
                let origin = self.origin(at, &last, images, boundary);
                let copying = is_copying(copy, change.version);
                let moved = keys.is_some_and(|keys| keys.old.is_some());
                let mut found = Vec::with_capacity(wanted.len());
                let (mut missing, mut unsure) = (None, Vec::new());
                let lacks = wanted.len();
                for place in wanted {
                    match self.value(at, place, &origin, &fills) {
                        // While a table is copied, what the destination holds of a key may be from
                        // after the change. Its own log sets that right, under that key only.
                        Some(fill @ Fill::Held(_))
                            if copying && moved && !origin.is_under_new_key() =>
                        {
                            missing = Some(place);
                            unsure.push((place, fill));
                        }
                        Some(fill) => found.push((place, fill)),
                        None => missing = Some(place),
                    }
                }
                if !unsure.is_empty() {
                    unsure.extend(found.iter().cloned());
                }
                let held = (unsure.len() == lacks).then_some(unsure);
                fills.by_item.insert(*item, found);
                if let Some(place) = missing {
                    if matches!(origin, Origin::Hidden) {
                        fills.skipped.insert(*item);
                    } else {
                        let waiting = Waiting { item: *item, held };
                        Self::absent((waiting, change), place, copy, moved, &mut fills)?;
                    }
                }
            }
            if let Some(keys) = keys {
                if let Some(old) = &keys.old {
                    last.insert(old, Last::Unknown);
                }
                let written = !matches!(change.op, RowOp::Delete(_)) && !fills.skips(*item);
                let now = if written {
                    Last::Row(at)
                } else {
                    Last::Unknown
                };
                last.insert(&keys.new, now);
            }
        }
        Ok(fills)
    }

    /// Where the values are that the row had before the change `at`.
    fn origin<'i>(
        &self,
        at: usize,
        last: &HashMap<&[u8], Last>,
        images: &'i HashMap<Vec<u8>, Image>,
        boundary: u128,
    ) -> Origin<'i> {
        let keys = self.keys.get(at).and_then(Option::as_ref);
        let (Some(keys), Some((_, change))) = (keys, self.items.get(at)) else {
            return Origin::Nowhere;
        };
        let told = last.get(keys.before());
        if let Some(Last::Row(earlier)) = told {
            return Origin::Batch(*earlier);
        }
        let version = change.version.as_u128();
        let new = images.get(&keys.new);
        match new {
            Some(image) if image.version > version => return Origin::Hidden,
            // This very row, of a delivery before.
            Some(image) if image.version == version => return Origin::New(image),
            _ => {}
        }
        let lives = |image: &&Image| !image.deleted && image.version >= boundary;
        // A copied row under the new key was read after the change: the log would have removed it
        // before otherwise. One under the old key may be another row by now.
        let copied = new.filter(|image| {
            lives(image) && is_copied(image.version) && !last.contains_key(keys.new.as_slice())
        });
        if let (Some(image), Some(_)) = (copied, &keys.old) {
            return Origin::New(image);
        }
        let before = images.get(keys.before());
        // What the batch has removed or hidden says nothing any more.
        let before = before.filter(|image| told.is_none() && lives(image));
        let before = before.filter(|image| image.version < version);
        before.map_or(Origin::Nowhere, Origin::Held)
    }

    /// A value that the change `at` does not tell.
    fn value(&self, at: usize, place: usize, origin: &Origin<'_>, fills: &Fills) -> Option<Fill> {
        let (_, change) = self.items.get(at)?;
        if let RowOp::Update {
            before: Some(before),
            ..
        } = &change.op
            && let Some(value) = before.get(place)
            && *value != Value::Absent
        {
            return Some(Fill::Told(value.clone()));
        }
        match origin {
            Origin::Batch(earlier) => self.told(at, *earlier, place, fills),
            Origin::Held(image) | Origin::New(image) => {
                let places = self.places.get(at)?;
                let slot = places.iter().position(|other| *other == Some(place))?;
                image.values.get(&slot).cloned().map(Fill::Held)
            }
            Origin::Hidden | Origin::Nowhere => None,
        }
    }

    /// The value that an earlier change of the batch has written.
    fn told(&self, at: usize, earlier: usize, place: usize, fills: &Fills) -> Option<Fill> {
        let (_, change) = self.items.get(at)?;
        let (item, before) = self.items.get(earlier)?;
        // The earlier one may be of an older shape.
        let name = &change.table.columns.get(place)?.name;
        let column = |column: &ledger_core::Column| column.name == *name;
        let place = before.table.columns.iter().position(column)?;
        let (RowOp::Insert(row) | RowOp::Update { row, .. }) = &before.op else {
            return None;
        };
        match row.get(place)? {
            Value::Absent => {
                let mut found = fills.of(*item).iter();
                found
                    .find(|(other, _)| *other == place)
                    .map(|(_, fill)| fill.clone())
            }
            value => Some(Fill::Told(value.clone())),
        }
    }

    /// What to do about a row of which too little is known.
    fn absent(
        (waiting, change): (Waiting, &RowChange),
        place: usize,
        copy: Option<&CopyState>,
        moved: bool,
        fills: &mut Fills,
    ) -> Result<()> {
        // Of a removed row that is only kept to be seen, what is not known is NULL.
        if matches!(change.op, RowOp::Delete(_)) {
            return Ok(());
        }
        let copying = is_copying(copy, change.version);
        if copying && !matches!(copy, Some(CopyState::Done { .. })) {
            fills.skipped.insert(waiting.item);
            fills.deferred.push(waiting);
            return Ok(());
        }
        // The copy would hold the row if it had still been there when its key was read; so the log
        // removes it before the copy's end, and until then nobody relies on it. One that came to its
        // key by a change may have been missed everywhere.
        if copying && !moved {
            fills.skipped.insert(waiting.item);
            return Ok(());
        }
        let column = change.table.columns.get(place).map_or("", |c| &c.name);
        let why = if copying {
            "its key was changed while the table was being copied"
        } else {
            "there is no earlier row to take it from"
        };
        let rule = format!(
            "was not changed and is therefore not told, and {why}; set REPLICA IDENTITY FULL, or \
             copy the table anew ({})",
            ledger_layout::tables::resync(&change.table.name)
        );
        Err(rejected(change, column, &rule))
    }
}

/// Whether a version is of a time at which the table was copied, or before.
fn is_copying(copy: Option<&CopyState>, version: Version) -> bool {
    match copy {
        Some(CopyState::Done { through, .. }) => version.commit < *through,
        Some(CopyState::Begun { .. } | CopyState::Upto { .. }) => true,
        None => false,
    }
}

/// Whether a version is that of a copied row.
fn is_copied(version: u128) -> bool {
    let low = u64::try_from(version & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    low == Version::default().ordinal
}
