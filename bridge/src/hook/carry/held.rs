//! Streams that are held up by a delivery that failed.

use std::sync::Arc;

use ledger_core::hook::{Answer, Outcome};
use ledger_core::{Change, Cursor, EntryId, Item as _, Result, StreamKey, Timestamp};
use tokio::time::Instant;

use super::send::delivery;
use super::{Carrier, Event};
use crate::hook::lane::{self, Held, Phase};
use crate::hook::options::random;
use crate::hook::{BreakerState, HookFailure};

/// The most items of one delivery that are read from the queue.
const MOST: usize = 100_000;

impl Carrier<'_> {
    /// Sets a stream aside that keeps the window full with a delivery that is not answered, where
    /// others could be served.
    pub(super) fn spill(&mut self, now: Instant) -> Result<()> {
        while !self.draining
            && !self.can_read()
            && self.row.is_empty()
            && self.breaker.state() == BreakerState::Closed
            && self.pace.allows(self.under_way, now).is_ok()
        {
            let first = self.window.first();
            let slow = self.lanes.iter().find(|(_, lane)| {
                lane.under_way > 0 && lane.queue.front().is_some_and(|item| item.slot == first)
            });
            let Some((stream, _)) = slow else { break };
            let stream = *stream;
            let mut planned = self.planned.iter();
            if planned.any(|(_, planned, _)| *planned == stream) {
                break;
            }
            self.hold(stream, 0, String::new(), Phase::Busy, now)?;
        }
        Ok(())
    }

    /// Moves what a lane has into the queue of the database, its first delivery to be tried as
    /// `phase` says.
    pub(super) fn hold(
        &mut self,
        stream: StreamKey,
        attempts: u32,
        error: String,
        phase: Phase,
        now: Instant,
    ) -> Result<()> {
        let Some(lane) = self.lanes.remove(&stream) else {
            return Ok(());
        };
        let last = lane.under_way.max(1) - 1;
        let through = lane.queue.get(last).or(lane.queue.back());
        let Some(through) = through.map(|item| item.change.cursor.clone()) else {
            return Ok(());
        };
        let (mut name, mut border) = (String::new(), None);
        for item in lane.queue {
            self.bytes = self.bytes.saturating_sub(item.change.size());
            name = item.change.stream.name.to_string();
            border = if item.uncertain {
                self.plans.border(&item.change, border)
            } else {
                None
            };
            let queued = lane::queued(&item.change, border)?;
            self.journal.writes().queue.push(queued);
            self.settle(item.slot, &item.change, true);
        }
        let held = Held {
            name,
            through,
            attempts,
            error,
            phase,
            queued_in: self.journal.number(),
            noted_in: self.journal.number(),
            border,
        };
        self.held.insert(stream, held);
        self.note(stream, now);
        Ok(())
    }

    /// Has the state of a stream that is held up stored, and its next attempt in time.
    fn note(&mut self, stream: StreamKey, now: Instant) {
        let Some(held) = self.held.get(&stream) else {
            return;
        };
        let due = match held.phase {
            Phase::Due(at) => {
                self.timers.insert((at, stream));
                at.saturating_duration_since(now)
            }
            _ => std::time::Duration::ZERO,
        };
        let micros = i64::try_from(due.as_micros()).unwrap_or(i64::MAX);
        let at = Timestamp::now().as_micros().saturating_add(micros);
        let stored = held.stored(stream, Timestamp::from_micros(at));
        self.journal.writes().waiting.push(stored);
    }

    /// A delivery was not taken: its stream waits, or it is given up.
    pub(super) fn failed(
        &mut self,
        stream: StreamKey,
        answer: &Answer,
        now: Instant,
    ) -> Result<()> {
        let error = answer.error.clone().unwrap_or_default();
        if self.held.contains_key(&stream) {
            if let Some(held) = self.held.get_mut(&stream) {
                held.attempts = held.attempts.saturating_add(1);
                held.error = error;
            }
        } else {
            self.hold(stream, 1, error, Phase::Busy, now)?;
        }
        let attempts = self.held.get(&stream).map_or(0, |held| held.attempts);
        let wait = self.hook.options.schedule.wait(attempts);
        match (answer.outcome, wait) {
            (Outcome::Gone, _) => {
                self.wait(stream, now, now);
                let reason = "the endpoint answered 410 Gone: it wants no more deliveries";
                self.disable(reason.to_owned());
            }
            (Outcome::Refused, _) | (_, None) => self.give_up(stream, now),
            (_, Some(wait)) => {
                let asked = answer.retry_after.unwrap_or_default();
                self.wait(stream, now + wait.max(asked), now);
            }
        }
        Ok(())
    }

    fn wait(&mut self, stream: StreamKey, due: Instant, now: Instant) {
        if let Some(held) = self.held.get_mut(&stream) {
            held.phase = Phase::Due(due);
        }
        self.note(stream, now);
    }

    /// Deals with a delivery that has failed for good.
    fn give_up(&mut self, stream: StreamKey, now: Instant) {
        let policy = self.hook.options.on_failure;
        let Some(held) = self.held.get_mut(&stream) else {
            return;
        };
        let (name, error) = (held.name.clone(), held.error.clone());
        let (hook, attempts) = (&self.hook.options.pipeline, held.attempts);
        tracing::warn!(%hook, stream = name, attempts, error, %policy, "a delivery is given up");
        match policy {
            HookFailure::Stop => {
                held.attempts = 0;
                self.wait(stream, now, now);
                self.disable(format!(
                    "a delivery of stream {name:?} has failed for good: {error}"
                ));
            }
            HookFailure::ParkStream => {
                held.phase = Phase::Parked;
                self.note(stream, now);
            }
            HookFailure::Skip => {
                let through = held.through.clone();
                let reason = if error.is_empty() {
                    "it failed".to_owned()
                } else {
                    error
                };
                held.attempts = 0;
                self.journal
                    .writes()
                    .skipped
                    .push((stream, through, reason));
                self.forms(stream);
            }
        }
        self.hook.stats.update(|stats| stats.given_up += 1);
    }

    /// Ends the work until the hook is resumed.
    fn disable(&mut self, reason: String) {
        tracing::error!(hook = %self.hook.options.pipeline, reason, "the hook is disabled");
        self.journal.writes().disabled = Some(reason);
        self.draining = true;
    }

    /// A delivery of the queue was taken.
    pub(super) fn delivered_queued(&mut self, stream: StreamKey) {
        let Some(held) = self.held.get_mut(&stream) else {
            return;
        };
        held.attempts = 0;
        let through = held.through.clone();
        self.journal.writes().delivered.push((stream, through));
        self.forms(stream);
    }

    /// Has the next delivery of a stream formed, once what has just been noted of it is stored.
    pub(super) fn forms(&mut self, stream: StreamKey) {
        let number = self.journal.number();
        let Some(held) = self.held.get_mut(&stream) else {
            return;
        };
        held.phase = Phase::Forms(number);
        self.after.push((number, stream));
    }

    /// Forms it from what is stored now.
    pub(super) fn forms_now(&mut self, stream: StreamKey) {
        let done = self.journal.done();
        self.load(stream, done);
    }

    /// Reads what stands in the queue of a stream.
    pub(super) fn load(&mut self, stream: StreamKey, at: u64) {
        let Some(held) = self.held.get_mut(&stream) else {
            return;
        };
        held.phase = Phase::Busy;
        let state = Arc::clone(&self.hook.state);
        let (pipeline, most) = (self.hook.options.pipeline.clone(), self.hook.options.batch);
        self.events.push(Box::pin(async move {
            let found = state.queued(&pipeline, stream, None, most).await;
            let found = found.and_then(|found| {
                let change = |item| Ok((lane::change(item)?, item.border));
                found.iter().map(change).collect()
            });
            Event::Loaded { stream, at, found }
        }));
    }

    /// Forms the next delivery, or lets the stream go.
    pub(super) fn loaded(
        &mut self,
        stream: StreamKey,
        at: u64,
        found: &[(Change, Option<EntryId>)],
    ) {
        let number = self.journal.number();
        let Some(held) = self.held.get_mut(&stream) else {
            return;
        };
        if found.is_empty() {
            if held.queued_in > self.journal.done() {
                held.phase = Phase::Forms(held.queued_in);
                self.after.push((held.queued_in, stream));
                return;
            }
            if held.queued_in > at {
                self.forms_now(stream);
                return;
            }
            self.held.remove(&stream);
            self.journal.writes().released.push(stream);
            // Until that is stored a restart would find the stream held up, and form its deliveries
            // otherwise.
            self.lanes.entry(stream).or_default().after = number;
            self.after.push((number, stream));
            return;
        }
        let count = lane::formed(found, self.hook.options.batch);
        let Some((last, _)) = found.get(count.max(1) - 1) else {
            return;
        };
        held.through = last.cursor.clone();
        held.name = last.stream.name.to_string();
        held.attempts = 0;
        held.error.clear();
        held.phase = Phase::Noted(number);
        self.after.push((number, stream));
        self.note(stream, Instant::now());
    }

    /// Tries the delivery of the queue that ends with `through`.
    pub(super) fn send_queued(&mut self, stream: StreamKey, through: Cursor, failed: u32) {
        let (hook, source) = (self.hook, self.source);
        self.events.push(Box::pin(async move {
            let pipeline = &hook.options.pipeline;
            let queued = hook.state.queued(pipeline, stream, Some(&through), MOST);
            let answer = async {
                let queued = queued.await?;
                let changes: Vec<_> = queued.iter().map(lane::change).collect::<Result<_>>()?;
                let delivery = delivery(hook, source, changes, failed.saturating_add(1));
                let answer = match &delivery {
                    Some(delivery) => Some(hook.endpoint.post(delivery).await?),
                    None => None,
                };
                Ok((delivery, answer))
            };
            match answer.await {
                Ok((delivery, answer)) => Event::Sent {
                    stream,
                    delivery,
                    answer: Ok(answer),
                },
                Err(error) => Event::Sent {
                    stream,
                    delivery: None,
                    answer: Err(error),
                },
            }
        }));
    }

    /// The endpoint had been away for all streams: they need not wait for times that were meant for
    /// an endpoint that fails.
    pub(super) fn hurry(&mut self, now: Instant) {
        for (stream, held) in &mut self.held {
            if let Phase::Due(at) = held.phase {
                let soon = now + std::time::Duration::from_secs(1).mul_f64(random());
                if at > soon {
                    held.phase = Phase::Due(soon);
                    self.timers.insert((soon, *stream));
                }
            }
        }
    }
}
