//! Reading everything that a store or a replica holds, in order of its keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use ledger_core::{Contents, EntryKey, Record, Result, StreamKey, StreamName, StreamState};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::FindOptions;
use mongodb::{ClientSession, Cursor, SessionCursor};

use super::database::{Deployment, MongoDatabase};
use super::error::failed;
use super::rows::{decode_entry, decode_stream, int_in, key_of};
use super::schema::Collections;

const OPERATION: &str = "read contents";
/// How many bytes of documents a chunk may have before it is cut short.
const CHUNK_BYTES: usize = 4 << 20;

/// The documents that a query finds, within a session or without one.
pub enum Rows<'s> {
    /// Without a session.
    Plain(Box<Cursor<RawDocumentBuf>>),
    /// Within one.
    Session(Box<SessionCursor<RawDocumentBuf>>, &'s mut ClientSession),
}

impl<'s> Rows<'s> {
    /// Runs a query.
    pub async fn find(
        database: &MongoDatabase,
        session: Option<&'s mut ClientSession>,
        operation: &'static str,
        collection: &str,
        filter: Document,
        options: FindOptions,
    ) -> Result<Self> {
        database.check_open()?;
        let fail = |error| failed(operation, database.config().to_string(), error);
        match session {
            None => {
                let collection = database.collection(collection);
                let find = collection.find(filter).with_options(options);
                Ok(Self::Plain(Box::new(find.await.map_err(fail)?)))
            }
            Some(session) => {
                let collection = database.snapshot_of(collection);
                let find = collection.find(filter).with_options(options);
                let cursor = find.session(&mut *session).await.map_err(fail)?;
                Ok(Self::Session(Box::new(cursor), session))
            }
        }
    }

    /// The next document.
    pub async fn next(&mut self, operation: &'static str) -> Result<Option<RawDocumentBuf>> {
        let next = match self {
            Self::Plain(cursor) => cursor.next().await,
            Self::Session(cursor, session) => cursor.next(session).await,
        };
        next.transpose()
            .map_err(|error| failed(operation, "", error))
    }
}

/// A session whose reads see one moment, where the deployment has such.
pub(super) async fn snapshot(database: &MongoDatabase) -> Result<Option<ClientSession>> {
    if database.deployment() == Deployment::Standalone {
        return Ok(None);
    }
    database.check_open()?;
    let session = database.client().start_session().snapshot(true).await;
    let session = session.map_err(|error| failed(OPERATION, database.config().to_string(), error));
    session.map(Some)
}

/// The content of a store or a replica.
#[derive(Debug, Clone)]
pub struct MongoContents {
    database: MongoDatabase,
    collections: Arc<Collections>,
}

impl MongoContents {
    /// The content of these collections.
    pub fn new(database: MongoDatabase, collections: Arc<Collections>) -> Self {
        Self {
            database,
            collections,
        }
    }
}

#[async_trait]
impl Contents for MongoContents {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        entries(&self.database, &self.collections, after, through, limit).await
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        entries_at(&self.database, &self.collections, keys).await
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        streams(&self.database, &self.collections, after, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        let keys: Vec<i64> = keys.iter().map(|key| int_in(key.0)).collect();
        streams_at(&self.database, None, &self.collections.streams, &keys).await
    }
}

/// A key above or at most another, in the order of stream and id.
fn bound(key: EntryKey, above: bool) -> Document {
    let (stream, id) = (int_in(key.stream.0), int_in(key.id.0));
    if above {
        doc! {"$or": [{"stream": {"$gt": stream}}, {"stream": stream, "_id": {"$gt": id}}]}
    } else {
        doc! {"$or": [{"stream": {"$lt": stream}}, {"stream": stream, "_id": {"$lte": id}}]}
    }
}

/// See [`Contents::entries`].
pub async fn entries(
    database: &MongoDatabase,
    collections: &Collections,
    after: Option<EntryKey>,
    through: Option<EntryKey>,
    limit: usize,
) -> Result<Vec<Record>> {
    let mut conditions = Vec::new();
    let mut range = Document::new();
    if let Some(after) = after {
        conditions.push(bound(after, true));
        range.insert("$gte", int_in(after.stream.0));
    }
    if let Some(through) = through {
        conditions.push(bound(through, false));
        range.insert("$lte", int_in(through.stream.0));
    }
    if !range.is_empty() {
        // Bounds the index that gives the order.
        conditions.push(doc! {"stream": range});
    }
    let filter = if conditions.is_empty() {
        doc! {}
    } else {
        doc! {"$and": conditions}
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).max(1);
    let options = FindOptions::builder()
        .sort(doc! {"stream": 1, "_id": 1})
        .hint(mongodb::options::Hint::Name("stream".to_owned()))
        .limit(limit)
        .build();
    records(database, collections, filter, options, CHUNK_BYTES).await
}

/// See [`Contents::entries_at`].
pub async fn entries_at(
    database: &MongoDatabase,
    collections: &Collections,
    keys: &[EntryKey],
) -> Result<Vec<Record>> {
    let ids: Vec<i64> = keys.iter().map(|key| int_in(key.id.0)).collect();
    let filter = doc! {"_id": {"$in": ids}};
    let mut found = records(
        database,
        collections,
        filter,
        FindOptions::default(),
        usize::MAX,
    )
    .await?;
    found.retain(|record| keys.contains(&record.key));
    found.sort_by_key(|record| record.key);
    Ok(found)
}

async fn records(
    database: &MongoDatabase,
    collections: &Collections,
    filter: Document,
    options: FindOptions,
    max_bytes: usize,
) -> Result<Vec<Record>> {
    let mut session = snapshot(database).await?;
    let mut documents = Vec::new();
    let mut rows = Rows::find(
        database,
        session.as_mut(),
        OPERATION,
        &collections.entries,
        filter,
        options,
    )
    .await?;
    let mut bytes = 0;
    while let Some(document) = rows.next(OPERATION).await? {
        bytes += document.as_bytes().len();
        documents.push((key_of(&document)?, document));
        if bytes > max_bytes {
            break;
        }
    }
    drop(rows);
    let mut keys: Vec<i64> = documents.iter().map(|(key, _)| int_in(key.0)).collect();
    keys.dedup();
    let states = streams_at(database, session.as_mut(), &collections.streams, &keys).await?;
    let names: BTreeMap<StreamKey, StreamName> = states
        .into_iter()
        .map(|state| (state.stream.key, state.stream.name))
        .collect();
    let record = |(stream, document): (StreamKey, RawDocumentBuf)| {
        // Streams are never removed, so each is there.
        let name = names.get(&stream)?.clone();
        let entry = match decode_entry(&document, name) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let key = EntryKey {
            stream,
            id: entry.id,
        };
        Some(Ok(Record { key, entry }))
    };
    documents.into_iter().filter_map(record).collect()
}

/// See [`Contents::streams`].
pub async fn streams(
    database: &MongoDatabase,
    collections: &Collections,
    after: Option<StreamKey>,
    limit: usize,
) -> Result<Vec<StreamState>> {
    let filter = doc! {"_id": {"$gt": after.map_or(0, |key| int_in(key.0))}};
    let options = FindOptions::builder()
        .sort(doc! {"_id": 1})
        .limit(i64::try_from(limit).unwrap_or(i64::MAX).max(1))
        .build();
    states(database, None, &collections.streams, filter, options).await
}

/// Those of these streams that exist, in order of their keys.
pub async fn streams_at(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    streams: &str,
    keys: &[i64],
) -> Result<Vec<StreamState>> {
    let filter = doc! {"_id": {"$in": keys}};
    let options = FindOptions::builder().sort(doc! {"_id": 1}).build();
    states(database, session, streams, filter, options).await
}

async fn states(
    database: &MongoDatabase,
    session: Option<&mut ClientSession>,
    streams: &str,
    filter: Document,
    options: FindOptions,
) -> Result<Vec<StreamState>> {
    let mut rows = Rows::find(database, session, OPERATION, streams, filter, options).await?;
    let mut states = Vec::new();
    while let Some(document) = rows.next(OPERATION).await? {
        states.push(decode_stream(&document)?);
    }
    Ok(states)
}
