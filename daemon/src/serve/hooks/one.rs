//! One hook at work.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ledger::bridge::hook::{Hook, HookOptions, HookState, HookStats};
use ledger::hook::State;
use ledger::observe::Recorder;
use ledger::pipeline::Stop;
use ledger::webhook::WebhookEndpoint;
use ledger::{Change, Error, ErrorKind, PipelineId, Result, Store, Timestamp};
use ledger_server::{HookRunState, HookStatus};
use tokio::task::JoinHandle;

use super::super::secrets;
use super::super::stores::Served;
use super::{Hooked, lock};
use crate::config::HookConfig;

/// How long the store is not tried again after it could not be opened; doubled each time, up to the
/// second.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// How often a hook looks which of its secrets still hold.
const SECRETS: Duration = Duration::from_secs(1);

/// One hook.
#[derive(Debug)]
pub(super) struct One {
    pub(super) config: HookConfig,
    pub(super) pipeline: PipelineId,
    drain: Duration,
    recorder: Arc<dyn Recorder>,
    pub(super) stop: Stop,
    pub(super) shown: Mutex<Shown>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What is known of a hook.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) open: Option<Open>,
    /// Why it could not be opened, or why it has ended.
    pub(super) error: Option<String>,
    /// Whether it ended for a reason that waiting will not mend.
    pub(super) ended: bool,
}

/// A hook whose ends are open.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) hook: Hook,
    pub(super) endpoint: Arc<WebhookEndpoint>,
    pub(super) state: Arc<dyn State>,
}

impl One {
    pub(super) fn start(config: HookConfig, hooked: &Hooked) -> Result<Arc<Self>> {
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
    pub(super) fn closed(&self) -> Error {
        let why = lock(&self.shown).error.clone();
        let why = why.unwrap_or_else(|| "its store is not open yet".to_owned());
        let what = format!("hook {}: {why}", self.config.name);
        Error::new(ErrorKind::Unavailable, "look after hook", what)
    }

    pub(super) async fn stopped(&self) {
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
    pub(super) async fn use_secrets(&self, open: &Open) -> Result<()> {
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

    pub(super) fn status(&self) -> HookStatus {
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
