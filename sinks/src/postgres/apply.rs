//! Writing a reduced batch, in a constant number of statements.

use std::sync::Arc;

use ledger_core::{Entry, EntryKey, Result, StreamState, is_json};
use ledger_layout::postgres::{Micros, Tables, array_literal, json_object, micros};
use sqlx::{AssertSqlSafe, PgConnection};

use super::sink::Inner;
use crate::delta::Delta;

/// The most entries of one statement: what its parameters hold stays far below the server's limit
/// of 1 GB.
const ENTRIES: usize = 5_000;
/// The payload bytes at which a statement's entries end.
const BYTES: usize = 16 << 20;

pub(super) struct Statements {
    streams: Arc<str>,
    entries: Arc<str>,
    tags: Arc<str>,
    annotations: Arc<str>,
    trim: Arc<str>,
}

impl Statements {
    pub(super) fn new(tables: &Tables) -> Self {
        let sql = |template| Arc::from(tables.sql(template));
        Self {
            // The boundary is stored before entries come, so that a replayed append behind a trim
            // stays away; what stands at or below it is removed last.
            streams: sql(
                "INSERT INTO {streams} AS s (key, name, name_version, version, trimmed_through) \
                 SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], \
                 $5::bigint[]) ORDER BY 1 \
                 ON CONFLICT (key) DO UPDATE SET \
                 name = CASE WHEN excluded.name_version > s.name_version THEN excluded.name \
                    ELSE s.name END, \
                 name_version = greatest(s.name_version, excluded.name_version), \
                 version = greatest(s.version, excluded.version), \
                 trimmed_through = greatest(s.trimmed_through, excluded.trimmed_through) \
                 WHERE excluded.name_version > s.name_version OR excluded.version > s.version \
                 OR excluded.trimmed_through > s.trimmed_through",
            ),
            entries: sql(
                "WITH written AS (INSERT INTO {entries} AS e (id, stream_key, payload, \
                 payload_bytes, order_key, dedup_key, schema_version, metadata, tags, annotations, \
                 tags_version, annotations_version, created_at, updated_at) \
                 SELECT u.id, u.stream_key, u.json::json, u.bytes, u.order_key, u.dedup_key, \
                 u.schema, u.metadata::jsonb, u.tags::text[], u.annotations::jsonb, \
                 u.label_version, u.label_version, u.created_at, u.updated_at \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], \
                 $6::text[], $7::int[], $8::text[], $9::text[], $10::text[], $11::bigint[], \
                 $12::timestamptz[], $13::timestamptz[]) \
                 AS u(id, stream_key, json, bytes, order_key, dedup_key, schema, metadata, tags, \
                 annotations, label_version, created_at, updated_at) \
                 JOIN {streams} s ON s.key = u.stream_key AND u.id > s.trimmed_through \
                 ON CONFLICT (id) DO UPDATE SET \
                 tags = CASE WHEN excluded.tags_version > e.tags_version THEN excluded.tags \
                    ELSE e.tags END, \
                 annotations = CASE WHEN excluded.annotations_version > e.annotations_version \
                    THEN excluded.annotations ELSE e.annotations END, \
                 tags_version = greatest(e.tags_version, excluded.tags_version), \
                 annotations_version = greatest(e.annotations_version, \
                    excluded.annotations_version), \
                 updated_at = CASE WHEN excluded.tags_version > \
                    greatest(e.tags_version, e.annotations_version) \
                    THEN excluded.updated_at ELSE e.updated_at END \
                 WHERE excluded.tags_version > least(e.tags_version, e.annotations_version) \
                 RETURNING e.stream_key, xmax = 0 AS new), \
                 counted AS (SELECT stream_key, count(*) AS n FROM written WHERE new \
                 GROUP BY stream_key) \
                 UPDATE {streams} s SET live = s.live + c.n FROM counted c \
                 WHERE s.key = c.stream_key",
            ),
            // A label for an entry that is not there is no error: the entry has been trimmed.
            tags: sql(
                "UPDATE {entries} e SET tags = u.tags::text[], tags_version = u.version, \
                 updated_at = CASE WHEN u.version > greatest(e.tags_version, \
                 e.annotations_version) THEN u.at ELSE e.updated_at END \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[]) \
                 AS u(id, version, tags, at) \
                 WHERE e.id = u.id AND e.tags_version < u.version",
            ),
            annotations: sql(
                "UPDATE {entries} e SET annotations = u.annotations::jsonb, \
                 annotations_version = u.version, updated_at = CASE WHEN u.version > \
                 greatest(e.tags_version, e.annotations_version) THEN u.at ELSE e.updated_at END \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[]) \
                 AS u(id, version, annotations, at) \
                 WHERE e.id = u.id AND e.annotations_version < u.version",
            ),
            trim: sql(
                "WITH gone AS (DELETE FROM {entries} e USING unnest($1::bigint[], $2::bigint[]) \
                 AS u(key, through) WHERE e.stream_key = u.key AND e.id <= u.through \
                 RETURNING e.stream_key), \
                 counted AS (SELECT stream_key, count(*) AS n FROM gone GROUP BY stream_key) \
                 UPDATE {streams} s SET live = s.live - c.n FROM counted c \
                 WHERE s.key = c.stream_key",
            ),
        }
    }
}

/// Applies what the batch comes to.
pub(super) async fn apply(inner: &Inner, conn: &mut PgConnection, delta: &Delta<'_>) -> Result<()> {
    let states: Vec<StreamState> = delta
        .streams
        .values()
        .map(|delta| StreamState {
            stream: delta.stream.clone(),
            version: delta.version,
            trimmed_through: delta.trimmed_through,
        })
        .collect();
    streams(inner, conn, &states).await?;
    let written: Vec<(EntryKey, &Entry)> = delta
        .entries
        .iter()
        .map(|(key, entry)| (*key, *entry))
        .collect();
    entries(inner, conn, &written).await?;
    let texts = delta.tags.iter().map(|(key, label)| {
        Ok((
            *key,
            label.version,
            array_literal(label.value),
            micros(label.at),
        ))
    });
    labels(inner, conn, &inner.sql.tags, texts).await?;
    let texts = delta.annotations.iter().map(|(key, label)| {
        Ok((
            *key,
            label.version,
            json_object(label.value)?,
            micros(label.at),
        ))
    });
    labels(inner, conn, &inner.sql.annotations, texts).await?;
    trims(inner, conn, &states).await
}

/// Writes the states of streams, each part where it is newer.
pub(super) async fn streams(
    inner: &Inner,
    conn: &mut PgConnection,
    states: &[StreamState],
) -> Result<()> {
    if states.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&StreamState) -> u64| -> Vec<i64> {
        states.iter().map(|state| signed(value(state))).collect()
    };
    let names: Vec<&str> = states
        .iter()
        .map(|state| state.stream.name.as_str())
        .collect();
    sqlx::query(AssertSqlSafe(Arc::clone(&inner.sql.streams)))
        .bind(column(|state| state.stream.key.0))
        .bind(names)
        .bind(column(|state| state.stream.name_version))
        .bind(column(|state| state.version))
        .bind(column(|state| state.trimmed_through))
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| inner.failed("write streams", error))
}

/// Writes entries that lie above their streams' trim boundary.
pub(super) async fn entries(
    inner: &Inner,
    conn: &mut PgConnection,
    all: &[(EntryKey, &Entry)],
) -> Result<()> {
    let mut rest = all;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fit = rest.iter().take(ENTRIES).take_while(|(_, entry)| {
            let fits = bytes == 0 || bytes + entry.payload.len() <= BYTES;
            bytes += entry.payload.len().max(1);
            fits
        });
        let (chunk, behind) = rest.split_at(fit.count().max(1));
        rest = behind;
        let mut columns = Columns::default();
        for (key, entry) in chunk {
            columns.add(*key, entry)?;
        }
        sqlx::query(AssertSqlSafe(Arc::clone(&inner.sql.entries)))
            .bind(columns.ids)
            .bind(columns.stream_keys)
            .bind(columns.json)
            .bind(columns.bytes)
            .bind(columns.order_keys)
            .bind(columns.dedup_keys)
            .bind(columns.schema_versions)
            .bind(columns.metadata)
            .bind(columns.tags)
            .bind(columns.annotations)
            .bind(columns.label_versions)
            .bind(columns.created_at)
            .bind(columns.updated_at)
            .execute(&mut *conn)
            .await
            .map_err(|error| inner.failed("write entries", error))?;
    }
    Ok(())
}

#[derive(Default)]
struct Columns<'a> {
    ids: Vec<i64>,
    stream_keys: Vec<i64>,
    json: Vec<Option<&'a str>>,
    bytes: Vec<Option<&'a [u8]>>,
    order_keys: Vec<&'a str>,
    dedup_keys: Vec<&'a str>,
    schema_versions: Vec<i32>,
    metadata: Vec<String>,
    tags: Vec<String>,
    annotations: Vec<String>,
    label_versions: Vec<i64>,
    created_at: Vec<Micros>,
    updated_at: Vec<Option<Micros>>,
}

impl<'a> Columns<'a> {
    fn add(&mut self, key: EntryKey, entry: &'a Entry) -> Result<()> {
        let json = is_json(&entry.payload).then(|| std::str::from_utf8(&entry.payload).ok());
        let json = json.flatten();
        self.ids.push(signed(key.id.0));
        self.stream_keys.push(signed(key.stream.0));
        self.bytes.push(if json.is_some() {
            None
        } else {
            Some(&entry.payload)
        });
        self.json.push(json);
        self.order_keys.push(&entry.order_key);
        self.dedup_keys.push(&entry.dedup_key);
        self.schema_versions
            .push(i32::try_from(entry.schema_version).unwrap_or(i32::MAX));
        self.metadata.push(json_object(&entry.metadata)?);
        self.tags.push(array_literal(&entry.tags));
        self.annotations.push(json_object(&entry.annotations)?);
        self.label_versions.push(signed(entry.label_version));
        self.created_at.push(micros(entry.created_at));
        self.updated_at.push(entry.updated_at.map(micros));
        Ok(())
    }
}

async fn labels(
    inner: &Inner,
    conn: &mut PgConnection,
    sql: &Arc<str>,
    labels: impl Iterator<Item = Result<(EntryKey, u64, String, Micros)>>,
) -> Result<()> {
    let (mut ids, mut versions, mut values, mut times) = (vec![], vec![], vec![], vec![]);
    for label in labels {
        let (key, version, value, at) = label?;
        ids.push(signed(key.id.0));
        versions.push(signed(version));
        values.push(value);
        times.push(at);
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(Arc::clone(sql)))
        .bind(ids)
        .bind(versions)
        .bind(values)
        .bind(times)
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| inner.failed("write labels", error))
}

/// Removes what lies at or below the boundaries of these streams.
pub(super) async fn trims(
    inner: &Inner,
    conn: &mut PgConnection,
    states: &[StreamState],
) -> Result<()> {
    let trimmed: Vec<&StreamState> = states
        .iter()
        .filter(|state| state.trimmed_through > 0)
        .collect();
    if trimmed.is_empty() {
        return Ok(());
    }
    let keys: Vec<i64> = trimmed
        .iter()
        .map(|state| signed(state.stream.key.0))
        .collect();
    let through: Vec<i64> = trimmed
        .iter()
        .map(|state| signed(state.trimmed_through))
        .collect();
    sqlx::query(AssertSqlSafe(Arc::clone(&inner.sql.trim)))
        .bind(keys)
        .bind(through)
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| inner.failed("apply trims", error))
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
