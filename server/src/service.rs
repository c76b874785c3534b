//! The service: what its methods share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ledger_core::{EntryId, Error, Result, Store, StoreName, StreamName};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::call::Call;
use crate::feed::Feeds;
use crate::gate::SpanHook;
use crate::status::{invalid, refusal, status};
use crate::{
    BridgeState, BridgeStatus, Bridges, Guard, HookRunState, HookStatus, Hooks, Limits, NoBridges,
    NoHooks, OpenGuard, Shutdown, StoreState, StoreStatus, Stores, v1,
};

/// How many watches of health may be open.
pub(crate) const WATCHES: usize = 256;

/// What a [`Service`] is made of, beside its stores.
#[derive(Clone)]
pub struct ServiceOptions {
    /// Who may call. Everybody, unless given.
    pub guard: Arc<dyn Guard>,
    /// What administration looks after. Nothing, unless given.
    pub bridges: Arc<dyn Bridges>,
    /// The webhooks that administration looks after. None, unless given.
    pub hooks: Arc<dyn Hooks>,
    /// The stores that may be named in calls; empty: all.
    pub allowed_stores: Vec<StoreName>,
    /// What one client may ask.
    pub limits: Limits,
    /// Ends tails, and makes readiness fail.
    pub shutdown: Shutdown,
    /// Is shown each request's span and headers, to continue the trace that they tell of.
    pub span: Option<SpanHook>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            guard: Arc::new(OpenGuard),
            bridges: Arc::new(NoBridges),
            hooks: Arc::new(NoHooks),
            allowed_stores: Vec::new(),
            limits: Limits::default(),
            shutdown: Shutdown::default(),
            span: None,
        }
    }
}

impl fmt::Debug for ServiceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceOptions")
            .field("allowed_stores", &self.allowed_stores)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The `ledger.v1` service. Clones are handles on one service.
#[derive(Clone)]
pub struct Service {
    pub(crate) stores: Arc<dyn Stores>,
    pub(crate) options: Arc<ServiceOptions>,
    pub(crate) feeds: Arc<Feeds>,
    /// Places for tails.
    pub(crate) tails: Arc<Semaphore>,
    /// Places for watches of health.
    pub(crate) watches: Arc<Semaphore>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Service").field(&self.options).finish()
    }
}

impl Service {
    /// A service over these stores.
    pub fn new(stores: Arc<dyn Stores>, options: ServiceOptions) -> Self {
        Self {
            feeds: Arc::new(Feeds::new(options.limits.feed_bytes)),
            tails: Arc::new(Semaphore::new(options.limits.tails)),
            watches: Arc::new(Semaphore::new(WATCHES)),
            stores,
            options: Arc::new(options),
        }
    }

    /// What the service is made of.
    pub fn options(&self) -> &ServiceOptions {
        &self.options
    }

    /// How the parts stand. Ready is who is not shutting down, where no store is unavailable and
    /// every bridge and every hook makes progress.
    pub async fn readiness(&self) -> Readiness {
        let (stores, bridges, hooks) = tokio::join!(
            self.stores.list(),
            self.options.bridges.list(),
            self.options.hooks.list()
        );
        let stores = stores.into_iter().map(Component::Store);
        let bridges = bridges.into_iter().map(Component::Bridge);
        let hooks = hooks.into_iter().map(Component::Hook);
        Readiness {
            shutting_down: self.options.shutdown.has_begun(),
            components: stores.chain(bridges).chain(hooks).collect(),
        }
    }

    /// The name of the store of a call, which the allow-list has.
    pub(crate) fn named(&self, call: &Call) -> Result<StoreName, Status> {
        let name = call.store()?;
        let allowed = &self.options.allowed_stores;
        if allowed.is_empty() || allowed.contains(&name) {
            return Ok(name);
        }
        Err(refusal(
            Code::PermissionDenied,
            "STORE_NOT_ALLOWED",
            format!("x-ledger-store: store {name:?} is not among the allowed stores"),
            [("store", name.to_string())],
        ))
    }

    pub(crate) async fn open(
        &self,
        call: &Call,
        name: &StoreName,
    ) -> Result<Arc<dyn Store>, Status> {
        self.stores
            .get(name, &call.identity)
            .await
            .map_err(|error| status(&error))
    }

    /// The id in `field`. Where it is none, the stream decides: an unknown one has nothing to read,
    /// so that any id is as good as another.
    pub(crate) async fn id(
        &self,
        store: &dyn Store,
        stream: Option<&StreamName>,
        field: &str,
        text: &str,
    ) -> Result<Option<EntryId>, Status> {
        if let Ok(id) = text.parse() {
            return Ok(Some(id));
        }
        if let Some(stream) = stream {
            let stat = store.stat(stream).await.map_err(|error| status(&error))?;
            if stat.version == 0 {
                return Ok(None);
            }
        }
        Err(invalid(field, format_args!("{text:?} is not an entry id")))
    }

    /// See `LedgerService.Health`.
    pub(crate) async fn health(&self) -> v1::HealthResponse {
        let ready = self.readiness().await.is_ready();
        v1::HealthResponse {
            status: if ready { "ok" } else { "degraded" }.to_owned(),
        }
    }
}

/// How the parts of a service stand.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// Whether the service is about to end.
    pub shutting_down: bool,
    /// Each store, each bridge and each hook.
    pub components: Vec<Component>,
}

impl Readiness {
    /// Whether requests should be sent here.
    pub fn is_ready(&self) -> bool {
        !self.shutting_down && self.components.iter().all(Component::is_ready)
    }
}

/// A part of a service.
#[derive(Debug, Clone)]
pub enum Component {
    /// A store.
    Store(StoreStatus),
    /// A bridge.
    Bridge(BridgeStatus),
    /// A webhook.
    Hook(HookStatus),
}

impl Component {
    /// Whether it does what it is there for. What is paused does.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Store(store) => store.state != StoreState::Unavailable,
            Self::Bridge(bridge) => bridge.ready || bridge.state == BridgeState::Paused,
            Self::Hook(hook) => hook.ready || hook.state == HookRunState::Paused,
        }
    }
}

impl Limits {
    /// Whether a message of this size may be sent.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        bytes <= self.message_bytes
    }
}

/// A failure of core, as a call answers it.
pub(crate) fn answer<T>(result: Result<T, Error>) -> Result<T, Status> {
    result.map_err(|error| status(&error))
}

/// How long a client's own deadline leaves, in the form of the header `grpc-timeout`.
pub(crate) fn client_deadline(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_up_to_eight_digits_and_a_unit() {
        assert_eq!(client_deadline("1H"), Some(Duration::from_hours(1)));
        assert_eq!(client_deadline("2M"), Some(Duration::from_mins(2)));
        assert_eq!(client_deadline("3S"), Some(Duration::from_secs(3)));
        assert_eq!(client_deadline("4m"), Some(Duration::from_millis(4)));
        assert_eq!(client_deadline("5u"), Some(Duration::from_micros(5)));
        assert_eq!(
            client_deadline("99999999n"),
            Some(Duration::from_nanos(99_999_999))
        );
        for wrong in ["", "S", "1", "1s", "-1S", "999999999S", "1\u{b5}"] {
            assert_eq!(client_deadline(wrong), None, "{wrong}");
        }
    }
}
