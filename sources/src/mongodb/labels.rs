//! Trimming, renaming, and changing labels.

use bytes::Bytes;
use ledger_core::{
    EntryId, Error, ErrorKind, Pairs, Result, StreamName, StreamRef, Timestamp, check_text,
    checked_tags,
};
use ledger_layout::log::{
    LogRow, RENAME, SET_ANNOTATIONS, SET_TAGS, TRIM, encode_annotations, encode_tags,
};
use ledger_layout::mongodb::{
    Collections, Rows, Tx, decode_entry, int_in, integer, label_fields, lock, pairs_array,
};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::FindOptions;

use super::log::{find, no_stream, write_one};

/// The most entries that one transaction removes.
pub(super) const TRIM_ENTRIES: u64 = 10_000;

/// Removes up to `most` of the entries through an id, the oldest first, and tells how many; see
/// [`Store::trim`](ledger_core::Store::trim).
pub(super) async fn trim(
    tx: &mut Tx<'_>,
    collections: &Collections,
    stream: &StreamName,
    through: EntryId,
    most: Option<u64>,
) -> Result<u64> {
    const OPERATION: &str = "trim";
    let locked = lock(tx, collections, OPERATION, 0, 1).await?;
    let Some(stream) = find(tx, collections, OPERATION, stream).await? else {
        return Ok(0);
    };
    let key = int_in(stream.key.0);
    let range = |through: i64| doc! {"stream": key, "_id": {"$lte": through}};
    let through = int_in(through.0);
    let end = match most {
        Some(most) => {
            nth(
                tx,
                collections,
                range(through),
                doc! {"_id": 1},
                most.saturating_sub(1),
            )
            .await?
        }
        None => None,
    };
    let highest = match end {
        Some(end) => Some(end),
        None => nth(tx, collections, range(through), doc! {"_id": -1}, 0).await?,
    };
    let Some(highest) = highest else { return Ok(0) };
    let deleted = tx
        .delete(OPERATION, &collections.entries, range(highest))
        .await?;
    let statement = doc! {
        "q": {"_id": key},
        "u": {"$inc": {"live": -int_in(deleted)}, "$set": {"trimmed_through": highest}},
    };
    tx.update(OPERATION, &collections.streams, vec![statement])
        .await?;
    let row = one(&stream, TRIM, vec![highest]);
    write_one(tx, collections, OPERATION, &locked, row).await?;
    Ok(deleted)
}

/// The id of an entry by its place in an order.
async fn nth(
    tx: &mut Tx<'_>,
    collections: &Collections,
    filter: Document,
    order: Document,
    skip: u64,
) -> Result<Option<i64>> {
    let options = FindOptions::builder()
        .sort(order)
        .skip(skip)
        .limit(1)
        .projection(doc! {"_id": 1})
        .build();
    let database = tx.database().clone();
    let session = tx.session();
    let entries = &collections.entries;
    let mut found = Rows::find(&database, session, "trim", entries, filter, options).await?;
    let found = found.next("trim").await?;
    found.map(|entry| integer(&entry, "_id")).transpose()
}

/// See [`Store::rename`](ledger_core::Store::rename).
pub(super) async fn rename(
    tx: &mut Tx<'_>,
    collections: &Collections,
    from: &StreamName,
    to: &StreamName,
) -> Result<()> {
    const OPERATION: &str = "rename stream";
    let locked = lock(tx, collections, OPERATION, 0, 1).await?;
    let Some(mut stream) = find(tx, collections, OPERATION, from).await? else {
        return Err(no_stream(OPERATION, from));
    };
    if from == to {
        return Ok(());
    }
    if find(tx, collections, OPERATION, to).await?.is_some() {
        let taken = format!("stream {to:?} exists");
        return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, taken));
    }
    stream.name = to.clone();
    stream.name_version += 1;
    let statement = doc! {
        "q": {"_id": int_in(stream.key.0)},
        "u": {"$set": {"name": to.as_str(), "name_version": int_in(stream.name_version)}},
    };
    tx.update(OPERATION, &collections.streams, vec![statement])
        .await?;
    let row = one(&stream, RENAME, Vec::new());
    write_one(tx, collections, OPERATION, &locked, row).await
}

/// See [`Labels::set_tags`](ledger_core::Labels::set_tags).
pub(super) async fn set_tags(
    tx: &mut Tx<'_>,
    collections: &Collections,
    name: &StreamName,
    id: EntryId,
    tags: &[String],
) -> Result<()> {
    const OPERATION: &str = "set tags";
    let tags = checked_tags("tags", tags.to_vec())?;
    let locked = lock(tx, collections, OPERATION, 0, 1).await?;
    let (stream, entry) = entry(tx, collections, OPERATION, name, id).await?;
    let value = tags.iter().map(|tag| Bson::from(tag.as_str())).collect();
    let version = int_in(entry.label_version) + 1;
    let fields = label_fields("tags", value, version, locked.now.as_micros());
    set(tx, collections, OPERATION, id, fields).await?;
    let row = LogRow {
        version,
        body: encode_tags(&tags)?.into(),
        ..one(&stream, SET_TAGS, vec![int_in(id.0)])
    };
    write_one(tx, collections, OPERATION, &locked, row).await
}

/// See [`Labels::set_annotations`](ledger_core::Labels::set_annotations).
pub(super) async fn set_annotations(
    tx: &mut Tx<'_>,
    collections: &Collections,
    name: &StreamName,
    id: EntryId,
    merge: &Pairs,
    delete: &[String],
) -> Result<()> {
    const OPERATION: &str = "set annotations";
    for (key, value) in merge {
        check_text("set", key)?;
        check_text("set", value)?;
    }
    let locked = lock(tx, collections, OPERATION, 0, 1).await?;
    let (stream, entry) = entry(tx, collections, OPERATION, name, id).await?;
    let mut annotations = entry.annotations;
    annotations.extend(merge.clone());
    for key in delete {
        annotations.remove(key);
    }
    let version = int_in(entry.label_version) + 1;
    let value = pairs_array(&annotations);
    let fields = label_fields("annotations", value, version, locked.now.as_micros());
    set(tx, collections, OPERATION, id, fields).await?;
    let row = LogRow {
        version,
        body: encode_annotations(&annotations)?.into(),
        ..one(&stream, SET_ANNOTATIONS, vec![int_in(id.0)])
    };
    write_one(tx, collections, OPERATION, &locked, row).await
}

/// The labels of an entry, without its payload.
async fn entry(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    name: &StreamName,
    id: EntryId,
) -> Result<(StreamRef, ledger_core::Entry)> {
    let stream = find(tx, collections, operation, name).await?;
    let stream = stream.ok_or_else(|| no_stream(operation, name))?;
    let filter = doc! {"_id": int_in(id.0), "stream": int_in(stream.key.0)};
    let options = FindOptions::builder()
        .projection(doc! {
            "annotations": 1, "tags_version": 1, "annotations_version": 1, "text": {"$literal": ""},
        })
        .build();
    let database = tx.database().clone();
    let session = tx.session();
    let entries = &collections.entries;
    let mut found = Rows::find(&database, session, operation, entries, filter, options).await?;
    let found = found.next(operation).await?.ok_or_else(|| {
        let missing = format!("stream {:?} has no entry {id}", stream.name);
        Error::new(ErrorKind::NotFound, operation, missing)
    })?;
    let entry = decode_entry(&found, stream.name.clone())?;
    Ok((stream, entry))
}

async fn set(
    tx: &mut Tx<'_>,
    collections: &Collections,
    operation: &'static str,
    id: EntryId,
    fields: Document,
) -> Result<()> {
    let statement = doc! {"q": {"_id": int_in(id.0)}, "u": {"$set": fields}};
    tx.update(operation, &collections.entries, vec![statement])
        .await?;
    Ok(())
}

/// A log row of one change without a body; its place and time are those of the lock.
fn one(stream: &StreamRef, kind: i16, ids: Vec<i64>) -> LogRow {
    LogRow {
        seq: 0,
        at: Timestamp::from_micros(0),
        stream: stream.clone(),
        kind,
        ids,
        version: 0,
        body: Bytes::new(),
    }
}
