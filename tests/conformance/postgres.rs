//! The conformance suite on PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use ledger::conformance::{Ability, Ending, Harness};
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{
    Appended, ExpectedVersion, NewEntry, Result, Retention, Store, StoreName, StoreOptions,
    StreamName,
};
use sqlx::Connection as _;

/// Opens stores in the shared database, as a user would.
struct PostgresHarness {
    url: String,
}

impl PostgresHarness {
    fn new() -> Self {
        Self {
            url: ledger_harness::shared::postgres_url(),
        }
    }

    async fn store(&self, name: &StoreName) -> Result<PostgresStore> {
        self.store_keeping(name, Retention::default()).await
    }

    async fn store_keeping(&self, name: &StoreName, retention: Retention) -> Result<PostgresStore> {
        let mut config = PostgresConfig::from_url(&self.url)?;
        // Many cases run side by side against one server.
        config.max_connections = 6;
        let options = StoreOptions {
            full_text: true,
            retention,
            ..StoreOptions::default()
        };
        PostgresStore::open(config, name.clone(), options).await
    }
}

#[async_trait]
impl Harness for PostgresHarness {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.store(name).await?))
    }

    fn lacks(&self, _: Ability) -> Option<&'static str> {
        None
    }

    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        let pruned = async {
            let min = Duration::ZERO;
            let store = self
                .store_keeping(store.name(), Retention { min, max: None })
                .await?;
            let pruned = store.prune().await;
            store.close().await;
            pruned.map(drop)
        };
        Some(pruned.await)
    }

    async fn append_in_transaction(
        &self,
        store: &Arc<dyn Store>,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        ending: BoxFuture<'static, Ending>,
    ) -> Option<Result<Vec<Appended>>> {
        let appended = async {
            let store = self.store(store.name()).await?;
            let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
            let mut tx = conn.begin().await.unwrap();
            let appended = store
                .within(&mut tx)
                .append(stream, entries, ExpectedVersion::Any)
                .await?;
            match ending.await {
                Ending::Commit => tx.commit().await.unwrap(),
                Ending::RollBack => tx.rollback().await.unwrap(),
            }
            store.close().await;
            Ok(appended)
        };
        Some(appended.await)
    }
}

ledger::conformance_tests!(PostgresHarness::new());
