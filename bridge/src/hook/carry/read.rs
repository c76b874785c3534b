//! What is read: into the lanes, the queues of streams that are held up, or nowhere.

use ledger_core::{Change, Cursor, Item as _, Mutation, Progress, Result};
use tokio::time::Instant;

use super::Carrier;
use crate::hook::HookState;
use crate::hook::lane::{self, Item, Met};

impl Carrier<'_> {
    /// Takes a change that was read.
    pub(super) fn take(&mut self, change: Change) -> Result<()> {
        let slot = self.window.push(change.cursor.clone());
        // What the log held when this run began, as far as a run before can have come.
        let uncertain = self.uncertain > 0 && !self.complete;
        self.uncertain = self.uncertain.saturating_sub(1);
        self.reads(&change.cursor);
        let stream = change.key();
        if !self.copying && !self.met.is_empty() && self.is_behind_copy(&change.cursor, false) {
            self.met = Met::default();
        }
        if self.met.has(&change) {
            self.window.settle(slot);
            return Ok(());
        }
        if self.copying {
            self.met.note(&change);
        }
        let state = matches!(change.mutation, Mutation::Stream(_));
        if state || !(self.hook.options.keep)(&change) {
            self.window.settle(slot);
            return Ok(());
        }
        if let Some(held) = self.held.get_mut(&stream) {
            held.queued_in = self.journal.number();
            held.border = if uncertain {
                self.plans.border(&change, held.border)
            } else {
                None
            };
            let queued = lane::queued(&change, held.border)?;
            self.journal.writes().queue.push(queued);
            self.settle(slot, &change, true);
            return Ok(());
        }
        self.bytes += change.size();
        let item = Item {
            slot,
            change,
            uncertain,
            since: Instant::now(),
        };
        self.lanes.entry(stream).or_default().queue.push_back(item);
        self.line_up(stream);
        Ok(())
    }

    /// Whether a position is one of the log behind everything that was copied, or `at` its end.
    pub(super) fn is_behind_copy(&self, cursor: &Cursor, or_at: bool) -> bool {
        let until = self.copied_until.as_ref();
        let at = Progress::from_cursor(cursor);
        matches!((at, until), (Ok(Progress::Follow(at)), Some(until)) if at > *until || (or_at && at == *until))
    }

    /// Whether what is settled at or before a cursor that is about to be stored is told by it. What is
    /// not is kept beside it: a restart meets it again.
    pub(super) fn tells(&mut self, cursor: &Cursor) -> bool {
        if self.partial && self.is_behind_copy(cursor, true) {
            self.partial = false;
            return true;
        }
        let noted = self.settled.as_ref();
        if self.partial || noted.is_none() {
            return false;
        }
        if noted.is_some_and(|noted| *noted <= *cursor) {
            self.settled = None;
        }
        true
    }

    /// It was read up to this position.
    pub(super) fn reads(&mut self, cursor: &Cursor) {
        if self.complete {
            return;
        }
        let at = Progress::from_cursor(cursor);
        if matches!(at, Ok(Progress::Follow(at)) if at >= self.sent_until) {
            self.complete = true;
            // Who waited for the end of a delivery of before need not any more.
            let waiting: Vec<_> = self.lanes.keys().copied().collect();
            for stream in waiting {
                self.line_up(stream);
            }
        }
    }

    pub(super) fn copy_ended(&mut self, at: Cursor, head: Cursor) {
        self.copying = false;
        self.copied_until = Some(head);
        // A position of its own, or a restart right behind would begin the copy's end again.
        let cursor = Progress::Follow(at).to_cursor();
        self.reads(&cursor);
        let slot = self.window.push(cursor);
        self.window.settle(slot);
        self.hook
            .stats
            .update(|stats| stats.state = HookState::Following);
    }

    /// What stands at a position is delivered, or `queued`. What is queued is noted beside the cursor
    /// until that has passed it: met again, it would go together with what follows in the queue.
    pub(super) fn settle(&mut self, slot: u64, change: &Change, queued: bool) {
        self.window.settle(slot);
        if self.partial || queued {
            let settled = lane::settled(change);
            self.settled = self.settled.take().max(Some(settled.through.clone()));
            self.journal.notes(settled);
        }
    }
}
