//! Stores, hooks and receivers of the benchmark of webhooks.

pub(crate) mod arrival;
pub(crate) mod rates;
pub(crate) mod receiver;

use std::sync::Arc;

use ledger::bridge::hook::{Hook, HookOptions};
use ledger::connect::{DatabaseUrl, Stores};
use ledger::hook::Endpoint;
use ledger::webhook::{Format, SigningKey, Target, WebhookConfig, WebhookEndpoint};
use ledger::{ChangeLog, PipelineId, Store, StoreName, StoreOptions};

use crate::measure::Outcome;

/// A store in a file of its own.
pub(crate) struct Source {
    pub(crate) store: Arc<dyn Store>,
    stores: Stores,
    _folder: tempfile::TempDir,
}

impl Source {
    pub(crate) async fn new() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite:{}", folder.path().join("bench.db").display());
        let stores = Stores::new(DatabaseUrl::parse(&url)?, StoreOptions::default());
        let store = stores.open(&StoreName::new("bench")?).await?;
        Ok(Self {
            store,
            stores,
            _folder: folder,
        })
    }

    /// The store's log.
    pub(crate) fn log(&self) -> Outcome<&dyn ChangeLog> {
        Ok(self.store.log().ok_or("the store keeps no log")?)
    }

    /// What posts signed deliveries to a URL.
    pub(crate) fn endpoint(url: &str) -> Outcome<WebhookEndpoint> {
        let mut config = WebhookConfig::new(Target::parse(url, &[])?);
        config.format = Format::Standard;
        config.keys = vec![SigningKey::parse(&SigningKey::generate_shared()?)?];
        Ok(WebhookEndpoint::new(config)?)
    }

    /// A signed hook to a URL.
    pub(crate) async fn hook(&self, name: &str, url: &str, batch: usize) -> Outcome<Hook> {
        let endpoint = Arc::new(Self::endpoint(url)?);
        self.hook_to(name, endpoint, batch).await
    }

    /// A hook to an endpoint.
    pub(crate) async fn hook_to(
        &self,
        name: &str,
        endpoint: Arc<dyn Endpoint>,
        batch: usize,
    ) -> Outcome<Hook> {
        let options = HookOptions {
            batch,
            concurrency: CONCURRENCY,
            ..HookOptions::new(PipelineId::new(format!("hook:{name}"))?)
        };
        let state = self.stores.hook_state().await?;
        Ok(Hook::new(
            Arc::clone(&self.store),
            endpoint,
            state,
            options,
        )?)
    }
}

/// How many requests are under way at a time, ours and the floor's.
pub(crate) const CONCURRENCY: usize = 16;
