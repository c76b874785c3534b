//! The floor of a bridge: COPY of a table's rows, turned into `RowBinary` and inserted, by a
//! reader and an inserter that run at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use clickhouse::Compression;
use futures::TryStreamExt as _;
use sqlx::postgres::PgPoolCopyExt as _;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;

use crate::measure::Outcome;
use crate::measure::database::{ClickHouse, Postgres};

/// Rows of one insert, as many as the sink's batches have.
const INSERT_ROWS: u64 = 100_000;
/// Bytes handed from the reader to the inserter at a time.
const CHUNK: usize = 1 << 20;
/// Microseconds from 1970, where `ClickHouse` counts from, to 2000, where `PostgreSQL` does.
const EPOCH: i64 = 946_684_800_000_000;

/// What goes from the reader to the inserter.
enum Piece {
    Rows(Bytes),
    EndOfInsert,
}

/// Copies the entries of `store` with ids above `above` into `table`, and tells how long it took.
pub(crate) async fn copy(
    source: &Postgres,
    sink: &ClickHouse,
    store: &str,
    above: u64,
    table: &str,
) -> Outcome<Duration> {
    let begun = Instant::now();
    let (sender, receiver) = mpsc::channel(4);
    let reader = read(source.url.clone(), store.to_owned(), above, sender);
    let reader = tokio::spawn(reader);
    insert(sink, table, receiver).await?;
    reader.await??;
    Ok(begun.elapsed())
}

async fn read(url: String, store: String, above: u64, sender: mpsc::Sender<Piece>) -> Outcome {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&url)
        .await?;
    let sql = format!(
        "COPY (SELECT stream_key, id, payload, order_key, dedup_key, schema_version, metadata, \
         tags, annotations, created_at FROM {store}_entries WHERE id > {above}) \
         TO STDOUT (FORMAT binary)"
    );
    let mut copied = pool.copy_out_raw(&sql).await?;
    let (mut buffer, mut header) = (BytesMut::new(), true);
    let (mut out, mut rows) = (Vec::with_capacity(CHUNK + 4_096), 0);
    while let Some(message) = copied.try_next().await? {
        buffer.extend_from_slice(&message);
        if header {
            // Signature, flags, and an extension that is always empty.
            buffer.advance(19);
            header = false;
        }
        // A message holds whole rows.
        while buffer.len() >= 2 {
            if buffer.get_i16() < 0 {
                break;
            }
            row(&mut buffer, &mut out)?;
            rows += 1;
            let full = rows % INSERT_ROWS == 0;
            if full || out.len() >= CHUNK {
                let chunk = std::mem::replace(&mut out, Vec::with_capacity(CHUNK + 4_096));
                sender.send(Piece::Rows(chunk.into())).await?;
            }
            if full {
                sender.send(Piece::EndOfInsert).await?;
            }
        }
    }
    sender.send(Piece::Rows(out.into())).await?;
    Ok(())
}

/// Turns one row into `RowBinary`.
fn row(from: &mut BytesMut, to: &mut Vec<u8>) -> Outcome {
    let stream = int8(field(from)?)?;
    let id = int8(field(from)?)?;
    to.extend_from_slice(&stream.to_le_bytes());
    to.extend_from_slice(&id.to_le_bytes());
    // The version of the labels: nobody has changed any.
    to.extend_from_slice(&0_u64.to_le_bytes());
    for _ in ["payload", "order_key", "dedup_key"] {
        string(&field(from)?, to);
    }
    let version = i64::from(field(from)?.try_get_i32()?);
    to.extend_from_slice(&version.to_le_bytes());
    pairs(&field(from)?, to)?;
    texts(field(from)?, to)?;
    pairs(&field(from)?, to)?;
    let created_at = int8(field(from)?)? + EPOCH;
    to.extend_from_slice(&created_at.to_le_bytes());
    Ok(())
}

fn field(from: &mut BytesMut) -> Outcome<BytesMut> {
    let length = from.try_get_i32()?;
    Ok(from.split_to(usize::try_from(length)?))
}

fn int8(mut field: BytesMut) -> Outcome<i64> {
    Ok(field.try_get_i64()?)
}

fn length(mut length: usize, to: &mut Vec<u8>) {
    while length >= 0x80 {
        to.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    to.push(u8::try_from(length).unwrap_or(0));
}

fn string(text: &[u8], to: &mut Vec<u8>) {
    length(text.len(), to);
    to.extend_from_slice(text);
}

/// A `jsonb` object of texts: a byte that tells the version of the format, then JSON.
fn pairs(field: &[u8], to: &mut Vec<u8>) -> Outcome {
    let json = field.get(1..).unwrap_or_default();
    if json == b"{}" {
        to.push(0);
        return Ok(());
    }
    let pairs: BTreeMap<Cow<'_, str>, Cow<'_, str>> = serde_json::from_slice(json)?;
    length(pairs.len(), to);
    for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
        string(text.as_bytes(), to);
    }
    Ok(())
}

/// A `text[]` of one dimension or none.
fn texts(mut field: BytesMut, to: &mut Vec<u8>) -> Outcome {
    let dimensions = field.try_get_i32()?;
    if dimensions == 0 {
        to.push(0);
        return Ok(());
    }
    // Whether there are NULLs, and the type.
    field.try_get_u64()?;
    let count = field.try_get_i32()?;
    let _lower_bound = field.try_get_i32()?;
    length(usize::try_from(count)?, to);
    for _ in 0..count {
        let size = field.try_get_i32()?;
        string(&field.split_to(usize::try_from(size)?), to);
    }
    Ok(())
}

async fn insert(sink: &ClickHouse, table: &str, mut pieces: mpsc::Receiver<Piece>) -> Outcome {
    let client = sink.connection.client().clone();
    // On one machine compressing costs more than it saves.
    let client = client.with_compression(Compression::None);
    let begin = || {
        client
            .insert_formatted_with(format!("INSERT INTO {table} FORMAT RowBinary"))
            .with_setting("async_insert", "0")
    };
    let mut open = None;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Rows(rows) if rows.is_empty() => {}
            Piece::Rows(rows) => open.get_or_insert_with(begin).send(rows).await?,
            Piece::EndOfInsert => {
                if let Some(insert) = open.take() {
                    insert.end().await?;
                }
            }
        }
    }
    if let Some(insert) = open.take() {
        insert.end().await?;
    }
    Ok(())
}
