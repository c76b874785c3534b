//! Inserts: of rows with a type of their own, and of bytes that are rows already.

use bytes::Bytes;
use clickhouse::insert::Insert;
use clickhouse::insert_formatted::InsertFormatted;
use clickhouse::{Row, RowWrite};
use ledger_core::Result;

use super::{Connection, map_error};

/// How many bytes of rows are handed to the connection at a time, which is a block of its own where
/// they are compressed.
const PIECE: usize = 1 << 20;

/// The server's default of `max_insert_block_size`, below which it is not set.
const BLOCK_ROWS: usize = 1_048_449;

/// Whether the server may drop an insert that it has seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dedup {
    /// It may drop one whose token equals that of one of the table's last inserts. What was deleted
    /// since then does not come back: for deliveries only, never for a repair.
    Token(String),
    /// It must write the rows. The token is a new one each time: the setting alone does not
    /// suffice, since newer versions (26.9) go by another one.
    Off,
}

/// An insert whose rows are on their way. The server takes none of them before
/// [`finish`](Self::finish): dropped, nothing is inserted.
#[must_use = "dropped, nothing is inserted"]
pub struct Started<'c, T> {
    insert: Insert<T>,
    operation: &'static str,
    connection: &'c Connection,
}

/// As [`Started`], of rows that were bytes already.
#[must_use = "dropped, nothing is inserted"]
pub struct StartedRows<'c> {
    insert: InsertFormatted,
    operation: &'static str,
    connection: &'c Connection,
}

impl StartedRows<'_> {
    /// Has the server write the rows, and waits until it has.
    pub async fn finish(self) -> Result<()> {
        let ended = self.insert.end().await;
        ended.map_err(|error| map_error(self.operation, self.connection.config(), error))
    }
}

impl std::fmt::Debug for StartedRows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartedRows")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl<T> Started<'_, T> {
    /// Has the server write the rows, and waits until it has.
    pub async fn finish(self) -> Result<()> {
        let ended = self.insert.end().await;
        ended.map_err(|error| map_error(self.operation, self.connection.config(), error))
    }
}

impl<T> std::fmt::Debug for Started<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Inserts `rows` as one block, which is one part: all of them or none. Durable when it
    /// returns, where the table is so declared.
    pub async fn insert<'v, T, I>(
        &self,
        operation: &'static str,
        table: &str,
        rows: I,
        count: usize,
        dedup: Dedup,
    ) -> Result<()>
    where
        T: Row + RowWrite,
        T::Value<'v>: Send,
        I: Iterator<Item = T::Value<'v>> + Send,
    {
        let started = self.start_insert::<T, I>(operation, table, rows, count, dedup);
        started.await?.finish().await
    }

    /// As [`insert`](Self::insert), up to the point where the rows have been sent.
    pub async fn start_insert<'v, T, I>(
        &self,
        operation: &'static str,
        table: &str,
        rows: I,
        count: usize,
        dedup: Dedup,
    ) -> Result<Started<'_, T>>
    where
        T: Row + RowWrite,
        T::Value<'v>: Send,
        I: Iterator<Item = T::Value<'v>> + Send,
    {
        let timeout = Some(self.config().timeout);
        let mut insert = self
            .timed(operation, self.client().insert::<T>(table))
            .await?
            .with_timeouts(timeout, timeout);
        for (name, value) in settings(count, dedup) {
            insert = insert.with_setting(name, value);
        }
        let failed = |error| map_error(operation, self.config(), error);
        for row in rows {
            insert.write(&row).await.map_err(failed)?;
        }
        Ok(Started {
            insert,
            operation,
            connection: self,
        })
    }

    /// Sends rows that are bytes already, in the format that `sql` names, as one block. Durable
    /// when they are [finished](StartedRows::finish), where the table is so declared.
    pub async fn start_rows(
        &self,
        operation: &'static str,
        sql: String,
        rows: Bytes,
        count: usize,
        dedup: Dedup,
    ) -> Result<StartedRows<'_>> {
        let timeout = Some(self.config().timeout);
        let mut insert = self
            .client()
            .insert_formatted_with(sql)
            .with_timeouts(timeout, timeout);
        for (name, value) in settings(count, dedup) {
            insert = insert.with_setting(name, value);
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            let sent = insert.send(piece).await;
            sent.map_err(|error| map_error(operation, self.config(), error))?;
        }
        Ok(StartedRows {
            insert,
            operation,
            connection: self,
        })
    }
}

/// What makes an insert of so many rows one block, written when it is acknowledged.
fn settings(count: usize, dedup: Dedup) -> [(&'static str, String); 6] {
    let block = count.max(BLOCK_ROWS).to_string();
    let (deduplicate, token) = match dedup {
        Dedup::Token(token) => ("1", token),
        Dedup::Off => ("0", uuid::Uuid::new_v4().to_string()),
    };
    [
        // On by default since 26.x; rows would be merged with other inserts' and written later.
        ("async_insert", "0".to_owned()),
        ("insert_deduplicate", deduplicate.to_owned()),
        ("insert_deduplication_token", token),
        ("max_insert_block_size", block.clone()),
        // A block is complete where either bound is reached; by bytes it never is.
        ("min_insert_block_size_rows", block),
        ("min_insert_block_size_bytes", "0".to_owned()),
    ]
}
