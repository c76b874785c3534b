//! The bridges of the configuration, each under supervision of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ledger::bridge::{Bridge, BridgeOptions, State, Stats, VerifyOptions, verify};
use ledger::connect::ReplicaSink;
use ledger::observe::Recorder;
use ledger::pipeline::Stop;
use ledger::{ChangeLog, Cursor, Error, ErrorKind, PipelineId, Result, Store};
use ledger_server::{BridgeState, BridgeStatus, Bridges, Letters, Verification};
use tokio::task::JoinHandle;

use super::stores::Served;
use crate::commands::resync_replica;
use crate::config::BridgeConfig;

/// How long the ends of a bridge are not tried again after they could not be opened; doubled each
/// time, up to the second.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// How many differences are told.
const NAMED: usize = 100;

/// How many dead letters are removed at a time.
const LETTERS: usize = 500;

/// The bridges that run now. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    stores: Arc<Served>,
    recorder: Arc<dyn Recorder>,
    bridges: Arc<Mutex<BTreeMap<PipelineId, Arc<One>>>>,
    /// How long what a bridge has read may take to be delivered when it stops.
    drain: Duration,
    /// Held while a bridge is stopped for work on its ends: one such work at a time.
    work: Arc<tokio::sync::Mutex<()>>,
}

/// One bridge.
#[derive(Debug)]
struct One {
    config: BridgeConfig,
    drain: Duration,
    recorder: Arc<dyn Recorder>,
    stop: Stop,
    shown: Mutex<Shown>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What is known of a bridge.
#[derive(Debug, Default)]
struct Shown {
    /// Known before the sink is: a bridge whose sink is away can be paused.
    source: Option<Arc<dyn Store>>,
    ends: Option<Ends>,
    /// Why its ends could not be opened, or why it has ended.
    error: Option<String>,
    /// Whether it ended for a reason that waiting will not mend.
    ended: bool,
    dead_letters: u64,
}

#[derive(Debug, Clone)]
struct Ends {
    source: Arc<dyn Store>,
    sink: ReplicaSink,
    bridge: Bridge,
}

impl Ends {
    fn log(&self) -> Result<&dyn ChangeLog> {
        log(self.source.as_ref())
    }
}

fn log(source: &dyn Store) -> Result<&dyn ChangeLog> {
    source.log().ok_or_else(|| {
        let what = format!("{source} keeps no mutation log");
        Error::new(ErrorKind::Unsupported, "look after bridge", what)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reload changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) started: Vec<String>,
    pub(crate) stopped: Vec<String>,
    pub(crate) altered: Vec<String>,
}

impl Changed {
    /// Adds what changed elsewhere.
    pub(crate) fn extend(&mut self, other: Self) {
        self.started.extend(other.started);
        self.stopped.extend(other.stopped);
        self.altered.extend(other.altered);
    }
}

impl Running {
    pub(crate) fn new(
        stores: Arc<Served>,
        drain: Duration,
        recorder: Arc<dyn Recorder>,
    ) -> Arc<Self> {
        Arc::new(Self {
            stores,
            recorder,
            bridges: Arc::default(),
            drain,
            work: Arc::default(),
        })
    }

    /// Starts, stops and changes bridges so that those of the configuration run. One that is as it
    /// was goes on undisturbed.
    pub(crate) async fn apply(&self, configs: &[BridgeConfig]) -> Changed {
        let mut changed = Changed::default();
        let mut gone = Vec::new();
        {
            let mut bridges = lock(&self.bridges);
            let known: Vec<_> = bridges.keys().cloned().collect();
            for name in known {
                let wanted = configs.iter().find(|config| config.name == name);
                // One that has ended starts anew: what ended it may have been mended.
                let same = bridges.get(&name).zip(wanted).is_some_and(|(one, config)| {
                    one.config.written == config.written && !lock(&one.shown).ended
                });
                if same {
                    continue;
                }
                match wanted {
                    Some(_) => changed.altered.push(name.to_string()),
                    None => changed.stopped.push(name.to_string()),
                }
                gone.extend(bridges.remove(&name));
            }
        }
        // What has changed is stopped before it starts anew: it would wait for its own lease.
        stop(gone).await;
        let mut bridges = lock(&self.bridges);
        for config in configs {
            if bridges.contains_key(&config.name) {
                continue;
            }
            if !changed.altered.contains(&config.name.to_string()) {
                changed.started.push(config.name.to_string());
            }
            let one = One::start(config.clone(), self);
            bridges.insert(config.name.clone(), one);
        }
        changed
    }

    /// Stops all of them; what was read is delivered first.
    pub(crate) async fn stop(&self) {
        let all: Vec<_> = std::mem::take(&mut *lock(&self.bridges))
            .into_values()
            .collect();
        stop(all).await;
    }

    /// All of them, by name.
    pub(super) fn statuses(&self) -> Vec<BridgeStatus> {
        let bridges = lock(&self.bridges);
        bridges.values().map(|one| one.status()).collect()
    }

    fn one(&self, name: &PipelineId) -> Result<Arc<One>> {
        lock(&self.bridges)
            .get(name)
            .map(Arc::clone)
            .ok_or_else(|| {
                let what = format!("there is no bridge {name} in the daemon's configuration");
                Error::new(ErrorKind::NotFound, "look after bridge", what)
            })
    }

    /// Starts a bridge that was stopped, unless a reload has taken it away meanwhile.
    async fn again(&self, one: &Arc<One>) {
        stop(vec![Arc::clone(one)]).await;
        let mut bridges = lock(&self.bridges);
        if let Some(present) = bridges.get_mut(&one.config.name)
            && Arc::ptr_eq(present, one)
        {
            *present = One::start(one.config.clone(), self);
        }
    }

    /// Stops a bridge, works on its ends, and starts it again, whatever came of the work. In a task
    /// of its own: a caller that goes away must not leave the bridge stopped, nor the work half done.
    async fn while_stopped<T, W>(
        &self,
        name: &PipelineId,
        work: impl FnOnce(Arc<One>, Ends) -> W + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send,
    {
        let (running, name) = (self.clone(), name.clone());
        let task = tokio::spawn(async move {
            let _turn = running.work.lock().await;
            let (one, ends) = running.ends(&name)?;
            one.stopped().await;
            let worked = work(Arc::clone(&one), ends).await;
            running.again(&one).await;
            worked
        });
        task.await.unwrap_or_else(|error| {
            let what = "the work ended out of order";
            Err(Error::new(ErrorKind::Internal, "look after bridge", what).with_source(error))
        })
    }

    async fn set_paused(&self, name: &PipelineId, paused: bool) -> Result<()> {
        let one = self.one(name)?;
        let source = lock(&one.shown).source.clone();
        let source = source.ok_or_else(|| one.closed())?;
        let log = log(source.as_ref())?;
        let consumers = log.consumers();
        // A bridge whose sink is away has not registered yet.
        let known = consumers.list().await?;
        if !known.iter().any(|consumer| consumer.pipeline == *name) {
            consumers.register(name, &log.head().await?).await?;
        }
        consumers.set_paused(name, paused).await
    }

    fn ends(&self, name: &PipelineId) -> Result<(Arc<One>, Ends)> {
        let one = self.one(name)?;
        let ends = lock(&one.shown).ends.clone();
        let ends = ends.ok_or_else(|| one.closed())?;
        Ok((one, ends))
    }
}

async fn stop(bridges: Vec<Arc<One>>) {
    for one in &bridges {
        one.stop.stop();
    }
    for one in bridges {
        one.stopped().await;
        // A source of its own is nobody else's.
        let source = lock(&one.shown).source.take();
        if let Some(source) = source.filter(|_| one.config.from.is_some()) {
            source.close().await;
        }
    }
}

impl One {
    fn start(config: BridgeConfig, running: &Running) -> Arc<Self> {
        let one = Arc::new(Self {
            config,
            drain: running.drain,
            recorder: Arc::clone(&running.recorder),
            stop: Stop::new(),
            shown: Mutex::default(),
            task: Mutex::default(),
        });
        let (running, stores) = (Arc::clone(&one), Arc::clone(&running.stores));
        let task = tokio::spawn(async move { Box::pin(running.run(&stores)).await });
        *lock(&one.task) = Some(task);
        one
    }

    /// Why it cannot be looked after now.
    fn closed(&self) -> Error {
        let why = lock(&self.shown).error.clone();
        let why = why.unwrap_or_else(|| "its ends are not open yet".to_owned());
        let what = format!("bridge {}: {why}", self.config.name);
        Error::new(ErrorKind::Unavailable, "look after bridge", what)
    }

    async fn stopped(&self) {
        self.stop.stop();
        let task = lock(&self.task).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(bridge = %self.config.name, %error, "a bridge ended out of order");
        }
    }

    /// Opens the ends, as often as it takes, and carries until it is asked to stop.
    async fn run(&self, stores: &Arc<Served>) {
        let name = &self.config.name;
        let [mut wait, longest] = WAITS;
        let ends = loop {
            let opened = tokio::select! {
                opened = self.open(stores) => opened,
                () = self.stop.stopped() => return,
            };
            let error = match opened {
                Ok(ends) => break ends,
                Err(error) => error,
            };
            // A store that does not exist may be made by its first append.
            let passing = error.is_retryable()
                || matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound);
            let told = {
                let mut shown = lock(&self.shown);
                shown.ended = !passing;
                shown.error.replace(error.chain())
            };
            if told.as_deref() != Some(&error.chain()) {
                tracing::warn!(bridge = %name, error = error.chain(), "a bridge cannot begin");
            }
            if !passing {
                return;
            }
            if tokio::time::timeout(wait, self.stop.stopped())
                .await
                .is_ok()
            {
                return;
            }
            wait = (wait * 2).min(longest);
        };
        {
            let mut shown = lock(&self.shown);
            shown.error = None;
            shown.ends = Some(ends.clone());
        }
        tracing::info!(bridge = %name, from = %ends.source, to = %ends.sink, "bridge begins");
        let counted = self.count_letters(&ends);
        let outcome = tokio::select! {
            outcome = ends.bridge.run(&self.stop) => outcome,
            () = counted => return,
        };
        match outcome {
            Ok(summary) => {
                let delivered = summary.stats.delivered;
                tracing::info!(bridge = %name, delivered, "bridge stopped");
            }
            Err(error) => {
                tracing::error!(bridge = %name, error = error.chain(), "a bridge ended");
                let mut shown = lock(&self.shown);
                shown.error = Some(error.chain());
                shown.ended = true;
            }
        }
    }

    async fn open(&self, stores: &Arc<Served>) -> Result<Ends> {
        let config = &self.config;
        let known = lock(&self.shown).source.clone();
        let source = match (known, &config.from) {
            (Some(source), _) => source,
            (None, Some(url)) => url.open_store(&config.store).await?,
            // The bridge waits for changes, so the store must be there to have some.
            (None, None) => stores.create(&config.store).await?,
        };
        lock(&self.shown).source = Some(Arc::clone(&source));
        let sink = config.to.open_sink(&config.store).await?;
        let options = BridgeOptions {
            skip: config.skip.clone(),
            on_failure: config.on_failure,
            batch: sink.batch(),
            drain: self.drain,
            recorder: Some(Arc::clone(&self.recorder)),
            ..BridgeOptions::new(config.name.clone())
        };
        let bridge = Bridge::new(Arc::clone(&source), sink.sink(), options)?;
        Ok(Ends {
            source,
            sink,
            bridge,
        })
    }

    /// Counts the dead letters now and then, for ever: the bridge itself knows its own only.
    async fn count_letters(&self, ends: &Ends) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            let Ok(log) = ends.log() else {
                return std::future::pending().await;
            };
            if let Ok(count) = log.dead_letters().count(&self.config.name).await {
                lock(&self.shown).dead_letters = count;
            }
        }
    }

    fn status(&self) -> BridgeStatus {
        let shown = lock(&self.shown);
        let stats = shown.ends.as_ref().map(|ends| ends.bridge.stats());
        let stats = stats.unwrap_or_default();
        let state = if shown.ended {
            State::Stopped
        } else {
            stats.state
        };
        let Stats {
            delivered,
            bytes,
            skipped,
            parked,
            refused,
            rate,
            to_copy,
            lag_entries,
            lag,
            last_error,
            position,
            ..
        } = stats;
        let error = shown.error.clone().or(last_error);
        BridgeStatus {
            name: self.config.name.clone(),
            store: self.config.store.clone(),
            to: self.config.to.to_string(),
            ready: match state {
                // Another instance may have the lease, which is as it should be.
                State::Waiting => error.is_none(),
                State::Copying | State::Following | State::Paused => true,
                State::Stopped => false,
            },
            state: match state {
                State::Waiting => BridgeState::Waiting,
                State::Copying => BridgeState::Copying,
                State::Following => BridgeState::Following,
                State::Paused => BridgeState::Paused,
                State::Stopped => BridgeState::Stopped,
            },
            lag_entries,
            lag,
            last_error: error,
            delivered,
            bytes,
            skipped,
            parked,
            refused,
            to_copy,
            rate,
            position,
            dead_letters: shown.dead_letters.max(parked),
        }
    }
}

#[async_trait]
impl Bridges for Running {
    async fn list(&self) -> Vec<BridgeStatus> {
        self.statuses()
    }

    async fn pause(&self, name: &PipelineId) -> Result<()> {
        self.set_paused(name, true).await
    }

    async fn resume(&self, name: &PipelineId) -> Result<()> {
        self.set_paused(name, false).await
    }

    async fn resync(&self, name: &PipelineId) -> Result<()> {
        self.while_stopped(name, |one, ends| async move {
            resync_replica(ends.source.as_ref(), &ends.sink, &one.config.name).await
        })
        .await
    }

    async fn verify(&self, name: &PipelineId, repair: bool) -> Result<Verification> {
        if repair {
            return self
                .while_stopped(
                    name,
                    |one, ends| async move { compare(&one, &ends, true).await },
                )
                .await;
        }
        let (one, ends) = self.ends(name)?;
        compare(&one, &ends, false).await
    }

    async fn dead_letters(
        &self,
        name: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Letters> {
        let (_, ends) = self.ends(name)?;
        let letters = ends.log()?.dead_letters();
        Ok(Letters {
            letters: letters.list(name, after, limit).await?,
            total: letters.count(name).await?,
        })
    }

    async fn discard(&self, name: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64> {
        let (one, ends) = self.ends(name)?;
        let letters = ends.log()?.dead_letters();
        let before = letters.count(name).await?;
        match cursors {
            Some(cursors) => letters.remove(name, cursors).await?,
            None => loop {
                let page = letters.list(name, None, LETTERS).await?;
                if page.is_empty() {
                    break;
                }
                let cursors: Vec<_> = page.into_iter().map(|letter| letter.cursor).collect();
                letters.remove(name, &cursors).await?;
            },
        }
        let left = letters.count(name).await?;
        lock(&one.shown).dead_letters = left;
        Ok(before.saturating_sub(left))
    }

    async fn replay(&self, name: &PipelineId) -> Result<(u64, u64)> {
        // Under the lease that the running bridge gives up.
        self.while_stopped(name, |_, ends| async move {
            ends.bridge.replay_dead_letters().await
        })
        .await
    }
}

async fn compare(one: &One, ends: &Ends, repair: bool) -> Result<Verification> {
    let how = VerifyOptions {
        skip: one.config.skip.clone(),
        repair,
        ..VerifyOptions::new(one.config.name.clone())
    };
    let sink = ends.sink.sink();
    let report = verify(ends.source.as_ref(), sink.as_ref(), &how, |_| {}).await?;
    let differences = report.differences.iter().take(NAMED);
    Ok(Verification {
        streams: report.streams,
        compared: report.entries,
        different: report.differences.len() as u64,
        pending: report.pending,
        repaired: report.repaired,
        unrepaired: report.unrepaired,
        equal: report.is_equal(),
        differences: differences.map(ToString::to_string).collect(),
    })
}
