//! What the tables hold, for verification.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use ledger_core::{Error, ErrorKind, Result, Row, Table, TableContents, Value};
use ledger_layout::postgres::failed;
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;

use super::PostgresCapture;
use super::text::CopyText;
use crate::postgres::replication::{literal, quoted};

const OPERATION: &str = "read table";

/// How many rows are handed on together.
const ROWS: usize = 500;

/// The rows with the keys of these rows.
pub(super) async fn rows_at(
    pool: &PgPool,
    table: &Table,
    from: &str,
    keys: &[Row],
    condition: Option<&str>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // A statement of bounded size.
    for keys in keys.chunks(1_000) {
        let keys: Vec<_> = keys.iter().map(|key| key_of(table, key)).collect();
        let (columns, keys) = (key_columns(table), keys.join(", "));
        let carried = condition.map_or_else(String::new, |rows| format!(" AND ({rows})"));
        let condition = format!("WHERE ({columns}) IN ({keys}){carried}");
        copied(pool, table, from, &condition, |row| rows.push(row)).await?;
    }
    Ok(rows)
}

fn key_columns(table: &Table) -> String {
    let columns = table.columns.iter().filter(|column| column.key);
    let names: Vec<_> = columns.map(|column| quoted(&column.name)).collect();
    names.join(", ")
}

fn key_of(table: &Table, row: &Row) -> String {
    let values = table.columns.iter().zip(row);
    let values = values.filter(|(column, _)| column.key);
    let values: Vec<_> = values
        .map(|(column, value)| match value {
            Value::Text(text) => {
                let text = literal(&String::from_utf8_lossy(text));
                format!("{text}::{}", column.declared)
            }
            Value::Null | Value::Absent => "NULL".to_owned(),
        })
        .collect();
    format!("({})", values.join(", "))
}

/// Reads rows in the text that the log has too.
async fn copied(
    pool: &PgPool,
    table: &Table,
    from: &str,
    condition: &str,
    mut take: impl FnMut(Row) + Send,
) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel(2);
    let taken = async {
        while let Some(rows) = receiver.recv().await {
            let rows: Vec<Row> = rows?;
            rows.into_iter().for_each(&mut take);
        }
        Ok(())
    };
    let sent = async move { send_all(pool, table, from, condition, &sender).await };
    futures::try_join!(sent, taken).map(drop)
}

async fn send_all(
    pool: &PgPool,
    table: &Table,
    from: &str,
    condition: &str,
    sender: &mpsc::Sender<Result<Vec<Row>>>,
) -> Result<()> {
    let failed = |error| failed(OPERATION, table.name.to_string(), error);
    let columns: Vec<_> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    let sql = format!(
        "COPY (SELECT {} FROM {from} {condition}) TO STDOUT",
        columns.join(", ")
    );
    let mut conn = pool.acquire().await.map_err(failed)?;
    // A copy that is left half-way leaves answers behind.
    conn.close_on_drop();
    let (mut text, mut rows) = (CopyText::default(), Vec::new());
    let mut pieces = conn.copy_out_raw(&sql).await.map_err(failed)?;
    while let Some(piece) = pieces.try_next().await.map_err(failed)? {
        text.rows(piece, table.columns.len(), &mut rows)?;
        if rows.len() >= ROWS && sender.send(Ok(std::mem::take(&mut rows))).await.is_err() {
            return Ok(());
        }
    }
    if text.is_cut() {
        let what = format!("{}: the last row is cut short", table.name);
        return Err(Error::new(ErrorKind::Unavailable, OPERATION, what));
    }
    // Who takes them may be gone.
    let _ = sender.send(Ok(rows)).await;
    Ok(())
}

#[async_trait]
impl TableContents for PostgresCapture {
    async fn rows(&self, table: &Table, after: Option<&Row>, limit: usize) -> Result<Vec<Row>> {
        let (columns, from) = (key_columns(table), self.sql_name(table));
        let behind = after.map(|row| format!("({columns}) > {}", key_of(table, row)));
        let carried = self.condition(table).map(|rows| format!("({rows})"));
        let conditions: Vec<_> = behind.into_iter().chain(carried).collect();
        let condition = match conditions.as_slice() {
            [] => String::new(),
            conditions => format!("WHERE {} ", conditions.join(" AND ")),
        };
        let condition = format!("{condition}ORDER BY {columns} LIMIT {limit}");
        let mut rows = Vec::new();
        copied(self.pool(), table, &from, &condition, |row| rows.push(row)).await?;
        Ok(rows)
    }

    async fn rows_at(&self, table: &Table, keys: &[Row]) -> Result<Vec<Row>> {
        let from = self.sql_name(table);
        rows_at(self.pool(), table, &from, keys, self.condition(table)).await
    }

    fn all(&self, table: Arc<Table>) -> BoxStream<'static, Result<Vec<Row>>> {
        let (sender, receiver) = mpsc::channel(2);
        let (pool, from) = (self.pool().clone(), self.sql_name(&table));
        let condition = self.condition(&table);
        let condition = condition.map_or_else(String::new, |rows| format!("WHERE {rows}"));
        tokio::spawn(async move {
            if let Err(error) = send_all(&pool, &table, &from, &condition, &sender).await {
                // Who takes the rows may be gone.
                let _ = sender.send(Err(error)).await;
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|rows| (rows, receiver))
        })
        .boxed()
    }
}
