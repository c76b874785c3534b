//! Removing log rows that nobody needs any more.

use std::time::Duration;

use ledger_core::Result;
use mongodb::bson::doc;
use mongodb::options::FindOptions;

use super::contents::Rows;
use super::lock::turn;
use super::rows::{int_in, integer, uint};
use super::schema::Collections;
use super::transaction::Tx;
use crate::Retention;

/// How many rows one call of [`prune`] removes.
pub const PRUNE_ROWS: i64 = 256;

/// Removes up to [`PRUNE_ROWS`] of the oldest rows that nobody may need any more, and tells how many
/// it removed. The newest row always stays, and so does the row that a consumer's cursor points at:
/// by them cursors are told from those of another history.
pub async fn prune(
    tx: &mut Tx<'_>,
    collections: &Collections,
    retention: Retention,
) -> Result<u64> {
    const OPERATION: &str = "prune the mutation log";
    let now = turn(tx, collections, OPERATION).await?;
    let before = |age: Duration| {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        now.as_micros().saturating_sub(age)
    };
    let database = tx.database().clone();
    let oldest = FindOptions::builder()
        .sort(doc! {"_id": 1})
        .limit(PRUNE_ROWS + 1)
        .projection(doc! {"at": 1})
        .build();
    let session = tx.session();
    let log = &collections.log;
    let mut found = Rows::find(&database, session, OPERATION, log, doc! {}, oldest).await?;
    let mut rows = Vec::new();
    while let Some(row) = found.next(OPERATION).await? {
        rows.push((integer(&row, "_id")?, integer(&row, "at")?));
    }
    drop(found);
    // Of the rows that are old enough the last stays, too: the cursor of a reader that has read all
    // but the young ones points to it. Where the page is full, its last row stands for what follows.
    let bound = |age: Duration| {
        let old = rows.iter().take_while(|(_, at)| *at <= before(age)).count();
        rows.get(old.checked_sub(2)?).map(|(seq, _)| *seq)
    };
    let expired = bound(retention.min);
    let overdue = retention.max.and_then(bound);
    let confirmed = FindOptions::builder()
        .sort(doc! {"confirmed_seq": 1})
        .limit(1)
        .build();
    let filter = doc! {"_id.store": collections.store.as_str()};
    let session = tx.session();
    let consumers = Collections::CONSUMERS;
    let mut found = Rows::find(&database, session, OPERATION, consumers, filter, confirmed).await?;
    let slowest = found.next(OPERATION).await?;
    drop(found);
    let slowest = match slowest {
        Some(consumer) => Some(int_in(uint(&consumer, "confirmed_seq")?) - 1),
        None => None,
    };
    let allowed = expired.map(|expired| slowest.map_or(expired, |slowest| slowest.min(expired)));
    let Some(through) = allowed.max(overdue).filter(|through| *through > 0) else {
        return Ok(0);
    };
    let removed = tx
        .delete(OPERATION, log, doc! {"_id": {"$lte": through}})
        .await?;
    if removed > 0 {
        let statement = doc! {
            "q": {"_id": collections.store.as_str()},
            "u": {"$max": {"pruned_through": through}},
        };
        tx.update(OPERATION, Collections::STORES, vec![statement])
            .await?;
    }
    Ok(removed)
}
