//! Reading entries, and the state of streams.

use std::collections::BTreeMap;

use ledger_core::{EntryId, Page, ReadOptions, Result, Stat, StreamKey, StreamName};
use ledger_layout::mongodb::{
    Collections, MongoDatabase, Rows, decode_entry, decode_stream, int_in, integer, key_of,
    payload_of, streams_at, text, uint,
};
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::search::Needle;

const OPERATION: &str = "read";
/// How many bytes of payload a page may have before it is cut short.
const PAGE_BYTES: usize = 16 << 20;

/// See [`Store::page`](ledger_core::Store::page), and
/// [`Search::search`](ledger_core::Search::search) where a needle is given; without a stream all
/// are read.
pub(super) async fn page(
    database: &MongoDatabase,
    mut session: Option<&mut ClientSession>,
    collections: &Collections,
    stream: Option<&StreamName>,
    needle: Option<&Needle>,
    options: &ReadOptions,
) -> Result<Page> {
    let limit = options.page_limit();
    let mut page = Page::default();
    if limit == 0 {
        return Ok(page);
    }
    let mut filter = filter(options);
    if let Some(stream) = stream {
        let found = stream_document(database, session.as_deref_mut(), collections, stream).await?;
        let Some(found) = found else { return Ok(page) };
        filter.insert("stream", int_in(uint(&found, "_id")?));
    }
    if let Some(Needle::FullText(words)) = needle {
        filter.insert("$text", doc! {"$search": words});
    }
    let order = if options.descending { -1 } else { 1 };
    let find = FindOptions::builder().sort(doc! {"_id": order});
    let scans = matches!(needle, Some(Needle::Substring { .. }));
    // One more, to know whether there are more.
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let find = find.limit((!scans).then_some(most)).build();
    let entries = &collections.entries;
    let (mut found, mut bytes) = (Vec::new(), 0);
    let reborrowed = session.as_deref_mut();
    let mut rows = Rows::find(database, reborrowed, OPERATION, entries, filter, find).await?;
    while let Some(document) = rows.next(OPERATION).await? {
        let payload = payload_of(&document)?;
        if needle.is_some_and(|needle| !needle.is_in(&payload)) {
            continue;
        }
        if found.len() == limit || bytes > PAGE_BYTES {
            page.more = true;
            break;
        }
        bytes += payload.len();
        found.push(document);
    }
    drop(rows);
    page.entries = named(database, session, collections, stream, found).await?;
    Ok(page)
}

/// Entries with the names of their streams.
async fn named(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    collections: &Collections,
    stream: Option<&StreamName>,
    documents: Vec<RawDocumentBuf>,
) -> Result<Vec<ledger_core::Entry>> {
    if let Some(stream) = stream {
        let entry = |document: &RawDocumentBuf| decode_entry(document, stream.clone());
        return documents.iter().map(entry).collect();
    }
    let keys: Result<Vec<StreamKey>> = documents.iter().map(|entry| key_of(entry)).collect();
    let keys = keys?;
    let mut distinct: Vec<i64> = keys.iter().map(|key| int_in(key.0)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let states = streams_at(database, session, &collections.streams, &distinct).await?;
    let names: BTreeMap<StreamKey, StreamName> = states
        .into_iter()
        .map(|state| (state.stream.key, state.stream.name))
        .collect();
    let entry = |(document, key): (&RawDocumentBuf, &StreamKey)| {
        // Streams are never removed, so each is there.
        let name = names.get(key)?.clone();
        Some(decode_entry(document, name))
    };
    documents.iter().zip(&keys).filter_map(entry).collect()
}

fn filter(options: &ReadOptions) -> Document {
    let mut filter = Document::new();
    if let Some(after) = options.after {
        let above = if options.descending { "$lt" } else { "$gt" };
        let mut range = Document::new();
        range.insert(above, int_in(after.0));
        filter.insert("_id", range);
    }
    match options.order_key.as_deref() {
        None => {}
        Some("") => {
            filter.insert("order_key", doc! {"$exists": false});
        }
        Some(key) => {
            filter.insert("order_key", key);
        }
    }
    let tags = options.tags();
    if !tags.is_empty() {
        filter.insert("tags", doc! {"$all": tags});
    }
    let mut pairs: Vec<Bson> = Vec::new();
    for (field, wanted) in [
        ("metadata", &options.metadata),
        ("annotations", &options.annotations),
    ] {
        for (key, value) in wanted {
            let mut holds = Document::new();
            holds.insert(field, doc! {"$elemMatch": {"k": key, "v": value}});
            pairs.push(holds.into());
        }
    }
    if !pairs.is_empty() {
        filter.insert("$and", pairs);
    }
    let mut range = Document::new();
    if let Some(since) = options.since {
        range.insert("$gte", since.as_micros());
    }
    if let Some(until) = options.until {
        range.insert("$lt", until.as_micros());
    }
    if !range.is_empty() {
        filter.insert("created_at", range);
    }
    filter
}

async fn first(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    collection: &str,
    filter: Document,
    order: i32,
) -> Result<Option<RawDocumentBuf>> {
    let find = FindOptions::builder()
        .sort(doc! {"_id": order})
        .limit(1)
        .build();
    let mut rows = Rows::find(database, session, OPERATION, collection, filter, find).await?;
    rows.next(OPERATION).await
}

/// The document of a stream. A replica may have two of one name for a moment; the younger has it in
/// the end.
async fn stream_document(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    collections: &Collections,
    stream: &StreamName,
) -> Result<Option<RawDocumentBuf>> {
    let filter = doc! {"name": stream.as_str()};
    first(database, session, &collections.streams, filter, -1).await
}

/// See [`Store::stat`](ledger_core::Store::stat); within a session whose reads see one moment.
pub(super) async fn stat(
    database: &MongoDatabase,
    mut session: Option<&mut ClientSession>,
    collections: &Collections,
    stream: &StreamName,
) -> Result<Stat> {
    let found = stream_document(database, session.as_deref_mut(), collections, stream).await?;
    let Some(found) = found else {
        return Ok(Stat::default());
    };
    let version = decode_stream(&found)?.version;
    let count = uint(&found, "live")?;
    let entries = &collections.entries;
    let mut ids = [None, None];
    for (id, order) in ids.iter_mut().zip([1, -1]) {
        let own = doc! {"stream": integer(&found, "_id")?};
        let session = session.as_deref_mut();
        if let Some(entry) = first(database, session, entries, own, order).await? {
            *id = Some(EntryId(uint(&entry, "_id")?));
        }
    }
    let [first_id, last_id] = ids;
    Ok(Stat {
        count,
        version,
        first_id,
        last_id,
    })
}

/// See [`Store::streams`](ledger_core::Store::streams).
pub(super) async fn streams(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    collections: &Collections,
    after: Option<&StreamName>,
    limit: usize,
) -> Result<Vec<StreamName>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let after = after.map_or("", StreamName::as_str);
    let filter = doc! {"live": {"$gt": 0}, "name": {"$gt": after}};
    let find = FindOptions::builder()
        .sort(doc! {"name": 1})
        .projection(doc! {"name": 1})
        .build();
    let streams = &collections.streams;
    let mut rows = Rows::find(database, session, OPERATION, streams, filter, find).await?;
    let mut names: Vec<StreamName> = Vec::new();
    while let Some(row) = rows.next(OPERATION).await? {
        let name = StreamName::new(text(&row, "name")?)?;
        // A replica may have two streams of one name for a moment.
        if names.last() != Some(&name) {
            names.push(name);
        }
        if names.len() == limit {
            break;
        }
    }
    Ok(names)
}
