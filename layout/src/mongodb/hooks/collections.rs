//! The collections of hooks, and their indexes.

use ledger_core::{Error, ErrorKind, Result};
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

use super::super::database::MongoDatabase;
use super::super::error::{failed, is_duplicate};
use super::super::rows::integer;
use crate::hook_bounds::VERSION as KNOWN;

const OPERATION: &str = "open hook state";

/// The hooks: fence, store, source, cursor, what was asked for, and the number of the last attempt.
pub(super) const HOOKS: &str = "ledger_hooks";
/// The streams that wait, or are parked.
pub(super) const STREAMS: &str = "ledger_hook_streams";
/// What is queued, and dead letters: those have the field `letter`, or a stream that is parked.
pub(super) const ITEMS: &str = "ledger_hook_items";
/// The deliveries that are about to be sent.
pub(super) const PLANS: &str = "ledger_hook_plans";
/// How far streams are settled beyond the cursor.
pub(super) const SETTLED: &str = "ledger_hook_settled";
/// The attempts that are remembered.
pub(super) const ATTEMPTS: &str = "ledger_hook_attempts";
/// The version of all of them.
const VERSION: &str = "ledger_hooks_version";

/// Those whose documents are of a hook, by the field `hook`.
pub(super) const OF_A_HOOK: [&str; 5] = [STREAMS, ITEMS, PLANS, SETTLED, ATTEMPTS];

/// Notes the version; `Unsupported` where a newer program was here.
pub(super) async fn check_version(database: &MongoDatabase) -> Result<()> {
    let fail = |error| failed(OPERATION, database.config().to_string(), error);
    let versions = database.collection(VERSION);
    let filter = doc! {"_id": "hooks"};
    let noted = versions
        .update_one(filter.clone(), doc! {"$setOnInsert": {"version": KNOWN}})
        .upsert(true)
        .await;
    match noted {
        // Another process was faster.
        Err(error) if is_duplicate(&error) => {}
        noted => drop(noted.map_err(fail)?),
    }
    let found = versions.find_one(filter).await.map_err(fail)?;
    let version = match found {
        Some(found) => integer(&found, "version")?,
        None => KNOWN,
    };
    if version > KNOWN {
        let what = format!(
            "the state of hooks has version {version}, this program knows {KNOWN}; use a newer one"
        );
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, what));
    }
    Ok(())
}

fn index(name: &str, keys: Document, unique: bool) -> IndexModel {
    let options = IndexOptions::builder()
        .name(name.to_owned())
        .unique(unique.then_some(true))
        .build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Makes what does not exist; a query each. Indexes that exist are left as they are.
pub(super) async fn create(database: &MongoDatabase) -> Result<()> {
    let made = [
        (
            STREAMS,
            vec![
                index("stream", doc! {"hook": 1, "stream": 1}, true),
                index("parked", doc! {"hook": 1, "parked": 1, "stream": 1}, false),
            ],
        ),
        (
            ITEMS,
            vec![
                index("item", doc! {"hook": 1, "stream": 1, "cursor": 1}, true),
                index("cursor", doc! {"hook": 1, "cursor": 1, "stream": 1}, false),
                letters_index(),
            ],
        ),
        (
            PLANS,
            vec![index("plan", doc! {"hook": 1, "through": 1}, true)],
        ),
        (
            SETTLED,
            vec![
                index("stream", doc! {"hook": 1, "stream": 1}, true),
                index("through", doc! {"hook": 1, "through": 1}, false),
            ],
        ),
        (
            ATTEMPTS,
            vec![
                index("number", doc! {"hook": 1, "number": 1}, true),
                index("at", doc! {"hook": 1, "at": 1}, false),
            ],
        ),
    ];
    for (collection, indexes) in made {
        database
            .collection(collection)
            .create_indexes(indexes)
            .await
            .map_err(|error| failed(OPERATION, database.config().to_string(), error))?;
    }
    Ok(())
}

/// Dead letters by their stream, the first of each at its end: the order of the keys sets it apart from
/// the index of all items.
fn letters_index() -> IndexModel {
    let options = IndexOptions::builder()
        .name("letter".to_owned())
        .partial_filter_expression(doc! {"letter": {"$exists": true}})
        .build();
    IndexModel::builder()
        .keys(doc! {"hook": 1, "stream": 1, "cursor": -1})
        .options(options)
        .build()
}
