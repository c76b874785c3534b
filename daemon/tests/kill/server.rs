//! The servers that are killed.

use std::sync::Arc;

use ledger::clickhouse::{ClickHouseConfig, ClickHouseStore};
use ledger::mongodb::{MongoConfig, MongoStore};
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::{Store, StoreName, StoreOptions};
use ledger_harness::{ClickHouse, Mongo, Postgres};
use mongodb::bson::doc;

use crate::writer::Transactions;

/// One end of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    /// Its log is the write-ahead log.
    PostgresWal,
    ClickHouse,
    Mongo,
}

pub(crate) enum Server {
    Postgres(Postgres),
    ClickHouse(ClickHouse),
    Mongo(Mongo),
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Postgres | Kind::PostgresWal => Self::Postgres(Postgres::start().await),
            Kind::ClickHouse => Self::ClickHouse(ClickHouse::start().await),
            Kind::Mongo => Self::Mongo(Mongo::start().await),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Postgres(server) => server.url(),
            Self::ClickHouse(server) => server.url(),
            Self::Mongo(server) => server.url(),
        }
    }

    /// Kills it with SIGKILL and starts it again.
    pub(crate) async fn kill(&mut self) {
        match self {
            Self::Postgres(server) => {
                server.kill().await;
                server.restart().await;
            }
            Self::ClickHouse(server) => {
                server.kill().await;
                server.restart().await;
            }
            Self::Mongo(server) => {
                server.kill().await;
                server.restart().await;
            }
        }
    }

    /// Has the primary step down, where there is such a thing; as the only member it is elected
    /// again a second later.
    pub(crate) async fn step_down(&self) {
        if let Self::Mongo(server) = self {
            let client = mongodb::Client::with_uri_str(server.url()).await.unwrap();
            // It may close this connection in place of an answer.
            let _ = client
                .database("admin")
                .run_command(doc! {"replSetStepDown": 1, "force": true})
                .await;
        }
    }
}

/// A new store, and how a writer has transactions of its own in it.
pub(crate) async fn create(
    kind: Kind,
    url: &str,
    name: &StoreName,
) -> (Arc<dyn Store>, Transactions) {
    let options = StoreOptions {
        write_ahead_log: kind == Kind::PostgresWal,
        ..StoreOptions::default()
    };
    match kind {
        Kind::Postgres | Kind::PostgresWal => {
            let config = PostgresConfig::from_url(url).unwrap();
            let open = PostgresStore::open(config, name.clone(), options);
            let store = open.await.unwrap();
            let transactions = Transactions::Postgres(url.to_owned(), store.clone());
            (Arc::new(store), transactions)
        }
        Kind::ClickHouse => {
            let config = url.parse::<ClickHouseConfig>().unwrap();
            let open = ClickHouseStore::open(&config, name.clone(), options);
            let store = Box::pin(open).await.unwrap();
            (Arc::new(store), Transactions::None)
        }
        Kind::Mongo => {
            let config = MongoConfig::from_url(url).unwrap();
            let open = MongoStore::open(config, name.clone(), options);
            let store = Box::pin(open).await.unwrap();
            (Arc::new(store.clone()), Transactions::Mongo(store))
        }
    }
}
