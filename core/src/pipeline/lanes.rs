use std::mem;
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::batch::Filling;
use super::{BatchOptions, Batched, Step};
use crate::{Cursor, Error, ErrorKind, Item, Result};

/// Steps spread over lanes that deliver side by side.
///
/// - Items of one key share a lane, whatever else changes, so their order is kept; between keys of
///   different lanes it is not.
/// - A lane has one delivery in flight and one batch that fills. An item whose lane has no room
///   holds back everything behind it, so memory is bounded by two batches a lane.
/// - Every batch's `ack` is the lowest position over all lanes. With more than one lane it may be
///   lower than that of a batch before: whatever stores it keeps the highest.
/// - With more than one lane a [barrier](Item::is_barrier) waits until all lanes are drained, goes
///   alone, and nothing behind it starts before it is durable. A single lane needs no barriers.
#[derive(Debug)]
#[must_use = "a pipeline does nothing until it delivers"]
pub struct Lanes<S> {
    steps: S,
    lanes: usize,
}

impl<S> Lanes<S> {
    pub(super) fn new(steps: S, lanes: usize) -> Self {
        Self {
            steps,
            lanes: lanes.max(1),
        }
    }

    /// Gathers items into batches, in each lane for itself. See [`BatchOptions`].
    pub fn batch(self, options: BatchOptions) -> Batched<S> {
        Batched::new(self.steps, self.lanes, options)
    }
}

/// The lanes with all that is read and not yet durable.
#[derive(Debug)]
pub(super) struct LaneSet<T> {
    lanes: Vec<Lane<T>>,
    options: BatchOptions,
    /// The last position that went into a lane or was empty; what is held is not part of it.
    read: Option<Cursor>,
    held: Option<Held<T>>,
    /// A barrier is in a lane and not yet durable.
    alone: bool,
}

#[derive(Debug)]
struct Lane<T> {
    filling: Filling<T>,
    in_flight: Option<InFlight>,
    /// The end of the last batch's range.
    through: Option<Cursor>,
    /// When the last delivery ended.
    ended: Option<Instant>,
}

#[derive(Debug)]
struct InFlight {
    /// The position right before the first item.
    before: Option<Cursor>,
    /// A batch without items holds nobody back.
    is_empty: bool,
}

/// The item that has no room yet.
#[derive(Debug)]
struct Held<T> {
    cursor: Cursor,
    item: T,
    size: usize,
    lane: usize,
    barrier: bool,
}

/// What goes into one delivery.
#[derive(Debug)]
pub(super) struct Portion<T> {
    pub(super) lane: usize,
    pub(super) items: Vec<(Cursor, T)>,
    pub(super) bytes: usize,
    pub(super) after: Option<Cursor>,
    pub(super) through: Cursor,
    pub(super) ack: Option<Cursor>,
}

impl<T> LaneSet<T> {
    pub(super) fn new(lanes: usize, options: BatchOptions, resume_from: Option<&Cursor>) -> Self {
        let lane = || Lane {
            filling: Filling::default(),
            in_flight: None,
            through: resume_from.cloned(),
            ended: None,
        };
        Self {
            lanes: (0..lanes.max(1)).map(|_| lane()).collect(),
            options,
            read: resume_from.cloned(),
            held: None,
            alone: false,
        }
    }

    /// How far everything is either in a lane or done.
    pub(super) fn read(&self) -> Option<&Cursor> {
        self.read.as_ref()
    }

    /// Whether another step may be taken from the source.
    pub(super) fn has_room(&self) -> bool {
        self.held.is_none()
            && !self.alone
            && self
                .lanes
                .iter()
                .any(|lane| !lane.filling.is_full(&self.options))
    }

    /// Whether nothing is left to deliver or to wait for, but perhaps a position.
    pub(super) fn is_drained(&self) -> bool {
        self.held.is_none() && self.lanes.iter().all(Lane::is_drained)
    }

    /// The lanes that could begin a delivery now.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        let waits = |lane: &Lane<T>| lane.in_flight.is_none() && !lane.filling.is_empty();
        self.lanes
            .iter()
            .enumerate()
            .filter(move |(_, lane)| waits(lane))
            .map(|(index, _)| index)
    }

    /// Whether the lane's batch cannot grow before it goes.
    pub(super) fn is_sealed(&self, index: usize) -> bool {
        self.alone
            || self
                .held
                .as_ref()
                .is_some_and(|held| held.barrier || held.lane == index)
            || self
                .lanes
                .get(index)
                .is_some_and(|lane| lane.filling.is_full(&self.options))
    }

    /// Until when the lane's batch lingers if it cannot be filled; none where it goes at once.
    pub(super) fn lingers_until(&self, index: usize) -> Option<Instant> {
        if self.options.max_wait == Duration::ZERO {
            return None;
        }
        Some(self.lanes.get(index)?.ended? + self.options.max_wait)
    }

    /// Takes the lane's batch out for delivery, with or without items; none where nothing was ever
    /// read.
    pub(super) fn take(&mut self, index: usize) -> Option<Portion<T>> {
        let read = self.read.clone()?;
        let Filling {
            items,
            bytes,
            before,
        } = mem::take(&mut self.lanes.get_mut(index)?.filling);
        // What this lane holds is now part of this very batch, the rest is not.
        let lowest = self.lanes.iter().flat_map(Lane::held_back).min();
        let ack = lowest.map_or_else(|| Some(read.clone()), Clone::clone);
        let lane = self.lanes.get_mut(index)?;
        lane.in_flight = Some(InFlight {
            before,
            is_empty: items.is_empty(),
        });
        let after = lane.through.replace(read.clone());
        Some(Portion {
            lane: index,
            items,
            bytes,
            after,
            through: read,
            ack,
        })
    }

    /// The lane's delivery has ended well.
    pub(super) fn done(&mut self, index: usize, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.in_flight = None;
            lane.ended = Some(now);
        }
        if self.alone && self.is_drained() {
            self.alone = false;
        }
    }

    /// Forgets everything, after a failure.
    pub(super) fn clear(&mut self) {
        self.held = None;
        for lane in &mut self.lanes {
            lane.filling = Filling::default();
            lane.in_flight = None;
        }
    }
}

impl<T: Item> LaneSet<T> {
    /// Takes a step in: into its lane, or held back where there is no room. Only to be called with
    /// [room](Self::has_room).
    pub(super) fn admit(&mut self, step: Step<T>) -> Result<()> {
        let Step { cursor, item } = step;
        if let Some(read) = &self.read {
            let ascends = if item.is_some() {
                cursor > *read
            } else {
                cursor >= *read
            };
            if !ascends {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "read the log",
                    format!("position {cursor} came after {read}; positions must ascend"),
                ));
            }
        }
        let Some(item) = item else {
            self.read = Some(cursor);
            return Ok(());
        };
        let several = self.lanes.len() > 1;
        let held = Held {
            lane: if several {
                lane_of(&item, self.lanes.len())
            } else {
                0
            },
            barrier: several && item.is_barrier(),
            size: item.size(),
            cursor,
            item,
        };
        self.place(held);
        Ok(())
    }

    /// Puts what is held into its lane where there is room now.
    pub(super) fn admit_held(&mut self) {
        if !self.alone
            && let Some(held) = self.held.take()
        {
            self.place(held);
        }
    }

    fn place(&mut self, held: Held<T>) {
        let has_room = if held.barrier {
            self.lanes.iter().all(Lane::is_drained)
        } else {
            let lane = self.lanes.get(held.lane);
            lane.is_some_and(|lane| lane.filling.takes(held.size, &self.options))
        };
        match self.lanes.get_mut(held.lane) {
            Some(lane) if has_room => {
                self.alone = held.barrier;
                let read = held.cursor.clone();
                lane.filling
                    .push(held.cursor, held.item, held.size, self.read.as_ref());
                self.read = Some(read);
            }
            _ => self.held = Some(held),
        }
    }
}

impl<T> Lane<T> {
    fn is_drained(&self) -> bool {
        self.in_flight.is_none() && self.filling.is_empty()
    }

    /// The positions right before what is not durable here.
    fn held_back(&self) -> impl Iterator<Item = &Option<Cursor>> {
        let in_flight = self.in_flight.as_ref().filter(|batch| !batch.is_empty);
        let filling = Some(&self.filling).filter(|batch| !batch.is_empty());
        in_flight
            .map(|batch| &batch.before)
            .into_iter()
            .chain(filling.map(|batch| &batch.before))
    }
}

/// The lane of an item: by its key, and the same in every process.
fn lane_of(item: &impl Item, lanes: usize) -> usize {
    let hash = xxh3_64(&item.key().0.to_le_bytes());
    // A remainder of a number of lanes fits whatever that fits.
    usize::try_from(hash % lanes as u64).unwrap_or(0)
}
