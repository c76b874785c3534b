//! What waits, and what was given up.

use bytes::Bytes;
use ledger_core::hook::{Counts, Letter, Queued};
use ledger_core::{Cursor, EntryId, Error, ErrorKind, PipelineId, Result, StreamKey, Timestamp};
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::super::contents::Rows;
use super::super::database::MongoDatabase;
use super::super::rows::{binary, int_in, integer, optional_text, text, uint};
use super::super::transaction::Tx;
use super::collections::{ITEMS, STREAMS};
use super::statements::{aggregate, counted, cursor, delete, find, limit, turn, update};
use crate::hook_bounds::ROWS;

/// How many streams are looked at together.
const STREAMS_AT_ONCE: i64 = 1_000;

/// What every dead letter has that holds no stream up, and nothing else.
fn is_letter() -> Document {
    doc! {"$exists": true}
}

/// What waits in order.
fn is_none() -> Document {
    doc! {"$exists": false}
}

pub(super) async fn queued(
    database: &MongoDatabase,
    hook: &PipelineId,
    stream: StreamKey,
    through: Option<&Cursor>,
    most: usize,
) -> Result<Vec<Queued>> {
    let Some(most) = limit(most) else {
        return Ok(Vec::new());
    };
    let mut filter = doc! {
        "hook": hook.as_str(), "stream": int_in(stream.0), "letter": is_none(),
    };
    if let Some(through) = through {
        filter.insert("cursor", doc! {"$lte": through.to_string()});
    }
    let options = FindOptions::builder()
        .sort(doc! {"cursor": 1})
        .limit(most)
        .build();
    let found = find(database, None, "read hook queue", ITEMS, filter, options).await?;
    let decode = |document: &RawDocumentBuf| {
        Ok(Queued {
            stream,
            cursor: cursor(document, "cursor")?,
            description: text(document, "description")?.to_owned(),
            item: Bytes::copy_from_slice(binary(document, "item")?),
            letter: None,
            border: Some(EntryId(uint(document, "border")?)).filter(|last| last.0 > 0),
        })
    };
    found.iter().map(decode).collect()
}

/// The stage that joins items with their stream, where that is parked.
fn join_parked(hook: &PipelineId) -> Document {
    doc! {"$lookup": {
        "from": STREAMS,
        "localField": "stream",
        "foreignField": "stream",
        "pipeline": [
            {"$match": {"hook": hook.as_str(), "parked": 1_i64}},
            {"$project": {"_id": 0, "through": 1, "error": 1}},
        ],
        "as": "parked",
    }}
}

pub(super) async fn letters(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    hook: &PipelineId,
    after: Option<&Cursor>,
    most: usize,
) -> Result<Vec<Letter>> {
    let Some(most) = limit(most) else {
        return Ok(Vec::new());
    };
    let after = after.map(ToString::to_string).unwrap_or_default();
    let stages = vec![
        doc! {"$match": {"hook": hook.as_str(), "cursor": {"$gt": after}}},
        doc! {"$sort": {"cursor": 1, "stream": 1}},
        doc! {"$project": {"item": 0}},
        join_parked(hook),
        doc! {"$match": {"$or": [
            {"letter": is_letter()}, {"parked.0": {"$exists": true}},
        ]}},
        doc! {"$limit": most},
    ];
    let found = aggregate(database, session, "list dead letters", ITEMS, stages).await?;
    found.iter().map(|document| letter(document)).collect()
}

fn letter(document: &RawDocument) -> Result<Letter> {
    let at = cursor(document, "cursor")?;
    let reason = match optional_text(document, "letter")? {
        Some(letter) => letter.to_owned(),
        None => match parked_because(document)? {
            Some((through, error)) if at <= through => error,
            _ => "behind a parked item".to_owned(),
        },
    };
    Ok(Letter {
        cursor: at,
        stream: StreamKey(uint(document, "stream")?),
        description: text(document, "description")?.to_owned(),
        reason,
        at: Timestamp::from_micros(integer(document, "at")?),
    })
}

/// How far the delivery goes for which the item's stream is parked, and its error.
fn parked_because(document: &RawDocument) -> Result<Option<(Cursor, String)>> {
    let Ok(Some(RawBsonRef::Array(parked))) = document.get("parked") else {
        return Ok(None);
    };
    let Some(Ok(RawBsonRef::Document(parked))) = parked.into_iter().next() else {
        return Ok(None);
    };
    let error = text(parked, "error")?.to_owned();
    Ok(Some((cursor(parked, "through")?, error)))
}

pub(super) async fn requeue(
    tx: &mut Tx<'_>,
    hook: &PipelineId,
    stream: Option<StreamKey>,
) -> Result<u64> {
    const OPERATION: &str = "replay dead letters";
    turn(tx, OPERATION, hook).await?;
    let database = tx.database().clone();
    let before = counts(&database, tx.session(), hook).await?.letters;
    let mut of = doc! {"hook": hook.as_str()};
    if let Some(stream) = stream {
        of.insert("stream", int_in(stream.0));
    }
    let with = |more: Document| {
        let mut filter = of.clone();
        filter.extend(more);
        filter
    };
    begin_with_letters(tx, hook, with(doc! {"letter": is_letter()})).await?;
    let letters = doc! {
        "q": with(doc! {"letter": is_letter()}), "u": {"$unset": {"letter": ""}}, "multi": true,
    };
    update(tx, OPERATION, ITEMS, vec![letters]).await?;
    let parked = doc! {
        "q": with(doc! {"parked": 1_i64}),
        "u": {"$set": {"parked": 0_i64, "attempts": 0_i64, "next_at": 0_i64}},
        "multi": true,
    };
    update(tx, OPERATION, STREAMS, vec![parked]).await?;
    let after = counts(&database, tx.session(), hook).await?.letters;
    Ok(before.saturating_sub(after))
}

/// A stream that is held up by nothing else begins with its letters, which were left out before: it waits
/// for them until they are delivered.
async fn begin_with_letters(tx: &mut Tx<'_>, hook: &PipelineId, letters: Document) -> Result<()> {
    const OPERATION: &str = "replay dead letters";
    let database = tx.database().clone();
    // Streams from the last one on, the letters of each in log order: the index's order, read backward.
    let options = FindOptions::builder()
        .projection(doc! {"_id": 0, "stream": 1, "cursor": 1, "letter": 1})
        .sort(doc! {"stream": -1, "cursor": 1})
        .build();
    let mut rows = Rows::find(&database, tx.session(), OPERATION, ITEMS, letters, options).await?;
    let mut begun = None;
    let mut firsts = Vec::new();
    while let Some(letter) = rows.next(OPERATION).await? {
        let stream = uint(&letter, "stream")?;
        if begun.replace(stream) == Some(stream) {
            continue;
        }
        firsts.push(doc! {
            "q": {"hook": hook.as_str(), "stream": int_in(stream)},
            "u": {"$setOnInsert": {
                "name": "",
                "through": text(&letter, "cursor")?,
                "attempts": 0_i64,
                "next_at": 0_i64,
                "parked": 0_i64,
                "error": text(&letter, "letter")?,
            }},
            "upsert": true,
        });
    }
    drop(rows);
    update(tx, OPERATION, STREAMS, firsts).await
}

pub(super) async fn discard(
    tx: &mut Tx<'_>,
    hook: &PipelineId,
    cursors: Option<&[Cursor]>,
) -> Result<u64> {
    const OPERATION: &str = "discard dead letters";
    turn(tx, OPERATION, hook).await?;
    let mut discarded = 0;
    if let Some(cursors) = cursors {
        for some in cursors.chunks(ROWS) {
            discarded += discard_at(tx, hook, some).await?;
        }
    } else {
        let letters = doc! {"hook": hook.as_str(), "letter": is_letter()};
        discarded += delete(tx, OPERATION, ITEMS, vec![letters]).await?;
        let mut after = -1;
        loop {
            let streams = parked_after(tx, hook, after).await?;
            let Some(last) = streams.last() else { break };
            after = *last;
            let behind = doc! {"hook": hook.as_str(), "stream": {"$in": streams}};
            discarded += delete(tx, OPERATION, ITEMS, vec![behind]).await?;
        }
    }
    free_empty(tx, hook).await?;
    Ok(discarded)
}

/// The next parked streams, ascending.
async fn parked_after(tx: &mut Tx<'_>, hook: &PipelineId, after: i64) -> Result<Vec<i64>> {
    let database = tx.database().clone();
    let filter = doc! {"hook": hook.as_str(), "parked": 1_i64, "stream": {"$gt": after}};
    let options = FindOptions::builder()
        .projection(doc! {"_id": 0, "stream": 1})
        .sort(doc! {"stream": 1})
        .limit(STREAMS_AT_ONCE)
        .build();
    let operation = "discard dead letters";
    let found = find(&database, tx.session(), operation, STREAMS, filter, options).await?;
    let streams = found.iter().map(|stream| integer(stream, "stream"));
    streams.collect()
}

/// Discards the dead letters among the items at these positions.
async fn discard_at(tx: &mut Tx<'_>, hook: &PipelineId, cursors: &[Cursor]) -> Result<u64> {
    const OPERATION: &str = "discard dead letters";
    let database = tx.database().clone();
    let cursors: Vec<String> = cursors.iter().map(ToString::to_string).collect();
    let stages = vec![
        doc! {"$match": {"hook": hook.as_str(), "cursor": {"$in": cursors}}},
        doc! {"$project": {"stream": 1, "letter": 1}},
        join_parked(hook),
        doc! {"$match": {"$or": [
            {"letter": is_letter()}, {"parked.0": {"$exists": true}},
        ]}},
        doc! {"$project": {"_id": 1}},
    ];
    let found = aggregate(&database, tx.session(), OPERATION, ITEMS, stages).await?;
    let ids = ids(OPERATION, &found)?;
    delete(tx, OPERATION, ITEMS, vec![doc! {"_id": {"$in": ids}}]).await
}

/// What the documents go by in their collection.
fn ids(operation: &'static str, found: &[RawDocumentBuf]) -> Result<Vec<Bson>> {
    let id = |document: &RawDocumentBuf| {
        let id = document.get("_id").ok().flatten();
        id.and_then(|id| Bson::try_from(id).ok())
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, operation, "a document has no _id"))
    };
    found.iter().map(id).collect()
}

/// A parked stream without items is held up by nothing.
async fn free_empty(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<()> {
    const OPERATION: &str = "discard dead letters";
    let database = tx.database().clone();
    loop {
        let stages = vec![
            doc! {"$match": {"hook": hook.as_str(), "parked": 1_i64}},
            doc! {"$project": {"stream": 1}},
            join_waiting(hook, doc! {"$limit": 1}),
            doc! {"$match": {"items.0": {"$exists": false}}},
            doc! {"$limit": STREAMS_AT_ONCE},
            doc! {"$project": {"_id": 1}},
        ];
        let found = aggregate(&database, tx.session(), OPERATION, STREAMS, stages).await?;
        if found.is_empty() {
            return Ok(());
        }
        let empty = doc! {"_id": {"$in": ids(OPERATION, &found)?}};
        delete(tx, OPERATION, STREAMS, vec![empty]).await?;
    }
}

/// The stage that joins streams with their items that are no letters by themselves.
fn join_waiting(hook: &PipelineId, last: Document) -> Document {
    doc! {"$lookup": {
        "from": ITEMS,
        "localField": "stream",
        "foreignField": "stream",
        "pipeline": [
            {"$match": {"hook": hook.as_str(), "letter": is_none()}},
            {"$project": {"_id": 1}},
            last,
        ],
        "as": "items",
    }}
}

pub(super) async fn counts(
    database: &MongoDatabase,
    mut session: Option<&mut ClientSession>,
    hook: &PipelineId,
) -> Result<Counts> {
    const OPERATION: &str = "count what waits";
    let mut count = async |collection: &str, more: Document| {
        let mut filter = doc! {"hook": hook.as_str()};
        filter.extend(more);
        let session = session.as_deref_mut();
        counted(database, session, OPERATION, collection, filter).await
    };
    let all = count(STREAMS, doc! {}).await?;
    let parked = count(STREAMS, doc! {"parked": 1_i64}).await?;
    let rows = count(ITEMS, doc! {}).await?;
    let mut letters = count(ITEMS, doc! {"letter": is_letter()}).await?;
    if parked > 0 {
        let stages = vec![
            doc! {"$match": {"hook": hook.as_str(), "parked": 1_i64}},
            doc! {"$project": {"stream": 1}},
            join_waiting(hook, doc! {"$count": "count"}),
            doc! {"$group": {"_id": null, "count": {"$sum": {"$sum": "$items.count"}}}},
        ];
        let behind = aggregate(database, session, OPERATION, STREAMS, stages).await?;
        if let Some(behind) = behind.first() {
            letters += uint(behind, "count")?;
        }
    }
    Ok(Counts {
        waiting: all.saturating_sub(parked),
        parked,
        queued: rows.saturating_sub(letters),
        letters,
    })
}
