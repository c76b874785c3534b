//! The state of hooks, in the database that holds their stores.
//!
//! The collections are the tables of the SQL backends, a document a row. Positions are lower-case
//! hexadecimal text, which MongoDB orders as their bytes are. Every transaction that writes what a hook
//! has writes the hook's own document first, so that of two at a time one is run again: what is read in
//! a transaction stays so until it is committed.

mod attempts;
mod claim;
mod collections;
mod commit;
mod queue;
mod statements;

use async_trait::async_trait;
use ledger_core::hook::{
    Asked, Attempt, AttemptQuery, Claim, Counts, Letter, Queued, State, Writes,
};
use ledger_core::{Cursor, Error, ErrorKind, PipelineId, Result, SourceId, StoreName, StreamKey};

use super::contents::snapshot;
use super::database::{Deployment, MongoDatabase};
use crate::mongodb_transaction;

/// The state of the hooks of a database's stores.
#[derive(Debug)]
pub struct MongoHooks {
    database: MongoDatabase,
}

impl MongoHooks {
    /// Uses the collections of this database, and makes them where they do not exist. `Unsupported` on
    /// a standalone server, and where a newer version of this software has made them.
    pub async fn open(database: MongoDatabase) -> Result<Self> {
        database.check_open()?;
        if database.deployment() == Deployment::Standalone {
            let what = format!(
                "{} is no replica set, and without transactions a hook's queue and its position \
                 could part; start mongod with --replSet",
                database.config()
            );
            return Err(Error::new(ErrorKind::Unsupported, "open hook state", what));
        }
        collections::check_version(&database).await?;
        collections::create(&database).await?;
        Ok(Self { database })
    }
}

#[async_trait]
impl State for MongoHooks {
    async fn claim(
        &self,
        hook: &PipelineId,
        store: &StoreName,
        source: &SourceId,
    ) -> Result<Claim> {
        mongodb_transaction!(self.database, "claim hook", tx => {
            claim::claim(tx, hook, store, source)
        })
    }

    async fn commit(&self, hook: &PipelineId, fence: u64, writes: &Writes) -> Result<()> {
        mongodb_transaction!(self.database, "store hook state", tx => {
            commit::commit(tx, hook, fence, writes)
        })
    }

    async fn queued(
        &self,
        hook: &PipelineId,
        stream: StreamKey,
        through: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Queued>> {
        queue::queued(&self.database, hook, stream, through, limit).await
    }

    async fn remember(&self, hook: &PipelineId, attempts: &[Attempt]) -> Result<()> {
        mongodb_transaction!(self.database, "remember attempts", tx => {
            attempts::remember(tx, hook, attempts)
        })
    }

    async fn attempts(&self, hook: &PipelineId, query: &AttemptQuery) -> Result<Vec<Attempt>> {
        attempts::attempts(&self.database, hook, query).await
    }

    async fn letters(
        &self,
        hook: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Letter>> {
        let mut session = snapshot(&self.database).await?;
        queue::letters(&self.database, session.as_mut(), hook, after, limit).await
    }

    async fn requeue(&self, hook: &PipelineId, stream: Option<StreamKey>) -> Result<u64> {
        mongodb_transaction!(self.database, "replay dead letters", tx => {
            queue::requeue(tx, hook, stream)
        })
    }

    async fn discard(&self, hook: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64> {
        mongodb_transaction!(self.database, "discard dead letters", tx => {
            queue::discard(tx, hook, cursors)
        })
    }

    async fn counts(&self, hook: &PipelineId) -> Result<Counts> {
        let mut session = snapshot(&self.database).await?;
        queue::counts(&self.database, session.as_mut(), hook).await
    }

    async fn asked(&self, hook: &PipelineId) -> Result<Asked> {
        claim::asked(&self.database, hook).await
    }

    async fn ask(&self, hook: &PipelineId, asked: &Asked) -> Result<()> {
        mongodb_transaction!(self.database, "ask of a hook", tx => claim::ask(tx, hook, asked))
    }

    async fn remove(&self, hook: &PipelineId) -> Result<bool> {
        mongodb_transaction!(self.database, "remove hook", tx => claim::remove(tx, hook))
    }

    async fn reset(&self, hook: &PipelineId) -> Result<()> {
        mongodb_transaction!(self.database, "reset hook", tx => claim::reset(tx, hook))
    }
}
