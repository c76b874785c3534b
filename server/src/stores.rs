//! Where the service gets its stores from.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{Error, ErrorKind, Result, Store, StoreName};

use crate::Identity;

/// Resolves names to stores.
#[async_trait]
pub trait Stores: Send + Sync + 'static {
    /// The store of this name, opened if need be. Calls for one name MUST give handles on one
    /// store. An error's kind becomes the status of the call: `Unavailable` where the backend does
    /// not answer, `NotFound` where there is no such store and none is made.
    ///
    /// The caller has passed the guard, and the name the allow-list.
    async fn get(&self, name: &StoreName, identity: &Identity) -> Result<Arc<dyn Store>>;

    /// The stores that are known, by name, with what they stand at now. Rests on what is known
    /// already, or asks the backends with a short deadline: readiness waits for it.
    async fn list(&self) -> Vec<StoreStatus>;
}

/// What a store stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// Not opened yet. That is ready: the first call opens it.
    Idle,
    /// Open, and answering.
    Ready,
    /// Its backend does not answer.
    Unavailable,
}

impl StoreState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Ready => "ready",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A store, as administration and readiness show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The name.
    pub name: StoreName,
    /// What it stands at.
    pub state: StoreState,
    /// Where it is, without secrets.
    pub backend: String,
    /// Why it is unavailable, on one line and without secrets.
    pub error: Option<String>,
}

/// Stores that are open already. Asking for any other is `NotFound`.
#[derive(Debug, Default)]
pub struct FixedStores(BTreeMap<StoreName, Arc<dyn Store>>);

impl FixedStores {
    /// These stores, each by its own name.
    pub fn new(stores: impl IntoIterator<Item = Arc<dyn Store>>) -> Self {
        let stores = stores.into_iter();
        Self(stores.map(|store| (store.name().clone(), store)).collect())
    }
}

#[async_trait]
impl Stores for FixedStores {
    async fn get(&self, name: &StoreName, _: &Identity) -> Result<Arc<dyn Store>> {
        self.0.get(name).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "open store",
                format!("store {name:?} is not served here"),
            )
        })
    }

    async fn list(&self) -> Vec<StoreStatus> {
        self.0
            .iter()
            .map(|(name, store)| StoreStatus {
                name: name.clone(),
                state: StoreState::Ready,
                backend: store.to_string(),
                error: None,
            })
            .collect()
    }
}
