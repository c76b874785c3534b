//! Reading a Go database, in one read-only transaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::{Context as _, anyhow};
use futures::stream::{BoxStream, StreamExt as _};
use ledger::SourceId;
use ledger::connect::DatabaseUrl;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ColumnIndex, ConnectOptions as _, Decode, Type};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::sql::{ALWAYS, Columns, Dialect, Statements};
use crate::exit::{Exit, Failure};

/// An opened Go database.
pub(crate) struct Source {
    connection: Connection,
    /// Where it is, for messages: no user and no password.
    place: String,
    names: bool,
    tables: Vec<Table>,
}

enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A Go store.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// The store's name, which is the table's.
    pub(crate) name: String,
    columns: Columns,
}

/// A row of a Go store, as it stands there. Texts are bytes that have not been looked at.
#[derive(Debug)]
pub(super) struct GoRow {
    pub(super) id: i64,
    pub(super) stream: GoStream,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) order_key: Option<Vec<u8>>,
    pub(super) dedup_key: Option<Vec<u8>>,
    pub(super) schema_version: i64,
    pub(super) metadata: Option<Vec<u8>>,
    pub(super) tags: Option<Vec<u8>>,
    pub(super) annotations: Option<Vec<u8>>,
    pub(super) source_id: Option<Vec<u8>>,
    pub(super) created_at: Option<Vec<u8>>,
    pub(super) updated_at: Option<Vec<u8>>,
}

/// A stream of a Go store.
#[derive(Debug)]
pub(super) struct GoStream {
    /// The id of its first entry.
    pub(super) key: i64,
    /// What the rows call it.
    pub(super) id: Vec<u8>,
    /// Its name, where it has one beside that.
    pub(super) name: Option<Vec<u8>>,
    /// Whether it has none, and another stream is named as its rows call it.
    pub(super) shadowed: bool,
}

impl Source {
    /// Opens the database for reading only, and looks which stores it has.
    pub(crate) async fn open(text: &str) -> anyhow::Result<Self> {
        let url = DatabaseUrl::parse(text)?;
        let place = url.to_string();
        let connection = match url.scheme() {
            "sqlite" => Connection::Sqlite(open_sqlite(&url.target()).await?),
            "postgres" => Connection::Postgres(open_postgres(text, &place).await?),
            other => {
                return Err(Failure::usage(format!(
                    "{other} databases of the Go implementation are not copied; sqlite and \
                     postgres are"
                )));
            }
        };
        let mut source = Self {
            connection,
            place,
            names: false,
            tables: Vec::new(),
        };
        let mut columns = source.columns().await.context("look for tables")?;
        source.names = columns.remove("ledger_stream_metadata").is_some();
        source.tables = columns
            .into_iter()
            .filter(|(name, columns)| {
                is_name(name) && ALWAYS.iter().all(|c| columns.contains_key(*c))
            })
            .map(|(name, columns)| Table { name, columns })
            .collect();
        Ok(source)
    }

    /// Where it is: no user and no password.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The stores.
    pub(crate) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// What tells this database from others: its place. The file or server that a copy was begun
    /// from must be at the same place when the copy goes on.
    pub(super) fn identity(&self, table: &Table) -> SourceId {
        let digest = xxh3_128(format!("{}\n{}", self.place, table.name).as_bytes());
        SourceId {
            store: Uuid::from_u128(digest),
            system: "go".to_owned(),
            timeline: 1,
            origins: Vec::new(),
        }
    }

    fn statements<'a>(&self, table: &'a Table) -> Statements<'a> {
        Statements {
            dialect: match self.connection {
                Connection::Sqlite(_) => Dialect::Sqlite,
                Connection::Postgres(_) => Dialect::Postgres,
            },
            table: &table.name,
            columns: &table.columns,
            names: self.names,
        }
    }

    /// How many entries there are behind an id, and the highest id of them; 0 where there is none.
    pub(crate) async fn size(&mut self, table: &Table, after: u64) -> anyhow::Result<(u64, u64)> {
        let sql = AssertSqlSafe(self.statements(table).size());
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let (count, last): (i64, i64) = match &mut self.connection {
            Connection::Sqlite(c) => sqlx::query_as(sql).bind(after).fetch_one(c).await,
            Connection::Postgres(c) => sqlx::query_as(sql).bind(after).fetch_one(c).await,
        }
        .with_context(|| format!("count table {}", table.name))?;
        Ok((unsigned(count), unsigned(last)))
    }

    /// The last id that was ever given, as far as the database tells.
    pub(super) async fn last_given(&mut self, table: &Table) -> anyhow::Result<u64> {
        let (_, last) = self.size(table, 0).await?;
        let sql = AssertSqlSafe(self.statements(table).last_given());
        let given: Option<Option<i64>> = match &mut self.connection {
            Connection::Sqlite(c) => {
                let kept = "SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'";
                let kept: i64 = sqlx::query_scalar(kept).fetch_one(&mut *c).await?;
                match kept {
                    0 => None,
                    _ => sqlx::query_scalar(sql).fetch_optional(c).await?,
                }
            }
            Connection::Postgres(c) => sqlx::query_scalar(sql).fetch_optional(c).await?,
        };
        Ok(unsigned(given.flatten().unwrap_or(0)).max(last))
    }

    /// The rows behind an id, by id; as they are asked for, and no more of them in memory.
    pub(super) fn rows<'c>(
        &'c mut self,
        table: &Table,
        after: u64,
    ) -> BoxStream<'c, anyhow::Result<GoRow>> {
        let sql = AssertSqlSafe(self.statements(table).rows());
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let place = format!("read table {}", table.name);
        match &mut self.connection {
            Connection::Sqlite(c) => sqlx::query(sql)
                .bind(after)
                .fetch(c)
                .map(move |row| go_row(&row?).context(place.clone()))
                .boxed(),
            Connection::Postgres(c) => sqlx::query(sql)
                .bind(after)
                .fetch(c)
                .map(move |row| go_row(&row?).context(place.clone()))
                .boxed(),
        }
    }

    /// The streams that have an entry, in no order, each with the number of its entries.
    pub(super) fn streams<'c>(
        &'c mut self,
        table: &Table,
    ) -> BoxStream<'c, anyhow::Result<(GoStream, u64)>> {
        let sql = AssertSqlSafe(self.statements(table).streams());
        match &mut self.connection {
            Connection::Sqlite(c) => sqlx::query(sql)
                .fetch(c)
                .map(|row| Ok(go_stream_row(&row?)?))
                .boxed(),
            Connection::Postgres(c) => sqlx::query(sql)
                .fetch(c)
                .map(|row| Ok(go_stream_row(&row?)?))
                .boxed(),
        }
    }

    /// The names of streams that have no entry any more, ascending.
    pub(super) fn emptied<'c>(
        &'c mut self,
        table: &Table,
    ) -> BoxStream<'c, anyhow::Result<Vec<u8>>> {
        let Some(sql) = self.statements(table).emptied() else {
            return futures::stream::empty().boxed();
        };
        let sql = AssertSqlSafe(sql);
        match &mut self.connection {
            Connection::Sqlite(c) => sqlx::query_scalar(sql)
                .fetch(c)
                .map(|name| Ok(name?))
                .boxed(),
            Connection::Postgres(c) => sqlx::query_scalar(sql)
                .fetch(c)
                .map(|name| Ok(name?))
                .boxed(),
        }
    }

    /// All tables, with their columns.
    async fn columns(&mut self) -> sqlx::Result<BTreeMap<String, Columns>> {
        let columns: Vec<(String, String, String)> = match &mut self.connection {
            Connection::Sqlite(c) => {
                let sql = "SELECT t.name, c.name, lower(c.type) FROM sqlite_master t, \
                           pragma_table_info(t.name) c WHERE t.type = 'table'";
                sqlx::query_as(sql).fetch_all(c).await?
            }
            Connection::Postgres(c) => {
                let sql = "SELECT c.relname::text, a.attname::text, \
                           format_type(a.atttypid, NULL) FROM pg_class c \
                           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
                             AND NOT a.attisdropped \
                           WHERE c.relkind IN ('r', 'p') \
                             AND c.relnamespace = to_regnamespace(quote_ident(current_schema()))";
                sqlx::query_as(sql).fetch_all(c).await?
            }
        };
        let mut tables = BTreeMap::<String, Columns>::new();
        for (table, column, kind) in columns {
            tables.entry(table).or_default().insert(column, kind);
        }
        Ok(tables)
    }
}

/// A name as the Go implementation allows them; it stands in statements.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

async fn open_sqlite(path: &str) -> anyhow::Result<SqliteConnection> {
    if !Path::new(path).is_file() {
        let text = format!("there is no file {path}");
        return Err(Failure::new(Exit::NotFound, text).into());
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .disable_statement_logging();
    let mut connection = options.connect().await?;
    // A store that is written meanwhile is read as it was at the first statement.
    sqlx::query("BEGIN").execute(&mut connection).await?;
    Ok(connection)
}

async fn open_postgres(text: &str, place: &str) -> anyhow::Result<PgConnection> {
    // The parser's own error may quote the URL with its password.
    let options = PgConnectOptions::from_str(text)
        .map_err(|_| Failure::usage("the URL has a parameter that is not understood"))?;
    let options = options
        .application_name("ledger import")
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(|error| {
        let exit = match &error {
            sqlx::Error::Database(refused) if refused.code().as_deref() == Some("28P01") => {
                Exit::Auth
            }
            _ => Exit::Unavailable,
        };
        anyhow!(error).context(Failure::new(exit, format!("connect to {place}")))
    })?;
    for sql in [
        "SET TIME ZONE 'UTC'",
        // The transaction lasts as long as the copy.
        "SET statement_timeout = 0",
        "SET idle_in_transaction_session_timeout = 0",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    ] {
        sqlx::query(sql).execute(&mut connection).await?;
    }
    Ok(connection)
}

fn go_row<R>(row: &R) -> sqlx::Result<GoRow>
where
    R: sqlx::Row,
    usize: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    let bytes = |index: usize| row.try_get::<Option<Vec<u8>>, _>(index);
    Ok(GoRow {
        id: row.try_get(0)?,
        stream: GoStream {
            key: row.try_get(1)?,
            id: row.try_get(2)?,
            name: bytes(3)?,
            shadowed: row.try_get::<i64, _>(4)? != 0,
        },
        payload: bytes(5)?,
        order_key: bytes(6)?,
        dedup_key: bytes(7)?,
        schema_version: row.try_get(8)?,
        metadata: bytes(9)?,
        tags: bytes(10)?,
        annotations: bytes(11)?,
        source_id: bytes(12)?,
        created_at: bytes(13)?,
        updated_at: bytes(14)?,
    })
}

fn go_stream_row<R>(row: &R) -> sqlx::Result<(GoStream, u64)>
where
    R: sqlx::Row,
    usize: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    let stream = GoStream {
        key: row.try_get(0)?,
        id: row.try_get(2)?,
        name: row.try_get(3)?,
        shadowed: row.try_get::<i64, _>(4)? != 0,
    };
    Ok((stream, unsigned(row.try_get(1)?)))
}
