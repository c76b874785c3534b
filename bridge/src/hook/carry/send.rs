//! What is sent, and when.

use ledger_core::hook::Delivery;
use ledger_core::{Change, StreamKey};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Carrier, Event};
use crate::hook::Hook;
use crate::hook::lane::{self, Forming, Next, Phase};

impl Carrier<'_> {
    /// Puts a stream into the row of those that may send.
    pub(super) fn line_up(&mut self, stream: StreamKey) {
        if let Some(lane) = self.lanes.get_mut(&stream)
            && lane.under_way == 0
            && !lane.in_row
        {
            lane.in_row = true;
            self.row.push_back(stream);
        }
    }

    /// Lines up those whose time has come.
    pub(super) fn fire(&mut self, now: Instant) {
        while let Some((at, stream)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match self.held.get(&stream) {
                Some(held) if held.phase == Phase::Due(at) => self.row.push_back(stream),
                Some(_) => {}
                None => self.line_up(stream),
            }
        }
    }

    /// Begins as many deliveries as may begin, and has as many more noted.
    pub(super) fn pump(&mut self, now: Instant) {
        self.paced = None;
        while self.may_send(now)
            && let Some((stream, changes)) = self.noted.pop_front()
        {
            self.begins();
            self.send(stream, changes, 1);
        }
        while let Some(stream) = self.row.front().copied() {
            let may_send = self.may_send(now);
            if !may_send && !self.may_note(now) {
                break;
            }
            if let Some(held) = self.held.get_mut(&stream) {
                if !may_send {
                    break;
                }
                self.row.pop_front();
                if matches!(held.phase, Phase::Due(_)) {
                    if held.noted_in > self.journal.done() {
                        // It is read from the queue, where it does not stand yet.
                        held.phase = Phase::Noted(held.noted_in);
                        self.after.push((held.noted_in, stream));
                        continue;
                    }
                    held.phase = Phase::Busy;
                    let (through, failed) = (held.through.clone(), held.attempts);
                    self.begins();
                    self.send_queued(stream, through, failed);
                }
                continue;
            }
            let options = &self.hook.options;
            let forming = Forming {
                most: options.batch,
                wait: options.wait,
            };
            let Some(lane) = self.lanes.get_mut(&stream) else {
                self.row.pop_front();
                continue;
            };
            if lane.after > self.journal.done() {
                // What held it up before is about to be forgotten.
                self.after.push((lane.after, stream));
                lane.in_row = false;
                self.row.pop_front();
                continue;
            }
            let next = lane.next(forming, &self.plans, self.complete, now);
            if let Next::Send(count) = next
                && !may_send
                && !lane.needs_note(count)
            {
                break;
            }
            lane.in_row = false;
            self.row.pop_front();
            match next {
                Next::Nothing if lane.queue.is_empty() => drop(self.lanes.remove(&stream)),
                Next::Nothing => {}
                Next::At(at) => {
                    self.timers.insert((at, stream));
                }
                Next::Send(count) => self.dispatch(stream, count),
            }
        }
        self.hook
            .stats
            .update(|stats| stats.breaker = self.breaker.state());
    }

    /// Whether a delivery may begin now; else `paced` tells when, where time alone changes it.
    pub(super) fn may_send(&mut self, now: Instant) -> bool {
        if self.draining || !self.breaker.allows(now) {
            return false;
        }
        let allowed = self.pace.allows(self.under_way, now);
        self.paced = allowed.err().flatten();
        allowed.is_ok()
    }

    /// Whether one more delivery may be noted ahead: as many as are sent at a time, so that what is
    /// sent next does not wait for a commit first.
    pub(super) fn may_note(&mut self, now: Instant) -> bool {
        !self.draining
            && self.breaker.allows(now)
            && self.planned.len() + self.noted.len() < self.hook.options.concurrency
    }

    pub(super) fn begins(&mut self) {
        self.under_way += 1;
        self.breaker.begins();
        self.pace.begins();
    }

    /// Sends the first `count` items of a lane, or has them noted first.
    pub(super) fn dispatch(&mut self, stream: StreamKey, count: usize) {
        let Some(lane) = self.lanes.get_mut(&stream) else {
            return;
        };
        lane.under_way = count;
        let needs_note = lane.needs_note(count);
        let items = lane.queue.iter().take(count);
        let changes: Vec<_> = items.map(|item| item.change.clone()).collect();
        match lane::plan(&changes) {
            Some(plan) if needs_note => {
                let number = self.journal.number();
                self.journal.writes().plans.push(plan);
                self.planned.push((number, stream, changes));
            }
            _ => {
                self.begins();
                self.send(stream, changes, 1);
            }
        }
    }

    pub(super) fn send(&mut self, stream: StreamKey, changes: Vec<Change>, attempt: u32) {
        let hook = self.hook;
        let delivery = delivery(hook, self.source, changes, attempt);
        self.events.push(Box::pin(async move {
            let answer = match &delivery {
                Some(delivery) => hook.endpoint.post(delivery).await.map(Some),
                None => Ok(None),
            };
            Event::Sent {
                stream,
                delivery,
                answer,
            }
        }));
    }

    /// A commit is stored: what waited for it goes on.
    pub(super) fn stored(&mut self, number: u64) {
        let now = Instant::now();
        for (_, stream) in self
            .after
            .extract_if(.., |(after, _)| *after <= number)
            .collect::<Vec<_>>()
        {
            match self.held.get(&stream).map(|held| held.phase) {
                Some(Phase::Forms(after)) if after <= number => self.load(stream, number),
                Some(Phase::Noted(after)) if after <= number => {
                    if let Some(held) = self.held.get_mut(&stream) {
                        held.phase = Phase::Due(now);
                    }
                    self.row.push_back(stream);
                }
                Some(_) => {}
                None => self.line_up(stream),
            }
        }
        let planned = self.planned.extract_if(.., |(after, ..)| *after <= number);
        let noted = planned.map(|(_, stream, changes)| (stream, changes));
        self.noted.extend(noted);
    }
}

pub(in crate::hook) fn delivery(
    hook: &Hook,
    source: Uuid,
    changes: Vec<Change>,
    attempt: u32,
) -> Option<Delivery> {
    let store = hook.source.name();
    let delivery = Delivery::new(&hook.options.pipeline, source, store, changes);
    delivery.map(|delivery| Delivery {
        attempt,
        ..delivery
    })
}
