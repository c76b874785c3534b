//! The bridges of the configuration, each under supervision of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ledger::bridge::{AnyBridge, BridgeOptions, State, Stats, VerifyOptions};
use ledger::connect::Flow;
use ledger::observe::Recorder;
use ledger::pipeline::Stop;
use ledger::{
    ChangeLog, Consumers, Cursor, Error, ErrorKind, Lag, PipelineId, Progress, Relay,
    ReplicaOptions, Result, Store,
};
use ledger_server::{BridgeState, BridgeStatus, Bridges, Letters, Verification};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::stores::Served;
use crate::config::{BridgeConfig, Carried, HOOK_PREFIX};
use crate::tables::{self, table_name};

/// How long the ends of a bridge are not tried again after they could not be opened; doubled each
/// time, up to the second.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// How often the lag of a bridge that carries nothing is measured.
const MEASURE: Duration = Duration::from_secs(1);

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
    /// How far it is behind, while it carries nothing and so does not measure that itself.
    behind: Option<Lag>,
    dead_letters: u64,
}

#[derive(Debug, Clone)]
struct Ends {
    flow: Flow,
    bridge: AnyBridge,
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

/// The lag of a bridge that has everything before it.
fn all(entries: u64) -> Lag {
    Lag {
        entries,
        ..Lag::default()
    }
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
        task.await.unwrap_or_else(out_of_order)
    }

    async fn set_paused(&self, name: &PipelineId, paused: bool) -> Result<()> {
        let one = self.one(name)?;
        let source = lock(&one.shown).source.clone();
        let known = async |consumers: &dyn Consumers| {
            let known = consumers.list().await?;
            Ok::<_, Error>(known.iter().any(|consumer| consumer.pipeline == *name))
        };
        // A bridge whose sink is away has not registered yet.
        if let Some(source) = source {
            let log = log(source.as_ref())?;
            let consumers = log.consumers();
            if !known(consumers).await? {
                consumers.register(name, &log.head().await?).await?;
            }
            return consumers.set_paused(name, paused).await;
        }
        let (_, ends) = self.ends(name)?;
        let consumers = ends.flow.consumers()?;
        if !known(consumers).await? {
            consumers.register(name, &ends.flow.head().await?).await?;
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

fn out_of_order<T>(error: tokio::task::JoinError) -> Result<T> {
    let what = "the work ended out of order";
    Err(Error::new(ErrorKind::Internal, "look after bridge", what).with_source(error))
}

async fn stop(bridges: Vec<Arc<One>>) {
    for one in &bridges {
        one.stop.stop();
    }
    for one in bridges {
        one.stopped().await;
        // A source of its own is nobody else's.
        let source = lock(&one.shown).source.take();
        if let Some(source) = source.filter(|_| one.config.carried.has_own_source()) {
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
        let task = tokio::spawn(async move {
            let run = async {
                Box::pin(running.run(&stores)).await;
                // One that has ended falls behind like any other.
                running.stop.stopped().await;
            };
            tokio::select! {
                () = run => {}
                () = running.measure() => {}
            }
        });
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
        tracing::info!(bridge = %name, from = ends.flow.source(), to = ends.flow.sink(), "bridge begins");
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
        let flow = match &config.carried {
            Carried::Store { store, from } => {
                let known = lock(&self.shown).source.clone();
                let source = match (known, from) {
                    (Some(source), _) => source,
                    (None, Some(url)) => url.open_store(store).await?,
                    // The bridge waits for changes, so the store must be there to have some.
                    (None, None) => stores.followed(store).await?,
                };
                if source.log().is_none() {
                    if from.is_some() {
                        source.close().await;
                    }
                    // The bridge that writes it may make it one.
                    let what = format!(
                        "{source} keeps no log; a replica does where the bridge to it has relay: true"
                    );
                    return Err(Error::new(ErrorKind::Unavailable, "follow store", what));
                }
                lock(&self.shown).source = Some(Arc::clone(&source));
                let options = ReplicaOptions {
                    relay: if config.relay { Relay::On } else { Relay::Off },
                    retention: stores.retention(),
                };
                let sink = config.to.open_sink_of(source.as_ref(), store, options);
                Flow::ledger(Arc::clone(&source), sink.await?)?
            }
            Carried::Tables {
                from,
                options,
                documents,
                routes,
            } => {
                let (options, routes) = (options.as_ref().clone(), routes.clone());
                tables::flow(from, &config.to, options, *documents, routes).await?
            }
        };
        let options = BridgeOptions {
            skip: config.skip.clone(),
            on_failure: config.on_failure,
            batch: flow.batch(),
            drain: self.drain,
            recorder: Some(Arc::clone(&self.recorder)),
            ..BridgeOptions::new(config.name.clone())
        };
        let bridge = flow.bridge(options)?;
        Ok(Ends { flow, bridge })
    }

    /// Counts the dead letters now and then, for ever: the bridge itself knows its own only.
    async fn count_letters(&self, ends: &Ends) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            let Ok(letters) = ends.flow.dead_letters() else {
                return std::future::pending().await;
            };
            if let Ok(count) = letters.count(&self.config.name).await {
                lock(&self.shown).dead_letters = count;
            }
        }
    }

    /// Whether the bridge itself measures how far it is behind, as it does while it carries.
    fn measures_itself(&self) -> bool {
        let shown = lock(&self.shown);
        let state = shown.ends.as_ref().map(|ends| ends.bridge.stats().state);
        !shown.ended && matches!(state, Some(State::Copying | State::Following))
    }

    /// Measures now and then, for ever, how far a bridge is behind that is paused, has ended, or
    /// cannot reach its sink.
    async fn measure(&self) {
        let mut tick = tokio::time::interval(MEASURE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.measures_itself() {
                lock(&self.shown).behind = None;
                continue;
            }
            match self.behind().await {
                Ok(Some(behind)) => {
                    self.recorder.lag(&self.config.name, behind.age);
                    lock(&self.shown).behind = Some(behind);
                }
                Ok(None) => {}
                // It is no closer than it was.
                Err(error) => {
                    tracing::debug!(error = error.chain(), "could not measure the lag");
                }
            }
        }
    }

    /// How far it is behind; none while its source is not known.
    async fn behind(&self) -> Result<Option<Lag>> {
        let (source, ends) = {
            let shown = lock(&self.shown);
            (shown.source.clone(), shown.ends.clone())
        };
        let position = ends.as_ref().and_then(|ends| ends.bridge.stats().position);
        match (&ends, &source) {
            (Some(ends), _) => {
                let flow = &ends.flow;
                match self.position(flow.consumers()?, position).await? {
                    Some(position) => flow.lag(&position).await.map(Some),
                    // It has not begun: everything is to be carried.
                    None => Ok(Some(all(flow.size().await?))),
                }
            }
            (None, Some(source)) => {
                let log = log(source.as_ref())?;
                match self.position(log.consumers(), position).await? {
                    Some(position) => log.lag(&position).await.map(Some),
                    None => Ok(Some(all(log.size().await?))),
                }
            }
            (None, None) => Ok(None),
        }
    }

    /// How far it is; none where it is not registered yet. `position` is that of this run: another
    /// instance may be further, and the source is told of the position now and then only.
    async fn position(
        &self,
        consumers: &dyn Consumers,
        position: Option<Cursor>,
    ) -> Result<Option<Cursor>> {
        let registered = consumers.list().await?.into_iter();
        let mut registered = registered.filter(|consumer| consumer.pipeline == self.config.name);
        let Some(registered) = registered.next() else {
            return Ok(None);
        };
        let position = match position.as_ref().map(Progress::from_cursor).transpose()? {
            Some(Progress::Follow(cursor) | Progress::Snapshot { start: cursor, .. }) => cursor,
            None => registered.confirmed.clone(),
        };
        Ok(Some(position.max(registered.confirmed)))
    }

    fn status(&self) -> BridgeStatus {
        let measures_itself = self.measures_itself();
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
            lag_bytes,
            last_error,
            position,
            ..
        } = stats;
        let (lag_entries, lag, lag_bytes) = match &shown.behind {
            Some(behind) if !measures_itself => (behind.entries, behind.age, behind.bytes),
            _ => (lag_entries, lag, lag_bytes),
        };
        let error = shown.error.clone().or(last_error);
        BridgeStatus {
            name: self.config.name.clone(),
            store: self.config.carried.to_string(),
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
            lag_bytes,
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

impl Running {
    /// Forgets what the stores of this daemon know of a bridge that is not configured.
    async fn forget(&self, name: &PipelineId) -> Result<()> {
        const OPERATION: &str = "remove bridge";
        if name.as_str().starts_with(HOOK_PREFIX) {
            let what = format!("name: {name} is a hook's; see `ledger hook remove`");
            return Err(Error::invalid(OPERATION, what));
        }
        if self.stores.unregister(name, None).await? == 0 {
            let what = format!(
                "no store of this daemon knows a bridge {name}; one with a source of its own is \
                 removed with --from and --store or --tables"
            );
            return Err(Error::new(ErrorKind::NotFound, OPERATION, what));
        }
        tracing::info!(bridge = %name, "a bridge is forgotten");
        Ok(())
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

    async fn remove(&self, name: &PipelineId) -> Result<()> {
        if !lock(&self.bridges).contains_key(name) {
            return self.forget(name).await;
        }
        let (running, name) = (self.clone(), name.clone());
        // In a task of its own, as all work for which a bridge is stopped.
        let task = tokio::spawn(async move {
            let _turn = running.work.lock().await;
            let (one, ends) = running.ends(&name)?;
            one.stopped().await;
            if let Err(error) = ends.flow.remove(&name).await {
                running.again(&one).await;
                return Err(error);
            }
            let mut shown = lock(&one.shown);
            shown.ended = true;
            shown.error = Some("removed; take it out of the configuration".to_owned());
            tracing::info!(bridge = %name, "bridge removed");
            Ok(())
        });
        task.await.unwrap_or_else(out_of_order)
    }

    async fn resync(&self, name: &PipelineId, table: Option<&str>) -> Result<()> {
        let table = table.map(table_name).transpose()?;
        self.while_stopped(name, |one, ends| async move {
            let name = &one.config.name;
            match table {
                Some(table) => ends.flow.resync_table(name, &table).await,
                None => ends.flow.resync(name).await,
            }
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
        let letters = ends.flow.dead_letters()?;
        Ok(Letters {
            letters: letters.list(name, after, limit).await?,
            total: letters.count(name).await?,
        })
    }

    async fn discard(&self, name: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64> {
        let (one, ends) = self.ends(name)?;
        let letters = ends.flow.dead_letters()?;
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
    let report = ends.flow.verify(&how, |_| {}).await?;
    let differences = report.differences.iter().take(NAMED);
    Ok(Verification {
        streams: report.groups,
        compared: report.compared,
        different: report.differences.len() as u64,
        pending: report.pending,
        repaired: report.repaired,
        unrepaired: report.unrepaired,
        equal: report.equal,
        verify_too: report.verify_too.iter().map(ToString::to_string).collect(),
        differences: differences.map(ToString::to_string).collect(),
    })
}
