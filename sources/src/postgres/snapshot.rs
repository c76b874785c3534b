//! Copying what a store holds, in short chunks.

use ledger_core::{Change, Cursor, Error, ErrorKind, Mutation, Result, StreamRef};
use ledger_layout::postgres::{fetch_entries, select_entries, streams_after};

use super::store::Inner;
use crate::prefetch::Pages;

/// The tag of cursors of a copy, which are keys and no log positions.
const TAG: u8 = b'k';
const STREAMS: u8 = 0;
const ENTRIES: u8 = 1;
/// The most streams of a chunk.
const STREAM_ROWS: i64 = 2_000;
/// The payload bytes a chunk aims at; the number of rows asked for follows it.
const CHUNK_BYTES: usize = 4 << 20;
const ENTRY_ROWS: (usize, usize) = (16, 5_000);

fn key_cursor(phase: u8, key: u64) -> Cursor {
    let mut position = [phase; 9];
    position[1..].copy_from_slice(&key.to_be_bytes());
    Cursor::new(TAG, &position)
}

fn parse(cursor: &Cursor) -> Result<(u8, u64)> {
    match cursor.position(TAG)?.split_first() {
        Some((&phase, key)) if phase <= ENTRIES => {
            if let Ok(key) = key.try_into() {
                return Ok((phase, u64::from_be_bytes(key)));
            }
        }
        _ => {}
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "resume the copy",
        format!("{cursor} is not a key of it"),
    ))
}

pub(super) async fn copy(inner: &Inner, after: Option<&Cursor>, pages: &Pages) -> Result<()> {
    let (phase, key) = after.map(parse).transpose()?.unwrap_or((STREAMS, 0));
    let mut first_entry = 0;
    if phase == STREAMS {
        let mut after = key;
        loop {
            let mut conn = inner.connection("copy streams").await?;
            let states = streams_after(&inner.tables, &mut conn, after, STREAM_ROWS).await?;
            drop(conn);
            let Some(last) = states.last() else { break };
            after = last.stream.key.0;
            let changes = states.into_iter().map(|state| Change {
                cursor: key_cursor(STREAMS, state.stream.key.0),
                committed_at: ledger_core::Timestamp::now(),
                stream: state.stream.clone(),
                mutation: Mutation::Stream(state),
            });
            if !pages.send(changes.collect()).await {
                return Ok(());
            }
        }
    } else {
        first_entry = key;
    }
    copy_entries(inner, first_entry, pages).await
}

async fn copy_entries(inner: &Inner, mut after: u64, pages: &Pages) -> Result<()> {
    let mut ask = 500;
    loop {
        let mut conn = inner.connection("copy entries").await?;
        let mut query = select_entries(&inner.tables);
        query
            .push("e.id > ")
            .push_bind(i64::try_from(after).unwrap_or(i64::MAX));
        query.push(format!(" ORDER BY e.id LIMIT {ask}"));
        let rows = fetch_entries(&mut conn, &mut query, CHUNK_BYTES * 2).await?;
        drop(conn);
        let Some((_, last)) = rows.last() else {
            return Ok(());
        };
        after = last.id.0;
        let bytes: usize = rows
            .iter()
            .map(|(_, entry)| entry.payload.len() + 200)
            .sum();
        ask = (CHUNK_BYTES * rows.len() / bytes.max(1)).clamp(ENTRY_ROWS.0, ENTRY_ROWS.1);
        let changes = rows.into_iter().map(|(key, entry)| Change {
            cursor: key_cursor(ENTRIES, entry.id.0),
            committed_at: entry.updated_at.unwrap_or(entry.created_at),
            // The name stands with the stream's own state; version 0 claims nothing.
            stream: StreamRef {
                key,
                name: entry.stream.clone(),
                name_version: 0,
            },
            mutation: Mutation::Append {
                entry: Box::new(entry),
                version: 0,
            },
        });
        if !pages.send(changes.collect()).await {
            return Ok(());
        }
    }
}
