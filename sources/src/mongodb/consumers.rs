//! The registered consumers of the log, and their leases.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use ledger_core::{
    Consumer, Consumers, Cursor, Error, ErrorKind, Lease, PipelineId, Result, Timestamp,
};
use ledger_layout::log::Position;
use ledger_layout::mongodb::{
    Collections, LOG_TAG, MongoDatabase, failed, integer, is_duplicate, load, text,
};
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::ReturnDocument;

/// The consumers of a store's log.
#[derive(Debug)]
pub(super) struct MongoConsumers {
    pub(super) database: MongoDatabase,
    pub(super) collections: Arc<Collections>,
    /// The place of a cursor as a number that sorts the same.
    pub(super) position: fn(&Cursor) -> Result<i64>,
}

/// The place of a cursor of a store's log.
pub(super) fn row_of(cursor: &Cursor) -> Result<i64> {
    Ok(Position::from_cursor(cursor, LOG_TAG)?.seq)
}

impl MongoConsumers {
    fn id(&self, pipeline: &PipelineId) -> Document {
        let store = self.collections.store.as_str();
        doc! {"_id": {"store": store, "pipeline": pipeline.as_str()}}
    }

    /// Changes one consumer, and returns it as it is then.
    async fn change(
        &self,
        operation: &'static str,
        filter: Document,
        set: Document,
    ) -> Result<Option<RawDocumentBuf>> {
        self.database.check_open()?;
        self.database
            .collection(Collections::CONSUMERS)
            .find_one_and_update(filter, vec![doc! {"$set": set}])
            .return_document(ReturnDocument::After)
            .await
            .map_err(|error| failed(operation, "", error))
    }

    /// Changes one consumer; `NotFound` where there is none.
    async fn update(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        set: Document,
    ) -> Result<()> {
        match self.change(operation, self.id(pipeline), set).await? {
            Some(_) => Ok(()),
            None => Err(unknown(operation, pipeline)),
        }
    }
}

fn unknown(operation: &'static str, pipeline: &PipelineId) -> Error {
    let what = format!("consumer {pipeline} is not registered");
    Error::new(ErrorKind::NotFound, operation, what)
}

fn millis(time: Duration) -> i64 {
    // A date has milliseconds and a bound; a lease of more than a century is one for ever.
    i64::try_from(time.as_millis())
        .unwrap_or(i64::MAX)
        .min(4_000_000_000_000)
}

fn flag(document: &RawDocument, name: &str) -> bool {
    document.get_bool(name).unwrap_or(false)
}

#[async_trait]
impl Consumers for MongoConsumers {
    async fn register(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "register consumer";
        let seq = (self.position)(at)?;
        self.database.check_open()?;
        let mut new = self.id(pipeline);
        new.extend(doc! {
            "confirmed": at.to_string(),
            "confirmed_seq": seq,
            "confirmed_at": Timestamp::now().as_micros(),
            "paused": false,
        });
        let consumers = self.database.database().collection(Collections::CONSUMERS);
        match consumers.insert_one(new).await {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Ok(()),
            Err(error) => return Err(failed(OPERATION, "", error)),
        }
        // From here on nothing behind the position is pruned; what was before is seen here.
        let row = load(&self.database, &self.collections.store).await?;
        let pruned = row.map_or(0, |row| row.pruned_through);
        if pruned > 0 && seq <= pruned {
            self.unregister(pipeline).await?;
            return Err(Error::new(
                ErrorKind::CursorExpired,
                OPERATION,
                format!(
                    "consumer {pipeline}: the log was pruned through row {pruned}; start it at the \
                     log's head, with a snapshot"
                ),
            ));
        }
        Ok(())
    }

    async fn confirm(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        let seq = (self.position)(at)?;
        let set = doc! {
            "confirmed": {"$max": ["$confirmed", at.to_string()]},
            "confirmed_seq": {"$max": ["$confirmed_seq", seq]},
            "confirmed_at": Timestamp::now().as_micros(),
        };
        self.update("confirm", pipeline, set).await
    }

    async fn reset(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        let seq = (self.position)(at)?;
        let set = doc! {
            "confirmed": at.to_string(),
            "confirmed_seq": seq,
            "confirmed_at": Timestamp::now().as_micros(),
        };
        self.update("reset consumer", pipeline, set).await
    }

    async fn unregister(&self, pipeline: &PipelineId) -> Result<()> {
        self.database.check_open()?;
        let fail = |error| failed("unregister consumer", "", error);
        let letters = doc! {
            "_id.store": self.collections.store.as_str(), "_id.pipeline": pipeline.as_str(),
        };
        // The letters first: a call that breaks off leaves a consumer, which can be unregistered.
        self.database
            .collection(Collections::DEAD_LETTERS)
            .delete_many(letters)
            .await
            .map_err(fail)?;
        self.database
            .collection(Collections::CONSUMERS)
            .delete_one(self.id(pipeline))
            .await
            .map_err(fail)?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Consumer>> {
        self.database.check_open()?;
        let fail = |error| failed("list consumers", "", error);
        let stages = vec![
            doc! {"$match": {"_id.store": self.collections.store.as_str()}},
            doc! {"$sort": {"_id.pipeline": 1}},
            doc! {"$set": {
                "pipeline": "$_id.pipeline",
                "holder": {"$cond": [
                    {"$gt": [{"$ifNull": ["$leased_until", Bson::Null]}, "$$NOW"]}, "$holder", "",
                ]},
            }},
        ];
        let consumers = self.database.collection(Collections::CONSUMERS);
        let found = consumers.aggregate(stages).with_type::<RawDocumentBuf>();
        let mut found = found.await.map_err(fail)?;
        let mut listed = Vec::new();
        while let Some(consumer) = found.next().await {
            let consumer = consumer.map_err(fail)?;
            let holder = text(&consumer, "holder")?;
            listed.push(Consumer {
                pipeline: PipelineId::new(text(&consumer, "pipeline")?)?,
                confirmed: text(&consumer, "confirmed")?.parse()?,
                confirmed_at: Timestamp::from_micros(integer(&consumer, "confirmed_at")?),
                holder: (!holder.is_empty()).then(|| holder.to_owned()),
                paused: flag(&consumer, "paused"),
            });
        }
        Ok(listed)
    }

    async fn lease(&self, pipeline: &PipelineId, holder: &str, ttl: Duration) -> Result<Lease> {
        const OPERATION: &str = "take lease";
        let mut free = self.id(pipeline);
        free.insert(
            "$or",
            vec![
                doc! {"holder": holder},
                doc! {"$expr": {
                    "$lte": [{"$ifNull": ["$leased_until", Bson::Null]}, "$$NOW"],
                }},
            ],
        );
        let set = doc! {
            "holder": {"$literal": holder},
            "leased_until": {"$add": ["$$NOW", millis(ttl)]},
        };
        if let Some(taken) = self.change(OPERATION, free, set).await? {
            let paused = flag(&taken, "paused");
            return Ok(Lease::Held { paused });
        }
        let other = self
            .database
            .collection(Collections::CONSUMERS)
            .find_one(self.id(pipeline))
            .await
            .map_err(|error| failed(OPERATION, "", error))?
            .ok_or_else(|| unknown(OPERATION, pipeline))?;
        let holder = text(&other, "holder")?.to_owned();
        Ok(Lease::HeldBy { holder })
    }

    async fn release(&self, pipeline: &PipelineId, holder: &str) -> Result<()> {
        let mut own = self.id(pipeline);
        own.insert("holder", holder);
        let set = doc! {"holder": "", "leased_until": Bson::Null};
        self.change("release lease", own, set).await?;
        Ok(())
    }

    async fn set_paused(&self, pipeline: &PipelineId, paused: bool) -> Result<()> {
        self.update("pause pipeline", pipeline, doc! {"paused": paused})
            .await
    }
}
