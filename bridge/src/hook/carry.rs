//! The work of a hook: one loop that reads, sends, and stores what has become of it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use ledger_core::hook::{Answer, Claim, Delivery};
use ledger_core::pipeline::{Attempt as Run, Stop};
use ledger_core::{
    Change, Cursor, EntryId, Error, PipelineId, Progress, Result, StreamKey, Timestamp,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Hook;
use super::breaker::Breaker;
use super::lane::{Held, Lane, Met, Phase, Plans};
use super::pace::Pace;
use super::source::Read;
use super::window::Window;

mod answer;
mod held;
mod journal;
mod read;
mod send;

pub(super) use send::delivery;

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
    /// Deliveries that are noted and not sent yet.
    noted: VecDeque<(StreamKey, Vec<Change>)>,
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
            noted: VecDeque::new(),
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
            let gates = !self.row.is_empty() || !self.noted.is_empty();
            let gated = gates.then(|| self.breaker.wakes().or(self.paced));
            [timer, gated.flatten()]
        });
        let sending = sending.into_iter().flatten().flatten();
        sending.chain(self.journal.wakes(now)).min()
    }
}
