//! What a hook stores at once.

use std::collections::{BTreeMap, HashSet};

use ledger_core::hook::{Plan, Queued, Waiting, Writes};
use ledger_core::{Error, ErrorKind, PipelineId, Result, Timestamp};
use mongodb::bson::{Document, doc};
use mongodb::options::FindOptions;

use super::super::rows::{int_in, integer, text, uint};
use super::super::transaction::Tx;
use super::attempts::{remember_numbered, total};
use super::collections::{HOOKS, ITEMS, PLANS, SETTLED, STREAMS};
use super::statements::{bytes, delete, find, insert, update};
use crate::hook_bounds::ROWS;

const OPERATION: &str = "store hook state";

pub(super) async fn commit(
    tx: &mut Tx<'_>,
    hook: &PipelineId,
    fence: u64,
    writes: &Writes,
) -> Result<()> {
    let name = hook.as_str();
    // Written in any case: a claim that comes at the same moment is in the way of this, or this of it.
    let mut set = doc! {
        "writes": {"$add": [{"$ifNull": ["$writes", 0_i64]}, 1_i64]},
        "attempts": total(&writes.attempts),
    };
    if let Some(cursor) = &writes.cursor {
        set.insert("cursor", doc! {"$max": ["$cursor", cursor.to_string()]});
    }
    if let Some(disabled) = &writes.disabled {
        set.insert("disabled", doc! {"$literal": disabled});
    }
    let filter = doc! {"_id": name, "fence": int_in(fence)};
    let held = tx
        .change(OPERATION, HOOKS, filter, vec![doc! {"$set": set}])
        .await?;
    let held = held.ok_or_else(|| {
        let what = format!("another process has taken {hook} over");
        Error::new(ErrorKind::Fenced, OPERATION, what)
    })?;
    if let Some(cursor) = &writes.cursor {
        let told = doc! {"hook": name, "through": {"$lte": cursor.to_string()}};
        delete(tx, OPERATION, PLANS, vec![told]).await?;
    }
    let plans = writes.plans.iter().map(|plan| planned(name, plan));
    update(tx, OPERATION, PLANS, plans.collect()).await?;
    commit_items(tx, hook, writes).await?;
    commit_streams(tx, hook, writes).await?;
    let last = integer(&held, "attempts")?;
    remember_numbered(tx, hook, &writes.attempts, last).await
}

/// A plan that stands already is left as it is.
fn planned(hook: &str, plan: &Plan) -> Document {
    doc! {
        "q": {"hook": hook, "through": plan.through.to_string()},
        "u": {"$setOnInsert": {
            "stream": int_in(plan.stream.0),
            "first": int_in(plan.first.0),
            "last": int_in(plan.last.0),
            "first_at": plan.begin.to_string(),
        }},
        "upsert": true,
    }
}

async fn commit_items(tx: &mut Tx<'_>, hook: &PipelineId, writes: &Writes) -> Result<()> {
    let name = hook.as_str();
    let now = Timestamp::now().as_micros();
    for items in writes.queue.chunks(ROWS) {
        queue(tx, name, items, now).await?;
    }
    let waiting = |stream: u64, through: String| {
        doc! {
            "hook": name, "stream": int_in(stream), "cursor": {"$lte": through},
            "letter": {"$exists": false},
        }
    };
    let delivered = writes.delivered.iter();
    let delivered = delivered.map(|(stream, through)| waiting(stream.0, through.to_string()));
    delete(tx, OPERATION, ITEMS, delivered.collect()).await?;
    let skipped = writes.skipped.iter().map(|(stream, through, reason)| {
        let filter = waiting(stream.0, through.to_string());
        doc! {"q": filter, "u": {"$set": {"letter": reason}}, "multi": true}
    });
    update(tx, OPERATION, ITEMS, skipped.collect()).await
}

/// Inserts those items that do not stand there yet. They are too large for the statements of an `update`
/// command, which all stand in one document.
async fn queue(tx: &mut Tx<'_>, hook: &str, items: &[Queued], now: i64) -> Result<()> {
    let cursors: Vec<String> = items.iter().map(|item| item.cursor.to_string()).collect();
    let database = tx.database().clone();
    let options = FindOptions::builder()
        .projection(doc! {"_id": 0, "stream": 1, "cursor": 1})
        .build();
    let filter = doc! {"hook": hook, "cursor": {"$in": &cursors}};
    let found = find(&database, tx.session(), OPERATION, ITEMS, filter, options).await?;
    let mut known = HashSet::new();
    for item in &found {
        known.insert((uint(item, "stream")?, text(item, "cursor")?.to_owned()));
    }
    let mut new = Vec::new();
    for (item, cursor) in items.iter().zip(cursors) {
        let stream = int_in(item.stream.0);
        if !known.insert((stream.unsigned_abs(), cursor.clone())) {
            continue;
        }
        let mut document = doc! {
            "hook": hook,
            "stream": stream,
            "cursor": cursor,
            "description": &item.description,
            "item": bytes(&item.item),
            "at": now,
            "border": item.border.map_or(0, |last| int_in(last.0)),
        };
        if let Some(letter) = &item.letter {
            document.insert("letter", letter);
        }
        new.push(document);
    }
    insert(tx, OPERATION, ITEMS, &new).await
}

async fn commit_streams(tx: &mut Tx<'_>, hook: &PipelineId, writes: &Writes) -> Result<()> {
    let name = hook.as_str();
    let waiting = writes.waiting.iter().map(|waiting| stands(name, waiting));
    update(tx, OPERATION, STREAMS, waiting.collect()).await?;
    let released = writes.released.iter();
    let released = released.map(|stream| doc! {"hook": name, "stream": int_in(stream.0)});
    delete(tx, OPERATION, STREAMS, released.collect()).await?;
    // One statement a stream.
    let mut settled = BTreeMap::new();
    for one in &writes.settled {
        let (id, through) = settled.entry(one.stream).or_insert((one.id, &one.through));
        (*id, *through) = ((*id).max(one.id), &one.through);
    }
    let settled = settled.into_iter().map(|(stream, (id, through))| {
        doc! {
            "q": {"hook": name, "stream": int_in(stream.0)},
            "u": {
                "$set": {"through": through.to_string()},
                "$max": {"id": int_in(id.0)},
            },
            "upsert": true,
        }
    });
    update(tx, OPERATION, SETTLED, settled.collect()).await?;
    if let (Some(cursor), true) = (&writes.cursor, writes.cursor_tells) {
        let told = doc! {"hook": name, "through": {"$lte": cursor.to_string()}};
        delete(tx, OPERATION, SETTLED, vec![told]).await?;
    }
    Ok(())
}

/// A stream that waits, as it now stands.
fn stands(hook: &str, waiting: &Waiting) -> Document {
    doc! {
        "q": {"hook": hook, "stream": int_in(waiting.stream.0)},
        "u": {"$set": {
            "name": &waiting.name,
            "through": waiting.through.to_string(),
            "attempts": i64::from(waiting.attempts),
            "next_at": waiting.next_at.as_micros(),
            "parked": i64::from(waiting.parked),
            "error": &waiting.error,
        }},
        "upsert": true,
    }
}
