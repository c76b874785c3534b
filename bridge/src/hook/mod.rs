//! Hooks: a store's changes sent to somebody's endpoint, in each stream's order.
//!
//! A hook reads what the store holds, then follows its log, and sends the changes of each stream in
//! order, those of different streams side by side. A stream whose delivery fails is set aside with
//! what follows in it, durably, and tried again by a schedule; the cursor and the other streams move
//! on. It names no protocol: it works with any [`Endpoint`] and any [`State`].
//!
//! **Ids.** A receiver knows a delivery by its id, which is made of its first and its last item. So
//! after a restart the same items must go together again. Deliveries of several items are noted
//! before they are sent; what is sent alone needs no note, since what a restart finds behind the
//! cursor and without a note is sent alone.

mod breaker;
mod carry;
mod lane;
mod options;
mod pace;
mod replay;
mod source;
mod stats;
mod window;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ledger_core::hook::{Answer, Asked, Attempt, Delivery, Endpoint, State, Writes};
use ledger_core::pipeline::{Attempt as Run, End, Stop, supervise};
use ledger_core::{Consumers, Error, ErrorKind, PipelineId, Progress, Result, Store, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

pub use breaker::BreakerState;
pub use options::{HookFailure, HookOptions, Keep, Schedule};
pub use replay::{Selection, Told};
pub use stats::{HookState, HookStats};

use crate::lease::{Held, Waited, acquire};
use carry::Carrier;
use source::log;
use stats::Shared;

/// How often the lag is measured and the progress is told to the source.
const TELL: Duration = Duration::from_secs(1);

/// Sends a store's changes to an endpoint.
///
/// Cloning shares it, so that one clone runs and another tells its numbers.
#[derive(Clone)]
pub struct Hook {
    source: Arc<dyn Store>,
    endpoint: Arc<dyn Endpoint>,
    state: Arc<dyn State>,
    options: Arc<HookOptions>,
    stats: Shared,
    holder: Arc<str>,
    /// Somebody has asked for something that a disabled hook waits for.
    asked: Arc<Notify>,
}

impl Hook {
    /// A hook on `source`, which must keep a log.
    pub fn new(
        source: Arc<dyn Store>,
        endpoint: Arc<dyn Endpoint>,
        state: Arc<dyn State>,
        options: HookOptions,
    ) -> Result<Self> {
        log(source.as_ref())?;
        Ok(Self {
            source,
            endpoint,
            state,
            options: Arc::new(options),
            stats: Shared::default(),
            // Unique for each instance, in one process too.
            holder: format!("{}@{}", std::process::id(), Uuid::new_v4()).into(),
            asked: Arc::default(),
        })
    }

    /// Its name.
    pub fn pipeline(&self) -> &PipelineId {
        &self.options.pipeline
    }

    /// What keeps its state.
    pub fn state(&self) -> &dyn State {
        self.state.as_ref()
    }

    /// Its numbers at this moment.
    pub fn stats(&self) -> HookStats {
        self.stats.get()
    }

    /// Runs until `stop` fires; then what is under way is waited for. While the store cannot be
    /// reached it tries again for ever; a disabled hook waits until it is resumed.
    ///
    /// Its errors need somebody to act: the hook was one of another store (`Conflict`), a log pruned
    /// before it was read (`CursorExpired`), another history (`SourceDiverged`).
    pub async fn run(&self, stop: &Stop) -> Result<End> {
        let result = supervise(
            &self.options.pipeline,
            self.options.backoff,
            stop,
            |run| self.attempt(run, stop),
            |failure| {
                self.stats.update(|stats| {
                    stats.state = HookState::Waiting;
                    stats.last_error = Some(failure.error.chain());
                });
            },
        )
        .await;
        self.stats.update(|stats| stats.state = HookState::Stopped);
        result
    }

    /// Asks the hook to pause; it stays paused until it is resumed, also over restarts.
    pub async fn pause(&self) -> Result<()> {
        self.register().await?;
        let consumers = log(self.source.as_ref())?.consumers();
        consumers.set_paused(&self.options.pipeline, true).await
    }

    /// Lets a hook go on that is paused, or disabled.
    pub async fn resume(&self) -> Result<()> {
        let pipeline = &self.options.pipeline;
        let asked = self.state.asked(pipeline).await?;
        if asked.disabled.is_some() {
            let asked = Asked {
                disabled: None,
                ..asked
            };
            self.state.ask(pipeline, &asked).await?;
        }
        self.register().await?;
        let consumers = log(self.source.as_ref())?.consumers();
        consumers.set_paused(pipeline, false).await?;
        self.asked.notify_waiters();
        Ok(())
    }

    /// Forgets how far the hook is, so that it begins at the start of every stream. It must not run.
    pub async fn reset(&self) -> Result<()> {
        let pipeline = &self.options.pipeline;
        self.state.reset(pipeline).await?;
        let log = log(self.source.as_ref())?;
        let consumers = log.consumers();
        if self.is_registered(consumers).await? {
            consumers.reset(pipeline, &log.head().await?).await?;
        }
        Ok(())
    }

    /// Makes one attempt of a delivery, and remembers it.
    pub async fn post(&self, delivery: &Delivery) -> Result<Answer> {
        let answer = self.endpoint.post(delivery).await?;
        let made = attempt(delivery, &answer);
        self.state
            .remember(&self.options.pipeline, std::slice::from_ref(&made))
            .await?;
        Ok(answer)
    }

    async fn is_registered(&self, consumers: &dyn Consumers) -> Result<bool> {
        let known = consumers.list().await?;
        let own = |consumer: &ledger_core::Consumer| consumer.pipeline == self.options.pipeline;
        Ok(known.iter().any(own))
    }

    /// A consumer that is registered holds the log back for it.
    async fn register(&self) -> Result<()> {
        let log = log(self.source.as_ref())?;
        let consumers = log.consumers();
        if self.is_registered(consumers).await? {
            return Ok(());
        }
        consumers
            .register(&self.options.pipeline, &log.head().await?)
            .await
    }

    /// One run: take the lease, claim the state, and send until the end.
    async fn attempt(&self, run: Run, stop: &Stop) -> Result<End> {
        let consumers = log(self.source.as_ref())?.consumers();
        let pipeline = &self.options.pipeline;
        tokio::select! {
            registered = self.register() => registered?,
            () = stop.stopped() => return Ok(End::Stopped),
        }
        let mut told = false;
        loop {
            let asked = self.state.asked(pipeline).await?;
            self.stats
                .update(|stats| stats.disabled.clone_from(&asked.disabled));
            if asked.disabled.is_some() {
                self.stats.update(|stats| stats.state = HookState::Disabled);
                if self.rested(stop).await {
                    return Ok(End::Stopped);
                }
                continue;
            }
            let ttl = self.options.lease;
            let waited = acquire(consumers, pipeline, &self.holder, ttl, stop, |holder| {
                self.stats.update(|stats| stats.state = HookState::Waiting);
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%pipeline, holder, "another instance works; waiting for its lease");
                }
            })
            .await?;
            let held = match waited {
                Waited::Stopped => return Ok(End::Stopped),
                Waited::Paused => {
                    self.stats.update(|stats| stats.state = HookState::Paused);
                    if self.rested(stop).await {
                        return Ok(End::Stopped);
                    }
                    continue;
                }
                Waited::Held(held) => held,
            };
            let carried = self.carry_while_held(&run, &held, stop).await;
            held.release().await;
            carried.map_err(waits_when_fenced)?;
            if stop.is_stopped() {
                return Ok(End::Stopped);
            }
        }
    }

    /// Waits a while, or until somebody has asked for something; tells whether it was to stop.
    async fn rested(&self, stop: &Stop) -> bool {
        tokio::select! {
            () = stop.stopped() => true,
            () = self.asked.notified() => false,
            () = tokio::time::sleep(TELL) => false,
        }
    }

    /// Sends while the lease is held, until a stop, a pause, or until the hook is disabled. A lost
    /// lease ends everything at once: what is stored then is fenced off by the next claim.
    async fn carry_while_held(&self, run: &Run, held: &Held<'_>, stop: &Stop) -> Result<()> {
        let drain = Stop::new();
        let mut carried = pin!(self.carry(run, &drain));
        let mut kept = pin!(held.keep());
        let mut overdue = pin!(async {
            drain.stopped().await;
            tokio::time::sleep(self.options.drain).await;
        });
        loop {
            tokio::select! {
                end = &mut carried => return end,
                end = &mut kept => {
                    end?;
                    // Asked to pause.
                    drain.stop();
                    kept.set(held.keep());
                }
                () = stop.stopped(), if !drain.is_stopped() => drain.stop(),
                // At-least-once: what is under way is sent again, under its id.
                () = &mut overdue => {
                    tracing::warn!(
                        pipeline = %self.options.pipeline,
                        "the last deliveries were not answered in time, and are given up"
                    );
                    return Ok(());
                }
            }
        }
    }

    /// Claims the state, and sends from there until `drain` fires.
    async fn carry(&self, run: &Run, drain: &Stop) -> Result<()> {
        let log = log(self.source.as_ref())?;
        let identity = log.identity().await?;
        let pipeline = &self.options.pipeline;
        let claim = self
            .state
            .claim(pipeline, self.source.name(), &identity)
            .await?;
        let progress = if let Some(cursor) = &claim.cursor {
            Progress::from_cursor(cursor)?
        } else {
            let progress = source::beginning(log).await?;
            // Where the copy begins is part of every position in it.
            let writes = Writes {
                cursor: Some(progress.to_cursor()),
                ..Writes::default()
            };
            self.state.commit(pipeline, claim.fence, &writes).await?;
            progress
        };
        let copying = matches!(progress, Progress::Snapshot { .. });
        let head = log.head().await?;
        self.stats.update(|stats| {
            stats.state = if copying {
                HookState::Copying
            } else {
                HookState::Following
            };
            stats.position.clone_from(&claim.cursor);
        });
        let carrier = Carrier::new(self, identity.store, claim, &progress, head);
        let changes = source::read(&self.source, progress)?;
        tokio::select! {
            end = Box::pin(carrier.run(changes, run, drain)) => end?,
            () = self.tell() => {}
        }
        self.tell_once().await;
        Ok(())
    }

    /// Tells the source how far the hook is, and measures how far that is behind, for ever.
    async fn tell(&self) {
        loop {
            self.tell_once().await;
            tokio::time::sleep(TELL).await;
        }
    }

    async fn tell_once(&self) {
        let pipeline = &self.options.pipeline;
        let told = async {
            let counts = self.state.counts(pipeline).await?;
            self.stats.update(|stats| stats.counts = counts);
            let Some(position) = self.stats.get().position else {
                return Ok(());
            };
            let log = log(self.source.as_ref())?;
            // A copy holds the log back at its start.
            let cursor = match Progress::from_cursor(&position)? {
                Progress::Follow(cursor) => {
                    log.consumers().confirm(pipeline, &cursor).await?;
                    cursor
                }
                Progress::Snapshot { start, .. } => start,
            };
            let lag = log.lag(&cursor).await?;
            if let Some(recorder) = &self.options.recorder {
                recorder.lag(pipeline, lag.age);
            }
            self.stats.update(|stats| {
                stats.lag_entries = lag.entries;
                stats.lag = lag.age;
            });
            Ok::<_, Error>(())
        };
        if let Err(error) = told.await {
            // The hook itself meets the same fault, and reports it.
            tracing::debug!(error = error.chain(), "could not tell the progress");
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

/// An attempt as it is remembered.
fn attempt(delivery: &Delivery, answer: &Answer) -> Attempt {
    let (first, last) = delivery.range();
    let stream = delivery.stream();
    Attempt {
        number: 0,
        at: Timestamp::now(),
        id: delivery.id.clone(),
        stream: stream.map(|stream| stream.key).unwrap_or_default(),
        name: stream
            .map(|stream| stream.name.to_string())
            .unwrap_or_default(),
        kind: delivery.kind().to_string(),
        first,
        last,
        items: delivery.changes.len() as u64,
        attempt: delivery.attempt,
        outcome: answer.outcome.to_string(),
        status: answer.status.unwrap_or(0),
        micros: u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX),
        sent: answer.sent as u64,
        response: answer.response.clone(),
        error: answer.error.clone().unwrap_or_default(),
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("pipeline", &self.options.pipeline)
            .field("source", &self.source)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
