//! The conformance suite on PostgreSQL, with the write-ahead log as the store's log.

use std::sync::{Arc, Mutex};
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

/// Opens stores in the shared database, and drops their slots at the end: each is one that the server
/// has only some tens of.
struct WalHarness {
    url: String,
    opened: Mutex<Vec<StoreName>>,
}

impl WalHarness {
    fn new() -> Self {
        Self {
            url: ledger_harness::shared::postgres_url(),
            opened: Mutex::default(),
        }
    }

    async fn store(&self, name: &StoreName) -> Result<PostgresStore> {
        self.store_keeping(name, Retention::default()).await
    }

    async fn store_keeping(&self, name: &StoreName, retention: Retention) -> Result<PostgresStore> {
        self.opened.lock().unwrap().push(name.clone());
        let mut config = PostgresConfig::from_url(&self.url)?;
        config.max_connections = 6;
        let options = StoreOptions {
            full_text: true,
            write_ahead_log: true,
            retention,
            ..StoreOptions::default()
        };
        let store = PostgresStore::open(config, name.clone(), options).await?;
        assert!(store.has_write_ahead_log());
        Ok(store)
    }
}

impl Drop for WalHarness {
    fn drop(&mut self) {
        let (url, names) = (self.url.clone(), self.opened.lock().unwrap().clone());
        let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
                sqlx::query(
                    "SELECT pg_drop_replication_slot(s.slot_name) FROM pg_replication_slots s \
                     JOIN ledger_wal_logs w ON w.slot = s.slot_name WHERE w.store = ANY ($1) \
                     AND NOT s.active",
                )
                .bind(names)
                .execute(&mut conn)
                .await
            })
        });
        let cleaned = cleaning.join();
        if !std::thread::panicking() {
            cleaned.unwrap().unwrap();
        }
    }
}

#[async_trait]
impl Harness for WalHarness {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.store(name).await?))
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        (ability == Ability::CountedLag).then_some(
            "the write-ahead log tells how many bytes are behind a position, and not how many changes",
        )
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

ledger::conformance_tests!(WalHarness::new());
