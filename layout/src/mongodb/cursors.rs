//! The cursors of pipelines that deliver here.

use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{Claim, Cursor, CursorStore, Error, ErrorKind, PipelineId, Result, SourceId};
use mongodb::bson::{Document, RawDocument, doc};

use super::database::MongoDatabase;
use super::error::failed;
use super::rows::{text, uint};
use super::schema::{Collections, Role, load};
use super::transaction::Tx;
use crate::mongodb_transaction;

/// The cursors of the pipelines that write one replica.
#[derive(Debug, Clone)]
pub struct MongoCursors {
    database: MongoDatabase,
    collections: Arc<Collections>,
}

impl MongoCursors {
    /// The cursors of the pipelines into this replica.
    pub fn new(database: MongoDatabase, collections: Arc<Collections>) -> Self {
        Self {
            database,
            collections,
        }
    }

    fn id(&self, pipeline: &PipelineId) -> Document {
        id(self.collections.store.as_str(), pipeline)
    }
}

pub(super) fn id(store: &str, pipeline: &PipelineId) -> Document {
    doc! {"_id": {"store": store, "pipeline": pipeline.as_str()}}
}

#[async_trait]
impl CursorStore for MongoCursors {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        mongodb_transaction!(self.database, "claim pipeline", tx => self.take(tx, pipeline, source))
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        let store = self.collections.store.as_str();
        let stored = mongodb_transaction!(self.database, "advance cursor", tx => {
            advance_within(tx, store, pipeline, fence, Some(to))
        })?;
        stored.ok_or_else(|| {
            let what = format!("pipeline {pipeline}");
            Error::new(ErrorKind::Internal, "advance cursor", what)
        })
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        self.database.check_open()?;
        let found = self
            .database
            .collection(Collections::CURSORS)
            .find_one(self.id(pipeline))
            .await
            .map_err(|error| failed("read cursor", "", error))?;
        match found {
            Some(found) => cursor(&found),
            None => Ok(None),
        }
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        mongodb_transaction!(self.database, "reset pipeline", tx => self.forget(tx, pipeline))
    }
}

impl MongoCursors {
    async fn take(
        &self,
        tx: &mut Tx<'_>,
        pipeline: &PipelineId,
        source: &SourceId,
    ) -> Result<Claim> {
        const OPERATION: &str = "claim pipeline";
        self.bind_replica(tx, pipeline, source).await?;
        let mut filter = self.id(pipeline);
        let collection = self.database.collection(Collections::CURSORS);
        let find = collection.find_one(filter.clone());
        let found = match tx.session() {
            Some(session) => find.session(session).await,
            None => find.await,
        };
        let found = found.map_err(|error| failed(OPERATION, "", error))?;
        if let Some(found) = &found {
            let bound = text(found, "source")?;
            if !bound.is_empty() && !bound.parse::<SourceId>()?.continues(source) {
                return Err(diverged(pipeline, bound, source));
            }
            let fence = uint(found, "fence")?;
            // Without a transaction this is what keeps two claims apart.
            filter.insert("fence", i64::try_from(fence).unwrap_or(i64::MAX));
        } else {
            let mut new = filter.clone();
            new.insert("fence", 0_i64);
            let new = mongodb::bson::RawDocumentBuf::try_from(&new).map_err(|error| {
                Error::new(ErrorKind::Internal, OPERATION, "encode").with_source(error)
            })?;
            tx.insert(OPERATION, Collections::CURSORS, &[new]).await?;
        }
        let update = doc! {"$set": {
            "fence": {"$add": ["$fence", 1_i64]}, "source": source.to_string(),
        }};
        let taken = tx
            .change(OPERATION, Collections::CURSORS, filter, vec![update])
            .await?;
        let taken = taken.ok_or_else(|| {
            let what = format!("another process takes pipeline {pipeline}");
            Error::new(ErrorKind::Unavailable, OPERATION, what)
        })?;
        Ok(Claim {
            fence: uint(&taken, "fence")?,
            cursor: cursor(&taken)?,
        })
    }

    async fn forget(&self, tx: &mut Tx<'_>, pipeline: &PipelineId) -> Result<()> {
        const OPERATION: &str = "reset pipeline";
        let statement = doc! {
            "q": self.id(pipeline),
            "u": {"$unset": {"cursor": "", "source": ""}, "$inc": {"fence": 1_i64}},
        };
        tx.update(OPERATION, Collections::CURSORS, vec![statement])
            .await?;
        let store = self.collections.store.as_str();
        let others = doc! {"_id.store": store, "source": {"$exists": true}};
        let collection = self.database.collection(Collections::CURSORS);
        let find = collection.find_one(others);
        let other = match tx.session() {
            Some(session) => find.session(session).await,
            None => find.await,
        };
        if other
            .map_err(|error| failed(OPERATION, "", error))?
            .is_none()
        {
            let statement = doc! {"q": {"_id": store}, "u": {"$unset": {"source": ""}}};
            tx.update(OPERATION, Collections::STORES, vec![statement])
                .await?;
        }
        Ok(())
    }

    /// A replica is of one source only, whichever pipeline writes it.
    async fn bind_replica(
        &self,
        tx: &mut Tx<'_>,
        pipeline: &PipelineId,
        source: &SourceId,
    ) -> Result<()> {
        const OPERATION: &str = "claim pipeline";
        let store = &self.collections.store;
        let row = load(&self.database, store).await?.ok_or_else(|| {
            let what = format!("the replica {store} is gone");
            Error::new(ErrorKind::NotFound, OPERATION, what)
        })?;
        if row.role != Role::Replica {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                OPERATION,
                format!("store {store} was promoted and takes no replication any more"),
            ));
        }
        let place = format!("store {store} in {}", self.database.config());
        source.check_sink(row.uuid, &place)?;
        let mut own = doc! {"_id": store.as_str(), "role": "replica"};
        match row.source {
            Some(bound) if !bound.continues(source) => {
                return Err(diverged(pipeline, &bound.to_string(), source));
            }
            Some(bound) => own.insert("source", bound.to_string()),
            None => own.insert("source", doc! {"$exists": false}),
        };
        // Written in any case: who makes the replica a relay meanwhile is in the way of this.
        let statement = doc! {
            "q": own,
            "u": {"$set": {"source": source.to_string()}, "$inc": {"claims": 1_i64}},
        };
        let bound = tx
            .update(OPERATION, Collections::STORES, vec![statement])
            .await?;
        if bound == 0 {
            let what = format!("another process takes the replica {store}");
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, what));
        }
        Ok(())
    }
}

/// Moves a pipeline's cursor to `to` where that is further, in one statement, and returns what is
/// stored then; without `to` it only checks the fence. `Fenced` where `fence` is not the last claim.
/// Either way the cursor's document is written, so of two transactions that do one fails.
pub async fn advance_within(
    tx: &mut Tx<'_>,
    store: &str,
    pipeline: &PipelineId,
    fence: u64,
    to: Option<&Cursor>,
) -> Result<Option<Cursor>> {
    let mut filter = id(store, pipeline);
    filter.insert("fence", i64::try_from(fence).unwrap_or(-1));
    let mut set = doc! {"deliveries": {"$add": [{"$ifNull": ["$deliveries", 0_i64]}, 1_i64]}};
    if let Some(to) = to {
        // In hexadecimal, since binary values are compared by their length first.
        set.insert("cursor", doc! {"$max": ["$cursor", to.to_string()]});
    }
    let update = vec![doc! {"$set": set}];
    let stored = tx
        .change("advance cursor", Collections::CURSORS, filter, update)
        .await?;
    match stored {
        Some(stored) => cursor(&stored),
        None => Err(Error::new(
            ErrorKind::Fenced,
            "advance cursor",
            format!("another process has taken pipeline {pipeline} over"),
        )),
    }
}

pub(super) fn cursor(document: &RawDocument) -> Result<Option<Cursor>> {
    match text(document, "cursor")? {
        "" => Ok(None),
        text => text.parse().map(Some),
    }
}

fn diverged(pipeline: &PipelineId, bound: &str, source: &SourceId) -> Error {
    Error::new(
        ErrorKind::SourceDiverged,
        "claim pipeline",
        format!(
            "the replica of pipeline {pipeline} was filled from {bound}, not from {source}; start \
             it anew with `ledger bridge run --resync`"
        ),
    )
}
