//! A database of its own for each test.

use std::str::FromStr as _;

use ledger_core::{Batch, RowChange, TableReplica, TableSink};
use ledger_layout::postgres::PostgresConfig;
use ledger_layout::tables::{TableOptions, TableRoutes};
use ledger_sinks::postgres::PostgresTables;
use ledger_sinks::sqlite::{Database as Sqlite, SqliteConfig, SqliteTables};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::changes::{batch, pipeline, source};

/// A schema in PostgreSQL, or a database in memory.
pub(crate) enum Database {
    Postgres(Box<PostgresConfig>, PgPool),
    Sqlite(Sqlite),
}

impl Database {
    pub(crate) async fn postgres() -> Self {
        let url = std::env::var("LEDGER_TEST_POSTGRES")
            .unwrap_or_else(|_| panic!("LEDGER_TEST_POSTGRES is not set; see scripts/servers.sh"));
        let schema = format!("t_{}", Uuid::new_v4().simple());
        let options = PgConnectOptions::from_str(&url).unwrap();
        let options = options.options([("search_path", schema.as_str())]);
        let pool = PgPool::connect_with(options.clone()).await.unwrap();
        let create = format!("CREATE SCHEMA {schema}");
        sqlx::query(AssertSqlSafe(create))
            .execute(&pool)
            .await
            .unwrap();
        Self::Postgres(Box::new(PostgresConfig::from_options(options)), pool)
    }

    pub(crate) async fn sqlite() -> Self {
        Self::Sqlite(Sqlite::open(SqliteConfig::memory()).await.unwrap())
    }

    pub(crate) async fn sink(&self) -> Box<dyn TableSink> {
        self.sink_with(TableOptions::default()).await
    }

    pub(crate) async fn sink_with(&self, others: TableOptions) -> Box<dyn TableSink> {
        let routes = TableRoutes {
            others,
            ..TableRoutes::default()
        };
        match self {
            Self::Postgres(config, _) => {
                Box::new(PostgresTables::open(config, routes).await.unwrap())
            }
            Self::Sqlite(database) => {
                Box::new(SqliteTables::open_on(database, routes).await.unwrap())
            }
        }
    }

    pub(crate) async fn replica(&self, routes: TableRoutes) -> Box<dyn TableReplica> {
        match self {
            Self::Postgres(config, _) => {
                Box::new(PostgresTables::open(config, routes).await.unwrap())
            }
            Self::Sqlite(database) => {
                Box::new(SqliteTables::open_on(database, routes).await.unwrap())
            }
        }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(_, pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
            Self::Sqlite(database) => {
                let mut writer = database.writer().await.unwrap();
                sqlx::query(sql).execute(&mut *writer).await.unwrap();
            }
        }
    }

    /// The first column of a result, as text.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(_, pool) => {
                let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::Sqlite(database) => {
                let mut writer = database.writer().await.unwrap();
                let rows = sqlx::query(sql).fetch_all(&mut *writer).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }

    /// Columns of the table `t`, with `~` for NULL, in order of the lines.
    pub(crate) async fn rows(&self, columns: &[&str]) -> Vec<String> {
        let shown: Vec<String> = columns
            .iter()
            .map(|column| format!("coalesce(CAST({column} AS text), '~')"))
            .collect();
        let sql = format!("SELECT {} FROM t ORDER BY 1", shown.join(" || '|' || "));
        self.lines(&sql).await
    }
}

pub(crate) async fn claim(sink: &dyn TableSink) -> u64 {
    let cursors = sink.cursors().unwrap();
    cursors.claim(&pipeline(), &source(1)).await.unwrap().fence
}

/// Claims, and delivers everything in batches of this size.
pub(crate) async fn run(sink: &dyn TableSink, changes: &[RowChange], size: usize) {
    let fence = claim(sink).await;
    for from in (0..changes.len()).step_by(size) {
        let to = (from + size).min(changes.len());
        sink.deliver(&batch(fence, changes, from, to))
            .await
            .unwrap();
    }
}

/// Claims, and delivers what is refused.
pub(crate) async fn refused(sink: &dyn TableSink, changes: &[RowChange]) -> ledger_core::Error {
    let fence = claim(sink).await;
    let all: Batch<RowChange> = batch(fence, changes, 0, changes.len());
    sink.deliver(&all).await.unwrap_err()
}
