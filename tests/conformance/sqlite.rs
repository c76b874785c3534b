//! The conformance suite on SQLite.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use ledger::conformance::{Ability, Ending, Harness};
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{
    Appended, ExpectedVersion, NewEntry, Result, Retention, Store, StoreName, StoreOptions,
    StreamName,
};

use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().unwrap());

/// Opens each store in a file of its own.
struct SqliteHarness;

async fn open(name: &StoreName, retention: Retention) -> Result<SqliteStore> {
    let config = SqliteConfig::file(FOLDER.path().join(format!("{name}.db")));
    let options = StoreOptions {
        retention,
        ..StoreOptions::default()
    };
    SqliteStore::open(config, name.clone(), options).await
}

#[async_trait]
impl Harness for SqliteHarness {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(open(name, Retention::default()).await?))
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::FullText => Some("SQLite stores have no full-text search"),
            _ => None,
        }
    }

    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        let pruned = async {
            let min = Duration::ZERO;
            let store = open(store.name(), Retention { min, max: None }).await?;
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
            let store = open(store.name(), Retention::default()).await?;
            let mut writer = store.writer().await?;
            let mut tx = writer.begin().await?;
            let appended = store
                .within(&mut tx)
                .append(stream, entries, ExpectedVersion::Any)
                .await?;
            match ending.await {
                Ending::Commit => tx.commit().await.unwrap(),
                Ending::RollBack => tx.rollback().await.unwrap(),
            }
            Ok(appended)
        };
        Some(appended.await)
    }
}

ledger::conformance_tests!(SqliteHarness);
