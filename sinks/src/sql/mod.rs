//! Captured tables in SQL databases: what PostgreSQL and SQLite have in common.
//!
//! A batch is one transaction: rows, notes and cursor commit together, so nothing is ever seen
//! twice, and rows need no version. Within a batch each key is written once, as it is in the end.

mod batch;
mod changes;
mod content;
mod schema;
mod statements;

use async_trait::async_trait;
use ledger_core::{Claim, ColumnType, Cursor, Error, ErrorKind, PipelineId, Result, SourceId};
use ledger_layout::tables::Carried;

pub(crate) use batch::deliver;
pub(crate) use content::Opened;
pub(crate) use schema::{check_cluster, drop_tables, load, prepare};

/// A value of a statement.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    not(feature = "sqlite"),
    allow(dead_code, reason = "PostgreSQL reads every value from its text")
)]
pub(crate) enum Param {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<&str> for Param {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A transaction of a database, and how the database says things.
#[async_trait]
pub(crate) trait Engine: Send {
    /// Runs a statement and tells how many rows it concerned.
    async fn run(&mut self, sql: &str, params: Vec<Param>) -> Result<u64>;

    /// Runs a query and gives so many columns of its rows, which are text.
    async fn fetch_rows(
        &mut self,
        sql: &str,
        params: Vec<Param>,
        columns: usize,
    ) -> Result<Vec<Vec<Option<String>>>>;

    /// Runs a query of three columns.
    async fn fetch(&mut self, sql: &str, params: Vec<Param>) -> Result<Vec<[Option<String>; 3]>> {
        let rows = self.fetch_rows(sql, params, 3).await?;
        let three = |row: Vec<Option<String>>| row.try_into().unwrap_or_default();
        Ok(rows.into_iter().map(three).collect())
    }

    /// The expression that gives a column's value as text, which [`text`](Self::text) reads.
    fn show(&self, column: &str, kind: &ColumnType) -> String;

    /// The source's text for a value that is shown so, or that the source writes so: one text for
    /// each value that the database tells apart.
    fn text(&self, kind: &ColumnType, shown: String) -> String;

    /// The type of a column; `text` where it is to be carried as text.
    fn type_of(&self, kind: &ColumnType, declared: &str, text: bool) -> String;

    /// The value of a column, as this database has it. `text` is UTF-8.
    fn param(&self, kind: &ColumnType, text: &[u8], as_text: bool) -> Result<Param, &'static str>;

    /// A place for the `number`th parameter, from 1, of this type.
    fn place(&self, number: usize, type_name: &str) -> String;

    /// The statements that give a column another type. `before` is what its values were.
    fn widen(
        &self,
        table: &str,
        before: &ColumnType,
        column: &Carried,
        type_name: &str,
    ) -> Vec<String>;

    /// Whether a column of the one type takes the other with all its values, each as the source's
    /// own conversion has it.
    fn widens(&self, from: &ColumnType, to: &ColumnType) -> bool;

    /// The condition that two values are the same, NULL included.
    fn same(&self, left: &str, right: &str) -> String;

    /// What names a row of a table without a key.
    fn row_name(&self) -> &'static str;

    /// Whether a table or view of this name exists.
    async fn exists(&mut self, name: &str) -> Result<bool>;
}

/// `name` as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

const CLAIM: &str = "claim pipeline";

/// Takes a pipeline, within the caller's transaction.
pub(crate) async fn claim<E: Engine>(
    engine: &mut E,
    pipeline: &PipelineId,
    source: &SourceId,
) -> Result<Claim> {
    let (one, two) = (engine.place(1, "text"), engine.place(2, "text"));
    let name = || Param::from(pipeline.as_str());
    engine
        .run(
            &format!(
                "INSERT INTO ledger_table_cursors (pipeline, fence) VALUES ({one}, 1) \
                 ON CONFLICT (pipeline) DO UPDATE SET fence = ledger_table_cursors.fence + 1"
            ),
            vec![name()],
        )
        .await?;
    let (bound, fence, cursor) = stored_row(engine, pipeline).await?.unwrap_or_default();
    if let Some(bound) = bound {
        let bound: SourceId = bound.parse()?;
        if !bound.continues(source) {
            return Err(Error::new(
                ErrorKind::SourceDiverged,
                CLAIM,
                format!(
                    "pipeline {pipeline} carries the tables of source {bound}, this is {source}; \
                     `ledger bridge run --resync` drops them and starts again"
                ),
            ));
        }
    }
    engine
        .run(
            &format!("UPDATE ledger_table_cursors SET source = {two} WHERE pipeline = {one}"),
            vec![name(), Param::Text(source.to_string())],
        )
        .await?;
    Ok(Claim { fence, cursor })
}

type StoredRow = (Option<String>, u64, Option<Cursor>);

async fn stored_row<E: Engine>(engine: &mut E, pipeline: &PipelineId) -> Result<Option<StoredRow>> {
    let one = engine.place(1, "text");
    let rows = engine
        .fetch(
            &format!(
                "SELECT source, CAST(fence AS text), cursor FROM ledger_table_cursors \
                 WHERE pipeline = {one}"
            ),
            vec![pipeline.as_str().into()],
        )
        .await?;
    let Some([source, fence, cursor]) = rows.into_iter().next() else {
        return Ok(None);
    };
    let fence = fence.and_then(|fence| fence.parse().ok()).unwrap_or(0);
    let cursor = cursor.map(|cursor| cursor.parse()).transpose()?;
    Ok(Some((source, fence, cursor)))
}

/// The stored cursor.
pub(crate) async fn stored<E: Engine>(
    engine: &mut E,
    pipeline: &PipelineId,
) -> Result<Option<Cursor>> {
    Ok(stored_row(engine, pipeline).await?.and_then(|row| row.2))
}

/// Moves the cursor forward, within the caller's transaction, and returns what is stored then;
/// `Fenced` where the pipeline was taken over. The row stays locked until the transaction ends.
pub(crate) async fn advance<E: Engine>(
    engine: &mut E,
    pipeline: &PipelineId,
    fence: u64,
    to: Option<&Cursor>,
) -> Result<Option<Cursor>> {
    let (one, two) = (engine.place(1, "text"), engine.place(2, "bigint"));
    // The row first: another claim waits for it, or has come before and is seen.
    let held = engine
        .run(
            &format!(
                "UPDATE ledger_table_cursors SET fence = fence WHERE pipeline = {one} \
                 AND fence = {two}"
            ),
            vec![
                pipeline.as_str().into(),
                Param::Int(i64::try_from(fence).unwrap_or(-1)),
            ],
        )
        .await?;
    if held == 0 {
        return Err(Error::new(
            ErrorKind::Fenced,
            "store cursor",
            format!("another process has taken pipeline {pipeline} over"),
        ));
    }
    let stored = stored(engine, pipeline).await?;
    let Some(to) = to.filter(|to| stored.as_ref().is_none_or(|stored| stored < *to)) else {
        return Ok(stored);
    };
    let two = engine.place(2, "text");
    engine
        .run(
            &format!("UPDATE ledger_table_cursors SET cursor = {two} WHERE pipeline = {one}"),
            vec![pipeline.as_str().into(), Param::Text(to.to_string())],
        )
        .await?;
    Ok(Some(to.clone()))
}

/// Forgets cursor and source, and fences who claimed before.
pub(crate) async fn reset<E: Engine>(engine: &mut E, pipeline: &PipelineId) -> Result<()> {
    let one = engine.place(1, "text");
    engine
        .run(
            &format!(
                "UPDATE ledger_table_cursors SET cursor = NULL, source = NULL, fence = fence + 1 \
                 WHERE pipeline = {one}"
            ),
            vec![pipeline.as_str().into()],
        )
        .await
        .map(drop)
}
