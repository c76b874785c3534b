//! Writing a reduced batch, in the caller's transaction. Applying one twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use ledger_core::{Entry, EntryId, EntryKey, Error, ErrorKind, Result, StreamKey, Timestamp};
use ledger_layout::mongodb::{
    Collections, EntryRow, MAX_DOCUMENT, Rows, Tx, failed, forget_log, int_in, key_of, pairs_array,
    streams_at, uint,
};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use crate::delta::{Delta, StreamDelta};

const OPERATION: &str = "write replica";

/// Writes streams, entries, labels and trims, in this order.
pub(super) async fn delta(
    tx: &mut Tx<'_>,
    collections: &Collections,
    delta: &Delta<'_>,
) -> Result<()> {
    if delta.streams.is_empty() {
        return Ok(());
    }
    let trimmed = streams(tx, collections, &delta.streams).await?;
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
    let met = insert(tx, collections, &entries).await?;
    let inserted = entries.iter().filter(|(key, _)| !met.contains(key));
    count(tx, collections, inserted.map(|(key, _)| (key.stream, 1))).await?;

    // What was there already may have older labels than a snapshot's entry, each of them.
    let mut statements = Vec::new();
    let labelled =
        |(key, entry): &&(EntryKey, &Entry)| entry.label_version > 0 && met.contains(key);
    for (key, entry) in entries.iter().filter(labelled) {
        let at = entry.updated_at.unwrap_or(entry.created_at);
        let version = entry.label_version;
        statements.push(label(*key, "tags", version, texts(&entry.tags), at));
        let annotations = pairs_array(&entry.annotations);
        statements.push(label(*key, "annotations", version, annotations, at));
    }
    for (key, new) in &delta.tags {
        statements.push(label(*key, "tags", new.version, texts(new.value), new.at));
    }
    for (key, new) in &delta.annotations {
        let value = pairs_array(new.value);
        statements.push(label(*key, "annotations", new.version, value, new.at));
    }
    tx.update(OPERATION, &collections.entries, statements)
        .await?;
    let trims = delta
        .streams
        .iter()
        .filter(|(_, stream)| stream.trimmed_through > 0);
    for (key, stream) in trims {
        trim(tx, collections, *key, stream.trimmed_through).await?;
    }
    Ok(())
}

fn texts(texts: &[String]) -> Vec<Bson> {
    texts.iter().map(|text| Bson::from(text.as_str())).collect()
}

/// Writes the newest state of streams, and tells how far each is trimmed after that.
async fn streams(
    tx: &mut Tx<'_>,
    collections: &Collections,
    streams: &BTreeMap<StreamKey, StreamDelta<'_>>,
) -> Result<BTreeMap<StreamKey, u64>> {
    let now = Timestamp::now().as_micros();
    let statement = |(key, delta): (&StreamKey, &StreamDelta<'_>)| {
        let name_version = int_in(delta.stream.name_version);
        let name = delta.stream.name.as_str();
        doc! {
            "q": {"_id": int_in(key.0)},
            "u": [{"$set": {
                "name": {"$cond": [
                    {"$gt": [name_version, {"$ifNull": ["$name_version", -1_i64]}]},
                    {"$literal": name}, "$name",
                ]},
                "name_version": {"$max": ["$name_version", name_version]},
                "version": {"$max": ["$version", int_in(delta.version)]},
                "trimmed_through": {"$max": ["$trimmed_through", int_in(delta.trimmed_through)]},
                "live": {"$ifNull": ["$live", 0_i64]},
                "created_at": {"$ifNull": ["$created_at", now]},
            }}],
            "upsert": true,
        }
    };
    let statements: Vec<Document> = streams.iter().map(statement).collect();
    tx.update(OPERATION, &collections.streams, statements)
        .await?;
    boundaries(tx, collections, streams.keys().copied()).await
}

/// How far streams are trimmed.
pub(super) async fn boundaries(
    tx: &mut Tx<'_>,
    collections: &Collections,
    keys: impl Iterator<Item = StreamKey>,
) -> Result<BTreeMap<StreamKey, u64>> {
    let keys: Vec<i64> = keys.map(|key| int_in(key.0)).collect();
    let database = tx.database().clone();
    let states = streams_at(&database, tx.session(), &collections.streams, &keys).await?;
    Ok(states
        .into_iter()
        .map(|state| (state.stream.key, state.trimmed_through))
        .collect())
}

/// Inserts entries where they are not there yet, and tells which were.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    collections: &Collections,
    entries: &[(EntryKey, &Entry)],
) -> Result<BTreeSet<EntryKey>> {
    let mut met = BTreeSet::new();
    if entries.is_empty() {
        return Ok(met);
    }
    let ids: Vec<i64> = entries.iter().map(|(key, _)| int_in(key.id.0)).collect();
    let filter = doc! {"_id": {"$in": ids}};
    let options = FindOptions::builder()
        .projection(doc! {"stream": 1})
        .build();
    let database = tx.database().clone();
    let session = tx.session();
    let name = &collections.entries;
    let mut found = Rows::find(&database, session, OPERATION, name, filter, options).await?;
    while let Some(document) = found.next(OPERATION).await? {
        met.insert(EntryKey {
            stream: key_of(&document)?,
            id: EntryId(uint(&document, "_id")?),
        });
    }
    drop(found);
    let new = entries.iter().filter(|(key, _)| !met.contains(key));
    let new: Result<Vec<RawDocumentBuf>> = new.map(|(key, entry)| document(*key, entry)).collect();
    tx.insert_delivered(OPERATION, name, &new?).await?;
    Ok(met)
}

fn document(key: EntryKey, entry: &Entry) -> Result<RawDocumentBuf> {
    let document = EntryRow::of(key.stream, entry).document();
    let size = document.as_bytes().len();
    if size > MAX_DOCUMENT {
        return Err(Error::new(
            ErrorKind::Rejected,
            OPERATION,
            format!(
                "entry {} of stream {:?} becomes a document of {size} bytes, and MongoDB holds at \
                 most {MAX_DOCUMENT}",
                key.id, entry.stream
            ),
        ));
    }
    Ok(document)
}

/// Adds to the number of entries of streams.
async fn count(
    tx: &mut Tx<'_>,
    collections: &Collections,
    changes: impl Iterator<Item = (StreamKey, i64)>,
) -> Result<()> {
    let mut by_stream = BTreeMap::<StreamKey, i64>::new();
    for (key, change) in changes {
        *by_stream.entry(key).or_default() += change;
    }
    let statement = |(key, change): (StreamKey, i64)| {
        doc! {"q": {"_id": int_in(key.0)}, "u": {"$inc": {"live": change}}}
    };
    let statements = by_stream.into_iter().map(statement).collect();
    tx.update(OPERATION, &collections.streams, statements)
        .await?;
    Ok(())
}

/// Counts the entries of streams: where nothing keeps the count together with the entries.
pub(super) async fn count_again(
    tx: &mut Tx<'_>,
    collections: &Collections,
    keys: BTreeSet<StreamKey>,
) -> Result<()> {
    let mut statements = Vec::new();
    for key in keys {
        let key = int_in(key.0);
        let entries = tx.database().collection(&collections.entries);
        let count = entries.count_documents(doc! {"stream": key});
        let count = match tx.session() {
            Some(session) => count.session(session).await,
            None => count.await,
        };
        let count = count.map_err(|error| failed(OPERATION, "", error))?;
        statements.push(doc! {"q": {"_id": key}, "u": {"$set": {"live": int_in(count)}}});
    }
    tx.update(OPERATION, &collections.streams, statements)
        .await?;
    Ok(())
}

/// Sets a kind of label where the version is higher. The time of the last change is that of the
/// highest version of both kinds.
fn label(key: EntryKey, column: &str, version: u64, value: Vec<Bson>, at: Timestamp) -> Document {
    let version = int_in(version);
    let own = |column: &str| doc! {"$ifNull": [format!("${column}_version"), 0_i64]};
    let mut set = Document::new();
    set.insert(column, doc! {"$literal": value});
    set.insert(format!("{column}_version"), version);
    set.insert(
        "updated_at",
        doc! {"$cond": [
            {"$gt": [version, {"$max": [own("tags"), own("annotations")]}]},
            at.as_micros(), "$updated_at",
        ]},
    );
    doc! {
        "q": {
            "_id": int_in(key.id.0), "stream": int_in(key.stream.0),
            "$expr": {"$lt": [own(column), version]},
        },
        "u": [{"$set": set}],
    }
}

async fn trim(
    tx: &mut Tx<'_>,
    collections: &Collections,
    stream: StreamKey,
    through: u64,
) -> Result<()> {
    let below = doc! {"stream": int_in(stream.0), "_id": {"$lte": int_in(through)}};
    let removed = tx.delete(OPERATION, &collections.entries, below).await?;
    if removed > 0 {
        count(tx, collections, [(stream, -int_in(removed))].into_iter()).await?;
    }
    Ok(())
}

/// Fences everyone off who has claimed a pipeline into the replica, and forgets their cursors.
pub(super) async fn fence(tx: &mut Tx<'_>, store: &str) -> Result<()> {
    let statement = doc! {
        "q": {"_id.store": store},
        "u": {"$unset": {"cursor": "", "source": ""}, "$inc": {"fence": 1_i64}},
        "multi": true,
    };
    tx.update("empty replica", Collections::CURSORS, vec![statement])
        .await?;
    Ok(())
}

/// Forgets whose replica it is, and the log that it kept.
pub(super) async fn unbind(tx: &mut Tx<'_>, collections: &Collections) -> Result<()> {
    let statement = doc! {
        "q": {"_id": collections.store.as_str(), "role": "replica"},
        "u": {"$unset": {"source": ""}},
    };
    tx.update("empty replica", Collections::STORES, vec![statement])
        .await?;
    forget_log(tx, collections).await
}
