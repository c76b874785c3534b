//! The conformance suite on ClickHouse: today's engine, and the oldest supported one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ledger::clickhouse::{ClickHouseConfig, ClickHouseStore};
use ledger::conformance::{Ability, Harness};
use ledger::{Result, Retention, Store, StoreName, StoreOptions};

/// Opens stores in the shared database, as a user would.
struct ClickHouseHarness {
    config: ClickHouseConfig,
}

impl ClickHouseHarness {
    fn new(url: &str) -> Self {
        Self {
            config: url.parse().unwrap(),
        }
    }

    async fn store(&self, name: &StoreName, retention: Retention) -> Result<ClickHouseStore> {
        let options = StoreOptions {
            retention,
            ..StoreOptions::default()
        };
        Box::pin(ClickHouseStore::open(&self.config, name.clone(), options)).await
    }
}

#[async_trait]
impl Harness for ClickHouseHarness {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.store(name, Retention::default()).await?))
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::FullText => Some("ClickHouse stores have no full-text search"),
            Ability::Transactions => Some("ClickHouse has no transactions over tables"),
            _ => None,
        }
    }

    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        let pruned = async {
            let min = Duration::ZERO;
            let store = self
                .store(store.name(), Retention { min, max: None })
                .await?;
            let pruned = store.prune().await;
            store.close().await;
            pruned.map(drop)
        };
        Some(pruned.await)
    }
}

mod today {
    use super::*;
    ledger::conformance_tests!(ClickHouseHarness::new(
        &ledger_harness::shared::clickhouse_url()
    ));
}

mod oldest {
    use super::*;
    ledger::conformance_tests!(ClickHouseHarness::new(
        &ledger_harness::shared::clickhouse_old_url()
    ));
}
