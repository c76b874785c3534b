//! The sink of captured tables for PostgreSQL.

use std::fmt;

use async_trait::async_trait;
use ledger_core::{
    Batch, Claim, ColumnType, Cursor, CursorStore, Error, ErrorKind, HeldRow, PipelineId, Result,
    Row, RowChange, Sink, SourceId, Table, TableName, TableReplica, TableSink, TableState, Value,
    Version,
};
use ledger_layout::postgres::{PostgresConfig, begin_in, failed};
use ledger_layout::tables::{Carried, TableRoutes};
use sqlx::postgres::{PgArguments, PgPool};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _};

use crate::sql::{self, Engine, Opened, Param};

/// Types that every PostgreSQL has, whose text form is the same everywhere, and which a column of
/// text stands for otherwise.
const BUILT_IN: &[&str] = &[
    "bit",
    "box",
    "bpchar",
    "char",
    "character",
    "cidr",
    "circle",
    "daterange",
    "inet",
    "int4range",
    "int8range",
    "interval",
    "json",
    "jsonb",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "name",
    "numrange",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "text",
    "time",
    "timetz",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
    "varbit",
    "varchar",
    "xml",
];

/// Captured tables in a PostgreSQL database. Cloning shares it.
///
/// - A batch is one transaction with the cursor, in which the fence is checked. It holds whole
///   transactions of the source as far as the batches do.
/// - Each table has the source's types where every PostgreSQL has them, else `text`.
/// - A copy that begins empties its table; a truncation does.
#[derive(Clone)]
pub struct PostgresTables {
    pool: PgPool,
    routes: TableRoutes,
    target: String,
}

impl PostgresTables {
    /// Opens a database for captured tables, which are created in the connection's first schema
    /// when their first change arrives.
    pub async fn open(config: &PostgresConfig, routes: TableRoutes) -> Result<Self> {
        sql::check_cluster(&routes)?;
        let this = Self {
            pool: config.connect().await?,
            routes,
            target: config.target(),
        };
        let mut tx = this.begin("open captured tables").await?;
        // Two that open at the same moment would both create what is absent.
        sqlx::query("SELECT pg_advisory_xact_lock(119182236280178)")
            .execute(&mut *tx)
            .await
            .map_err(|error| this.failed("open captured tables", error))?;
        sql::prepare(&mut Transaction(&mut tx)).await?;
        this.commit("open captured tables", tx).await?;
        Ok(this)
    }

    /// Forgets the pipeline's cursor and source, fences it, and drops its tables, in one transaction.
    pub async fn resync(&self, pipeline: &PipelineId) -> Result<()> {
        let mut tx = self.begin("resync tables").await?;
        sql::reset(&mut Transaction(&mut tx), pipeline).await?;
        sql::drop_tables(&mut Transaction(&mut tx), pipeline, None).await?;
        self.commit("resync tables", tx).await
    }

    /// Drops one table and forgets what was noted of it; `NotFound` where there is none.
    pub async fn forget(&self, pipeline: &PipelineId, table: &TableName) -> Result<()> {
        let mut tx = self.begin("give up a table").await?;
        let dropped = sql::drop_tables(&mut Transaction(&mut tx), pipeline, Some(table)).await?;
        if dropped == 0 {
            return Err(Error::new(
                ErrorKind::NotFound,
                "give up a table",
                format!("pipeline {pipeline} has no table {table} here"),
            ));
        }
        self.commit("give up a table", tx).await
    }

    /// Gives the connections back.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn failed(&self, operation: &'static str, error: sqlx::Error) -> Error {
        failed(operation, format!("tables at {}", self.target), error)
    }

    /// Writes a column's JSON as the server does: it keeps neither the order of keys nor white space.
    async fn as_jsonb(
        &self,
        conn: &mut PgConnection,
        rows: &mut [Row],
        column: usize,
    ) -> Result<()> {
        let texts = rows.iter().map(|row| match row.get(column) {
            Some(Value::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        });
        let texts: Vec<Option<String>> = texts.collect();
        let sql =
            "SELECT t::jsonb::text FROM unnest($1::text[]) WITH ORDINALITY u (t, n) ORDER BY n";
        let written: Vec<Option<String>> = sqlx::query_scalar(sql)
            .bind(texts)
            .fetch_all(conn)
            .await
            .map_err(|error| self.failed(READ, error))?;
        for (row, written) in rows.iter_mut().zip(written) {
            if let (Some(value), Some(written)) = (row.get_mut(column), written) {
                *value = Value::Text(written.into());
            }
        }
        Ok(())
    }

    async fn begin(&self, operation: &'static str) -> Result<sqlx::Transaction<'_, Postgres>> {
        let begun = begin_in(&self.pool).await;
        begun.map_err(|error| self.failed(operation, error))
    }

    async fn commit(
        &self,
        operation: &'static str,
        tx: sqlx::Transaction<'_, Postgres>,
    ) -> Result<()> {
        let done = tx.commit().await;
        done.map_err(|error| self.failed(operation, error))
    }
}

const READ: &str = "read captured tables";

/// Has the transaction write values as the source does.
async fn utc(conn: &mut PgConnection) -> Result<()> {
    for sql in [
        "SET LOCAL TimeZone = 'UTC'",
        "SET LOCAL DateStyle = 'ISO'",
        "SET LOCAL IntervalStyle = 'postgres'",
        "SET LOCAL bytea_output = 'hex'",
        "SET LOCAL extra_float_digits = 1",
    ] {
        let done = sqlx::query(sql).execute(&mut *conn).await;
        done.map_err(|error| failed(READ, "", error))?;
    }
    Ok(())
}

/// A transaction.
struct Transaction<'c>(&'c mut PgConnection);

fn query(sql: &str, params: Vec<Param>) -> Query<'_, Postgres, PgArguments> {
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for param in params {
        query = match param {
            Param::Null => query.bind(None::<String>),
            Param::Int(value) => query.bind(value.to_string()),
            Param::Real(value) => query.bind(value.to_string()),
            Param::Text(text) => query.bind(text),
            Param::Blob(bytes) => query.bind(String::from_utf8_lossy(&bytes).into_owned()),
        };
    }
    query
}

#[async_trait]
impl Engine for Transaction<'_> {
    async fn run(&mut self, sql: &str, params: Vec<Param>) -> Result<u64> {
        let done = query(sql, params).execute(&mut *self.0).await;
        let done = done.map_err(|error| failed("write captured tables", "", error))?;
        Ok(done.rows_affected())
    }

    async fn fetch_rows(
        &mut self,
        sql: &str,
        params: Vec<Param>,
        columns: usize,
    ) -> Result<Vec<Vec<Option<String>>>> {
        let fail = |error| failed("read captured tables", "", error);
        let rows = query(sql, params)
            .fetch_all(&mut *self.0)
            .await
            .map_err(fail)?;
        let read = |row: sqlx::postgres::PgRow| {
            let column = |at| row.try_get(at).map_err(fail);
            (0..columns).map(column).collect()
        };
        rows.into_iter().map(read).collect()
    }

    fn show(&self, column: &str, _: &ColumnType) -> String {
        // By the type's own output, which a cast to text is not for every type.
        format!("CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END")
    }

    fn text(&self, _: &ColumnType, shown: String) -> String {
        shown
    }

    fn type_of(&self, kind: &ColumnType, declared: &str, text: bool) -> String {
        if text {
            return "text".to_owned();
        }
        match kind {
            ColumnType::Bool => "boolean".to_owned(),
            ColumnType::Int16 => "smallint".to_owned(),
            ColumnType::Int32 => "integer".to_owned(),
            ColumnType::Int64 => "bigint".to_owned(),
            ColumnType::UInt32 => "oid".to_owned(),
            ColumnType::Float32 => "real".to_owned(),
            ColumnType::Float64 => "double precision".to_owned(),
            ColumnType::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
            ColumnType::Number => "numeric".to_owned(),
            ColumnType::Bytes => "bytea".to_owned(),
            ColumnType::Uuid => "uuid".to_owned(),
            ColumnType::Date => "date".to_owned(),
            ColumnType::Timestamp => "timestamp".to_owned(),
            ColumnType::TimestampTz => "timestamptz".to_owned(),
            ColumnType::Time => "time".to_owned(),
            ColumnType::Array(of) => {
                let element = declared.trim_end_matches("[]");
                format!("{}[]", self.type_of(of, element, false))
            }
            _ => built_in(declared).unwrap_or("text").to_owned(),
        }
    }

    fn param(&self, _: &ColumnType, text: &[u8], _: bool) -> Result<Param, &'static str> {
        // The server reads the source's own text.
        let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8")?;
        Ok(Param::Text(text.to_owned()))
    }

    fn place(&self, number: usize, type_name: &str) -> String {
        format!("CAST(${number}::text AS {type_name})")
    }

    fn widen(&self, table: &str, _: &ColumnType, column: &Carried, type_name: &str) -> Vec<String> {
        let name = sql::quoted(&column.name);
        vec![format!(
            "ALTER TABLE {table} ALTER COLUMN {name} TYPE {type_name} USING {name}::{type_name}"
        )]
    }

    fn widens(&self, from: &ColumnType, to: &ColumnType) -> bool {
        match (from, to) {
            (ColumnType::Int16, ColumnType::Int32 | ColumnType::Int64 | ColumnType::Float64)
            | (ColumnType::Int32, ColumnType::Int64 | ColumnType::Float64)
            | (ColumnType::Float32, ColumnType::Float64)
            | (ColumnType::Decimal { .. }, ColumnType::Number)
            | (_, ColumnType::Text) => true,
            (
                ColumnType::Decimal { precision, scale },
                ColumnType::Decimal {
                    precision: wider,
                    scale: longer,
                },
            ) => {
                let whole = |precision: u16, scale: i16| i32::from(precision) - i32::from(scale);
                scale <= longer && whole(*precision, *scale) <= whole(*wider, *longer)
            }
            _ => from == to,
        }
    }

    fn same(&self, left: &str, right: &str) -> String {
        // Types as json and point have no equality; their texts have.
        format!("{left}::text IS NOT DISTINCT FROM {right}::text")
    }

    fn row_name(&self) -> &'static str {
        "ctid"
    }

    async fn exists(&mut self, name: &str) -> Result<bool> {
        let sql = "SELECT '1', NULL::text, NULL::text FROM pg_class c \
                   JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = current_schema() AND c.relname = $1::text";
        Ok(!self.fetch(sql, vec![name.into()]).await?.is_empty())
    }
}

/// The declared type, where every PostgreSQL has it.
fn built_in(declared: &str) -> Option<&str> {
    let name = declared.split(['(', ' ']).next()?;
    let known = BUILT_IN.contains(&name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '(' | ')' | ',' | ' ');
    (known && declared.chars().all(plain)).then_some(declared)
}

#[async_trait]
impl Sink<RowChange> for PostgresTables {
    async fn deliver(&self, batch: &Batch<RowChange>) -> Result<()> {
        let mut tx = self.begin("deliver rows").await?;
        sql::deliver(&mut Transaction(&mut tx), &self.routes, batch).await?;
        self.commit("deliver rows", tx).await
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        Some(self)
    }
}

#[async_trait]
impl TableSink for PostgresTables {
    async fn tables(&self, pipeline: &PipelineId) -> Result<Vec<TableState>> {
        let mut tx = self.begin("read noted tables").await?;
        let tables = sql::load(&mut Transaction(&mut tx), pipeline).await?;
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
        // Longer names are cut by the server, and these are columns that every table has.
        const LONGEST: usize = 63;
        const OWN: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
        let fits = (1..=LONGEST).contains(&name.len()) && !OWN.contains(&name);
        fits.then(|| name.to_owned())
    }

    fn content(&self) -> &dyn TableReplica {
        self
    }
}

#[async_trait]
impl TableReplica for PostgresTables {
    async fn expected(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        rows: &[Row],
    ) -> Result<Vec<Row>> {
        let mut tx = self.begin(READ).await?;
        utc(&mut tx).await?;
        let engine = &mut Transaction(&mut tx);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        let mut expected = opened.expected(engine, table, rows)?;
        for column in opened.of_type(table, "jsonb") {
            self.as_jsonb(&mut tx, &mut expected, column).await?;
        }
        Ok(expected)
    }

    async fn count(&self, pipeline: &PipelineId, table: &TableName) -> Result<u64> {
        let mut tx = self.begin(READ).await?;
        utc(&mut tx).await?;
        let engine = &mut Transaction(&mut tx);
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
        let mut tx = self.begin(READ).await?;
        utc(&mut tx).await?;
        let engine = &mut Transaction(&mut tx);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        opened.rows(engine, table, after, limit).await
    }

    async fn rows_at(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        keys: &[Row],
    ) -> Result<Vec<HeldRow>> {
        let mut tx = self.begin(READ).await?;
        utc(&mut tx).await?;
        let engine = &mut Transaction(&mut tx);
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
        let mut tx = self.begin("repair captured tables").await?;
        utc(&mut tx).await?;
        let engine = &mut Transaction(&mut tx);
        let opened = Opened::find(engine, &self.routes, pipeline, &table.name).await?;
        opened.repair(engine, table, delete, insert).await?;
        self.commit("repair captured tables", tx).await
    }
}

#[async_trait]
impl CursorStore for PostgresTables {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        let mut tx = self.begin("claim pipeline").await?;
        let claim = sql::claim(&mut Transaction(&mut tx), pipeline, source).await?;
        self.commit("claim pipeline", tx).await?;
        Ok(claim)
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        let mut tx = self.begin("store cursor").await?;
        let mut engine = Transaction(&mut tx);
        let stored = sql::advance(&mut engine, pipeline, fence, Some(to)).await?;
        self.commit("store cursor", tx).await?;
        Ok(stored.unwrap_or_else(|| to.clone()))
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        let mut tx = self.begin("read cursor").await?;
        sql::stored(&mut Transaction(&mut tx), pipeline).await
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        let mut tx = self.begin("reset pipeline").await?;
        sql::reset(&mut Transaction(&mut tx), pipeline).await?;
        self.commit("reset pipeline", tx).await
    }
}

impl fmt::Display for PostgresTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres tables at {}", self.target)
    }
}

impl fmt::Debug for PostgresTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresTables({self})")
    }
}
