//! Running a bridge.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ledger_core::pipeline::{Attempt, Delivered, End, Lead, PipelineExt as _, Stop, supervise};
use ledger_core::{
    Abandoned, Change, CursorStore, Error, ErrorKind, Item, Lease, Observed, PipelineId, Progress,
    Result, Sink, Source, Store,
};
use uuid::Uuid;

use crate::isolate::Isolated;
use crate::lease::{Held, Waited, acquire};
use crate::ledger::Ledger;
use crate::stats::{Shared, State, Stats};
use crate::{BridgeOptions, replay};

/// How often the lag is measured and the progress is told to the source.
const TELL: Duration = Duration::from_secs(1);

/// Carries the content and the changes of a source into a sink: those of a ledger's store, or of
/// whatever else a pipeline's items are.
///
/// Cloning shares it, so that one clone runs and another tells its numbers.
pub struct Bridge<T = Change> {
    source: Arc<dyn Source<T>>,
    sink: Arc<dyn Sink<T>>,
    cursors: Option<Arc<dyn CursorStore>>,
    options: Arc<BridgeOptions>,
    stats: Shared,
    holder: Arc<str>,
}

/// What a bridge did until it ended.
#[derive(Debug, Clone)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Its numbers.
    pub stats: Stats,
    /// How many dead letters it has, from this run and from before.
    pub dead_letters: u64,
}

impl Bridge<Change> {
    /// A bridge from `source`, which must keep a log, to `sink`, which must keep cursors.
    pub fn new(
        source: Arc<dyn Store>,
        sink: Arc<dyn Sink<Change>>,
        options: BridgeOptions,
    ) -> Result<Self> {
        Self::from_source(Arc::new(Ledger::new(source)?), sink, options)
    }

    /// A bridge to a sink that keeps no cursors: they stand in `cursors`, stored after each
    /// delivery.
    pub fn with_cursors(
        source: Arc<dyn Store>,
        sink: Arc<dyn Sink<Change>>,
        cursors: Arc<dyn CursorStore>,
        options: BridgeOptions,
    ) -> Result<Self> {
        let source = Arc::new(Ledger::new(source)?);
        Ok(Self::build(source, sink, Some(cursors), options))
    }
}

impl<T: Item> Bridge<T> {
    /// A bridge from any source to `sink`, which must keep cursors.
    pub fn from_source(
        source: Arc<dyn Source<T>>,
        sink: Arc<dyn Sink<T>>,
        options: BridgeOptions,
    ) -> Result<Self> {
        if sink.cursors().is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "open bridge",
                format!("{sink} keeps no cursors; name a cursor store"),
            ));
        }
        Ok(Self::build(source, sink, None, options))
    }

    fn build(
        source: Arc<dyn Source<T>>,
        sink: Arc<dyn Sink<T>>,
        cursors: Option<Arc<dyn CursorStore>>,
        options: BridgeOptions,
    ) -> Self {
        // Around the sink itself: a batch that is halved is several deliveries.
        let observed = Observed::new(sink, "");
        let sink: Arc<dyn Sink<T>> = match &options.recorder {
            Some(recorder) => Arc::new(observed.recorded_by(Arc::clone(recorder))),
            None => Arc::new(observed),
        };
        Self {
            source,
            sink,
            cursors,
            options: Arc::new(options),
            stats: Shared::default(),
            // Unique for each instance, in one process too.
            holder: format!("{}@{}", std::process::id(), Uuid::new_v4()).into(),
        }
    }

    /// Its name.
    pub fn pipeline(&self) -> &PipelineId {
        &self.options.pipeline
    }

    /// Its numbers at this moment.
    pub fn stats(&self) -> Stats {
        self.stats.get()
    }

    /// Runs until `stop` fires or, with the option `once`, until it has caught up; then what was
    /// read has been delivered. While source or sink cannot be reached, it tries again for ever.
    ///
    /// Its errors need somebody to act: an item that the sink refuses (`Rejected`), a log pruned
    /// before it was read (`CursorExpired`), another history (`SourceDiverged`), a refused
    /// password.
    pub async fn run(&self, stop: &Stop) -> Result<Summary> {
        let pipeline = &self.options.pipeline;
        let result = loop {
            let given_up = self.until_given_up(stop).await;
            let error = match given_up {
                Ok(result) => break result,
                // Nothing of the run is left by now.
                Err(error) => error,
            };
            let anew = async {
                match self.source.abandon(pipeline).await? {
                    Abandoned::Ended => Ok(false),
                    Abandoned::CopyAnew => self.forget_position().await.map(|()| true),
                }
            };
            match anew.await {
                Ok(true) => {
                    tracing::warn!(%pipeline, error = error.chain(), "everything is copied anew");
                }
                Ok(false) => break Err(error),
                Err(failure) => {
                    tracing::error!(%pipeline, error = failure.chain(), "could not be given up");
                    break Err(error);
                }
            }
        };
        self.stats.update(|stats| stats.state = State::Stopped);
        let end = result?;
        let letters = self.source.dead_letters().count(&self.options.pipeline);
        // The end stands, whether or not the count can still be had.
        let dead_letters = letters.await.unwrap_or_else(|_| self.stats().parked);
        Ok(Summary {
            end,
            stats: self.stats(),
            dead_letters,
        })
    }

    /// Runs until the end, or, as an error, until the source cannot bear it any longer.
    async fn until_given_up(&self, stop: &Stop) -> Result<Result<End>> {
        let pipeline = &self.options.pipeline;
        let supervised = supervise(
            pipeline,
            self.options.backoff,
            stop,
            |attempt| self.attempt(attempt, stop),
            |failure| {
                self.stats.update(|stats| {
                    stats.state = State::Waiting;
                    stats.last_error = Some(failure.error.chain());
                });
            },
        );
        tokio::select! {
            result = supervised => Ok(result),
            error = self.source.watch(pipeline) => Err(error),
        }
    }

    /// Has the next attempt begin with a copy, unless another instance has taken over.
    async fn forget_position(&self) -> Result<()> {
        let (pipeline, ttl) = (&self.options.pipeline, self.options.lease);
        let consumers = self.source.consumers();
        match consumers.lease(pipeline, &self.holder, ttl).await? {
            Lease::HeldBy { .. } => Ok(()),
            Lease::Held { .. } => self.cursors()?.reset(pipeline).await,
        }
    }

    /// Delivers the dead letters again, in order, and removes those that the sink now takes. Of a
    /// stream whose letter is refused again, the rest stays as well. Tells how many were delivered
    /// and how many are left.
    ///
    /// Pause a running bridge before: `Unavailable` while another instance has the lease.
    pub async fn replay_dead_letters(&self) -> Result<(u64, u64)> {
        replay::replay(
            self.source.as_ref(),
            self.sink.as_ref(),
            self.cursors()?,
            &self.options,
        )
        .await
    }

    fn cursors(&self) -> Result<&dyn CursorStore> {
        let own = self
            .cursors
            .as_deref()
            .map(|cursors| cursors as &dyn CursorStore);
        own.or_else(|| self.sink.cursors()).ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "open bridge",
                format!("{} has no cursors", self.sink),
            )
        })
    }

    /// One run: take the lease, claim the cursor, and carry until the end.
    async fn attempt(&self, attempt: Attempt, stop: &Stop) -> Result<End> {
        let source = self.source.as_ref();
        let pipeline = &self.options.pipeline;
        let consumers = source.consumers();
        // A consumer that is registered holds the log back for it. The head may wait for others'
        // transactions, and a stop does not wait with it.
        let register = async {
            let known = consumers.list().await?;
            if known.iter().any(|consumer| consumer.pipeline == *pipeline) {
                return Ok(());
            }
            consumers.register(pipeline, &source.head().await?).await
        };
        tokio::select! {
            registered = register => registered?,
            () = stop.stopped() => return Ok(End::Stopped),
        }
        let mut told = false;
        loop {
            let ttl = self.options.lease;
            let waited = acquire(consumers, pipeline, &self.holder, ttl, stop, |holder| {
                self.stats.update(|stats| stats.state = State::Waiting);
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%pipeline, holder, "another instance works; waiting for its lease");
                }
            })
            .await?;
            let held = match waited {
                Waited::Stopped => return Ok(End::Stopped),
                Waited::Paused => {
                    self.stats.update(|stats| stats.state = State::Paused);
                    if tokio::time::timeout(TELL, stop.stopped()).await.is_ok() {
                        return Ok(End::Stopped);
                    }
                    continue;
                }
                Waited::Held(held) => held,
            };
            let (end, paused) = self.carry_while_held(&attempt, &held, stop).await;
            held.release().await;
            if !paused || end.is_err() || stop.is_stopped() {
                return end.map_err(waits_when_fenced);
            }
        }
    }

    /// Carries while the lease is held. A stop or a pause ends the reading, and what was read is
    /// delivered; the second value tells of a pause. A lost lease ends everything at once: what is
    /// in flight then is fenced off by the next claim.
    async fn carry_while_held(
        &self,
        attempt: &Attempt,
        held: &Held<'_>,
        stop: &Stop,
    ) -> (Result<End>, bool) {
        let drain = Stop::new();
        let mut paused = false;
        let mut carried = pin!(self.carry(attempt, &drain));
        let mut kept = pin!(held.keep());
        let mut overdue = pin!(async {
            drain.stopped().await;
            tokio::time::sleep(self.options.drain).await;
        });
        loop {
            tokio::select! {
                end = &mut carried => return (end, paused),
                end = &mut kept => match end {
                    Ok(()) => {
                        paused = true;
                        drain.stop();
                        kept.set(held.keep());
                    }
                    Err(error) => return (Err(error), paused),
                },
                () = stop.stopped(), if !drain.is_stopped() => drain.stop(),
                // At-least-once delivery and idempotent sinks make this safe at any point.
                () = &mut overdue => {
                    tracing::warn!(
                        pipeline = %self.options.pipeline,
                        "the last deliveries were not acknowledged in time, and are given up"
                    );
                    return (Ok(End::Stopped), paused);
                }
            }
        }
    }

    /// Claims the cursor, and carries from there until `drain` fires or, with `once`, to the end.
    async fn carry(&self, attempt: &Attempt, drain: &Stop) -> Result<End> {
        let options = &self.options;
        let identity = self.source.identity().await?;
        let claim = self.cursors()?.claim(&options.pipeline, &identity);
        let claim = claim.await?;
        let progress = match &claim.cursor {
            Some(cursor) => Progress::from_cursor(cursor)?,
            None => Progress::Snapshot {
                start: self.source.head().await?,
                key: Bytes::new(),
            },
        };
        let copying = matches!(progress, Progress::Snapshot { .. });
        let to_copy = if copying {
            self.source.size().await?
        } else {
            0
        };
        self.stats.update(|stats| {
            stats.state = if copying {
                State::Copying
            } else {
                State::Following
            };
            stats.to_copy = to_copy;
            stats.position.clone_from(&claim.cursor);
        });
        let until = if options.once {
            Some(self.source.head().await?)
        } else {
            None
        };
        let sink = Isolated::new(
            Arc::clone(&self.sink),
            Arc::clone(&self.source),
            options,
            self.stats.clone(),
        )
        .await?;
        let (shared, stats) = (Arc::clone(options), self.stats.clone());
        let steps = self.source.steps(&options.pipeline, progress, until);
        let deliveries = steps
            .await?
            .keep(move |item: &T| {
                let kind = item.kind();
                let keep = !shared.skip.iter().any(|skipped| skipped.as_str() == kind);
                if !keep {
                    stats.update(|stats| stats.skipped += 1);
                    if let Some(recorder) = &shared.recorder {
                        recorder.skipped(&shared.pipeline, kind);
                    }
                }
                keep
            })
            .until(drain)
            .lanes(options.lanes)
            .batch(options.batch)
            .deliver_to(Arc::new(sink), Lead::new(options.pipeline.clone(), claim));
        let deliveries = match &self.cursors {
            Some(cursors) => deliveries.checkpoint(Arc::clone(cursors)).left_stream(),
            None => deliveries.right_stream(),
        };
        let observe = |delivered: &Delivered| {
            self.stats
                .delivered(delivered.items, delivered.bytes, delivered.ack.clone());
        };
        let end = tokio::select! {
            end = attempt.drive(deliveries, observe) => end?,
            () = self.tell() => End::Stopped,
        };
        self.tell_once().await;
        Ok(end)
    }

    /// Tells the source how far the bridge is, and measures how far that is behind, for ever.
    async fn tell(&self) {
        loop {
            self.tell_once().await;
            tokio::time::sleep(TELL).await;
        }
    }

    async fn tell_once(&self) {
        let source = self.source.as_ref();
        let Some(position) = self.stats().position else {
            return;
        };
        // A copy holds the log back at its start.
        let (copying, cursor) = match Progress::from_cursor(&position) {
            Ok(Progress::Follow(cursor)) => (false, cursor),
            Ok(Progress::Snapshot { start, .. }) => (true, start),
            Err(_) => return,
        };
        let told = async {
            if !copying {
                source.confirm(&self.options.pipeline, &cursor).await?;
            }
            source.lag(&cursor).await
        };
        match told.await {
            Ok(lag) => {
                if let Some(recorder) = &self.options.recorder {
                    recorder.lag(&self.options.pipeline, lag.age);
                }
                let left = source.copying();
                let copying = copying || left.is_some();
                self.stats.update(|stats| {
                    if let Some(left) = left {
                        stats.to_copy = left + stats.delivered;
                    }
                    stats.state = if copying {
                        State::Copying
                    } else {
                        State::Following
                    };
                    stats.lag_entries = lag.entries;
                    stats.lag = lag.age;
                    stats.lag_bytes = lag.bytes;
                    stats.held_by = lag.held_by;
                });
            }
            // The pipeline itself meets the same fault, and reports it.
            Err(error) => tracing::debug!(error = error.chain(), "could not tell the progress"),
        }
    }
}

/// Who was fenced off waits for the lease again, as a second instance does.
fn waits_when_fenced(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Fenced => error.retryable(),
        _ => error,
    }
}

impl<T> Clone for Bridge<T> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            sink: Arc::clone(&self.sink),
            cursors: self.cursors.clone(),
            options: Arc::clone(&self.options),
            stats: self.stats.clone(),
            holder: Arc::clone(&self.holder),
        }
    }
}

impl<T> fmt::Debug for Bridge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("pipeline", &self.options.pipeline)
            .field("source", &self.source)
            .field("sink", &self.sink)
            .finish_non_exhaustive()
    }
}
