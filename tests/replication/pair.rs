//! A source and a replica of it, each in a database of its own.

use std::path::PathBuf;
use std::sync::Arc;

use clickhouse::Client;
use ledger::clickhouse::{ClickHouseConfig, ClickHouseStore};
use ledger::connect::{DatabaseUrl, ReplicaSink};
use ledger::mongodb::{MongoConfig, MongoDatabase, MongoStore};
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{PipelineId, Relay, ReplicaOptions, Retention, Store, StoreName, StoreOptions};
use mongodb::bson::{Document, doc};
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;
use uuid::Uuid;

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    /// With the write-ahead log as the store's; its place is one of `Postgres`.
    PostgresWal,
    Mongo,
    ClickHouse,
    ClickHouseOld,
}

impl Kind {
    /// A database that nobody else uses; `what` goes into its name.
    async fn place(self, folder: &TempDir, what: &str) -> Place {
        let url = match self {
            Self::Sqlite => {
                let path = folder.path().join(format!("{what}.db"));
                format!("sqlite:{}", path.display())
            }
            Self::Postgres | Self::PostgresWal => {
                let database = format!("{what}_{}", Uuid::new_v4().simple());
                let server = ledger_harness::shared::postgres_url();
                let create = format!("CREATE DATABASE {database}");
                postgres(&server, &[create]).await;
                database_of(&server, &database)
            }
            Self::Mongo => {
                let database = format!("{what}_{}", Uuid::new_v4().simple());
                mongo_database(&ledger_harness::shared::mongodb_url(), &database)
            }
            Self::ClickHouse => {
                let server = ledger_harness::shared::clickhouse_url();
                clickhouse_database(&server, what).await
            }
            Self::ClickHouseOld => {
                let server = ledger_harness::shared::clickhouse_old_url();
                clickhouse_database(&server, what).await
            }
        };
        let wal = self == Self::PostgresWal;
        let kind = if wal { Self::Postgres } else { self };
        Place { kind, url, wal }
    }
}

/// The same server's other database.
fn database_of(url: &str, database: &str) -> String {
    let (server, rest) = url.rsplit_once('/').unwrap();
    let parameters = rest.find('?').map_or("", |at| &rest[at..]);
    format!("{server}/{database}{parameters}")
}

/// The name of a URL's database.
fn database(url: &str) -> &str {
    let (_, rest) = url.rsplit_once('/').unwrap();
    rest.split('?').next().unwrap()
}

/// A new database on a ClickHouse server.
async fn clickhouse_database(server: &str, what: &str) -> String {
    let database = format!("{what}_{}", Uuid::new_v4().simple());
    clickhouse(server, &[format!("CREATE DATABASE {database}")]).await;
    database_of(server, &database)
}

async fn clickhouse(url: &str, statements: &[String]) {
    let client = clickhouse_client(url);
    for sql in statements {
        let done = client.query_raw(sql).execute().await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

fn clickhouse_client(url: &str) -> Client {
    let config: ClickHouseConfig = url.parse().unwrap();
    Client::default()
        .with_url(format!("http://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose())
        .with_database(&config.database)
}

/// The same MongoDB server's other database.
fn mongo_database(url: &str, database: &str) -> String {
    let (server, rest) = url.rsplit_once('/').unwrap();
    let (_, parameters) = rest.split_once('?').unwrap();
    format!("{server}/{database}?{parameters}")
}

pub(crate) async fn mongo(url: &str) -> MongoDatabase {
    MongoDatabase::open(MongoConfig::from_url(url).unwrap())
        .await
        .unwrap()
}

/// Drops the slots of a database once their readers have gone.
async fn drop_slots(url: &str) {
    const SLOTS: &str = "FROM pg_replication_slots WHERE database = current_database()";
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    let active = format!("SELECT count(*) {SLOTS} AND active");
    loop {
        let active: i64 = sqlx::query_scalar(AssertSqlSafe(active.clone()))
            .fetch_one(&mut conn)
            .await
            .unwrap();
        if active == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let drop = format!("SELECT pg_drop_replication_slot(slot_name) {SLOTS}");
    sqlx::query(AssertSqlSafe(drop))
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
}

async fn postgres(url: &str, statements: &[String]) {
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    for sql in statements {
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut conn)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    conn.close().await.unwrap();
}

/// Where a database is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    /// Whether the log of its stores is the write-ahead log.
    wal: bool,
}

/// Opens a store, and creates it where it does not exist.
pub(crate) async fn open(place: &Place, name: &StoreName, retention: Retention) -> Opened {
    let options = StoreOptions {
        write_ahead_log: place.wal,
        retention,
        ..StoreOptions::default()
    };
    match place.kind {
        Kind::Sqlite => {
            let config: SqliteConfig = place.url.parse().unwrap();
            let store = SqliteStore::open(config, name.clone(), options).await;
            Opened::Sqlite(Arc::new(store.unwrap()))
        }
        Kind::Postgres | Kind::PostgresWal => {
            let mut config = PostgresConfig::from_url(&place.url).unwrap();
            // Many cases run side by side against one server.
            config.max_connections = 5;
            let store = PostgresStore::open(config, name.clone(), options).await;
            Opened::Postgres(Arc::new(store.unwrap()))
        }
        Kind::Mongo => {
            let config = MongoConfig::from_url(&place.url).unwrap();
            let store = MongoStore::open(config, name.clone(), options).await;
            Opened::Mongo(Arc::new(store.unwrap()))
        }
        Kind::ClickHouse | Kind::ClickHouseOld => {
            let config: ClickHouseConfig = place.url.parse().unwrap();
            let store = Box::pin(ClickHouseStore::open(&config, name.clone(), options)).await;
            Opened::ClickHouse(Arc::new(store.unwrap()))
        }
    }
}

/// A store with what only its own type can do.
#[derive(Clone)]
pub(crate) enum Opened {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
    Mongo(Arc<MongoStore>),
    ClickHouse(Arc<ClickHouseStore>),
}

impl Opened {
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as _,
            Self::Postgres(store) => Arc::clone(store) as _,
            Self::Mongo(store) => Arc::clone(store) as _,
            Self::ClickHouse(store) => Arc::clone(store) as _,
        }
    }

    pub(crate) async fn prune(&self) -> ledger::Result<u64> {
        match self {
            Self::Sqlite(store) => store.prune().await,
            Self::Postgres(store) => store.prune().await,
            Self::Mongo(store) => store.prune().await,
            Self::ClickHouse(store) => store.prune().await,
        }
    }

    pub(crate) async fn promote(&self) -> ledger::Result<()> {
        match self {
            Self::Sqlite(store) => store.promote().await,
            Self::Postgres(store) => store.promote().await,
            Self::Mongo(store) => store.promote().await,
            Self::ClickHouse(store) => store.promote().await,
        }
    }
}

impl Place {
    /// Runs statements, each on its own.
    pub(crate) async fn execute(&self, statements: &[String]) {
        match self.kind {
            Kind::Sqlite => {
                let path = self.url.strip_prefix("sqlite:").unwrap();
                let mut conn = sqlx::SqliteConnection::connect(path).await.unwrap();
                for sql in statements {
                    sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                        .execute(&mut conn)
                        .await
                        .unwrap_or_else(|error| panic!("{sql}: {error}"));
                }
                conn.close().await.unwrap();
            }
            Kind::Postgres | Kind::PostgresWal => postgres(&self.url, statements).await,
            // Commands, as extended JSON.
            Kind::Mongo => {
                let database = mongo(&self.url).await;
                for command in statements {
                    let parsed: Document = serde_json::from_str(command).unwrap();
                    let done = database.run("execute", parsed).await.unwrap();
                    assert!(!done.contains_key("writeErrors"), "{command}: {done}");
                }
                database.close().await;
            }
            Kind::ClickHouse | Kind::ClickHouseOld => clickhouse(&self.url, statements).await,
        }
    }

    pub(crate) fn is_clickhouse(&self) -> bool {
        matches!(self.kind, Kind::ClickHouse | Kind::ClickHouseOld)
    }

    pub(crate) fn client(&self) -> Client {
        clickhouse_client(&self.url)
    }

    pub(crate) async fn sink(&self, name: &StoreName) -> ReplicaSink {
        let url = DatabaseUrl::parse(&self.url).unwrap();
        Box::pin(url.open_sink(name)).await.unwrap()
    }

    /// As [`sink`](Self::sink), with or without a log of its own.
    pub(crate) async fn relay(
        &self,
        name: &StoreName,
        relay: Relay,
    ) -> ledger::Result<ReplicaSink> {
        let url = DatabaseUrl::parse(&self.url).unwrap();
        let options = ReplicaOptions {
            relay,
            ..ReplicaOptions::default()
        };
        Box::pin(url.open_sink_with(name, options)).await
    }

    /// As [`sink`](Self::sink), whose log is kept so long, where it has one.
    pub(crate) async fn kept(&self, name: &StoreName, retention: Retention) -> ReplicaSink {
        let url = DatabaseUrl::parse(&self.url).unwrap();
        let options = ReplicaOptions {
            retention,
            ..ReplicaOptions::default()
        };
        Box::pin(url.open_sink_with(name, options)).await.unwrap()
    }

    /// Keeps the present state of a source, whose store must be closed, as a backup.
    pub(crate) async fn back_up(&self) -> Self {
        if self.kind == Kind::Sqlite {
            let path = PathBuf::from(self.url.strip_prefix("sqlite:").unwrap());
            let backup = path.with_extension("backup");
            self.execute(&[format!("VACUUM INTO '{}'", backup.display())])
                .await;
            Self {
                kind: self.kind,
                wal: self.wal,
                url: format!("sqlite:{}", backup.display()),
            }
        } else if self.is_clickhouse() {
            let backup = clickhouse_database(&self.url, "backup").await;
            let (from, to) = (database(&self.url), database(&backup));
            let sql = "SELECT name FROM system.tables WHERE database = ? AND engine != 'View'";
            let tables = self.client().query(sql).bind(from);
            let tables: Vec<String> = tables.fetch_all().await.unwrap();
            for table in tables {
                let copy = [
                    format!("CREATE TABLE {to}.{table} AS {from}.{table}"),
                    format!("INSERT INTO {to}.{table} SELECT * FROM {from}.{table}"),
                ];
                self.execute(&copy).await;
            }
            Self {
                kind: self.kind,
                wal: self.wal,
                url: backup,
            }
        } else if self.kind == Kind::Mongo {
            let source = mongo(&self.url).await;
            let backup = format!("b{}", Uuid::new_v4().simple());
            let url = mongo_database(&self.url, &backup);
            let target = mongo(&url).await;
            for name in source.database().list_collection_names().await.unwrap() {
                let collection = source.collection(&name);
                let mut indexes = collection.list_indexes().await.unwrap();
                while let Some(index) = futures::StreamExt::next(&mut indexes).await {
                    target
                        .collection(&name)
                        .create_index(index.unwrap())
                        .await
                        .unwrap();
                }
                let out = doc! {"$out": {"db": &backup, "coll": &name}};
                collection.aggregate([out]).await.unwrap();
            }
            Self {
                kind: self.kind,
                wal: self.wal,
                url,
            }
        } else {
            let server = ledger_harness::shared::postgres_url();
            let (_, database) = self.url.rsplit_once('/').unwrap();
            let backup = format!("{database}_b");
            // The connections of a closed store may take a moment to go.
            let end = format!(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                     WHERE datname = '{database}'"
            );
            let copy = format!("CREATE DATABASE {backup} TEMPLATE {database}");
            postgres(&server, &[end, copy]).await;
            Self {
                kind: self.kind,
                wal: self.wal,
                url: database_of(&self.url, &backup),
            }
        }
    }
}

/// A source and an empty replica.
pub(crate) struct Pair {
    pub(crate) name: StoreName,
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) source: Arc<dyn Store>,
    pub(crate) sink: ReplicaSink,
    pub(crate) pipeline: PipelineId,
    pub(crate) folder: TempDir,
}

impl Pair {
    pub(crate) async fn open(from: Kind, to: Kind) -> Self {
        let folder = TempDir::new().unwrap();
        let name = StoreName::new(format!("s{}", Uuid::new_v4().simple())).unwrap();
        let from = from.place(&folder, "source").await;
        let to = to.place(&folder, "replica").await;
        Self {
            source: open(&from, &name, Retention::default()).await.store(),
            sink: to.sink(&name).await,
            pipeline: PipelineId::new("pair").unwrap(),
            name,
            from,
            to,
            folder,
        }
    }

    /// The replica, opened as a store.
    pub(crate) async fn replica(&self) -> Opened {
        open(&self.to, &self.name, Retention::default()).await
    }

    /// Another database of a kind.
    pub(crate) async fn another(&self, kind: Kind, what: &str) -> Place {
        kind.place(&self.folder, what).await
    }

    /// The databases are given back; a test that fails leaves them to be looked at.
    pub(crate) async fn close(self) {
        self.source.close().await;
        for place in [&self.from, &self.to] {
            if place.kind == Kind::Mongo {
                let database = mongo(&place.url).await;
                database.database().drop().await.unwrap();
                database.close().await;
            }
            if place.kind == Kind::Postgres {
                let server = ledger_harness::shared::postgres_url();
                let (_, database) = place.url.rsplit_once('/').unwrap();
                if place.wal {
                    drop_slots(&place.url).await;
                }
                let drop = format!("DROP DATABASE {database} WITH (FORCE)");
                postgres(&server, &[drop]).await;
            }
            if place.is_clickhouse() {
                let drop = format!("DROP DATABASE {}", database(&place.url));
                let server = database_of(&place.url, "default");
                clickhouse(&server, &[drop]).await;
            }
        }
    }
}
