//! An append-only log whose primary feature is replication.
//!
//! A [`Store`] holds many streams of entries, tells every mutation of them as one ordered log, and
//! a bridge carries that log into a sink: another database, which then holds the same content.
//!
//! | module | what it offers | feature |
//! |---|---|---|
//! | the root | entries, streams, cursors, changes, codecs, the typed layer, the contracts of stores and sinks | |
//! | [`pipeline`] | the stages between a stream of changes and a sink | |
//! | `connect` | stores and sinks by URL | any backend |
//! | [`bridge`] | snapshot, follow, dead letters, verification | |
//! | `sqlite` | the embedded store, and a replica of one | `sqlite` (default) |
//! | `postgres` | the PostgreSQL store, and a replica of one | `postgres` |
//! | `mongodb` | the MongoDB store, and a replica of one | `mongodb` |
//! | `clickhouse` | the ClickHouse store, and a replica of one | `clickhouse` |
//! | `webhook` | posting changes over HTTP, and verifying what was posted | `webhook`, `webhook-axum` |
//! | `conformance` | the suite that every store passes | `conformance` |
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # async fn run() -> ledger::Result<()> {
//! use futures::TryStreamExt as _;
//! use ledger::sqlite::{SqliteConfig, SqliteStore};
//! use ledger::{
//!     ExpectedVersion, NewEntry, ReadOptions, Store, StoreExt as _, StoreName, StreamName,
//! };
//!
//! let name = StoreName::new("orders")?;
//! let config = SqliteConfig::memory();
//! let store = std::sync::Arc::new(SqliteStore::open(config, name, Default::default()).await?);
//!
//! let stream = StreamName::new("user-123")?;
//! let entry = NewEntry::new(r#"{"item":"book"}"#).dedup_key("order-1").tag("web");
//! store.append(&stream, vec![entry], ExpectedVersion::None).await?;
//!
//! let entries: Vec<_> = store.read(&stream, ReadOptions::all()).try_collect().await?;
//! assert_eq!(entries[0].payload, r#"{"item":"book"}"#);
//! assert_eq!(entries[0].tags, ["web"]);
//! # Ok(())
//! # }
//! # #[cfg(feature = "sqlite")]
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run()).unwrap();
//! ```

#[cfg(any(
    feature = "sqlite",
    feature = "postgres",
    feature = "mongodb",
    feature = "clickhouse"
))]
pub mod connect;

pub use ledger_core::*;

/// Bridges: a store's content and changes carried into a sink, and compared with it.
pub use ledger_bridge as bridge;

/// How stores and replicas behave.
pub use ledger_layout::{Relay, ReplicaOptions, Retention, StoreOptions};

/// How captured tables are carried.
pub use ledger_layout::tables::{
    ClusterOptions, ColumnOptions, Protection, TableOptions, TableRoutes,
};

/// SQLite: the embedded store, one file, several processes; and a replica in such a file.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use ledger_sinks::sqlite::SqliteSink;
    pub use ledger_sources::sqlite::{
        Database, Durability, Location, SqliteConfig, SqliteStore, SqliteTransaction, Writer,
    };
}

/// PostgreSQL, from version 13: the store, and a replica.
#[cfg(feature = "postgres")]
pub mod postgres {
    pub use ledger_sinks::postgres::PostgresSink;
    pub use ledger_sources::postgres::{
        PostgresConfig, PostgresDatabase, PostgresStore, PostgresTransaction,
    };

    /// Table capture: the rows of ordinary tables, copied and then followed in the write-ahead log.
    pub use ledger_sources::postgres::capture;
}

/// MongoDB, from version 5.0: the store, with sessions of the caller's own, and a replica.
#[cfg(feature = "mongodb")]
pub mod mongodb {
    pub use ledger_sinks::mongodb::MongoSink;
    pub use ledger_sources::mongodb::{
        Deployment, MongoConfig, MongoDatabase, MongoStore, MongoTransaction,
    };

    /// Collections, copied and then followed in a change stream.
    pub use ledger_sources::mongodb::capture;
}

/// ClickHouse, from version 24.8, over HTTP: the store, and a replica; the view `<store>_current`
/// shows what either holds.
#[cfg(feature = "clickhouse")]
pub mod clickhouse {
    pub use ledger_layout::clickhouse::Cluster;
    pub use ledger_sinks::clickhouse::{BatchBounds, ClickHouseConfig, ClickHouseSink};
    pub use ledger_sources::clickhouse::ClickHouseStore;
}

/// Webhooks: changes posted to an endpoint, signed, and the verifier for who receives them.
#[cfg(feature = "webhook")]
pub use ledger_sinks::webhook;

/// The README's own program compiles.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
