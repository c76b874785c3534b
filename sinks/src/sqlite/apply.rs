//! Writing a reduced batch, in the caller's transaction. Applying one twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use ledger_core::{Entry, EntryId, EntryKey, Error, ErrorKind, Result, StreamKey, Timestamp};
use ledger_layout::sqlite::{
    Tables, failed, forget_log, int_in, json_pairs, json_texts, payload_value, rejected, uint,
};
use serde::Serialize;
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::delta::{Delta, StreamDelta};

const OPERATION: &str = "write replica";
/// The most rows of one INSERT, and up to which number each has a statement of its own.
const BLOCK: usize = 512;
const SMALL: usize = 128;

/// Writes streams, entries, labels and trims, in this order.
pub(super) async fn delta(
    conn: &mut SqliteConnection,
    tables: &Tables,
    delta: &Delta<'_>,
) -> Result<()> {
    if delta.streams.is_empty() {
        return Ok(());
    }
    let trimmed = streams(conn, tables, &delta.streams).await?;
    let kept = |key: &EntryKey| {
        trimmed
            .get(&key.stream)
            .is_none_or(|through| key.id.0 > *through)
    };
    let entries: Vec<(EntryKey, &Entry)> = delta
        .entries
        .iter()
        .map(|(key, entry)| (*key, *entry))
        .filter(|(key, _)| kept(key))
        .collect();
    let inserted = insert(conn, tables, &entries).await?;
    count(conn, tables, inserted.iter().map(|key| (key.stream, 1))).await?;

    // What was there already may have older labels than a snapshot's entry, each of them.
    let met = || {
        entries
            .iter()
            .filter(|(key, entry)| entry.label_version > 0 && !inserted.contains(key))
    };
    let mut tags = Vec::new();
    let mut annotations = Vec::new();
    for (key, entry) in met() {
        let at = entry.updated_at.unwrap_or(entry.created_at).as_micros();
        tags.push(label(
            *key,
            entry.label_version,
            json_texts(&entry.tags)?,
            at,
        ));
        annotations.push(label(
            *key,
            entry.label_version,
            json_pairs(&entry.annotations)?,
            at,
        ));
    }
    labels(conn, tables, "tags", &tags).await?;
    labels(conn, tables, "annotations", &annotations).await?;
    (tags, annotations) = (Vec::new(), Vec::new());
    for (key, new) in &delta.tags {
        tags.push(label(
            *key,
            new.version,
            json_texts(new.value)?,
            new.at.as_micros(),
        ));
    }
    for (key, new) in &delta.annotations {
        annotations.push(label(
            *key,
            new.version,
            json_pairs(new.value)?,
            new.at.as_micros(),
        ));
    }
    labels(conn, tables, "tags", &tags).await?;
    labels(conn, tables, "annotations", &annotations).await?;
    let trims = delta
        .streams
        .iter()
        .filter(|(_, stream)| stream.trimmed_through > 0);
    for (key, stream) in trims {
        trim(conn, tables, *key, stream.trimmed_through).await?;
    }
    Ok(())
}

/// Rows as one JSON parameter, which a statement of fixed text reads by `json_each`.
pub(super) fn rows<T: Serialize>(rows: &[T]) -> Result<String> {
    serde_json::to_string(rows)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "encode").with_source(error))
}

/// Writes the newest state of streams, and tells how far each is trimmed after that.
async fn streams(
    conn: &mut SqliteConnection,
    tables: &Tables,
    streams: &BTreeMap<StreamKey, StreamDelta<'_>>,
) -> Result<BTreeMap<StreamKey, u64>> {
    let sql = format!(
        "INSERT INTO {} AS s (key, name, name_version, version, trimmed_through, live, created_at)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, 0,
           CAST(unixepoch('subsec') * 1000000 AS INTEGER)
         FROM json_each(?1) WHERE true
         ON CONFLICT (key) DO UPDATE SET
           name = CASE WHEN excluded.name_version > s.name_version THEN excluded.name
             ELSE s.name END,
           name_version = max(s.name_version, excluded.name_version),
           version = max(s.version, excluded.version),
           trimmed_through = max(s.trimmed_through, excluded.trimmed_through)
         RETURNING key, trimmed_through",
        tables.streams
    );
    let states: Vec<_> = streams
        .iter()
        .map(|(key, delta)| {
            let (name, name_version) = (&delta.stream.name, delta.stream.name_version);
            (
                key,
                name,
                name_version,
                delta.version,
                delta.trimmed_through,
            )
        })
        .collect();
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(rows(&states)?)
        .fetch_all(conn)
        .await
        .map_err(|error| rejected(OPERATION, error))?;
    found
        .iter()
        .map(|row| Ok((StreamKey(uint(row, 0)?), uint(row, 1)?)))
        .collect()
}

/// Inserts entries where they are not there yet, and tells which were not.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    tables: &Tables,
    entries: &[(EntryKey, &Entry)],
) -> Result<BTreeSet<EntryKey>> {
    let mut inserted = BTreeSet::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let size = if rest.len() <= SMALL {
            rest.len()
        } else {
            BLOCK.min(1 << rest.len().ilog2())
        };
        let (block, behind) = rest.split_at(size);
        let mut query = sqlx::query(AssertSqlSafe(insert_sql(tables, size)));
        for (key, entry) in block {
            query = query
                .bind(int_in(key.id.0))
                .bind(int_in(key.stream.0))
                .bind(entry.created_at.as_micros())
                .bind(entry.order_key.as_str())
                .bind(entry.dedup_key.as_str())
                .bind(i64::from(entry.schema_version))
                .bind(json_pairs(&entry.metadata)?)
                .bind(json_texts(&entry.tags)?)
                .bind(json_pairs(&entry.annotations)?)
                // Both kinds of label are as of the entry's label version.
                .bind(int_in(entry.label_version))
                .bind(int_in(entry.label_version))
                .bind(entry.updated_at.map(Timestamp::as_micros))
                .bind(payload_value(&entry.payload));
        }
        let found = query
            .fetch_all(&mut *conn)
            .await
            .map_err(|error| rejected(OPERATION, error))?;
        for row in &found {
            inserted.insert(EntryKey {
                stream: StreamKey(uint(row, 0)?),
                id: EntryId(uint(row, 1)?),
            });
        }
        rest = behind;
    }
    Ok(inserted)
}

/// Its parameters have no numbers: SQLite looks the name of each up in a list of all.
fn insert_sql(tables: &Tables, rows: usize) -> String {
    let mut sql = String::with_capacity(320 + rows * 28);
    sql.push_str("INSERT INTO ");
    sql.push_str(&tables.entries);
    sql.push_str(
        " (id, stream_key, created_at, order_key, dedup_key, schema_version, metadata, tags, \
         annotations, tags_version, annotations_version, updated_at, payload) VALUES ",
    );
    for row in 0..rows {
        sql.push_str(if row == 0 { "" } else { "," });
        sql.push_str("(?,?,?,?,?,?,?,?,?,?,?,?,?)");
    }
    sql.push_str(" ON CONFLICT (id) DO NOTHING RETURNING stream_key, id");
    sql
}

/// Adds to the number of entries of streams.
pub(super) async fn count(
    conn: &mut SqliteConnection,
    tables: &Tables,
    changes: impl Iterator<Item = (StreamKey, i64)>,
) -> Result<()> {
    let mut by_stream = BTreeMap::<StreamKey, i64>::new();
    for (key, change) in changes {
        *by_stream.entry(key).or_default() += change;
    }
    if by_stream.is_empty() {
        return Ok(());
    }
    let by_stream: Vec<_> = by_stream.into_iter().collect();
    let sql = format!(
        "UPDATE {} AS s SET live = live + d.change
         FROM (SELECT value ->> 0 AS stream, value ->> 1 AS change FROM json_each(?1)) d
         WHERE s.key = d.stream",
        tables.streams
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(rows(&by_stream)?)
        .execute(conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    Ok(())
}

/// A label's new state: id, stream, version, value as JSON text, time.
type LabelRow = (EntryId, StreamKey, u64, String, i64);

fn label(key: EntryKey, version: u64, value: String, at: i64) -> LabelRow {
    (key.id, key.stream, version, value, at)
}

/// Sets a kind of label where the version is higher. The time of the last change is that of the
/// highest version of both kinds.
async fn labels(
    conn: &mut SqliteConnection,
    tables: &Tables,
    column: &str,
    labels: &[LabelRow],
) -> Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE {} AS e SET {column} = d.state, {column}_version = d.version,
           updated_at = CASE WHEN d.version > max(e.tags_version, e.annotations_version) THEN d.at
             ELSE e.updated_at END
         FROM (SELECT value ->> 0 AS id, value ->> 1 AS stream, value ->> 2 AS version,
             value ->> 3 AS state, value ->> 4 AS at FROM json_each(?1)) d
         WHERE e.id = d.id AND e.stream_key = d.stream AND e.{column}_version < d.version",
        tables.entries
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(rows(labels)?)
        .execute(conn)
        .await
        .map_err(|error| rejected(OPERATION, error))?;
    Ok(())
}

async fn trim(
    conn: &mut SqliteConnection,
    tables: &Tables,
    stream: StreamKey,
    through: u64,
) -> Result<()> {
    let sql = format!(
        "DELETE FROM {} WHERE stream_key = ?1 AND id <= ?2",
        tables.entries
    );
    let removed = sqlx::query(AssertSqlSafe(sql))
        .bind(int_in(stream.0))
        .bind(int_in(through))
        .execute(&mut *conn)
        .await
        .map_err(|error| failed(OPERATION, error))?
        .rows_affected();
    if removed > 0 {
        count(conn, tables, [(stream, -int_in(removed))].into_iter()).await?;
    }
    Ok(())
}

/// Empties the replica and unbinds it.
pub(super) async fn clear(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    for sql in [
        format!("DELETE FROM {} WHERE ?1 = ?1", tables.entries),
        format!("DELETE FROM {} WHERE ?1 = ?1", tables.streams),
        "UPDATE ledger_stores SET source = NULL WHERE name = ?1 AND role = 'replica'".to_owned(),
        "UPDATE ledger_cursors SET cursor = NULL, source = NULL, fence = fence + 1 WHERE store = ?1"
            .to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(sql))
            .bind(tables.store.as_str())
            .execute(&mut *conn)
            .await
            .map_err(|error| failed("empty replica", error))?;
    }
    forget_log(conn, tables).await
}
