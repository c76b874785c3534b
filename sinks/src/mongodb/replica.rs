//! Reading the replica's content for verification, and repairing it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use ledger_core::{
    Contents, Entry, EntryKey, Error, ErrorKind, PipelineId, Record, Replica, Result, StreamKey,
    StreamState, Timestamp,
};
use ledger_layout::mongodb::{Collections, Role, Tx, followers, int_in, load};
use ledger_layout::mongodb_transaction;
use mongodb::bson::{Document, doc};

use super::apply;
use super::sink::MongoSink;

const OPERATION: &str = "repair replica";

#[async_trait]
impl Contents for MongoSink {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.contents.entries(after, through, limit).await
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        self.contents.entries_at(keys).await
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        self.contents.streams(after, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        self.contents.streams_at(keys).await
    }
}

#[async_trait]
impl Replica for MongoSink {
    async fn repair(
        &self,
        streams: &[StreamState],
        delete: &[EntryKey],
        insert: &[Record],
    ) -> Result<()> {
        self.check_replica().await?;
        let collections = &*self.collections;
        mongodb_transaction!(self.database, OPERATION, tx => {
            repair(tx, collections, streams, delete, insert)
        })
    }

    async fn remove_streams(&self, keys: &[StreamKey]) -> Result<()> {
        self.check_replica().await?;
        let collections = &*self.collections;
        mongodb_transaction!(self.database, OPERATION, tx => remove_streams(tx, collections, keys))
    }

    async fn followers(&self) -> Result<Vec<PipelineId>> {
        let names = followers(&self.database, &self.collections).await?;
        names.iter().map(PipelineId::new).collect()
    }
}

impl MongoSink {
    /// A promoted replica is nobody's any more.
    async fn check_replica(&self) -> Result<()> {
        let store = &self.collections.store;
        match load(&self.database, store).await? {
            Some(row) if row.role == Role::Replica => Ok(()),
            _ => Err(Error::new(
                ErrorKind::ReadOnly,
                OPERATION,
                format!("store {store} was promoted and is no replica any more"),
            )),
        }
    }
}

async fn repair(
    tx: &mut Tx<'_>,
    collections: &Collections,
    streams: &[StreamState],
    delete: &[EntryKey],
    insert: &[Record],
) -> Result<()> {
    put_streams(tx, collections, streams).await?;
    name_streams(tx, collections, insert).await?;
    let keys = insert.iter().map(|record| record.key.stream);
    let trimmed = apply::boundaries(tx, collections, keys).await?;
    let below = |key: &EntryKey| trimmed.get(&key.stream).is_some_and(|at| key.id.0 <= *at);
    let insert: Vec<(EntryKey, &Entry)> = insert
        .iter()
        .filter(|record| !below(&record.key))
        .map(|record| (record.key, &record.entry))
        .collect();
    // What is inserted replaces what is there.
    let replaced = insert.iter().map(|(key, _)| *key);
    let gone: Vec<EntryKey> = delete.iter().copied().chain(replaced).collect();
    let ids: Vec<i64> = gone.iter().map(|key| int_in(key.id.0)).collect();
    tx.delete(OPERATION, &collections.entries, doc! {"_id": {"$in": ids}})
        .await?;
    apply::insert(tx, collections, &insert).await?;
    let touched = gone.iter().map(|key| key.stream);
    let touched = touched.chain(streams.iter().map(|state| state.stream.key));
    apply::count_again(tx, collections, touched.collect()).await
}

async fn remove_streams(
    tx: &mut Tx<'_>,
    collections: &Collections,
    keys: &[StreamKey],
) -> Result<()> {
    let keys: Vec<i64> = keys.iter().map(|key| int_in(key.0)).collect();
    let entries = doc! {"stream": {"$in": &keys}};
    tx.delete(OPERATION, &collections.entries, entries).await?;
    let streams = doc! {"_id": {"$in": keys}};
    tx.delete(OPERATION, &collections.streams, streams).await?;
    Ok(())
}

/// Writes states of streams as they are.
async fn put_streams(
    tx: &mut Tx<'_>,
    collections: &Collections,
    streams: &[StreamState],
) -> Result<()> {
    let now = Timestamp::now().as_micros();
    let statement = |state: &StreamState| {
        let stream = &state.stream;
        doc! {
            "q": {"_id": int_in(stream.key.0)},
            "u": {
                "$set": {
                    "name": stream.name.as_str(),
                    "name_version": int_in(stream.name_version),
                    "version": int_in(state.version),
                    "trimmed_through": int_in(state.trimmed_through),
                },
                "$setOnInsert": {"live": 0_i64, "created_at": now},
            },
            "upsert": true,
        }
    };
    let statements: Vec<Document> = streams.iter().map(statement).collect();
    tx.update(OPERATION, &collections.streams, statements)
        .await?;
    Ok(())
}

/// Makes the streams of entries where they do not exist, with a name that any other replaces.
async fn name_streams(
    tx: &mut Tx<'_>,
    collections: &Collections,
    records: &[Record],
) -> Result<()> {
    let now = Timestamp::now().as_micros();
    let names: BTreeMap<_, _> = records
        .iter()
        .map(|record| (record.key.stream, &record.entry.stream))
        .collect();
    let statement = |(key, name): (StreamKey, &ledger_core::StreamName)| {
        doc! {
            "q": {"_id": int_in(key.0)},
            "u": {"$setOnInsert": {
                "name": name.as_str(), "name_version": 0_i64, "version": 0_i64,
                "trimmed_through": 0_i64, "live": 0_i64, "created_at": now,
            }},
            "upsert": true,
        }
    };
    let statements: Vec<Document> = names.into_iter().map(statement).collect();
    tx.update(OPERATION, &collections.streams, statements)
        .await?;
    Ok(())
}
