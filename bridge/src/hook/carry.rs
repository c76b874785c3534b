//! The work of a hook: one loop that reads, sends, and stores what has become of it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use ledger_core::hook::{Answer, Claim, Delivery, Outcome};
use ledger_core::observe::Poll;
use ledger_core::pipeline::{Attempt as Run, Stop};
use ledger_core::{
    Change, Cursor, EntryId, Error, ErrorKind, Item as _, Mutation, PipelineId, Progress, Result,
    StreamKey, Timestamp,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::Breaker;
use super::lane::{self, Forming, Held, Item, Lane, Met, Next, Phase, Plans};
use super::pace::Pace;
use super::source::Read;
use super::window::Window;
use super::{BreakerState, Hook, HookFailure, HookState, attempt};

mod held;
mod journal;

use journal::Journal;

/// How many positions behind the cursor are in hand at most. After a restart so many may have been
/// sent before.
const WINDOW: usize = 8_192;
/// How many bytes of items stand in memory, roughly.
const BYTES: usize = 32 << 20;
/// How many changes are taken at a time, where there are so many.
const CHUNK: usize = 512;
/// How many answers are dealt with before the log is read again.
const ANSWERS: usize = 64;

/// What came of something under way.
enum Event {
    /// An attempt was answered.
    Sent {
        stream: StreamKey,
        /// None where nothing stood in the queue any more.
        delivery: Option<Delivery>,
        answer: Result<Option<Answer>>,
    },
    /// The next items of a stream that is held up were read, at or after this commit.
    Loaded {
        stream: StreamKey,
        at: u64,
        found: Result<Vec<(Change, Option<EntryId>)>>,
    },
}

/// The work of one run.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Carrier<'a> {
    hook: &'a Hook,
    source: Uuid,
    journal: Journal,
    window: Window,
    bytes: usize,
    lanes: HashMap<StreamKey, Lane>,
    held: HashMap<StreamKey, Held>,
    /// Streams that may have something to send now, in the order in which they came.
    row: VecDeque<StreamKey>,
    /// When to look at streams again.
    timers: BTreeSet<(Instant, StreamKey)>,
    /// What waits for a commit.
    after: Vec<(u64, StreamKey)>,
    planned: Vec<(u64, StreamKey, Vec<Change>)>,
    under_way: usize,
    events: FuturesUnordered<BoxFuture<'a, Event>>,
    breaker: Breaker,
    pace: Pace,
    plans: Plans,
    /// What was met before, or by the copy.
    met: Met,
    copying: bool,
    /// Behind this position of the log nothing was copied.
    copied_until: Option<Cursor>,
    /// Whether a cursor that is stored does not tell everything before it: in a copy, and in its overlap
    /// with the log.
    partial: bool,
    /// The last position that something is noted as settled at, although the cursor does not tell.
    settled: Option<Cursor>,
    /// Everything that was sent before this run stands at or before this position of the log.
    sent_until: Cursor,
    /// Whether it was read up to there.
    complete: bool,
    /// How many changes are still to come that may have been sent before.
    uncertain: usize,
    draining: bool,
    failure: Option<Error>,
    /// When what the pace holds back may go on.
    paced: Option<Instant>,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        hook: &'a Hook,
        source: Uuid,
        claim: Claim,
        progress: &Progress,
        head: Cursor,
    ) -> Self {
        let copying = matches!(progress, Progress::Snapshot { .. });
        let options = &hook.options;
        let now = Instant::now();
        let partial = copying || !claim.settled.is_empty();
        let mut met = Met::new(claim.settled);
        met.cut(&claim.plans, claim.cursor.as_ref());
        let mut carrier = Self {
            hook,
            source,
            journal: Journal::new(hook, claim.fence),
            window: Window::default(),
            bytes: 0,
            lanes: HashMap::new(),
            held: HashMap::new(),
            row: VecDeque::new(),
            timers: BTreeSet::new(),
            after: Vec::new(),
            planned: Vec::new(),
            under_way: 0,
            events: FuturesUnordered::new(),
            breaker: Breaker::new(),
            pace: Pace::new(options.concurrency, options.rate),
            plans: Plans::new(claim.plans),
            partial,
            copied_until: (!copying && !met.is_empty()).then(|| head.clone()),
            settled: None,
            met,
            copying,
            complete: matches!(progress, Progress::Follow(at) if *at >= head),
            sent_until: head,
            // Who takes a hook for the first time has sent nothing before.
            uncertain: if claim.fence > 1 { WINDOW } else { 0 },
            draining: false,
            failure: None,
            paced: None,
        };
        for waiting in claim.waiting {
            let due = now + waiting.next_at.since(Timestamp::now());
            let phase = if waiting.parked {
                Phase::Parked
            } else {
                carrier.timers.insert((due, waiting.stream));
                Phase::Due(due)
            };
            let held = Held {
                name: waiting.name,
                through: waiting.through,
                attempts: waiting.attempts,
                error: waiting.error,
                phase,
                queued_in: 0,
                noted_in: 0,
                border: None,
            };
            carrier.held.insert(waiting.stream, held);
        }
        carrier
    }

    /// Works until `drain` fires, then until everything under way is answered and stored.
    pub(super) async fn run(
        mut self,
        changes: BoxStream<'static, Result<Read>>,
        run: &Run,
        drain: &Stop,
    ) -> Result<()> {
        let mut changes = changes.ready_chunks(CHUNK);
        loop {
            let now = Instant::now();
            self.fire(now);
            self.pump(now);
            self.spill(now)?;
            if let Some(cursor) = self.window.take_settled() {
                if self.tells(&cursor) {
                    self.journal.cursor_tells();
                }
                self.journal.settled(cursor);
            }
            self.journal.begin(now, self.draining);
            if self.draining && self.events.is_empty() && self.journal.is_done() {
                return self.failure.map_or(Ok(()), Err);
            }
            let wake = self.wake(now);
            let can_read = self.can_read();
            tokio::select! {
                biased;
                () = drain.stopped(), if !self.draining => self.draining = true,
                stored = self.journal.stored(), if self.journal.is_storing() => {
                    let (number, cursor) = stored?;
                    if let Some(cursor) = cursor {
                        run.progressed();
                        self.hook.stats.update(|stats| stats.position = Some(cursor));
                    }
                    self.stored(number);
                }
                Some(event) = self.events.next(), if !self.events.is_empty() => {
                    self.event(event)?;
                    for _ in 0..ANSWERS {
                        let Some(Some(event)) = self.events.next().now_or_never() else { break };
                        self.event(event)?;
                    }
                }
                Some(read) = changes.next(), if can_read => {
                    for read in read {
                        match read {
                            Ok(Read::Change(change)) => self.take(change)?,
                            Ok(Read::CopyEnded { at, head }) => self.copy_ended(at, head),
                            // What was read before is sent and stored before the run ends.
                            Err(error) => {
                                self.failure = Some(error);
                                self.draining = true;
                                break;
                            }
                        }
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    fn pipeline(&self) -> &PipelineId {
        &self.hook.options.pipeline
    }

    fn can_read(&self) -> bool {
        !self.draining && self.window.len() < WINDOW && self.bytes < BYTES
    }

    /// When time alone brings something to do.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let sending = (!self.draining).then(|| {
            let timer = self.timers.first().map(|(at, _)| *at);
            let gated = (!self.row.is_empty()).then(|| self.breaker.wakes().or(self.paced));
            [timer, gated.flatten()]
        });
        let sending = sending.into_iter().flatten().flatten();
        sending.chain(self.journal.wakes(now)).min()
    }

    /// Takes a change that was read.
    fn take(&mut self, change: Change) -> Result<()> {
        let slot = self.window.push(change.cursor.clone());
        self.reads(&change.cursor);
        let uncertain = self.uncertain > 0;
        self.uncertain = self.uncertain.saturating_sub(1);
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
    fn is_behind_copy(&self, cursor: &Cursor, or_at: bool) -> bool {
        let until = self.copied_until.as_ref();
        let at = Progress::from_cursor(cursor);
        matches!((at, until), (Ok(Progress::Follow(at)), Some(until)) if at > *until || (or_at && at == *until))
    }

    /// Whether what is settled at or before a cursor that is about to be stored is told by it. What is
    /// not is kept beside it: a restart meets it again.
    fn tells(&mut self, cursor: &Cursor) -> bool {
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
    fn reads(&mut self, cursor: &Cursor) {
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

    fn copy_ended(&mut self, at: Cursor, head: Cursor) {
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
    fn settle(&mut self, slot: u64, change: &Change, queued: bool) {
        self.window.settle(slot);
        if self.partial || queued {
            let settled = lane::settled(change);
            self.settled = self.settled.take().max(Some(settled.through.clone()));
            self.journal.notes(settled);
        }
    }

    /// Puts a stream into the row of those that may send.
    fn line_up(&mut self, stream: StreamKey) {
        if let Some(lane) = self.lanes.get_mut(&stream)
            && lane.under_way == 0
            && !lane.in_row
        {
            lane.in_row = true;
            self.row.push_back(stream);
        }
    }

    /// Lines up those whose time has come.
    fn fire(&mut self, now: Instant) {
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

    /// Begins as many deliveries as may begin.
    fn pump(&mut self, now: Instant) {
        self.paced = None;
        while !self.draining
            && let Some(stream) = self.row.front().copied()
        {
            if !self.breaker.allows(now) {
                break;
            }
            if let Err(at) = self.pace.allows(self.under_way, now) {
                self.paced = at;
                break;
            }
            self.row.pop_front();
            if let Some(held) = self.held.get_mut(&stream) {
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
                continue;
            };
            lane.in_row = false;
            if lane.after > self.journal.done() {
                // What held it up before is about to be forgotten.
                self.after.push((lane.after, stream));
                continue;
            }
            match lane.next(forming, &self.plans, self.complete, now) {
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

    fn begins(&mut self) {
        self.under_way += 1;
        self.breaker.begins();
        self.pace.begins();
    }

    /// Sends the first `count` items of a lane: one alone at once, several when they are noted.
    fn dispatch(&mut self, stream: StreamKey, count: usize) {
        let Some(lane) = self.lanes.get_mut(&stream) else {
            return;
        };
        lane.under_way = count;
        let items = lane.queue.iter().take(count);
        let changes: Vec<_> = items.map(|item| item.change.clone()).collect();
        let noted = lane.queue.front().is_some_and(|item| item.uncertain);
        self.begins();
        if let (Some(plan), false) = (lane::plan(&changes), noted) {
            let number = self.journal.number();
            self.journal.writes().plans.push(plan);
            self.planned.push((number, stream, changes));
        } else {
            self.send(stream, changes, 1);
        }
    }

    fn send(&mut self, stream: StreamKey, changes: Vec<Change>, attempt: u32) {
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
    fn stored(&mut self, number: u64) {
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
        for (_, stream, changes) in planned.collect::<Vec<_>>() {
            if self.draining {
                // It is noted, and nobody has it.
                self.under_way = self.under_way.saturating_sub(1);
            } else {
                self.send(stream, changes, 1);
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Loaded { stream, at, found } => self.loaded(stream, at, &found?),
            Event::Sent {
                stream,
                delivery,
                answer,
            } => {
                self.under_way = self.under_way.saturating_sub(1);
                match (delivery, answer?) {
                    (Some(delivery), Some(answer)) => self.answered(stream, &delivery, &answer)?,
                    // Somebody has discarded what waited.
                    _ => self.forms_now(stream),
                }
            }
        }
        Ok(())
    }

    /// Deals with an answer.
    fn answered(&mut self, stream: StreamKey, delivery: &Delivery, answer: &Answer) -> Result<()> {
        let now = Instant::now();
        self.journal.attempted(attempt(delivery, answer));
        self.count(delivery, answer);
        match answer.outcome {
            Outcome::Delivered => {
                self.pace.success();
                if self.breaker.success() {
                    tracing::info!(hook = %self.pipeline(), "the endpoint answers again");
                    self.hurry(now);
                }
                if self.held.contains_key(&stream) {
                    self.delivered_queued(stream);
                } else {
                    self.delivered(stream);
                }
                return Ok(());
            }
            Outcome::Failed => {
                if self.breaker.failure(stream, now) {
                    let error = answer.error.as_deref().unwrap_or_default();
                    tracing::warn!(hook = %self.pipeline(), error, "the endpoint fails; leaving it alone");
                }
            }
            Outcome::Throttled => self.pace.throttle(answer.retry_after, now),
            // It answers, whatever it says.
            Outcome::Refused | Outcome::Gone => {
                self.breaker.success();
            }
        }
        self.failed(stream, answer, now)
    }

    /// The items of a lane were taken.
    fn delivered(&mut self, stream: StreamKey) {
        let Some(lane) = self.lanes.get_mut(&stream) else {
            return;
        };
        let count = std::mem::take(&mut lane.under_way);
        let done: Vec<_> = lane.queue.drain(..count.min(lane.queue.len())).collect();
        let empty = lane.queue.is_empty();
        for item in done {
            self.bytes = self.bytes.saturating_sub(item.change.size());
            self.settle(item.slot, &item.change, false);
        }
        if empty {
            self.lanes.remove(&stream);
        } else {
            self.line_up(stream);
        }
    }

    fn count(&self, delivery: &Delivery, answer: &Answer) {
        let items = delivery.changes.len() as u64;
        let failed = answer
            .error
            .as_deref()
            .map(|error| Error::new(ErrorKind::Unavailable, "post webhook", error));
        if let Some(recorder) = &self.hook.options.recorder {
            recorder.poll(&Poll {
                bridge: self.pipeline(),
                took: answer.took,
                mutations: &[(delivery.kind().as_str(), items)],
                error: failed.as_ref(),
            });
        }
        self.hook.stats.update(|stats| {
            if answer.outcome == Outcome::Delivered {
                stats.delivered += items;
                stats.requests += 1;
                stats.bytes += answer.sent as u64;
                stats.last_error = None;
            } else {
                stats.failures += 1;
                stats.last_error.clone_from(&answer.error);
            }
        });
    }

    /// Sets a stream aside that keeps the window full with a delivery that is not answered, where
    /// others could be served.
    fn spill(&mut self, now: Instant) -> Result<()> {
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
            if self
                .planned
                .iter()
                .any(|(_, planned, _)| *planned == stream)
            {
                break;
            }
            self.hold(stream, 0, String::new(), Phase::Busy, now)?;
        }
        Ok(())
    }
}

pub(super) fn delivery(
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
