//! The conformance suite on MongoDB: on a replica set, and on a standalone server, which lacks what
//! its harness names.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use ledger::conformance::{Ability, Ending, Harness};
use ledger::mongodb::{MongoConfig, MongoDatabase, MongoStore};
use ledger::{
    Appended, ExpectedVersion, NewEntry, Result, Retention, Store, StoreName, StoreOptions,
    StreamName,
};

/// Opens stores in the shared replica set, as a user would.
struct ReplicaSet {
    url: String,
}

impl ReplicaSet {
    fn new() -> Self {
        Self {
            url: ledger_harness::shared::mongodb_url(),
        }
    }

    async fn store(&self, name: &StoreName, retention: Retention) -> Result<MongoStore> {
        let config = MongoConfig::from_url(&self.url)?;
        let options = StoreOptions {
            full_text: true,
            retention,
            ..StoreOptions::default()
        };
        let store = MongoStore::open(config, name.clone(), options).await?;
        store.ensure_search_index().await?;
        Ok(store)
    }
}

#[async_trait]
impl Harness for ReplicaSet {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.store(name, Retention::default()).await?))
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

    async fn append_in_transaction(
        &self,
        store: &Arc<dyn Store>,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        ending: BoxFuture<'static, Ending>,
    ) -> Option<Result<Vec<Appended>>> {
        let appended = async {
            let store = self.store(store.name(), Retention::default()).await?;
            let mut ending = Some(ending);
            loop {
                let mut session = store.database().client().start_session().await.unwrap();
                session.start_transaction().await.unwrap();
                let appended = store
                    .within(&mut session)
                    .append(stream, entries.clone(), ExpectedVersion::Any)
                    .await;
                match appended {
                    // Somebody else wrote the store at the same moment: as every caller would.
                    Err(error) if error.is_retryable() => {
                        session.abort_transaction().await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    Err(error) => return Err(error),
                    Ok(appended) => {
                        match ending.take().unwrap().await {
                            Ending::Commit => session.commit_transaction().await.unwrap(),
                            Ending::RollBack => session.abort_transaction().await.unwrap(),
                        }
                        return Ok(appended);
                    }
                }
            }
        };
        Some(appended.await)
    }
}

ledger::conformance_tests!(ReplicaSet::new());

/// What differs on a server by itself.
mod standalone {
    use super::*;

    static SERVER: tokio::sync::OnceCell<ledger_harness::Mongo> =
        tokio::sync::OnceCell::const_new();

    struct Standalone {
        url: String,
    }

    impl Standalone {
        async fn new() -> Self {
            let server = SERVER
                .get_or_init(ledger_harness::Mongo::start_standalone)
                .await;
            Self { url: server.url() }
        }
    }

    #[async_trait]
    impl Harness for Standalone {
        async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
            let config = MongoConfig::from_url(&self.url)?;
            let options = StoreOptions {
                log: false,
                ..StoreOptions::default()
            };
            let store = MongoStore::open(config, name.clone(), options).await?;
            Ok(Arc::new(store))
        }

        fn lacks(&self, ability: Ability) -> Option<&'static str> {
            match ability {
                Ability::FullText => Some("this harness opens stores without full_text"),
                Ability::Log => Some("without transactions a mutation and its log row could part"),
                Ability::Pruning => Some("there is no log"),
                Ability::Transactions => Some("a standalone server has no transactions"),
                _ => None,
            }
        }
    }

    ledger::conformance_tests!(Standalone::new().await);

    #[tokio::test]
    async fn a_store_with_a_log_is_refused() {
        let config = MongoConfig::from_url(&Standalone::new().await.url).unwrap();
        let name = StoreName::new("with_a_log").unwrap();
        let opened = MongoStore::open(config.clone(), name, StoreOptions::default()).await;
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ledger::ErrorKind::Unsupported);
        assert!(error.to_string().contains("--replSet"), "{error}");
        let database = MongoDatabase::open(config).await.unwrap();
        let names = database.stores().await.unwrap();
        assert!(names.iter().all(|name| name.as_str() != "with_a_log"));
    }
}
