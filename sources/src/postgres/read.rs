//! Reading pages.

use futures::TryStreamExt as _;
use ledger_core::{Page, ReadOptions, Result, StreamName};
use ledger_layout::postgres::{ENTRY_COLUMNS, entry_from_row, json_object, micros};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder};

use super::PostgresTransaction;
use super::store::Inner;

/// The payload bytes after which a page ends.
const PAGE_BYTES: usize = 16 << 20;
/// The most rows that one query asks for: a page of large payloads that ends early leaves at most
/// this many rows for the connection to drain.
const QUERY_ROWS: usize = 256;

impl PostgresTransaction<'_> {
    /// As [`Store::page`](ledger_core::Store::page).
    pub async fn page(&mut self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let inner = &self.inner;
        pages(
            inner,
            self.conn,
            "read",
            options,
            |query| {
                // The limit within the lateral part makes it a walk along (stream_key, id). On a
                // replica two streams may have one name for the time of a batch: the later one has it.
                query.push(
                    inner
                        .tables
                        .sql(" FROM (SELECT key, name FROM {streams} WHERE name = "),
                );
                query.push_bind(stream.as_str().to_owned());
                query.push(inner.tables.sql(
                    " ORDER BY name_version DESC, key DESC LIMIT 1) s CROSS JOIN LATERAL \
                 (SELECT * FROM {entries} e WHERE e.stream_key = s.key",
                ));
            },
            "",
        )
        .await
    }
}

/// Collects a page from queries of bounded size. `from` adds the FROM clause up to and including a
/// WHERE condition within the subquery over `e`; `join` stands behind that, where `s` still needs
/// joining.
pub(super) async fn pages(
    inner: &Inner,
    conn: &mut PgConnection,
    operation: &'static str,
    options: &ReadOptions,
    from: impl Fn(&mut QueryBuilder<Postgres>),
    join: &str,
) -> Result<Page> {
    let limit = options.page_limit();
    let mut page = Page::default();
    if !options.can_match() {
        return Ok(page);
    }
    let mut after = options.after;
    let mut bytes = 0;
    loop {
        let left = limit - page.entries.len();
        if left == 0 {
            // Whether something is left costs a row more.
            page.more = true;
        }
        let ask = left.clamp(1, QUERY_ROWS);
        let mut query = QueryBuilder::new(format!("SELECT {ENTRY_COLUMNS}"));
        from(&mut query);
        push_conditions(&mut query, options, after)?;
        let direction = if options.descending { "DESC" } else { "ASC" };
        query.push(format!(
            " ORDER BY e.id {direction} LIMIT {ask}) e{join} ORDER BY e.id {direction}"
        ));
        let mut rows = query.build().fetch(&mut *conn);
        let mut got = 0;
        while let Some(row) = rows
            .try_next()
            .await
            .map_err(|e| inner.failed(operation, e))?
        {
            got += 1;
            if left == 0 {
                return Ok(page);
            }
            let (_, entry) = entry_from_row(&row)?;
            bytes += entry.payload.len();
            after = Some(entry.id);
            page.entries.push(entry);
            if bytes >= PAGE_BYTES {
                page.more = true;
                return Ok(page);
            }
        }
        drop(rows);
        if got < ask || left == 0 {
            page.more = false;
            return Ok(page);
        }
    }
}

fn push_conditions(
    query: &mut QueryBuilder<Postgres>,
    options: &ReadOptions,
    after: Option<ledger_core::EntryId>,
) -> Result<()> {
    if let Some(after) = after {
        query.push(if options.descending {
            " AND e.id < "
        } else {
            " AND e.id > "
        });
        query.push_bind(i64::try_from(after.0).unwrap_or(i64::MAX));
    }
    if let Some(key) = &options.order_key {
        query.push(" AND e.order_key = ").push_bind(key.clone());
        if !key.is_empty() {
            // The partial index's own condition.
            query.push(" AND e.order_key <> ''");
        }
    }
    let tags: Vec<String> = options.tags().into_iter().map(str::to_owned).collect();
    if !tags.is_empty() {
        query.push(" AND e.tags @> ").push_bind(tags);
    }
    for (column, pairs) in [
        ("metadata", &options.metadata),
        ("annotations", &options.annotations),
    ] {
        if !pairs.is_empty() {
            query.push(format!(" AND e.{column} @> "));
            query.push_bind(json_object(pairs)?).push("::jsonb");
        }
    }
    if let Some(since) = options.since {
        query.push(" AND e.created_at >= ").push_bind(micros(since));
    }
    if let Some(until) = options.until {
        query.push(" AND e.created_at < ").push_bind(micros(until));
    }
    Ok(())
}

/// For statements whose text is made here alone.
pub(super) fn safe(sql: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql)
}
