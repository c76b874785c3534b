//! ClickHouse: the tables of a store, and what is kept beside them.
//!
//! A store `s` is three tables, none of them partitioned, and one view:
//!
//! - `s_entries` holds the immutable part of the entries, with the labels they had when they were
//!   written: `ReplacingMergeTree(label_version)`, one row an entry after merging.
//! - `s_labels` holds the label states that came later, each with its version:
//!   `AggregatingMergeTree`, where the maximum of `(version, value)` is the newest value.
//! - `s_streams` holds name, version and trim boundary of the streams, likewise.
//! - `s_current` shows the present content.
//!
//! A store of its own, which is no replica, has a fourth table: `s_log`, its mutation log. A row of
//! the log is what commits a mutation; the other tables follow from it (`docs/clickhouse.md`).
//!
//! A trim and a rename are one row each, whatever the size of the stream. The database also holds
//! `ledger_cursors`, `ledger_stores`, `ledger_states` and `ledger_dead_letters`, shared by all stores
//! in it.
//!
//! # Reading one stream fast
//!
//! A name is not part of any sort key, so a query on `s_current` by name reads more than it has to.
//! Resolve the key first, and read the table by it:
//!
//! ```sql
//! WITH (SELECT stream_key FROM s_streams FINAL WHERE tupleElement(name, 2) = 'user-123') AS key
//! SELECT id, payload FROM s_entries FINAL
//! WHERE stream_key = key
//!   AND id > (SELECT trimmed_through FROM s_streams FINAL WHERE stream_key = key)
//! ORDER BY id
//! ```
//!
//! (Tags and annotations of this table are those at writing; the newer ones are in `s_labels`.)

mod captured;
mod cluster;
mod config;
mod contents;
mod cursors;
mod error;
mod http;
mod insert;
mod log;
mod owner;
mod pacing;
mod purge;
pub mod rows;
mod schema;
mod shape;
mod states;

pub use captured::{CapturedTables, Deferred, Noted};
pub use cluster::Cluster;
pub use config::{ClickHouseConfig, Secret};
pub use contents::{ClickHouseContents, KEYS, these_entries, these_streams};
pub use cursors::{Cursors, Held};
pub use error::{ServerError, map_error};
pub use insert::{Dedup, Started, StartedRows};
pub use log::{Beginning, Head, LOG_TAG, LogTable, NewRow, Tail, Written};
pub use owner::Owner;
pub use pacing::Pacer;
pub use schema::{LAYOUT_VERSION, Tables};
pub use states::{Document, States};

use std::time::Duration;

use bytes::Bytes;
use clickhouse::query::Query;
use clickhouse::{Client, RowOwned, RowRead};
use ledger_core::{Error, ErrorKind, Result};

/// A client of one database, whose calls end within a time and fail with [`Error`]s.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    config: ClickHouseConfig,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection with these settings; nothing is sent before the first query.
    pub fn new(config: ClickHouseConfig) -> Self {
        Self {
            client: config.client(),
            config,
        }
    }

    /// The client, for inserts.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The settings.
    pub fn config(&self) -> &ClickHouseConfig {
        &self.config
    }

    /// Runs a statement that returns no rows, to its end.
    pub async fn execute(&self, operation: &'static str, sql: &str) -> Result<()> {
        // `query_raw` takes question marks as they are; nothing here is a template.
        self.timed(operation, self.client.query_raw(sql).execute())
            .await
    }

    /// Runs a query and gives all its rows; only for results whose size is bounded.
    pub async fn fetch_all<T: RowOwned + RowRead>(
        &self,
        operation: &'static str,
        query: Query,
    ) -> Result<Vec<T>> {
        self.timed(operation, query.fetch_all::<T>()).await
    }

    /// Runs a query and gives its result as the bytes of `format`; only for results whose size is
    /// bounded.
    pub async fn fetch_bytes(
        &self,
        operation: &'static str,
        query: Query,
        format: &str,
    ) -> Result<Bytes> {
        let fetched = async { query.fetch_bytes(format)?.collect().await };
        self.timed(operation, fetched).await
    }

    /// Runs a call of the client within the configured time.
    pub async fn timed<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T> {
        let timeout = self.config.timeout;
        match tokio::time::timeout(timeout, call).await {
            Ok(result) => result.map_err(|error| map_error(operation, &self.config, error)),
            Err(_) => Err(self.timed_out(operation, timeout)),
        }
    }

    fn timed_out(&self, operation: &'static str, timeout: Duration) -> Error {
        let seconds = timeout.as_secs();
        let at = self.config.address();
        Error::new(
            ErrorKind::Unavailable,
            operation,
            format!("{at} did not answer in {seconds} s"),
        )
    }
}

/// `name` as an SQL identifier.
pub fn identifier(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('`');
    for c in name.chars() {
        if c == '`' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('`');
    quoted
}

/// `text` as an SQL string.
pub fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            // A statement may not hold the character itself.
            '\0' => quoted.push_str("\\0"),
            '\'' | '\\' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}
