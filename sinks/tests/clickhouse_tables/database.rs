//! A database of its own for each test, and changes to deliver into it.

use ledger_core::{Error, Result, RowChange, Sink as _};
use ledger_layout::clickhouse::{ClickHouseConfig, Connection, identifier};
use ledger_layout::tables::{TableOptions, TableRoutes};
use ledger_sinks::clickhouse::ClickHouseTables;
use uuid::Uuid;

pub(crate) use crate::changes::*;

/// A database of its own on one of the engines.
pub(crate) struct Database {
    pub(crate) config: ClickHouseConfig,
    pub(crate) connection: Connection,
}

impl Database {
    pub(crate) async fn create(variable: &str) -> Self {
        let url = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set; see scripts/servers.sh"));
        let mut config: ClickHouseConfig = url.parse().unwrap();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let admin = Connection::new(config.clone());
        let create = format!("CREATE DATABASE {name}");
        admin.execute("test", &create).await.unwrap();
        config.database = name;
        Self {
            connection: Connection::new(config.clone()),
            config,
        }
    }

    pub(crate) async fn sink(&self) -> ClickHouseTables {
        self.sink_with(TableOptions::default()).await
    }

    pub(crate) async fn sink_with(&self, others: TableOptions) -> ClickHouseTables {
        let routes = TableRoutes {
            others,
            ..TableRoutes::default()
        };
        ClickHouseTables::open(&self.config, routes).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.connection.execute("test", sql).await.unwrap();
    }

    /// The lines of a result, columns separated by `|`.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        let query = self.connection.client().query_raw(sql);
        let query = query.with_setting("output_format_tsv_crlf_end_of_line", "0");
        let bytes = self.connection.fetch_bytes("test", query, "TSV").await;
        let text = String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        text.lines().map(|line| line.replace('\t', "|")).collect()
    }

    /// What the view of a table shows.
    pub(crate) async fn view(&self, table: &str) -> Vec<String> {
        let view = identifier(&format!("{table}_current"));
        self.lines(&format!("SELECT * FROM {view} ORDER BY ALL"))
            .await
    }

    pub(crate) async fn drop(self) {
        let name = identifier(&self.config.database);
        self.execute(&format!("DROP DATABASE {name}")).await;
    }
}

pub(crate) async fn claim(sink: &ClickHouseTables) -> u64 {
    let cursors = sink.cursors().unwrap();
    cursors.claim(&pipeline(), &source(1)).await.unwrap().fence
}

pub(crate) async fn try_deliver(
    sink: &ClickHouseTables,
    fence: u64,
    changes: &[RowChange],
) -> Result<()> {
    sink.deliver(&batch(fence, changes, 0, changes.len())).await
}

pub(crate) async fn deliver(sink: &ClickHouseTables, fence: u64, changes: &[RowChange]) {
    try_deliver(sink, fence, changes).await.unwrap();
}

/// Claims, and delivers everything as one batch.
pub(crate) async fn run(sink: &ClickHouseTables, changes: &[RowChange]) {
    deliver(sink, claim(sink).await, changes).await;
}

/// Claims, and delivers what is refused.
pub(crate) async fn refused(sink: &ClickHouseTables, changes: &[RowChange]) -> Error {
    let fence = claim(sink).await;
    try_deliver(sink, fence, changes).await.unwrap_err()
}
