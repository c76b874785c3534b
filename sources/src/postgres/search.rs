//! Searching payloads.

use async_trait::async_trait;
use ledger_core::{Error, ErrorKind, Page, Query, ReadOptions, Result, Search, StreamName};
use ledger_layout::postgres::failed;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::read::{pages, safe};
use super::{PostgresStore, PostgresTransaction};

/// How much of a payload full-text search sees, in characters: the server refuses longer texts in
/// an index.
const FULL_TEXT_CHARACTERS: u32 = 200_000;

/// The collation whose rules tell upper from lower case: Unicode's where the server has ICU, the
/// database's own otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Collation(&'static str);

impl Collation {
    pub(super) async fn choose(conn: &mut PgConnection) -> Result<Self> {
        let icu: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu')",
        )
        .fetch_one(conn)
        .await
        .map_err(|error| failed("open store", "read collations", error))?;
        Ok(Self(if icu { " COLLATE \"und-x-icu\"" } else { "" }))
    }
}

impl PostgresTransaction<'_> {
    /// As [`Search::search`].
    pub async fn search(
        &mut self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let inner = &self.inner;
        if matches!(query, Query::FullText(_)) && !inner.options.full_text {
            return Err(full_text_off(inner.tables.store()));
        }
        let (Query::Substring(wanted) | Query::FullText(wanted)) = query;
        if wanted.contains('\0') {
            return Ok(Page::default());
        }
        let text = inner.tables.sql(PAYLOAD_TEXT);
        pages(
            inner,
            self.conn,
            "search",
            options,
            |sql: &mut QueryBuilder<Postgres>| {
                sql.push(
                    inner
                        .tables
                        .sql(" FROM (SELECT * FROM {entries} e WHERE true"),
                );
                if let Some(stream) = stream {
                    sql.push(
                        inner
                            .tables
                            .sql(" AND e.stream_key = (SELECT key FROM {streams} WHERE name = "),
                    );
                    sql.push_bind(stream.as_str().to_owned());
                    sql.push(" ORDER BY name_version DESC, key DESC LIMIT 1)");
                }
                match query {
                    Query::Substring(part) => {
                        let collation = inner.search.0;
                        // `position` knows no special characters.
                        sql.push(" AND position(lower(").push_bind(part.clone());
                        sql.push(format!(
                            "::text{collation}) in lower({text}{collation})) > 0"
                        ));
                    }
                    Query::FullText(words) => {
                        sql.push(format!(
                            " AND {} @@ plainto_tsquery('simple', ",
                            document(&text)
                        ));
                        sql.push_bind(words.clone()).push(")");
                    }
                }
            },
            &inner
                .tables
                .sql(" JOIN {streams} s ON s.key = e.stream_key"),
        )
        .await
    }
}

const PAYLOAD_TEXT: &str = "coalesce(e.payload::text, {ledger.text}(e.payload_bytes))";

fn document(text: &str) -> String {
    format!("to_tsvector('simple', left({text}, {FULL_TEXT_CHARACTERS}))")
}

fn full_text_off(store: &ledger_core::StoreName) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "search",
        format!("store {store} was opened without full-text search; set the option full_text"),
    )
}

impl PostgresStore {
    /// Makes the index of full-text search where there is none; without it such a search reads
    /// everything. Appends go on meanwhile. It sees the first 200,000 characters of a payload.
    /// `Unsupported` without the option `full_text`.
    pub async fn ensure_search_index(&self) -> Result<()> {
        const OPERATION: &str = "create search index";
        let inner = &self.inner;
        if !inner.options.full_text {
            return Err(full_text_off(inner.tables.store()));
        }
        inner.check_writable(OPERATION)?;
        let mut conn = inner.connection(OPERATION).await?;
        let text = inner
            .tables
            .sql(PAYLOAD_TEXT)
            .replace("e.payload", "payload");
        let index = format!("{}_text", inner.tables.store());
        // A concurrent build that failed leaves an invalid index, which would never be used.
        let invalid: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_index i WHERE i.indexrelid = to_regclass($1) \
             AND NOT i.indisvalid)",
        )
        .bind(inner.tables.of_store("text"))
        .fetch_one(&mut *conn)
        .await
        .map_err(|error| inner.failed(OPERATION, error))?;
        if invalid {
            let drop = inner.tables.sql("DROP INDEX CONCURRENTLY {text}");
            sqlx::query(safe(drop))
                .execute(&mut *conn)
                .await
                .map_err(|error| inner.failed(OPERATION, error))?;
        }
        let sql = format!(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS \"{index}\" ON {} USING gin ({})",
            inner.tables.of_store("entries"),
            document(&text)
        );
        sqlx::query(safe(sql))
            .execute(&mut *conn)
            .await
            .map(drop)
            .map_err(|error| inner.failed(OPERATION, error))
    }
}

#[async_trait]
impl Search for PostgresStore {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let mut conn = self.inner.connection("search").await?;
        self.on(&mut conn).search(stream, query, options).await
    }
}
