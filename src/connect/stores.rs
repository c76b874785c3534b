//! The stores of one database, opened one by one.

use std::fmt;
use std::sync::Arc;

use super::{DatabaseUrl, Kind};
#[cfg(any(feature = "sqlite", feature = "mongodb", feature = "clickhouse"))]
use crate::ErrorKind;
use crate::{Result, Store, StoreName};
use ledger_layout::StoreOptions;

/// The stores of one database, as a server opens them: each when it is first asked for.
///
/// The stores share the connections of their database: on SQLite its writers take turns in the order
/// they come, and the stores of a database in memory are in one memory; on PostgreSQL and MongoDB
/// looking for a store costs no new connection, however many there are.
pub struct Stores {
    url: DatabaseUrl,
    options: StoreOptions,
    /// Opened when first needed.
    #[cfg(feature = "sqlite")]
    sqlite: tokio::sync::Mutex<Option<ledger_layout::sqlite::Database>>,
    /// Opened when first needed.
    #[cfg(feature = "postgres")]
    postgres: tokio::sync::Mutex<Option<ledger_layout::postgres::PostgresDatabase>>,
    /// Opened when first needed.
    #[cfg(feature = "mongodb")]
    mongodb: tokio::sync::Mutex<Option<ledger_layout::mongodb::MongoDatabase>>,
}

/// The most connections that the stores of one PostgreSQL database share.
#[cfg(feature = "postgres")]
const SHARED_CONNECTIONS: u32 = 20;

impl Stores {
    /// The stores of the database at `url`, which is not connected to yet.
    pub fn new(url: DatabaseUrl, options: StoreOptions) -> Self {
        Self {
            url,
            options,
            #[cfg(feature = "sqlite")]
            sqlite: tokio::sync::Mutex::default(),
            #[cfg(feature = "postgres")]
            postgres: tokio::sync::Mutex::default(),
            #[cfg(feature = "mongodb")]
            mongodb: tokio::sync::Mutex::default(),
        }
    }

    /// Where the database is.
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Opens a store, and creates database file and store where they do not exist.
    ///
    /// Refused, untouched: a database that the Go implementation made.
    pub async fn open(&self, store: &StoreName) -> Result<Arc<dyn Store>> {
        match &self.url.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                use ledger_sources::sqlite::SqliteStore;
                let database = self.sqlite(config).await?;
                let options = self.options.clone();
                let opened = SqliteStore::open_on(&database, store.clone(), options).await?;
                Ok(Arc::new(opened))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                use ledger_sources::postgres::PostgresStore;
                let database = self.postgres(config).await?;
                let options = self.options.clone();
                let opened = PostgresStore::open_on(&database, store.clone(), options).await?;
                Ok(Arc::new(opened))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => self.open_mongodb(config, store).await,
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_sources::clickhouse::ClickHouseStore;
                let options = self.options.clone();
                let opened = ClickHouseStore::open(config, store.clone(), options);
                Ok(Arc::new(Box::pin(opened).await?))
            }
        }
    }

    /// As [`open`](Self::open), creating nothing: `NotFound` where file or store do not exist.
    pub async fn open_existing(&self, store: &StoreName) -> Result<Arc<dyn Store>> {
        match &self.url.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                if !self.sqlite_has(config, store).await? {
                    return Err(self.absent(config, store).await);
                }
                self.open(store).await
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                use ledger_sources::postgres::PostgresStore;
                let database = self.postgres(config).await?;
                let options = self.options.clone();
                let opened = PostgresStore::open_existing_on(&database, store.clone(), options);
                Ok(Arc::new(opened.await?))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                let database = self.mongodb(config).await?;
                if ledger_layout::mongodb::load(&database, store)
                    .await?
                    .is_none()
                {
                    let what = format!("{} has no store {store}", self.url);
                    return Err(crate::Error::new(ErrorKind::NotFound, "open store", what));
                }
                self.open_mongodb(config, store).await
            }
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_sources::clickhouse::ClickHouseStore;
                let options = self.options.clone();
                let opened = ClickHouseStore::open_existing(config, store.clone(), options);
                Ok(Arc::new(Box::pin(opened).await?))
            }
        }
    }

    /// The names of the stores and replicas that the database holds, opened or not, ascending; none
    /// where there is no database yet.
    pub async fn names(&self) -> Result<Vec<StoreName>> {
        match &self.url.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                if !is_there(config)? {
                    return Ok(Vec::new());
                }
                let database = self.sqlite(config).await?;
                let mut reader = database.reader().await?;
                let names = ledger_layout::sqlite::names(&mut reader).await;
                reader.done(names)
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => self.postgres(config).await?.stores().await,
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => self.mongodb(config).await?.stores().await,
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_layout::clickhouse::{Connection, Tables};
                Tables::stores(&Connection::new(config.clone())).await
            }
        }
    }

    /// What keeps the state of the hooks on these stores, in the same database; creates its tables, and
    /// a database file, where they do not exist. `Unsupported` on ClickHouse, and on a standalone
    /// MongoDB server.
    pub async fn hook_state(&self) -> Result<Arc<dyn crate::hook::State>> {
        match &self.url.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                let database = self.sqlite(config).await?;
                let hooks = ledger_layout::sqlite::SqliteHooks::open(database);
                Ok(Arc::new(hooks.await?))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                let database = self.postgres(config).await?;
                let hooks = ledger_layout::postgres::PostgresHooks::open(database.pool().clone());
                Ok(Arc::new(hooks.await?))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                let database = self.mongodb(config).await?;
                let hooks = ledger_layout::mongodb::MongoHooks::open(database);
                Ok(Arc::new(hooks.await?))
            }
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(_) => Err(crate::Error::new(
                ErrorKind::Unsupported,
                "open hook state",
                format!(
                    "{} keeps no state of hooks; carry the stores into SQLite, PostgreSQL or \
                     MongoDB with a bridge, and let a daemon on that database run the hooks",
                    self.url
                ),
            )),
        }
    }

    /// Gives the connections back that the stores share. The stores are closed by who opened them.
    #[allow(
        clippy::unused_async,
        reason = "depends on the features: stores that are no sinks share connections"
    )]
    pub async fn close(&self) {
        #[cfg(feature = "sqlite")]
        if let Some(database) = self.sqlite.lock().await.take() {
            database.close().await;
        }
        #[cfg(feature = "postgres")]
        if let Some(database) = self.postgres.lock().await.take() {
            database.close().await;
        }
        #[cfg(feature = "mongodb")]
        if let Some(database) = self.mongodb.lock().await.take() {
            database.close().await;
        }
    }

    #[cfg(feature = "mongodb")]
    async fn open_mongodb(
        &self,
        config: &ledger_layout::mongodb::MongoConfig,
        store: &StoreName,
    ) -> Result<Arc<dyn Store>> {
        let database = self.mongodb(config).await?;
        let options = self.options.clone();
        let opened =
            ledger_sources::mongodb::MongoStore::open_on(&database, store.clone(), options);
        Ok(Arc::new(opened.await?))
    }

    #[cfg(feature = "mongodb")]
    async fn mongodb(
        &self,
        config: &ledger_layout::mongodb::MongoConfig,
    ) -> Result<ledger_layout::mongodb::MongoDatabase> {
        let mut opened = self.mongodb.lock().await;
        if let Some(database) = &*opened {
            return Ok(database.clone());
        }
        let database = ledger_layout::mongodb::MongoDatabase::open(config.clone()).await?;
        *opened = Some(database.clone());
        Ok(database)
    }

    #[cfg(feature = "postgres")]
    async fn postgres(
        &self,
        config: &ledger_layout::postgres::PostgresConfig,
    ) -> Result<ledger_layout::postgres::PostgresDatabase> {
        let mut opened = self.postgres.lock().await;
        if let Some(database) = &*opened {
            return Ok(database.clone());
        }
        let mut config = config.clone();
        config.max_connections = SHARED_CONNECTIONS;
        let database = ledger_layout::postgres::PostgresDatabase::open(config).await?;
        *opened = Some(database.clone());
        Ok(database)
    }

    #[cfg(feature = "sqlite")]
    async fn sqlite(
        &self,
        config: &ledger_layout::sqlite::SqliteConfig,
    ) -> Result<ledger_layout::sqlite::Database> {
        let mut opened = self.sqlite.lock().await;
        if let Some(database) = &*opened {
            return Ok(database.clone());
        }
        let database = ledger_layout::sqlite::Database::open(config.clone()).await?;
        *opened = Some(database.clone());
        Ok(database)
    }

    #[cfg(feature = "sqlite")]
    async fn sqlite_has(
        &self,
        config: &ledger_layout::sqlite::SqliteConfig,
        store: &StoreName,
    ) -> Result<bool> {
        if !is_there(config)? {
            return Ok(false);
        }
        let database = self.sqlite(config).await?;
        let mut reader = database.reader().await?;
        let row = ledger_layout::sqlite::load(&mut reader, store).await;
        Ok(reader.done(row)?.is_some())
    }

    /// Why a store cannot be opened without being created: it is not there, or a file is that of
    /// other software.
    #[cfg(feature = "sqlite")]
    async fn absent(
        &self,
        config: &ledger_layout::sqlite::SqliteConfig,
        store: &StoreName,
    ) -> crate::Error {
        let absent = || {
            crate::Error::new(
                ErrorKind::NotFound,
                "open store",
                format!("{} has no store {store}", self.url),
            )
        };
        if config.location == ledger_layout::sqlite::Location::Memory {
            return absent();
        }
        match self.url.open_store(store).await {
            Ok(_) => absent(),
            Err(error) => error,
        }
    }
}

/// Whether there is a database. A folder that is missing is `Unavailable`, not a database without
/// stores: a disk that is not mounted must not read as empty.
#[cfg(feature = "sqlite")]
fn is_there(config: &ledger_layout::sqlite::SqliteConfig) -> Result<bool> {
    let ledger_layout::sqlite::Location::File(path) = &config.location else {
        return Ok(true);
    };
    let there = |path: &std::path::Path| {
        path.try_exists().map_err(|error| {
            let what = format!("{} cannot be looked at", path.display());
            crate::Error::new(ErrorKind::Unavailable, "open store", what).with_source(error)
        })
    };
    if there(path)? {
        return Ok(true);
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !there(folder)? => Err(crate::Error::new(
            ErrorKind::Unavailable,
            "open store",
            format!("the folder {} does not exist", folder.display()),
        )),
        _ => Ok(false),
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
