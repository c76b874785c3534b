//! Reading entries, and the state of streams.

use futures::TryStreamExt as _;
use ledger_core::{Page, ReadOptions, Result, Stat, StreamName};
use ledger_layout::sqlite::{
    ENTRY_COLUMNS, Tables, decode_entry, failed, id_out, int_in, read_column, uint,
};
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection};

use super::search::Needle;

/// How many bytes of payload a page may have before it is cut short.
const PAGE_BYTES: usize = 16 << 20;

/// See [`Store::page`](ledger_core::Store::page), and
/// [`Search::search`](ledger_core::Search::search) where a needle is given; without a stream all
/// are read.
pub(super) async fn page(
    conn: &mut SqliteConnection,
    tables: &Tables,
    stream: Option<&StreamName>,
    needle: Option<&Needle>,
    options: &ReadOptions,
) -> Result<Page> {
    let limit = options.page_limit();
    let mut page = Page::default();
    if limit == 0 {
        return Ok(page);
    }
    let mut query = select(tables, stream, needle, options);
    if needle.is_none() {
        // One more, to know whether there are more.
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        query.push(" LIMIT ").push_bind(int_in(limit));
    }
    let mut rows = query.build().fetch(conn);
    let mut bytes = 0;
    while let Some(row) = rows
        .try_next()
        .await
        .map_err(|error| failed("read", error))?
    {
        let name = match stream {
            Some(stream) => stream.clone(),
            None => StreamName::new(read_column::<&str>(&row, 12)?)?,
        };
        let (_, entry) = decode_entry(&row, name)?;
        if needle.is_some_and(|needle| !needle.is_in(&entry.payload)) {
            continue;
        }
        if page.entries.len() == limit || bytes > PAGE_BYTES {
            page.more = true;
            break;
        }
        bytes += entry.payload.len();
        page.entries.push(entry);
    }
    Ok(page)
}

fn select(
    tables: &Tables,
    stream: Option<&StreamName>,
    needle: Option<&Needle>,
    options: &ReadOptions,
) -> QueryBuilder<Sqlite> {
    let Tables {
        streams, entries, ..
    } = tables;
    let mut query = QueryBuilder::new("SELECT ");
    query.push(ENTRY_COLUMNS);
    if let Some(stream) = stream {
        query.push(format!(
            " FROM {entries} e WHERE e.stream_key = (SELECT key FROM {streams} WHERE name = "
        ));
        // A replica may have two streams of one name for a moment; the younger has it in the end.
        query
            .push_bind(stream.as_str().to_owned())
            .push(" ORDER BY key DESC LIMIT 1)");
    } else {
        query.push(format!(
            ", s.name FROM {entries} e CROSS JOIN {streams} s WHERE s.key = e.stream_key"
        ));
    }
    if let Some(after) = options.after {
        query.push(if options.descending {
            " AND e.id < "
        } else {
            " AND e.id > "
        });
        query.push_bind(int_in(after.0));
    }
    if let Some(key) = &options.order_key {
        query.push(" AND e.order_key = ").push_bind(key.clone());
        if !key.is_empty() {
            // Tells the planner that the partial index holds all of them.
            query.push(" AND e.order_key <> ''");
        }
    }
    for tag in options.tags() {
        query.push(" AND EXISTS (SELECT 1 FROM json_each(e.tags) WHERE value = ");
        query.push_bind(tag.to_owned()).push(")");
    }
    for (column, pairs) in [
        ("metadata", &options.metadata),
        ("annotations", &options.annotations),
    ] {
        for (key, value) in pairs {
            query.push(format!(
                " AND EXISTS (SELECT 1 FROM json_each(e.{column}) WHERE key = "
            ));
            query
                .push_bind(key.clone())
                .push(" AND value = ")
                .push_bind(value.clone())
                .push(")");
        }
    }
    if let Some(since) = options.since {
        query
            .push(" AND e.created_at >= ")
            .push_bind(since.as_micros());
    }
    if let Some(until) = options.until {
        query
            .push(" AND e.created_at < ")
            .push_bind(until.as_micros());
    }
    if let Some(pattern) = needle.and_then(Needle::pattern) {
        // LIKE stops at a NUL byte, so other payloads than JSON are searched after reading them.
        query.push(" AND (typeof(e.payload) = 'blob' OR e.payload LIKE ");
        query.push_bind(pattern).push(" ESCAPE '\\')");
    }
    query.push(if options.descending {
        " ORDER BY e.id DESC"
    } else {
        " ORDER BY e.id"
    });
    query
}

/// See [`Store::stat`](ledger_core::Store::stat).
pub(super) async fn stat(
    conn: &mut SqliteConnection,
    tables: &Tables,
    stream: &StreamName,
) -> Result<Stat> {
    let Tables {
        streams, entries, ..
    } = tables;
    let sql = format!(
        "SELECT s.live, s.version,
           (SELECT e.id FROM {entries} e WHERE e.stream_key = s.key ORDER BY e.id LIMIT 1),
           (SELECT e.id FROM {entries} e WHERE e.stream_key = s.key ORDER BY e.id DESC LIMIT 1)
         FROM {streams} s WHERE s.name = ?1 ORDER BY s.key DESC LIMIT 1"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(stream.as_str())
        .fetch_optional(conn)
        .await
        .map_err(|error| failed("stat", error))?;
    let Some(row) = row else {
        return Ok(Stat::default());
    };
    let id = |index| match read_column::<Option<i64>>(&row, index)? {
        Some(_) => id_out(&row, index).map(Some),
        None => Ok(None),
    };
    Ok(Stat {
        count: uint(&row, 0)?,
        version: uint(&row, 1)?,
        first_id: id(2)?,
        last_id: id(3)?,
    })
}

/// See [`Store::streams`](ledger_core::Store::streams).
pub(super) async fn streams(
    conn: &mut SqliteConnection,
    tables: &Tables,
    after: Option<&StreamName>,
    limit: usize,
) -> Result<Vec<StreamName>> {
    let sql = format!(
        "SELECT DISTINCT name FROM {} WHERE live > 0 AND name > ?1 ORDER BY name LIMIT ?2",
        tables.streams
    );
    let names: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(after.map_or("", StreamName::as_str))
        .bind(int_in(u64::try_from(limit).unwrap_or(u64::MAX)))
        .fetch_all(conn)
        .await
        .map_err(|error| failed("list streams", error))?;
    names.into_iter().map(StreamName::new).collect()
}
