//! The hooks of the configuration, each under supervision of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ledger::bridge::hook::{Hook, HookOptions, HookState, HookStats, Selection};
use ledger::hook::{Attempt, AttemptQuery, Delivery, Letter, State};
use ledger::observe::Recorder;
use ledger::pipeline::Stop;
use ledger::webhook::{Format, Signed, Unverified, WebhookEndpoint, verify, verify_compat};
use ledger::{
    Change, Cursor, Entry, EntryId, Error, ErrorKind, Mutation, Pairs, PipelineId, Result, Store,
    StreamKey, StreamName, StreamRef, Timestamp,
};
use ledger_server::{HookReplay, HookReplayed, HookRunState, HookSigned, HookStatus, Hooks};
use tokio::task::JoinHandle;

use super::bridges::Changed;
use super::secrets;
use super::stores::Served;
use crate::config::HookConfig;

/// How long the store is not tried again after it could not be opened; doubled each time, up to the
/// second.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// How often a hook looks which of its secrets still hold.
const SECRETS: Duration = Duration::from_secs(1);

/// The stream that a test is of.
const TEST: &str = "ledger.test";

/// The hooks that run now. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Hooked {
    stores: Arc<Served>,
    recorder: Arc<dyn Recorder>,
    hooks: Arc<Mutex<BTreeMap<String, Arc<One>>>>,
    drain: Duration,
    /// Held while a hook is stopped for work on its state: one such work at a time.
    work: Arc<tokio::sync::Mutex<()>>,
}

/// One hook.
#[derive(Debug)]
struct One {
    config: HookConfig,
    pipeline: PipelineId,
    drain: Duration,
    recorder: Arc<dyn Recorder>,
    stop: Stop,
    shown: Mutex<Shown>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What is known of a hook.
#[derive(Debug, Default)]
struct Shown {
    open: Option<Open>,
    /// Why it could not be opened, or why it has ended.
    error: Option<String>,
    /// Whether it ended for a reason that waiting will not mend.
    ended: bool,
}

/// A hook whose ends are open.
#[derive(Debug, Clone)]
struct Open {
    hook: Hook,
    endpoint: Arc<WebhookEndpoint>,
    state: Arc<dyn State>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hooked {
    pub(crate) fn new(
        stores: Arc<Served>,
        drain: Duration,
        recorder: Arc<dyn Recorder>,
    ) -> Arc<Self> {
        Arc::new(Self {
            stores,
            recorder,
            hooks: Arc::default(),
            drain,
            work: Arc::default(),
        })
    }

    /// Starts, stops and changes hooks so that those of the configuration run. One that is as it was
    /// goes on undisturbed; one that has changed goes on where it was.
    pub(crate) async fn apply(&self, configs: &[HookConfig]) -> Changed {
        let mut changed = Changed::default();
        let mut gone = Vec::new();
        {
            let mut hooks = lock(&self.hooks);
            let known: Vec<_> = hooks.keys().cloned().collect();
            for name in known {
                let wanted = configs.iter().find(|config| config.name == name);
                // One that has ended starts anew: what ended it may have been mended.
                let same = hooks.get(&name).zip(wanted).is_some_and(|(one, config)| {
                    one.config.written == config.written && !lock(&one.shown).ended
                });
                if same {
                    continue;
                }
                match wanted {
                    Some(_) => changed.altered.push(name.clone()),
                    None => changed.stopped.push(name.clone()),
                }
                gone.extend(hooks.remove(&name));
            }
        }
        // What has changed is stopped before it starts anew: it would wait for its own lease.
        stop(gone).await;
        let mut hooks = lock(&self.hooks);
        for config in configs {
            if hooks.contains_key(&config.name) {
                continue;
            }
            match One::start(config.clone(), self) {
                Ok(one) => {
                    if !changed.altered.contains(&config.name) {
                        changed.started.push(config.name.clone());
                    }
                    hooks.insert(config.name.clone(), one);
                }
                // The configuration has been checked for this.
                Err(error) => {
                    tracing::error!(
                        hook = config.name,
                        error = error.chain(),
                        "a hook cannot begin"
                    );
                }
            }
        }
        changed
    }

    /// Stops all of them; what is under way is waited for.
    pub(crate) async fn stop(&self) {
        let all = std::mem::take(&mut *lock(&self.hooks));
        stop(all.into_values().collect()).await;
    }

    /// All of them, by name.
    pub(super) fn statuses(&self) -> Vec<HookStatus> {
        lock(&self.hooks).values().map(|one| one.status()).collect()
    }

    fn one(&self, name: &str) -> Result<Arc<One>> {
        let found = lock(&self.hooks).get(name).map(Arc::clone);
        found.ok_or_else(|| {
            let what = format!("there is no hook {name:?} in the daemon's configuration");
            Error::new(ErrorKind::NotFound, "look after hook", what)
        })
    }

    fn open(&self, name: &str) -> Result<(Arc<One>, Open)> {
        let one = self.one(name)?;
        let open = lock(&one.shown).open.clone();
        let open = open.ok_or_else(|| one.closed())?;
        Ok((one, open))
    }

    /// Stops a hook, works on its state, and starts it again, whatever came of the work. In a task of
    /// its own: a caller that goes away must not leave the hook stopped, nor the work half done.
    async fn while_stopped<T, W>(
        &self,
        name: &str,
        work: impl FnOnce(Arc<One>, Open) -> W + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send,
    {
        let (hooked, name) = (self.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let _turn = hooked.work.lock().await;
            let (one, open) = hooked.open(&name)?;
            one.stopped().await;
            let worked = work(Arc::clone(&one), open).await;
            let mut hooks = lock(&hooked.hooks);
            if let Some(present) = hooks.get_mut(&name)
                && Arc::ptr_eq(present, &one)
            {
                *present = One::start(one.config.clone(), &hooked)?;
            }
            worked
        });
        task.await.unwrap_or_else(|error| {
            let what = "the work ended out of order";
            Err(Error::new(ErrorKind::Internal, "look after hook", what).with_source(error))
        })
    }

    /// Takes a hook's registration from the logs of all stores but its own: one that it followed
    /// before would be kept for it.
    async fn unregister_elsewhere(&self, one: &One) -> Result<()> {
        for status in self.stores.statuses() {
            if status.name == one.config.store {
                continue;
            }
            let store = self.stores.store(&status.name).await?;
            let Some(log) = store.log() else { continue };
            let known = match log.consumers().list().await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                known => known?,
            };
            if known
                .iter()
                .any(|consumer| consumer.pipeline == one.pipeline)
            {
                log.consumers().unregister(&one.pipeline).await?;
            }
        }
        Ok(())
    }
}

async fn stop(hooks: Vec<Arc<One>>) {
    for one in &hooks {
        one.stop.stop();
    }
    for one in hooks {
        one.stopped().await;
    }
}

impl One {
    fn start(config: HookConfig, hooked: &Hooked) -> Result<Arc<Self>> {
        let one = Arc::new(Self {
            pipeline: config.pipeline()?,
            config,
            drain: hooked.drain,
            recorder: Arc::clone(&hooked.recorder),
            stop: Stop::new(),
            shown: Mutex::default(),
            task: Mutex::default(),
        });
        let (running, stores) = (Arc::clone(&one), Arc::clone(&hooked.stores));
        let task = tokio::spawn(async move { Box::pin(running.run(&stores)).await });
        *lock(&one.task) = Some(task);
        Ok(one)
    }

    /// Why it cannot be looked after now.
    fn closed(&self) -> Error {
        let why = lock(&self.shown).error.clone();
        let why = why.unwrap_or_else(|| "its store is not open yet".to_owned());
        let what = format!("hook {}: {why}", self.config.name);
        Error::new(ErrorKind::Unavailable, "look after hook", what)
    }

    async fn stopped(&self) {
        self.stop.stop();
        let task = lock(&self.task).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(hook = self.config.name, %error, "a hook ended out of order");
        }
    }

    /// Opens the ends, as often as it takes, and sends until it is asked to stop.
    async fn run(&self, stores: &Arc<Served>) {
        let name = &self.config.name;
        let [mut wait, longest] = WAITS;
        let open = loop {
            let opened = tokio::select! {
                opened = self.open(stores) => opened,
                () = self.stop.stopped() => return,
            };
            let error = match opened {
                Ok(open) => break open,
                Err(error) => error,
            };
            let passing = error.is_retryable() || error.kind() == ErrorKind::Unavailable;
            let told = {
                let mut shown = lock(&self.shown);
                shown.ended = !passing;
                shown.error.replace(error.chain())
            };
            if told.as_deref() != Some(&error.chain()) {
                tracing::warn!(hook = name, error = error.chain(), "a hook cannot begin");
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
            shown.open = Some(open.clone());
        }
        let (store, to) = (&self.config.store, self.config.target.origin());
        tracing::info!(hook = name, %store, to, "hook begins");
        let outcome = tokio::select! {
            outcome = open.hook.run(&self.stop) => outcome,
            () = self.keep_secrets(&open) => return,
        };
        match outcome {
            Ok(_) => {
                let stats = open.hook.stats();
                let (delivered, requests) = (stats.delivered, stats.requests);
                tracing::info!(hook = name, delivered, requests, "hook stopped");
            }
            Err(error) => {
                let text = self.instruction(&error);
                tracing::error!(hook = name, error = text, "a hook ended");
                let mut shown = lock(&self.shown);
                shown.error = Some(text);
                shown.ended = true;
            }
        }
    }

    /// An error that needs somebody to act, with what to do.
    fn instruction(&self, error: &Error) -> String {
        let (name, store) = (&self.config.name, &self.config.store);
        let restart = format!(
            "`ledger hook resume {name} --restart` begins at the start of every stream of {store}"
        );
        match error.kind() {
            ErrorKind::Conflict => format!(
                "{}; put the store back, give the hook another name, or: {restart}",
                error.chain()
            ),
            ErrorKind::SourceDiverged | ErrorKind::CursorExpired => {
                format!("{}; {restart}", error.chain())
            }
            _ => error.chain(),
        }
    }

    async fn open(&self, stores: &Arc<Served>) -> Result<Open> {
        let config = &self.config;
        let endpoint = Arc::new(WebhookEndpoint::new(config.endpoint()?)?);
        // The hook waits for changes, so the store must be there to have some.
        let source: Arc<dyn Store> = stores.create(&config.store).await?;
        let state = stores.hook_state().await?;
        let kept = config.clone();
        let options = HookOptions {
            keep: Arc::new(move |change: &Change| kept.keeps(change)),
            schedule: config.schedule(),
            on_failure: config.on_failure,
            batch: config.batch,
            wait: config.wait,
            concurrency: config.concurrency,
            rate: config.rate_limit,
            drain: self.drain,
            recorder: Some(Arc::clone(&self.recorder)),
            ..HookOptions::new(self.pipeline.clone())
        };
        let sent = Arc::clone(&endpoint) as _;
        let hook = Hook::new(source, sent, Arc::clone(&state), options)?;
        let open = Open {
            hook,
            endpoint,
            state,
        };
        self.use_secrets(&open).await?;
        Ok(open)
    }

    /// Signs with the secrets that hold now.
    async fn use_secrets(&self, open: &Open) -> Result<()> {
        let asked = open.state.asked(&self.pipeline).await?;
        let secrets = secrets::effective(&self.config, &asked, Timestamp::now());
        open.endpoint
            .set_keys(secrets::signing(self.config.format, &secrets)?);
        Ok(())
    }

    /// Looks again and again which secrets hold, for ever: another daemon may have drawn one.
    async fn keep_secrets(&self, open: &Open) {
        loop {
            tokio::time::sleep(SECRETS).await;
            if let Err(error) = self.use_secrets(open).await {
                tracing::debug!(error = error.chain(), "could not look for new secrets");
            }
        }
    }

    fn status(&self) -> HookStatus {
        let shown = lock(&self.shown);
        let stats = shown.open.as_ref().map(|open| open.hook.stats());
        let stats: HookStats = stats.unwrap_or_default();
        let state = if shown.ended {
            HookState::Stopped
        } else {
            stats.state
        };
        let error = shown.error.clone().or(stats.last_error);
        HookStatus {
            name: self.config.name.clone(),
            store: self.config.store.clone(),
            stream: self.config.stream.clone(),
            url: self.config.target.origin().to_owned(),
            format: self.config.format.to_string(),
            // What a receiver does is no reason to send requests to another daemon.
            ready: match state {
                HookState::Waiting => shown.error.is_none(),
                HookState::Copying
                | HookState::Following
                | HookState::Paused
                | HookState::Disabled => true,
                HookState::Stopped => false,
            },
            state: match state {
                HookState::Waiting => HookRunState::Waiting,
                HookState::Copying => HookRunState::Copying,
                HookState::Following => HookRunState::Following,
                HookState::Paused => HookRunState::Paused,
                HookState::Disabled => HookRunState::Disabled,
                HookState::Stopped => HookRunState::Stopped,
            },
            breaker: stats.breaker.as_str(),
            lag_entries: stats.lag_entries,
            lag: stats.lag,
            delivered: stats.delivered,
            requests: stats.requests,
            failures: stats.failures,
            bytes: stats.bytes,
            rate: stats.rate,
            counts: stats.counts,
            last_error: error,
            disabled: stats.disabled,
            position: stats.position,
        }
    }
}

/// The delivery of a test: an entry that no store has.
fn test(one: &One) -> Result<Delivery> {
    let stream = StreamName::new(TEST)?;
    let now = Timestamp::now();
    let entry = Entry {
        id: EntryId(0),
        stream: stream.clone(),
        payload: Bytes::from_static(br#"{"test":true}"#),
        order_key: String::new(),
        dedup_key: String::new(),
        schema_version: 1,
        metadata: Pairs::new(),
        tags: Vec::new(),
        annotations: Pairs::new(),
        label_version: 0,
        created_at: now,
        updated_at: None,
    };
    let change = Change {
        cursor: Cursor::new(b't', &[]),
        committed_at: now,
        stream: StreamRef {
            key: StreamKey::default(),
            name: stream,
            name_version: 0,
        },
        mutation: Mutation::Append {
            entry: Box::new(entry),
            version: 0,
        },
    };
    Ok(Delivery {
        id: format!("msg_test_{}", uuid::Uuid::new_v4().simple()),
        store: one.config.store.clone(),
        changes: vec![change],
        attempt: 1,
    })
}

#[async_trait]
impl Hooks for Hooked {
    async fn list(&self) -> Vec<HookStatus> {
        self.statuses()
    }

    async fn test(&self, name: &str) -> Result<Attempt> {
        let (one, open) = self.open(name)?;
        let delivery = test(&one)?;
        open.hook.post(&delivery).await?;
        let query = AttemptQuery {
            id: Some(delivery.id),
            limit: 1,
            ..AttemptQuery::default()
        };
        let made = open.state.attempts(&one.pipeline, &query).await?;
        made.into_iter().next().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "test hook",
                "the attempt is not remembered",
            )
        })
    }

    async fn attempts(&self, name: &str, query: &AttemptQuery) -> Result<Vec<Attempt>> {
        let (one, open) = self.open(name)?;
        open.state.attempts(&one.pipeline, query).await
    }

    async fn pause(&self, name: &str) -> Result<()> {
        self.open(name)?.1.hook.pause().await
    }

    async fn resume(&self, name: &str, restart: bool) -> Result<()> {
        if restart {
            let one = self.one(name)?;
            self.unregister_elsewhere(&one).await?;
            return self
                .while_stopped(name, |_, open| async move {
                    open.hook.reset().await?;
                    open.hook.resume().await
                })
                .await;
        }
        self.open(name)?.1.hook.resume().await
    }

    async fn replay(&self, name: &str, replay: &HookReplay) -> Result<HookReplayed> {
        let (_, open) = self.open(name)?;
        let selection = Selection {
            stream: replay.stream.clone(),
            since: replay.since,
            until: replay.until,
            status: replay.outcome,
            dry_run: replay.dry_run,
            rate: replay.rate,
        };
        let told = open.hook.replay(&selection).await?;
        Ok(HookReplayed {
            streams: told.streams,
            deliveries: told.deliveries,
            entries: told.entries,
            delivered: told.delivered,
            failed: told.failed,
            gone: told.gone,
        })
    }

    async fn letters(
        &self,
        name: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<Letter>, u64)> {
        let (one, open) = self.open(name)?;
        let letters = open.state.letters(&one.pipeline, after, limit).await?;
        let total = open.state.counts(&one.pipeline).await?.letters;
        Ok((letters, total))
    }

    async fn discard(&self, name: &str, cursors: Option<&[Cursor]>) -> Result<u64> {
        let cursors = cursors.map(<[Cursor]>::to_vec);
        self.while_stopped(name, move |one, open| async move {
            open.state.discard(&one.pipeline, cursors.as_deref()).await
        })
        .await
    }

    async fn requeue(&self, name: &str, stream: Option<StreamKey>) -> Result<u64> {
        self.while_stopped(name, move |one, open| async move {
            open.state.requeue(&one.pipeline, stream).await
        })
        .await
    }

    async fn rotate(
        &self,
        name: &str,
        overlap: Duration,
        asymmetric: bool,
    ) -> Result<(String, Timestamp)> {
        let _turn = self.work.lock().await;
        let (one, open) = self.open(name)?;
        let micros = i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX);
        let until = Timestamp::from_micros(Timestamp::now().as_micros().saturating_add(micros));
        let asked = open.state.asked(&one.pipeline).await?;
        let (asked, told) = secrets::rotated(&one.config, &asked, until, asymmetric)?;
        open.state.ask(&one.pipeline, &asked).await?;
        one.use_secrets(&open).await?;
        Ok((told, until))
    }

    async fn verify(&self, name: &str, signed: &HookSigned) -> Result<Result<(), String>> {
        let (one, open) = self.open(name)?;
        let asked = open.state.asked(&one.pipeline).await?;
        let secrets = secrets::effective(&one.config, &asked, Timestamp::now());
        if one.config.format == Format::Compat {
            let valid = secrets.iter().any(|secret| {
                verify_compat(secret.expose().as_bytes(), &signed.signature, &signed.body)
            });
            let why = "it is not the signature of the body by the hook's secret";
            return Ok(if valid { Ok(()) } else { Err(why.to_owned()) });
        }
        let keys = secrets::verifying(&secrets)?;
        let headers = Signed {
            id: &signed.id,
            timestamp: &signed.timestamp,
            signature: &signed.signature,
        };
        let ages = Duration::MAX;
        let verified = verify(&keys, headers, &signed.body, Timestamp::now(), ages);
        Ok(verified
            .map(drop)
            .map_err(|why: Unverified| why.to_string()))
    }
}
