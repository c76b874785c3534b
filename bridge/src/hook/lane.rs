//! The streams that have something to send, each by itself.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ledger_core::hook::{Plan, Queued, Settled, Waiting};
use ledger_core::{
    Change, Cursor, EntryId, Error, ErrorKind, Item as _, Mutation, Result, StreamKey, Timestamp,
};
use tokio::time::Instant;

/// The most bytes of a delivery's items, roughly; one that is larger goes alone.
const BYTES: usize = 4 << 20;

/// How deep an item's MessagePack may nest: more than any has, and far less than a stack holds.
const DEPTH: usize = 32;

/// A change that was read, at the position it is stored by.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) slot: u64,
    pub(super) change: Change,
    /// Whether it may have been sent before this run, alone unless a plan says otherwise.
    pub(super) uncertain: bool,
    pub(super) since: Instant,
}

/// A stream none of whose deliveries has failed: what it has stands in memory.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Item>,
    /// How many items at the beginning are under way.
    pub(super) under_way: usize,
    /// Whether it stands in the row of those that may send.
    pub(super) in_row: bool,
    /// The commit that must be stored before it sends.
    pub(super) after: u64,
}

/// What a lane can do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until something else happens.
    Nothing,
    /// Send so many items.
    Send(usize),
    /// Look again then.
    At(Instant),
}

/// How deliveries are formed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forming {
    pub(super) most: usize,
    pub(super) wait: Duration,
}

impl Lane {
    /// What to send next. `plans` are the deliveries of before this run, `complete` whether everything
    /// they can hold was read.
    pub(super) fn next(
        &self,
        forming: Forming,
        plans: &Plans,
        complete: bool,
        now: Instant,
    ) -> Next {
        if self.under_way > 0 {
            return Next::Nothing;
        }
        let Some(head) = self.queue.front() else {
            return Next::Nothing;
        };
        if head.uncertain {
            let Some(last) = plans.last(&head.change) else {
                return Next::Send(1);
            };
            let planned = self.queue.iter();
            let planned =
                planned.take_while(|item| entry(&item.change).is_some_and(|id| id <= last));
            let (mut count, mut whole) = (0, false);
            for item in planned {
                count += 1;
                whole |= entry(&item.change) == Some(last);
            }
            // Its end may have been trimmed since, and never come.
            if whole || complete || count < self.queue.len() {
                return Next::Send(count.max(1));
            }
            return Next::Nothing;
        }
        // What may have been sent alone does not go together with what follows.
        let certain = self.queue.iter().take_while(|item| !item.uncertain);
        let joined = joined(certain.map(|item| &item.change), forming.most);
        let whole = joined.full || joined.count < self.queue.len();
        let due = head.since + forming.wait;
        if whole || now >= due {
            Next::Send(joined.count)
        } else {
            Next::At(due)
        }
    }
}

impl Lane {
    /// Whether so many items at the beginning are noted before they are sent together: not what is
    /// sent alone, nor what may have been sent before and so is noted already.
    pub(super) fn needs_note(&self, count: usize) -> bool {
        count > 1 && self.queue.front().is_some_and(|head| !head.uncertain)
    }
}

/// How many changes at the beginning go together, and whether no more would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) count: usize,
    pub(super) full: bool,
}

/// Appends to a stream of one name go together; every other change goes alone.
pub(super) fn joined<'a>(changes: impl Iterator<Item = &'a Change>, most: usize) -> Joined {
    let (mut count, mut bytes, mut first) = (0, 0_usize, None);
    for change in changes {
        let append = matches!(change.mutation, Mutation::Append { .. });
        let head: &Change = first.get_or_insert(change);
        let same = append
            && matches!(head.mutation, Mutation::Append { .. })
            && head.stream.name == change.stream.name;
        bytes = bytes.saturating_add(change.size());
        if count > 0 && (!same || bytes > BYTES) {
            return Joined { count, full: true };
        }
        count += 1;
        if count >= most.max(1) || !append {
            return Joined { count, full: true };
        }
    }
    Joined { count, full: false }
}

/// A stream that is held up: what it has stands in the queue of the database.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: String,
    /// The last item of the delivery that is tried.
    pub(super) through: Cursor,
    pub(super) attempts: u32,
    pub(super) error: String,
    pub(super) phase: Phase,
    /// The commit that the last of its items stands in.
    pub(super) queued_in: u64,
    /// The commit that its delivery stands in.
    pub(super) noted_in: u64,
    /// The border of the last item that was queued.
    pub(super) border: Option<EntryId>,
}

/// What a stream that is held up waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The time of the next attempt.
    Due(Instant),
    /// The answer to an attempt, or what is read from the queue.
    Busy,
    /// A commit, then its next delivery is formed from the queue.
    Forms(u64),
    /// A commit, then its delivery, which the commit notes, is sent.
    Noted(u64),
    /// An operator.
    Parked,
}

impl Held {
    /// As it is stored; `due` is when its next attempt is.
    pub(super) fn stored(&self, stream: StreamKey, due: Timestamp) -> Waiting {
        Waiting {
            stream,
            name: self.name.clone(),
            through: self.through.clone(),
            attempts: self.attempts,
            next_at: due,
            parked: self.phase == Phase::Parked,
            error: self.error.clone(),
        }
    }
}

/// The entry that an append appended.
fn entry(change: &Change) -> Option<EntryId> {
    match &change.mutation {
        Mutation::Append { entry, .. } => Some(entry.id),
        _ => None,
    }
}

/// The deliveries of several entries that may have been sent before this run.
#[derive(Debug, Default)]
pub(super) struct Plans(HashMap<(StreamKey, EntryId), EntryId>);

impl Plans {
    pub(super) fn new(plans: Vec<Plan>) -> Self {
        let plans = plans.into_iter();
        Self(
            plans
                .map(|plan| ((plan.stream, plan.first), plan.last))
                .collect(),
        )
    }

    /// The last entry of the delivery that this change, which may have been sent before, was part of:
    /// by itself where no plan holds it. `open` is that of the entry before.
    pub(super) fn border(&self, change: &Change, open: Option<EntryId>) -> Option<EntryId> {
        let id = entry(change)?;
        let open = open.filter(|last| id <= *last);
        open.or_else(|| self.last(change)).or(Some(id))
    }

    /// The last entry of the delivery that begins with this change.
    fn last(&self, first: &Change) -> Option<EntryId> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(first.key(), entry(first)?)).copied()
    }
}

/// How many items at the beginning of a queue go together: those that may have been sent together
/// before, and what was never sent as any.
pub(super) fn formed(found: &[(Change, Option<EntryId>)], most: usize) -> usize {
    let Some((_, border)) = found.first() else {
        return 0;
    };
    let same = found.iter().take_while(|(_, other)| other == border);
    if border.is_some() {
        return same.count();
    }
    joined(same.map(|(change, _)| change), most).count
}

/// The plan of several appends of one stream; none for what is sent alone.
pub(super) fn plan(changes: &[Change]) -> Option<Plan> {
    let (first, [.., last]) = changes.split_first()? else {
        return None;
    };
    Some(Plan {
        stream: first.key(),
        first: entry(first)?,
        last: entry(last)?,
        begin: first.cursor.clone(),
        through: last.cursor.clone(),
    })
}

/// A change as it stands in the queue.
pub(super) fn queued(change: &Change, border: Option<EntryId>) -> Result<Queued> {
    let item = rmp_serde::to_vec(change).map_err(|error| {
        Error::new(ErrorKind::Internal, "queue item", change.describe()).with_source(error)
    })?;
    Ok(Queued {
        stream: change.key(),
        cursor: change.cursor.clone(),
        description: change.describe(),
        item: item.into(),
        letter: None,
        border,
    })
}

/// The change of an item of the queue.
pub(super) fn change(queued: &Queued) -> Result<Change> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(queued.item.as_ref());
    reader.set_max_depth(DEPTH);
    serde::Deserialize::deserialize(&mut reader).map_err(|error: rmp_serde::decode::Error| {
        Error::new(
            ErrorKind::Corrupt,
            "read hook queue",
            queued.description.clone(),
        )
        .with_source(error)
    })
}

/// How far streams were met, as long as the cursor does not tell: a copy meets what the log tells
/// again, and behind a cursor stands what was settled before.
#[derive(Debug, Default)]
pub(super) struct Met(HashMap<StreamKey, (EntryId, Option<Cursor>)>);

impl Met {
    pub(super) fn new(settled: Vec<Settled>) -> Self {
        let settled = settled.into_iter();
        Self(
            settled
                .map(|one| (one.stream, (one.id, Some(one.through))))
                .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A delivery whose beginning the cursor has passed is settled to its end: its items are settled
    /// together. Met from its middle on, the rest would be sent otherwise than before.
    pub(super) fn cut(&mut self, plans: &[Plan], cursor: Option<&Cursor>) {
        for plan in plans {
            if cursor.is_some_and(|cursor| plan.begin <= *cursor) {
                let (known, through) = self.0.entry(plan.stream).or_default();
                *known = (*known).max(plan.last);
                *through = through.take().max(Some(plan.through.clone()));
            }
        }
    }

    /// The copy has met this one.
    pub(super) fn note(&mut self, change: &Change) {
        if let Some(id) = entry(change) {
            let (known, _) = self.0.entry(change.key()).or_default();
            *known = (*known).max(id);
        }
    }

    /// Whether this change was met already: an entry by its id, which it has in a copy and in the log;
    /// another change by its position.
    pub(super) fn has(&self, change: &Change) -> bool {
        let Some((known, through)) = self.0.get(&change.key()) else {
            return false;
        };
        match entry(change) {
            Some(id) => id <= *known,
            None => through
                .as_ref()
                .is_some_and(|through| change.cursor <= *through),
        }
    }
}

/// That a stream is settled up to this change.
pub(super) fn settled(change: &Change) -> Settled {
    Settled {
        stream: change.key(),
        id: entry(change).unwrap_or_default(),
        through: change.cursor.clone(),
    }
}
