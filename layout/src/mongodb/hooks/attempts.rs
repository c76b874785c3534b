//! The attempts that are remembered. Their numbers are counted in the hook's document.

use bytes::Bytes;
use ledger_core::hook::{Attempt, AttemptQuery};
use ledger_core::{Error, ErrorKind, PipelineId, Result, StreamKey, Timestamp};
use mongodb::bson::{Document, RawDocument, doc};
use mongodb::options::FindOptions;

use super::super::database::MongoDatabase;
use super::super::rows::{binary, int_in, integer, text, uint};
use super::super::transaction::Tx;
use super::collections::{ATTEMPTS, HOOKS};
use super::statements::{bytes, delete, ensure, find, insert, limit};
use crate::hook_bounds;

const OPERATION: &str = "remember attempts";

/// What sets the number of the last attempt in the hook's document, once these have theirs.
pub(super) fn total(attempts: &[Attempt]) -> Document {
    let new = i64::try_from(attempts.len()).unwrap_or(i64::MAX);
    doc! {"$add": [{"$ifNull": ["$attempts", 0_i64]}, new]}
}

pub(super) async fn remember(
    tx: &mut Tx<'_>,
    hook: &PipelineId,
    attempts: &[Attempt],
) -> Result<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    ensure(tx, OPERATION, hook).await?;
    let filter = doc! {"_id": hook.as_str()};
    let counted = vec![doc! {"$set": {"attempts": total(attempts)}}];
    let counted = tx.change(OPERATION, HOOKS, filter, counted).await?;
    let counted = counted.ok_or_else(|| {
        let what = format!("{hook} was removed meanwhile");
        Error::new(ErrorKind::Unavailable, OPERATION, what)
    })?;
    let last = integer(&counted, "attempts")?;
    remember_numbered(tx, hook, attempts, last).await
}

/// Remembers attempts of which the last has this number, and cuts the older ones now and then.
pub(super) async fn remember_numbered(
    tx: &mut Tx<'_>,
    hook: &PipelineId,
    attempts: &[Attempt],
    last: i64,
) -> Result<()> {
    let new = i64::try_from(attempts.len()).unwrap_or(i64::MAX);
    let before = last.saturating_sub(new);
    let numbered = (before + 1..).zip(attempts);
    let documents: Vec<Document> = numbered
        .map(|(number, attempt)| document(hook, number, attempt))
        .collect();
    insert(tx, OPERATION, ATTEMPTS, &documents).await?;
    if last / hook_bounds::CUT_EVERY > before / hook_bounds::CUT_EVERY {
        cut(tx, hook).await?;
    }
    Ok(())
}

async fn cut(tx: &mut Tx<'_>, hook: &PipelineId) -> Result<()> {
    let database = tx.database().clone();
    let oldest = FindOptions::builder()
        .projection(doc! {"_id": 0, "number": 1})
        .sort(doc! {"number": -1})
        .skip(hook_bounds::ATTEMPTS.unsigned_abs())
        .limit(1)
        .build();
    let filter = doc! {"hook": hook.as_str()};
    let found = find(&database, tx.session(), OPERATION, ATTEMPTS, filter, oldest).await?;
    let since = Timestamp::now().as_micros() - hook_bounds::ATTEMPTS_FOR;
    let mut gone = vec![doc! {"hook": hook.as_str(), "at": {"$lt": since}}];
    if let Some(found) = found.first() {
        let through = integer(found, "number")?;
        gone.push(doc! {"hook": hook.as_str(), "number": {"$lte": through}});
    }
    delete(tx, OPERATION, ATTEMPTS, gone).await.map(drop)
}

fn document(hook: &PipelineId, number: i64, attempt: &Attempt) -> Document {
    doc! {
        "hook": hook.as_str(),
        "number": number,
        "at": attempt.at.as_micros(),
        "id": &attempt.id,
        "stream": int_in(attempt.stream.0),
        "name": &attempt.name,
        "kind": &attempt.kind,
        "first": &attempt.first,
        "last": &attempt.last,
        "items": int_in(attempt.items),
        "attempt": i64::from(attempt.attempt),
        "outcome": &attempt.outcome,
        "status": i64::from(attempt.status),
        "micros": int_in(attempt.micros),
        "sent": int_in(attempt.sent),
        "response": bytes(&attempt.response),
        "error": &attempt.error,
    }
}

fn decode(document: &RawDocument) -> Result<Attempt> {
    let owned = |name: &str| text(document, name).map(str::to_owned);
    Ok(Attempt {
        number: uint(document, "number")?,
        at: Timestamp::from_micros(integer(document, "at")?),
        id: owned("id")?,
        stream: StreamKey(uint(document, "stream")?),
        name: owned("name")?,
        kind: owned("kind")?,
        first: owned("first")?,
        last: owned("last")?,
        items: uint(document, "items")?,
        attempt: u32::try_from(uint(document, "attempt")?).unwrap_or(u32::MAX),
        outcome: owned("outcome")?,
        status: u16::try_from(uint(document, "status")?).unwrap_or(0),
        micros: uint(document, "micros")?,
        sent: uint(document, "sent")?,
        response: Bytes::copy_from_slice(binary(document, "response")?),
        error: owned("error")?,
    })
}

pub(super) async fn attempts(
    database: &MongoDatabase,
    hook: &PipelineId,
    query: &AttemptQuery,
) -> Result<Vec<Attempt>> {
    let Some(most) = limit(query.limit) else {
        return Ok(Vec::new());
    };
    let mut filter = doc! {"hook": hook.as_str()};
    if let Some(before) = query.before {
        filter.insert("number", doc! {"$lt": int_in(before)});
    }
    let mut at = Document::new();
    if let Some(since) = query.since {
        at.insert("$gte", since.as_micros());
    }
    if let Some(until) = query.until {
        at.insert("$lt", until.as_micros());
    }
    if !at.is_empty() {
        filter.insert("at", at);
    }
    let wanted = [
        ("name", &query.stream),
        ("outcome", &query.outcome),
        ("id", &query.id),
    ];
    for (field, text) in wanted {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            filter.insert(field, text);
        }
    }
    let options = FindOptions::builder()
        .sort(doc! {"number": -1})
        .limit(most)
        .build();
    let found = find(database, None, "list attempts", ATTEMPTS, filter, options).await?;
    found.iter().map(|document| decode(document)).collect()
}
