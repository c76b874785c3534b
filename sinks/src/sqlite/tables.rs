//! The sink of captured tables for SQLite.

use std::fmt;

use async_trait::async_trait;
use ledger_core::{
    Batch, Claim, ColumnType, Cursor, CursorStore, Error, ErrorKind, HeldRow, PipelineId, Result,
    Row, RowChange, Sink, SourceId, Table, TableName, TableReplica, TableSink, TableState, Version,
};
use ledger_layout::sqlite::{Database, SqliteConfig, failed};
use ledger_layout::tables::{
    Carried, TableRoutes, boolean, bytes, float32, float64, integer, push_float32, push_float64,
};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Row as _, Sqlite, SqliteConnection};

use super::sink::commit;
use crate::sql::{self, Engine, Opened, Param};

/// Captured tables in an SQLite database.
///
/// - A batch is one transaction with the cursor, in which the fence is checked. It holds whole
///   transactions of the source as far as the batches do.
/// - Integers and truth values (0 and 1) are `INTEGER`, floating-point numbers `REAL` (`NaN`, which
///   SQLite would turn into NULL, as text), bytes `BLOB`, everything else `TEXT` exactly as the
///   source writes it, decimals too.
/// - A copy that begins empties its table; a truncation does.
pub struct SqliteTables {
    database: Database,
    routes: TableRoutes,
}

impl SqliteTables {
    /// Opens a database for captured tables, which are created when their first change arrives.
    pub async fn open(config: SqliteConfig, routes: TableRoutes) -> Result<Self> {
        let database = Database::open(config).await?;
        let this = Self::open_on(&database, routes).await;
        // The sink has a handle of its own.
        database.close().await;
        this
    }

    /// The same on the connections of an open database.
    pub async fn open_on(database: &Database, routes: TableRoutes) -> Result<Self> {
        sql::check_cluster(&routes)?;
        let database = database.share();
        let mut writer = database.writer().await?;
        let mut tx = writer.begin().await?;
        sql::prepare(&mut Transaction(&mut tx)).await?;
        commit(tx, "open captured tables").await?;
        drop(writer);
        Ok(Self { database, routes })
    }

    /// Forgets the pipeline's cursor and source, fences it, and drops its tables, in one transaction.
    pub async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        sql::reset(&mut Transaction(&mut tx), pipeline).await?;
        sql::drop_tables(&mut Transaction(&mut tx), pipeline, None).await?;
        commit(tx, "resync tables").await
    }

    /// Drops one table and forgets what was noted of it; `NotFound` where there is none.
    pub async fn forget(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        let dropped = sql::drop_tables(&mut Transaction(&mut tx), pipeline, Some(table)).await?;
        if dropped == 0 {
            return Err(Error::new(
                ErrorKind::NotFound,
                "give up a table",
                format!("pipeline {pipeline} has no table {table} here"),
            ));
        }
        commit(tx, "give up a table").await
    }

    /// Closes the database. Every later call is `Closed`.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

/// A transaction.
struct Transaction<'c>(&'c mut SqliteConnection);

fn query(sql: &str, params: Vec<Param>) -> Query<'_, Sqlite, SqliteArguments> {
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for param in params {
        query = match param {
            Param::Null => query.bind(None::<i64>),
            Param::Int(value) => query.bind(value),
            Param::Real(value) => query.bind(value),
            Param::Text(text) => query.bind(text),
            Param::Blob(bytes) => query.bind(bytes),
        };
    }
    query
}

#[async_trait]
impl Engine for Transaction<'_> {
    async fn run(&mut self, sql: &str, params: Vec<Param>) -> Result<u64> {
        let done = query(sql, params).execute(&mut *self.0).await;
        let done = done.map_err(|error| failed("write captured tables", error))?;
        Ok(done.rows_affected())
    }

    async fn fetch_rows(
        &mut self,
        sql: &str,
        params: Vec<Param>,
        columns: usize,
    ) -> Result<Vec<Vec<Option<String>>>> {
        let fail = |error| failed("read captured tables", error);
        let rows = query(sql, params)
            .fetch_all(&mut *self.0)
            .await
            .map_err(fail)?;
        let read = |row: sqlx::sqlite::SqliteRow| {
            let column = |at| row.try_get(at).map_err(fail);
            (0..columns).map(column).collect()
        };
        rows.into_iter().map(read).collect()
    }

    fn show(&self, column: &str, kind: &ColumnType) -> String {
        match kind {
            ColumnType::Float32 | ColumnType::Float64 => format!(
                "CASE typeof({column}) WHEN 'real' THEN printf('%!.17g', {column}) \
                 ELSE CAST({column} AS TEXT) END"
            ),
            ColumnType::Bytes => {
                format!("CASE WHEN {column} IS NOT NULL THEN '\\x' || lower(hex({column})) END")
            }
            ColumnType::Bool => format!("CASE {column} WHEN 1 THEN 't' WHEN 0 THEN 'f' END"),
            _ => format!("CAST({column} AS TEXT)"),
        }
    }

    fn text(&self, kind: &ColumnType, shown: String) -> String {
        let mut text = Vec::new();
        match kind {
            // The database knows no negative zero.
            ColumnType::Float32 => match float32(shown.as_bytes()) {
                Ok(value) => push_float32(value + 0.0, &mut text),
                Err(_) => return shown,
            },
            ColumnType::Float64 => match float64(shown.as_bytes()) {
                Ok(value) => push_float64(value + 0.0, &mut text),
                Err(_) => return shown,
            },
            _ => return shown,
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn type_of(&self, kind: &ColumnType, _: &str, text: bool) -> String {
        let name = if text { "TEXT" } else { affinity(kind) };
        name.to_owned()
    }

    fn param(&self, kind: &ColumnType, text: &[u8], as_text: bool) -> Result<Param, &'static str> {
        let string = || {
            let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8")?;
            Ok(Param::Text(text.to_owned()))
        };
        if as_text {
            return string();
        }
        let real = |value: f64| {
            if value.is_nan() {
                string()
            } else {
                Ok(Param::Real(value))
            }
        };
        match kind {
            ColumnType::Bool => {
                let value = boolean(text).map_err(|refused| refused.0)?;
                Ok(Param::Int(i64::from(value)))
            }
            ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::UInt32 => {
                Ok(Param::Int(integer(text).map_err(|refused| refused.0)?))
            }
            ColumnType::Float32 => {
                float32(text).map_err(|refused| refused.0)?;
                // The number that its digits say, which is not the one of single precision.
                real(float64(text).map_err(|refused| refused.0)?)
            }
            ColumnType::Float64 => real(float64(text).map_err(|refused| refused.0)?),
            ColumnType::Bytes => {
                let mut blob = Vec::new();
                bytes(text, &mut blob).map_err(|refused| refused.0)?;
                Ok(Param::Blob(blob))
            }
            _ => string(),
        }
    }

    fn place(&self, number: usize, _: &str) -> String {
        format!("?{number}")
    }

    fn widen(
        &self,
        table: &str,
        before: &ColumnType,
        column: &Carried,
        type_name: &str,
    ) -> Vec<String> {
        // A column's type cannot be altered.
        let name = sql::quoted(&column.name);
        let old = sql::quoted(&format!("{}..", column.name));
        let value = match before {
            ColumnType::Bool => format!("CASE {old} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"),
            _ => format!("CAST({old} AS {type_name})"),
        };
        vec![
            format!("ALTER TABLE {table} RENAME COLUMN {name} TO {old}"),
            format!("ALTER TABLE {table} ADD COLUMN {name} {type_name}"),
            format!("UPDATE {table} SET {name} = {value} WHERE {old} IS NOT NULL"),
            format!("ALTER TABLE {table} DROP COLUMN {old}"),
        ]
    }

    fn widens(&self, from: &ColumnType, to: &ColumnType) -> bool {
        let same = affinity(from) == affinity(to);
        let whole = |kind: &ColumnType| {
            matches!(
                kind,
                ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::UInt32
            )
        };
        if !same {
            return match to {
                ColumnType::Float64 => whole(from) && *from != ColumnType::Int64,
                ColumnType::Text => whole(from) || *from == ColumnType::Bool,
                _ => false,
            };
        }
        match (from, to) {
            (ColumnType::Int16, ColumnType::Int32 | ColumnType::Int64)
            | (ColumnType::Int32, ColumnType::Int64)
            | (ColumnType::Float32, ColumnType::Float64)
            | (_, ColumnType::Text | ColumnType::Number) => true,
            (ColumnType::Decimal { scale, .. }, ColumnType::Decimal { scale: longer, .. }) => {
                scale == longer
            }
            _ => from == to,
        }
    }

    fn same(&self, left: &str, right: &str) -> String {
        format!("{left} IS {right}")
    }

    fn row_name(&self) -> &'static str {
        "rowid"
    }

    async fn exists(&mut self, name: &str) -> Result<bool> {
        let sql = "SELECT '1', NULL, NULL FROM sqlite_master WHERE name = ?1 COLLATE NOCASE";
        Ok(!self.fetch(sql, vec![name.into()]).await?.is_empty())
    }
}

fn affinity(kind: &ColumnType) -> &'static str {
    match kind {
        ColumnType::Bool
        | ColumnType::Int16
        | ColumnType::Int32
        | ColumnType::Int64
        | ColumnType::UInt32 => "INTEGER",
        ColumnType::Float32 | ColumnType::Float64 => "REAL",
        ColumnType::Bytes => "BLOB",
        _ => "TEXT",
    }
}

#[async_trait]
impl Sink<RowChange> for SqliteTables {
    async fn deliver(&self, batch: &Batch<RowChange>) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        sql::deliver(&mut Transaction(&mut tx), &self.routes, batch).await?;
        commit(tx, "deliver rows").await
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        Some(self)
    }
}

#[async_trait]
impl TableSink for SqliteTables {
    async fn tables(&self, pipeline: &PipelineId) -> Result<Vec<TableState>> {
        let mut writer = self.database.writer().await?;
        let tables = sql::load(&mut Transaction(&mut writer), pipeline).await?;
        Ok(tables
            .into_values()
            .filter_map(|noted| noted.note.state())
            .collect())
    }

    fn is_versioned(&self) -> bool {
        false
    }

    async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        Self::resync(self, pipeline).await
    }

    async fn forget(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        Self::forget(self, pipeline, table).await
    }

    fn column_name(&self, name: &str) -> Option<String> {
        // Upper and lower case are one.
        (!name.is_empty()).then(|| name.to_ascii_lowercase())
    }

    fn content(&self) -> &dyn TableReplica {
        self
    }
}

#[async_trait]
impl TableReplica for SqliteTables {
    async fn expected(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        rows: &[Row],
    ) -> Result<Vec<Row>> {
        let mut writer = self.database.writer().await?;
        let engine = &mut Transaction(&mut writer);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        opened.expected(engine, table, rows)
    }

    async fn count(&self, pipeline: &PipelineId, table: &TableName) -> Result<u64> {
        let mut writer = self.database.writer().await?;
        let engine = &mut Transaction(&mut writer);
        let opened = Opened::find(engine, &self.routes, pipeline, table).await?;
        opened.count(engine).await
    }

    async fn rows(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<HeldRow>> {
        let mut writer = self.database.writer().await?;
        let engine = &mut Transaction(&mut writer);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        opened.rows(engine, table, after, limit).await
    }

    async fn rows_at(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        keys: &[Row],
    ) -> Result<Vec<HeldRow>> {
        let mut writer = self.database.writer().await?;
        let engine = &mut Transaction(&mut writer);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        opened.rows_at(engine, table, keys).await
    }

    async fn repair(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        delete: &[Row],
        insert: &[(Row, Version)],
    ) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        let engine = &mut Transaction(&mut tx);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        opened.repair(engine, table, delete, insert).await?;
        commit(tx, "repair captured tables").await
    }
}

#[async_trait]
impl CursorStore for SqliteTables {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        let claim = sql::claim(&mut Transaction(&mut tx), pipeline, source).await?;
        commit(tx, "claim pipeline").await?;
        Ok(claim)
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        let mut engine = Transaction(&mut tx);
        let stored = sql::advance(&mut engine, pipeline, fence, Some(to)).await?;
        commit(tx, "store cursor").await?;
        Ok(stored.unwrap_or_else(|| to.clone()))
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        let mut writer = self.database.writer().await?;
        sql::stored(&mut Transaction(&mut writer), pipeline).await
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        let mut writer = self.database.writer().await?;
        let mut tx = writer.begin().await?;
        sql::reset(&mut Transaction(&mut tx), pipeline).await?;
        commit(tx, "reset pipeline").await
    }
}

impl fmt::Display for SqliteTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite tables in {}", self.database.config())
    }
}

impl fmt::Debug for SqliteTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteTables({self})")
    }
}
