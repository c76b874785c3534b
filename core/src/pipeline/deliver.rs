use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::lanes::{LaneSet, Portion};
use super::{BatchOptions, Checkpoint, Step};
use crate::{Batch, Claim, Cursor, CursorStore, Error, Item, PipelineId, Result, Sink};

/// Whose deliveries these are, and behind which position they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The number that [`CursorStore::claim`] gave.
    pub fence: u64,
    /// The last position that is durable. The steps MUST begin behind it.
    pub resume_from: Option<Cursor>,
}

impl Lead {
    /// The lead of a pipeline that has just been claimed.
    pub fn new(pipeline: PipelineId, claim: Claim) -> Self {
        Self {
            pipeline,
            fence: claim.fence,
            resume_from: claim.cursor,
        }
    }
}

/// A batch that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Everything at or before it is durable; it never moves backward from one of these to the
    /// next. None while another lane holds back the very first item.
    pub ack: Option<Cursor>,
    /// Whether `ack` moved on with this batch.
    pub advanced: bool,
    /// The end of the range that the batch stood for.
    pub through: Cursor,
    /// How many items it had; 0 where it only moved the cursor.
    pub items: usize,
    /// How many bytes they had, as [`Item::size`] tells them.
    pub bytes: usize,
    /// How long the sink took.
    pub elapsed: Duration,
}

pin_project! {
    /// The stream of deliveries to a sink.
    ///
    /// - It yields a [`Delivered`] for each batch once that is durable.
    /// - It ends at the first error: what is in flight then is given up, nothing more is delivered,
    ///   and polling it again yields nothing, ever.
    /// - An error of the source comes after everything read before it has been delivered. So does
    ///   the end of the source.
    /// - Where only positions came, without items, a batch without items tells them to the sink:
    ///   as soon as nothing else is under way, but not more often than
    ///   [`BatchOptions::max_wait`] says, and always at the end.
    /// - A batch that is not full goes when the source pauses; a source that never pauses can put
    ///   it off by no more than that time either.
    /// - Dropping it gives up what is in flight.
    #[must_use = "streams do nothing unless polled"]
    pub struct Deliver<S, T> {
        // Dropped at its end, so that its connection is not held while the rest is delivered.
        #[pin]
        steps: Option<S>,
        delivery: Delivery<T>,
    }
}

struct Delivery<T> {
    lanes: LaneSet<T>,
    options: BatchOptions,
    sink: Arc<dyn Sink<T>>,
    pipeline: PipelineId,
    fence: u64,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// Durable and not yet told.
    ready: VecDeque<Delivered>,
    /// The highest position that a durable batch carried.
    acked: Option<Cursor>,
    /// The error to end with, once `ready` is empty.
    error: Option<Error>,
    /// The sink has failed: nothing may be delivered any more.
    failed: bool,
    last_start: Option<Instant>,
    last_empty: Option<Instant>,
    /// Made when first needed: most pipelines never linger.
    timer: Option<Pin<Box<Sleep>>>,
}

struct Outcome {
    lane: usize,
    result: Result<()>,
    delivered: Delivered,
}

/// Why no more steps were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The source has none at the moment.
    Idle,
    /// There is no room.
    Blocked,
    /// There may be more; this turn is over.
    More,
    /// The source has ended.
    Ended,
}

/// How many steps are taken from a source that is always ready before others get their turn.
const TURN: usize = 1024;

impl<S, T: 'static> Deliver<S, T> {
    pub(super) fn new(
        steps: S,
        lanes: usize,
        options: BatchOptions,
        sink: Arc<dyn Sink<T>>,
        lead: Lead,
    ) -> Self {
        let Lead {
            pipeline,
            fence,
            resume_from,
        } = lead;
        Self {
            steps: Some(steps),
            delivery: Delivery {
                lanes: LaneSet::new(lanes, options, resume_from.as_ref()),
                options,
                sink,
                pipeline,
                fence,
                in_flight: FuturesUnordered::new(),
                ready: VecDeque::new(),
                acked: resume_from,
                error: None,
                failed: false,
                last_start: None,
                last_empty: None,
                timer: None,
            },
        }
    }

    /// Stores the cursor in `cursors` after each delivery, where the sink does not commit it itself
    /// with the data. See [`Checkpoint`].
    pub fn checkpoint(self, cursors: Arc<dyn CursorStore>) -> Checkpoint<Self> {
        let Delivery {
            sink,
            pipeline,
            fence,
            acked,
            ..
        } = &self.delivery;
        let cursors = sink.cursors().is_none().then_some(cursors);
        let (pipeline, fence, stored) = (pipeline.clone(), *fence, acked.clone());
        Checkpoint::new(self, cursors, pipeline, fence, stored)
    }
}

impl<S, T> Stream for Deliver<S, T>
where
    S: Stream<Item = Result<Step<T>>>,
    T: Item,
{
    type Item = Result<Delivered>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        let delivery = this.delivery;
        loop {
            delivery.collect(cx);
            if delivery.failed {
                this.steps.set(None);
                return Poll::Ready(delivery.next_ready_or_error());
            }
            let flow = delivery.fill(&mut this.steps, cx);
            let started = delivery.dispatch(flow, cx);
            if started {
                // A future does nothing before its first poll.
                delivery.collect(cx);
            }
            if let Some(delivered) = delivery.ready.pop_front() {
                return Poll::Ready(Some(Ok(delivered)));
            }
            if started || delivery.failed {
                continue;
            }
            if flow == Flow::Ended && delivery.in_flight.is_empty() {
                return Poll::Ready(delivery.next_ready_or_error());
            }
            if flow == Flow::More {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }
}

impl<T: Item> Delivery<T> {
    /// Takes in what has become durable, or the failure.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(outcome)) = Pin::new(&mut self.in_flight).poll_next(cx) {
            let Outcome {
                lane,
                result,
                mut delivered,
            } = outcome;
            if let Err(error) = result {
                self.failed = true;
                // An error of the source waits for the next run, which will meet it again.
                self.error = Some(error);
                self.in_flight.clear();
                self.lanes.clear();
                return;
            }
            self.lanes.done(lane, Instant::now());
            delivered.advanced = delivered.ack > self.acked;
            if delivered.advanced {
                self.acked.clone_from(&delivered.ack);
            } else {
                delivered.ack.clone_from(&self.acked);
            }
            self.ready.push_back(delivered);
        }
    }

    fn next_ready_or_error(&mut self) -> Option<Result<Delivered>> {
        self.ready
            .pop_front()
            .map(Ok)
            .or_else(|| self.error.take().map(Err))
    }

    /// Takes steps from the source while there is room.
    fn fill<S>(&mut self, steps: &mut Pin<&mut Option<S>>, cx: &mut Context<'_>) -> Flow
    where
        S: Stream<Item = Result<Step<T>>>,
    {
        self.lanes.admit_held();
        for _ in 0..TURN {
            let Some(source) = steps.as_mut().as_pin_mut() else {
                return Flow::Ended;
            };
            if !self.lanes.has_room() {
                return Flow::Blocked;
            }
            let step = match source.poll_next(cx) {
                Poll::Pending => return Flow::Idle,
                Poll::Ready(step) => step,
            };
            let ended = if let Some(step) = step {
                step.and_then(|step| self.lanes.admit(step)).err()
            } else {
                steps.set(None);
                return Flow::Ended;
            };
            if let Some(error) = ended {
                self.error = Some(error);
                steps.set(None);
                return Flow::Ended;
            }
        }
        Flow::More
    }

    /// Starts the deliveries that are due, and sets the timer for those that linger.
    fn dispatch(&mut self, flow: Flow, cx: &mut Context<'_>) -> bool {
        let overdue = match flow {
            Flow::Ended => true,
            Flow::More => {
                let now = Instant::now();
                let since = *self.last_start.get_or_insert(now);
                now.duration_since(since) >= self.options.flush_interval()
            }
            Flow::Idle | Flow::Blocked => false,
        };
        let mut wake_at: Option<Instant> = None;
        let mut is_due = |flow: Flow, due: Option<Instant>| {
            if overdue {
                return true;
            }
            match due.filter(|at| *at > Instant::now()) {
                None => flow != Flow::More,
                Some(at) => {
                    wake_at = Some(wake_at.map_or(at, |earliest| earliest.min(at)));
                    false
                }
            }
        };
        let lanes = &self.lanes;
        let due: Vec<usize> = lanes
            .waiting()
            .filter(|lane| lanes.is_sealed(*lane) || is_due(flow, lanes.lingers_until(*lane)))
            .collect();
        let mut started = false;
        for lane in due {
            started |= self.start(lane);
        }
        if !started && self.lanes.is_drained() && self.lanes.read() > self.acked.as_ref() {
            let paced = self.last_empty.map(|at| at + self.options.flush_interval());
            if is_due(flow, paced.max(self.lanes.lingers_until(0))) {
                self.last_empty = Some(Instant::now());
                started = self.start(0);
            }
        }
        if !started && let Some(at) = wake_at {
            self.wake_at(at, cx);
        }
        started
    }

    fn start(&mut self, lane: usize) -> bool {
        let Some(portion) = self.lanes.take(lane) else {
            return false;
        };
        let Portion {
            lane,
            items,
            bytes,
            after,
            through,
            ack,
        } = portion;
        let mut delivered = Delivered {
            ack,
            advanced: false,
            through,
            items: items.len(),
            bytes,
            elapsed: Duration::ZERO,
        };
        let batch = Batch {
            items,
            after,
            through: delivered.through.clone(),
            ack: delivered.ack.clone(),
            pipeline: self.pipeline.clone(),
            fence: self.fence,
        };
        let sink = Arc::clone(&self.sink);
        let started = Instant::now();
        self.last_start = Some(started);
        self.in_flight.push(Box::pin(async move {
            let result = sink.deliver(&batch).await;
            delivered.elapsed = started.elapsed();
            Outcome {
                lane,
                result,
                delivered,
            }
        }));
        true
    }

    fn wake_at(&mut self, at: Instant, cx: &mut Context<'_>) {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<S, T> fmt::Debug for Deliver<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliver")
            .field("sink", &self.delivery.sink)
            .field("pipeline", &self.delivery.pipeline)
            .field("fence", &self.delivery.fence)
            .field("acked", &self.delivery.acked)
            .finish_non_exhaustive()
    }
}
