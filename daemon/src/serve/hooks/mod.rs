//! The hooks of the configuration, each under supervision of its own.

mod calls;
mod one;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ledger::observe::Recorder;
use ledger::{Error, ErrorKind, Result};
use ledger_server::HookStatus;

use super::bridges::Changed;
use super::stores::Served;
use crate::config::HookConfig;
use one::{One, Open};

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
}

async fn stop(hooks: Vec<Arc<One>>) {
    for one in &hooks {
        one.stop.stop();
    }
    for one in hooks {
        one.stopped().await;
    }
}
