//! What consumers could not deliver.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use ledger_core::{
    Cursor, DeadLetter, DeadLetters, Error, ErrorKind, PipelineId, Result, StreamKey, Timestamp,
};
use ledger_layout::mongodb::{
    Collections, MongoDatabase, Rows, failed, int_in, integer, is_duplicate, text, uint,
};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

/// The dead letters of a store's consumers.
#[derive(Debug)]
pub(super) struct MongoDeadLetters {
    pub(super) database: MongoDatabase,
    pub(super) collections: Arc<Collections>,
}

impl MongoDeadLetters {
    fn id(&self, pipeline: &PipelineId, cursor: &Cursor) -> Document {
        doc! {
            "store": self.collections.store.as_str(),
            "pipeline": pipeline.as_str(),
            "cursor": cursor.to_string(),
        }
    }

    fn of(&self, pipeline: &PipelineId) -> Document {
        doc! {"_id.store": self.collections.store.as_str(), "_id.pipeline": pipeline.as_str()}
    }
}

fn decode(pipeline: &PipelineId, letter: &RawDocument) -> Result<DeadLetter> {
    let item = letter.get_binary("item").map_err(|error| {
        Error::new(ErrorKind::Corrupt, "list dead letters", "its item").with_source(error)
    })?;
    Ok(DeadLetter {
        pipeline: pipeline.clone(),
        cursor: text(letter, "cursor")?.parse()?,
        key: StreamKey(uint(letter, "stream")?),
        description: text(letter, "description")?.to_owned(),
        reason: text(letter, "reason")?.to_owned(),
        item: Bytes::copy_from_slice(item.bytes),
        parked_at: Timestamp::from_micros(integer(letter, "parked_at")?),
    })
}

#[async_trait]
impl DeadLetters for MongoDeadLetters {
    async fn park(&self, letters: Vec<DeadLetter>) -> Result<()> {
        self.database.check_open()?;
        let new = letters.into_iter().map(|letter| {
            doc! {
                "_id": self.id(&letter.pipeline, &letter.cursor),
                "cursor": letter.cursor.to_string(),
                "stream": int_in(letter.key.0),
                "description": letter.description,
                "reason": letter.reason,
                "item": Binary {
                    subtype: BinarySubtype::Generic,
                    bytes: letter.item.to_vec(),
                },
                "parked_at": letter.parked_at.as_micros(),
            }
        });
        let collection = self
            .database
            .database()
            .collection::<Document>(Collections::DEAD_LETTERS);
        for letter in new {
            match collection.insert_one(letter).await {
                Err(error) if !is_duplicate(&error) => {
                    return Err(failed("park dead letters", "", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn list(
        &self,
        pipeline: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        const OPERATION: &str = "list dead letters";
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut filter = self.of(pipeline);
        if let Some(after) = after {
            filter.insert("cursor", doc! {"$gt": after.to_string()});
        }
        let options = FindOptions::builder()
            .sort(doc! {"cursor": 1})
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .build();
        let letters = Collections::DEAD_LETTERS;
        let mut found =
            Rows::find(&self.database, None, OPERATION, letters, filter, options).await?;
        let mut listed = Vec::new();
        while let Some(letter) = found.next(OPERATION).await? {
            listed.push(decode(pipeline, &letter)?);
        }
        Ok(listed)
    }

    async fn parked_keys(&self, pipeline: &PipelineId) -> Result<Vec<StreamKey>> {
        self.database.check_open()?;
        let fail = |error| failed("list parked streams", "", error);
        let stages = vec![
            doc! {"$match": self.of(pipeline)},
            doc! {"$group": {"_id": "$stream", "first": {"$min": "$cursor"}}},
            doc! {"$sort": {"first": 1}},
        ];
        let letters = self.database.collection(Collections::DEAD_LETTERS);
        let found = letters.aggregate(stages).with_type::<RawDocumentBuf>();
        let mut found = found.await.map_err(fail)?;
        let mut keys = Vec::new();
        while let Some(key) = found.next().await {
            keys.push(StreamKey(uint(&key.map_err(fail)?, "_id")?));
        }
        Ok(keys)
    }

    async fn count(&self, pipeline: &PipelineId) -> Result<u64> {
        self.database.check_open()?;
        let letters = self.database.collection(Collections::DEAD_LETTERS);
        let count = letters.count_documents(self.of(pipeline)).await;
        count.map_err(|error| failed("count dead letters", "", error))
    }

    async fn remove(&self, pipeline: &PipelineId, cursors: &[Cursor]) -> Result<()> {
        self.database.check_open()?;
        let ids: Vec<Document> = cursors
            .iter()
            .map(|cursor| self.id(pipeline, cursor))
            .collect();
        self.database
            .collection(Collections::DEAD_LETTERS)
            .delete_many(doc! {"_id": {"$in": ids}})
            .await
            .map_err(|error| failed("remove dead letters", "", error))?;
        Ok(())
    }
}
