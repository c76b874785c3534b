//! A database of its own for each run, on the servers of `scripts/servers.sh`.

use ledger::clickhouse::ClickHouseConfig;
use ledger_layout::clickhouse::Connection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::Outcome;

const WHY: &str = "measure";

fn server(variable: &str) -> Outcome<String> {
    std::env::var(variable).map_err(|_| {
        format!("{variable} is not set; run eval \"$(scripts/servers.sh start)\"").into()
    })
}

/// The URL with another database.
fn with_database(url: &str, name: &str) -> Outcome<String> {
    let (address, parameters) = match url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let (server, _) = address
        .rsplit_once('/')
        .ok_or("a server's URL names no database")?;
    Ok(format!("{server}/{name}{parameters}"))
}

fn unique() -> String {
    format!("bench_{}", uuid::Uuid::new_v4().simple())
}

/// A PostgreSQL database, to be removed by [`remove`](Self::remove).
pub(crate) struct Postgres {
    pub(crate) url: String,
    name: String,
    server: String,
}

impl Postgres {
    pub(crate) async fn create() -> Outcome<Self> {
        let server = server("LEDGER_TEST_POSTGRES")?;
        let name = unique();
        let mut admin = PgConnection::connect(&server).await?;
        let sql = format!("CREATE DATABASE {name}");
        admin.execute(AssertSqlSafe(sql)).await?;
        let url = with_database(&server, &name)?;
        Ok(Self { url, name, server })
    }

    pub(crate) async fn connect(&self) -> Outcome<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    /// Runs statements, separated by semicolons.
    pub(crate) async fn run(&self, sql: String) -> Outcome {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
        Ok(connection.close().await?)
    }

    /// The highest id of a table; 0 where it is empty.
    pub(crate) async fn last_id(&self, table: &str) -> Outcome<u64> {
        let sql = format!("SELECT coalesce(max(id), 0) FROM {table}");
        let mut connection = self.connect().await?;
        let last: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await?;
        Ok(u64::try_from(last)?)
    }

    /// The processes of the server that work for this database.
    pub(crate) async fn backends(&self) -> Outcome<Vec<u32>> {
        let mut admin = PgConnection::connect(&self.server).await?;
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = $1";
        let pids: Vec<i32> = sqlx::query_scalar(sql)
            .bind(&self.name)
            .fetch_all(&mut admin)
            .await?;
        Ok(pids.into_iter().map(i32::unsigned_abs).collect())
    }

    pub(crate) async fn remove(self) -> Outcome {
        let mut admin = PgConnection::connect(&self.server).await?;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        admin.execute(AssertSqlSafe(sql)).await?;
        Ok(())
    }
}

/// A ClickHouse database, to be removed by [`remove`](Self::remove).
pub(crate) struct ClickHouse {
    pub(crate) url: String,
    pub(crate) connection: Connection,
    name: String,
    server: Connection,
}

impl ClickHouse {
    pub(crate) async fn create() -> Outcome<Self> {
        let server_url = server("LEDGER_TEST_CLICKHOUSE")?;
        let name = unique();
        let server = Connection::new(server_url.parse()?);
        let sql = format!("CREATE DATABASE {name}");
        server.execute(WHY, &sql).await?;
        let url = with_database(&server_url, &name)?;
        let config: ClickHouseConfig = url.parse()?;
        Ok(Self {
            url,
            connection: Connection::new(config),
            name,
            server,
        })
    }

    pub(crate) async fn run(&self, sql: &str) -> Outcome {
        Ok(self.connection.execute(WHY, sql).await?)
    }

    /// How many rows a table or a view has.
    pub(crate) async fn count(&self, table: &str) -> Outcome<u64> {
        let counted = self
            .numbers(&format!("SELECT count() FROM {table}"))
            .await?;
        Ok(counted.first().copied().unwrap_or(0))
    }

    /// The numbers that a query gives.
    pub(crate) async fn numbers(&self, sql: &str) -> Outcome<Vec<u64>> {
        let query = self.connection.client().query_raw(sql);
        let rows = query.fetch_all::<u64>();
        Ok(self.connection.timed(WHY, rows).await?)
    }

    pub(crate) async fn remove(self) -> Outcome {
        let sql = format!("DROP DATABASE {}", self.name);
        Ok(self.server.execute(WHY, &sql).await?)
    }
}
