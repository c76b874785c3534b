//! Trimming, renaming, and changing labels.

use ledger_core::{
    EntryId, Error, ErrorKind, Pairs, Result, StreamName, StreamRef, Timestamp, check_text,
    checked_tags,
};
use ledger_layout::log::{
    RENAME, SET_ANNOTATIONS, SET_TAGS, TRIM, encode_annotations, encode_tags,
};
use ledger_layout::sqlite::{Tables, failed, int_in, json_pairs, json_texts, text_pairs, uint};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::log::{NewRow, find, no_stream};

/// See [`Store::trim`](ledger_core::Store::trim).
pub(super) async fn trim(
    conn: &mut SqliteConnection,
    tables: &Tables,
    stream: &StreamName,
    through: EntryId,
) -> Result<u64> {
    const OPERATION: &str = "trim";
    let fail = |error| failed(OPERATION, error);
    let found = find(conn, tables, OPERATION, stream).await?;
    let Some((stream, _)) = found.stream else {
        return Ok(0);
    };
    let Tables {
        streams, entries, ..
    } = tables;
    let key = int_in(stream.key.0);
    let highest: Option<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT max(id) FROM {entries} WHERE stream_key = ?1 AND id <= ?2"
    )))
    .bind(key)
    .bind(int_in(through.0))
    .fetch_one(&mut *conn)
    .await
    .map_err(fail)?;
    let Some(highest) = highest else { return Ok(0) };
    let delete = format!("DELETE FROM {entries} WHERE stream_key = ?1 AND id <= ?2");
    let deleted = sqlx::query(AssertSqlSafe(delete))
        .bind(key)
        .bind(highest)
        .execute(&mut *conn)
        .await
        .map_err(fail)?
        .rows_affected();
    sqlx::query(AssertSqlSafe(format!(
        "UPDATE {streams} SET live = live - ?3, trimmed_through = ?2 WHERE key = ?1"
    )))
    .bind(key)
    .bind(highest)
    .bind(int_in(deleted))
    .execute(&mut *conn)
    .await
    .map_err(fail)?;
    if found.log {
        let row = one(
            &stream,
            Timestamp::now(),
            TRIM,
            std::slice::from_ref(&highest),
        );
        row.write(conn, tables, OPERATION).await?;
    }
    Ok(deleted)
}

/// See [`Store::rename`](ledger_core::Store::rename).
pub(super) async fn rename(
    conn: &mut SqliteConnection,
    tables: &Tables,
    from: &StreamName,
    to: &StreamName,
) -> Result<()> {
    const OPERATION: &str = "rename stream";
    let found = find(conn, tables, OPERATION, from).await?;
    let Some((mut stream, _)) = found.stream else {
        return Err(no_stream(OPERATION, from));
    };
    if from == to {
        return Ok(());
    }
    if find(conn, tables, OPERATION, to).await?.stream.is_some() {
        let taken = format!("stream {to:?} exists");
        return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, taken));
    }
    stream.name = to.clone();
    stream.name_version += 1;
    sqlx::query(AssertSqlSafe(format!(
        "UPDATE {} SET name = ?2, name_version = ?3 WHERE key = ?1",
        tables.streams
    )))
    .bind(int_in(stream.key.0))
    .bind(to.as_str())
    .bind(int_in(stream.name_version))
    .execute(&mut *conn)
    .await
    .map_err(|error| failed(OPERATION, error))?;
    if found.log {
        one(&stream, Timestamp::now(), RENAME, &[])
            .write(conn, tables, OPERATION)
            .await?;
    }
    Ok(())
}

/// See [`Labels::set_tags`](ledger_core::Labels::set_tags).
pub(super) async fn set_tags(
    conn: &mut SqliteConnection,
    tables: &Tables,
    name: &StreamName,
    id: EntryId,
    tags: Vec<String>,
) -> Result<()> {
    const OPERATION: &str = "set tags";
    let tags = checked_tags("tags", tags)?;
    let found = find(conn, tables, OPERATION, name).await?;
    let (stream, _) = found.stream.ok_or_else(|| no_stream(OPERATION, name))?;
    let at = Timestamp::now();
    let version = set(
        conn,
        tables,
        OPERATION,
        &stream,
        id,
        "tags",
        json_texts(&tags)?,
        at,
    )
    .await?;
    if found.log {
        let ids = [int_in(id.0)];
        let mut row = one(&stream, at, SET_TAGS, &ids);
        (row.version, row.body) = (version, encode_tags(&tags)?);
        row.write(conn, tables, OPERATION).await?;
    }
    Ok(())
}

/// See [`Labels::set_annotations`](ledger_core::Labels::set_annotations).
pub(super) async fn set_annotations(
    conn: &mut SqliteConnection,
    tables: &Tables,
    name: &StreamName,
    id: EntryId,
    merge: Pairs,
    delete: &[String],
) -> Result<()> {
    const OPERATION: &str = "set annotations";
    for (key, value) in &merge {
        check_text("set", key)?;
        check_text("set", value)?;
    }
    let found = find(conn, tables, OPERATION, name).await?;
    let (stream, _) = found.stream.ok_or_else(|| no_stream(OPERATION, name))?;
    let row = sqlx::query(AssertSqlSafe(format!(
        "SELECT annotations FROM {} WHERE id = ?1 AND stream_key = ?2",
        tables.entries
    )))
    .bind(int_in(id.0))
    .bind(int_in(stream.key.0))
    .fetch_optional(&mut *conn)
    .await
    .map_err(|error| failed(OPERATION, error))?
    .ok_or_else(|| no_entry(OPERATION, &stream, id))?;
    let mut annotations = text_pairs(&row, 0)?;
    annotations.extend(merge);
    for key in delete {
        annotations.remove(key);
    }
    let at = Timestamp::now();
    let json = json_pairs(&annotations)?;
    let version = set(
        conn,
        tables,
        OPERATION,
        &stream,
        id,
        "annotations",
        json,
        at,
    )
    .await?;
    if found.log {
        let ids = [int_in(id.0)];
        let mut row = one(&stream, at, SET_ANNOTATIONS, &ids);
        (row.version, row.body) = (version, encode_annotations(&annotations)?);
        row.write(conn, tables, OPERATION).await?;
    }
    Ok(())
}

/// Sets a label column and its version, which is one above the entry's highest; returns it.
#[expect(clippy::too_many_arguments, reason = "one statement's parameters")]
async fn set(
    conn: &mut SqliteConnection,
    tables: &Tables,
    operation: &'static str,
    stream: &StreamRef,
    id: EntryId,
    column: &str,
    value: String,
    at: Timestamp,
) -> Result<u64> {
    let sql = format!(
        "UPDATE {} SET {column} = ?3, updated_at = ?4,
           {column}_version = max(tags_version, annotations_version) + 1
         WHERE id = ?1 AND stream_key = ?2 RETURNING {column}_version",
        tables.entries
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(int_in(id.0))
        .bind(int_in(stream.key.0))
        .bind(value)
        .bind(at.as_micros())
        .fetch_optional(conn)
        .await
        .map_err(|error| failed(operation, error))?
        .ok_or_else(|| no_entry(operation, stream, id))?;
    uint(&row, 0)
}

fn no_entry(operation: &'static str, stream: &StreamRef, id: EntryId) -> Error {
    let missing = format!("stream {:?} has no entry {id}", stream.name);
    Error::new(ErrorKind::NotFound, operation, missing)
}

/// A log row of one change without a body.
fn one<'a>(stream: &'a StreamRef, at: Timestamp, kind: i16, ids: &'a [i64]) -> NewRow<'a> {
    NewRow {
        at,
        stream,
        kind,
        ids,
        changes: 1,
        version: 0,
        body: Vec::new(),
    }
}
