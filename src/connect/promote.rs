//! Replicas that become stores of their own, by URL.

use super::{DatabaseUrl, Kind};
use crate::{Cursor, PipelineId, Result, StoreName};
use ledger_layout::StoreOptions;

/// What a pipeline has left in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Whether the store still belongs to its pipelines; false once it has been promoted, and for a
    /// store that never was a replica.
    pub replica: bool,
    /// The last position that the pipeline has delivered; it is kept when the replica is promoted.
    pub cursor: Option<Cursor>,
}

impl DatabaseUrl {
    /// Makes a replica a store of its own, which takes appends and has a log. No bridge may be
    /// running into it; what is delivered afterwards is `Fenced` or refused.
    ///
    /// `AlreadyExists` where names or dedup keys are there twice, `NotFound` where there is no such
    /// store.
    pub async fn promote(&self, store: &StoreName) -> Result<()> {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                use ledger_sources::sqlite::SqliteStore;
                let config = config.clone().create(false);
                let options = StoreOptions::default();
                let opened = SqliteStore::open(config, store.clone(), options).await?;
                let promoted = opened.promote().await;
                crate::Store::close(&opened).await;
                promoted
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                use ledger_sources::postgres::PostgresStore;
                let config = config.as_ref().clone();
                let options = StoreOptions::default();
                let opened = PostgresStore::open_existing(config, store.clone(), options).await?;
                let promoted = opened.promote().await;
                crate::Store::close(&opened).await;
                promoted
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                use ledger_sources::mongodb::MongoStore;
                let config = config.as_ref().clone().create(false);
                let options = StoreOptions::default();
                let opened = MongoStore::open(config, store.clone(), options).await?;
                let promoted = opened.promote().await;
                crate::Store::close(&opened).await;
                promoted
            }
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_sources::clickhouse::ClickHouseStore;
                let options = StoreOptions::default();
                let opened = ClickHouseStore::open_existing(config, store.clone(), options);
                let opened = Box::pin(opened).await?;
                let promoted = Box::pin(opened.promote()).await;
                crate::Store::close(&opened).await;
                promoted
            }
        }
    }

    /// What a pipeline has left in a store; none where the store, or its database file, does not
    /// exist. Creates nothing.
    pub async fn delivered(
        &self,
        store: &StoreName,
        pipeline: &PipelineId,
    ) -> Result<Option<Delivered>> {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => sqlite(config, store, pipeline).await,
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => postgres(config, store, pipeline).await,
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => mongodb(config, store, pipeline).await,
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => clickhouse(config, store, pipeline).await,
        }
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(
    config: &ledger_layout::sqlite::SqliteConfig,
    store: &StoreName,
    pipeline: &PipelineId,
) -> Result<Option<Delivered>> {
    use crate::CursorStore as _;
    use ledger_layout::sqlite::{Database, Location, Role, SqliteCursors, Tables, load};
    match &config.location {
        Location::File(path) if path.exists() => {}
        _ => return Ok(None),
    }
    let database = Database::open(config.clone().create(false)).await?;
    let mut reader = database.reader().await?;
    let row = load(&mut reader, store).await;
    let delivered = match reader.done(row)? {
        None => None,
        Some(row) => {
            let cursors = SqliteCursors::new(database.share(), Tables::of(store));
            Some(Delivered {
                replica: row.role == Role::Replica,
                cursor: cursors.stored(pipeline).await?,
            })
        }
    };
    database.close().await;
    Ok(delivered)
}

#[cfg(feature = "postgres")]
async fn postgres(
    config: &ledger_layout::postgres::PostgresConfig,
    store: &StoreName,
    pipeline: &PipelineId,
) -> Result<Option<Delivered>> {
    use crate::CursorStore as _;
    use ledger_layout::postgres::{PostgresCursors, Role, Tables, failed, find_store};
    let pool = config.connect().await?;
    let found = async {
        let mut conn = pool
            .acquire()
            .await
            .map_err(|error| failed("read cursor", format!("store {store}"), error))?;
        let tables = Tables::locate(&mut conn, store).await?;
        let Some(row) = find_store(&mut conn, &tables).await? else {
            return Ok(None);
        };
        drop(conn);
        let cursors = PostgresCursors::new(pool.clone(), tables);
        Ok(Some(Delivered {
            replica: row.role == Role::Replica,
            cursor: cursors.stored(pipeline).await?,
        }))
    }
    .await;
    pool.close().await;
    found
}

#[cfg(feature = "clickhouse")]
async fn clickhouse(
    config: &ledger_layout::clickhouse::ClickHouseConfig,
    store: &StoreName,
    pipeline: &PipelineId,
) -> Result<Option<Delivered>> {
    use crate::CursorStore as _;
    use ledger_layout::clickhouse::{Connection, Cursors, Owner, Tables};
    let connection = Connection::new(config.clone());
    if !Tables::new(store).exist(&connection).await? {
        return Ok(None);
    }
    let cursors = Cursors::new(connection, store);
    Ok(Some(Delivered {
        replica: cursors.owner("read cursor").await? != Owner::Itself,
        cursor: cursors.stored(pipeline).await?,
    }))
}

#[cfg(feature = "mongodb")]
async fn mongodb(
    config: &ledger_layout::mongodb::MongoConfig,
    store: &StoreName,
    pipeline: &PipelineId,
) -> Result<Option<Delivered>> {
    use crate::CursorStore as _;
    use ledger_layout::mongodb::{Collections, MongoCursors, MongoDatabase, Role, load};
    let database = MongoDatabase::open(config.clone()).await?;
    let delivered = match load(&database, store).await? {
        None => None,
        Some(row) => {
            let cursors = MongoCursors::new(database.clone(), Collections::of(store));
            Some(Delivered {
                replica: row.role == Role::Replica,
                cursor: cursors.stored(pipeline).await?,
            })
        }
    };
    database.close().await;
    Ok(delivered)
}
