//! Cursors, fences and the binding of a store to its source.

use async_trait::async_trait;
use clickhouse::{Row, RowWrite};
use ledger_core::{
    Claim, Cursor, CursorStore, Error, ErrorKind, PipelineId, Result, SourceId, StoreName,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::owner::{EMPTYING, OWN};
use super::{Connection, Dedup, Tables};

/// The cursors of one store's pipelines, kept in the database.
///
/// A pipeline's state is the maximum of its rows `(fence, cursor, source)`: the furthest cursor of
/// the newest fence. A row is only ever added, so:
///
/// - A cursor never moves backward, and a row written under an old fence never counts, in whatever
///   order rows arrive. That much is atomic.
/// - ClickHouse has no transaction over tables: a delivery checks the fence before it writes, and a
///   claim that comes right after that check does not undo the data. The new holder resumes from
///   the cursor it claimed, and writes the same rows again, which changes nothing.
/// - Fences are drawn with random low bits, so that two claims at the same moment differ; the
///   lower one is fenced.
///
/// A store is bound to the first source that claims a pipeline into it, and to no other until
/// [`release`](Self::release).
#[derive(Debug, Clone)]
pub struct Cursors {
    pub(super) connection: Connection,
    pub(super) store: String,
}

/// A pipeline whose fence was found to hold.
#[derive(Debug)]
pub struct Held {
    fence: u64,
    cursor: Option<Cursor>,
    source: String,
}

/// How many low bits of a fence are random.
const RANDOM_BITS: u32 = 20;

/// How often a claim that lost against a simultaneous one is tried again.
pub(super) const ATTEMPTS: usize = 8;

#[derive(Debug, Row, Serialize)]
struct CursorRow<'a> {
    store: &'a str,
    pipeline: &'a str,
    state: (u64, &'a str, &'a str),
}

#[derive(Debug, Row, Serialize)]
struct StoreRow<'a> {
    store: &'a str,
    binding: (u64, u8, &'a str),
}

/// What is stored of a pipeline and of its store.
#[derive(Debug, Default, Clone, Row, Deserialize)]
struct Stored {
    fence: u64,
    cursor: String,
    source: String,
    epoch: u64,
    bound: u8,
    bound_source: String,
}

impl Stored {
    fn cursor(&self) -> Result<Option<Cursor>> {
        if self.cursor.is_empty() {
            return Ok(None);
        }
        self.cursor.parse().map(Some).map_err(|error: Error| {
            Error::new(ErrorKind::Corrupt, "read cursor", Tables::CURSORS).with_source(error)
        })
    }
}

impl Cursors {
    /// The cursors of pipelines into this store.
    pub fn new(connection: Connection, store: &StoreName) -> Self {
        Self {
            connection,
            store: store.to_string(),
        }
    }

    /// The cursor of a pipeline of captured tables, which is bound to a source of its own: a
    /// database may hold the tables of several sources.
    pub fn of_tables(connection: Connection, pipeline: &PipelineId) -> Self {
        Self {
            connection,
            // No store's name has a colon.
            store: format!("tables:{pipeline}"),
        }
    }

    /// Lets another source have the store, whose content must be gone by then: keys of two sources
    /// mean different things.
    pub async fn release(&self, pipeline: &PipelineId) -> Result<()> {
        const OPERATION: &str = "release store";
        let stored = self.load(OPERATION, pipeline).await?;
        if stored.bound == OWN {
            return Err(self.not_a_replica(OPERATION));
        }
        self.write_binding(OPERATION, (stored.epoch + 1, 0, ""))
            .await
    }

    /// Checks, before data is written, that the pipeline still holds `fence`, and that the store is
    /// still its source's.
    pub async fn check(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        fence: u64,
    ) -> Result<Held> {
        let stored = self.load(operation, pipeline).await?;
        self.still_held(operation, pipeline, fence, &stored)?;
        Ok(Held {
            fence,
            cursor: stored.cursor()?,
            source: stored.source,
        })
    }

    /// Stores `to` where it is further than the cursor that [`check`](Self::check) saw, and returns
    /// what is stored then. `Fenced` where another claim came in between: the row that was written
    /// does not count in that case.
    pub async fn commit(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        held: Held,
        to: &Cursor,
    ) -> Result<Cursor> {
        if let Some(before) = held.cursor
            && before >= *to
        {
            return Ok(before);
        }
        self.write(
            operation,
            pipeline,
            (held.fence, &to.to_string(), &held.source),
        )
        .await?;
        let now = self.load(operation, pipeline).await?;
        self.still_held(operation, pipeline, held.fence, &now)?;
        Ok(now.cursor()?.unwrap_or_else(|| to.clone()))
    }

    /// One query, so that both rows are of one moment.
    async fn load(&self, operation: &'static str, pipeline: &PipelineId) -> Result<Stored> {
        let sql = format!(
            "SELECT tupleElement(c.state, 1) AS fence, tupleElement(c.state, 2) AS cursor, \
             tupleElement(c.state, 3) AS source, tupleElement(s.binding, 1) AS epoch, \
             tupleElement(s.binding, 2) AS bound, tupleElement(s.binding, 3) AS bound_source \
             FROM (SELECT max(state) AS state FROM {} WHERE store = ? AND pipeline = ?) AS c \
             CROSS JOIN (SELECT max(binding) AS binding FROM {} WHERE store = ?) AS s",
            Tables::CURSORS,
            Tables::STORES,
        );
        let query = self
            .connection
            .client()
            .query(&sql)
            .bind(self.store.as_str())
            .bind(pipeline.as_str())
            .bind(self.store.as_str());
        let mut rows: Vec<Stored> = self.connection.fetch_all(operation, query).await?;
        Ok(rows.pop().unwrap_or_default())
    }

    fn still_held(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        fence: u64,
        stored: &Stored,
    ) -> Result<()> {
        if stored.fence != fence {
            return Err(Error::new(
                ErrorKind::Fenced,
                operation,
                format!(
                    "pipeline {pipeline} was taken over (fence {} now)",
                    stored.fence
                ),
            ));
        }
        if stored.bound == OWN {
            let what = format!("store {:?} was made a store of its own", self.store);
            return Err(Error::new(ErrorKind::Fenced, operation, what));
        }
        if stored.bound == EMPTYING {
            let what = format!("the content of store {:?} is being removed", self.store);
            return Err(Error::new(ErrorKind::Fenced, operation, what));
        }
        match (parse(&stored.source)?, parse(&stored.bound_source)?) {
            (Some(mine), Some(bound)) if stored.bound == 1 && !bound.continues(&mine) => {
                Err(self.diverged(operation, &bound, &mine))
            }
            _ => Ok(()),
        }
    }

    fn diverged(&self, operation: &'static str, bound: &SourceId, found: &SourceId) -> Error {
        let store = &self.store;
        Error::new(
            ErrorKind::SourceDiverged,
            operation,
            format!(
                "store {store:?} holds the content of source {bound}, this is {found}; \
                 `ledger bridge run --resync` empties it and starts again"
            ),
        )
    }

    async fn write(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        state: (u64, &str, &str),
    ) -> Result<()> {
        let store = self.store.as_str();
        let row = CursorRow {
            store,
            pipeline: pipeline.as_str(),
            state,
        };
        self.insert::<CursorRow<'static>>(operation, Tables::CURSORS, row)
            .await
    }

    pub(super) async fn write_binding(
        &self,
        operation: &'static str,
        binding: (u64, u8, &str),
    ) -> Result<()> {
        let row = StoreRow {
            store: self.store.as_str(),
            binding,
        };
        self.insert::<StoreRow<'static>>(operation, Tables::STORES, row)
            .await
    }

    async fn insert<T: Row + RowWrite>(
        &self,
        operation: &'static str,
        table: &str,
        row: T::Value<'_>,
    ) -> Result<()>
    where
        for<'a> T::Value<'a>: Send,
    {
        let rows = std::iter::once(row);
        self.connection
            .insert::<T, _>(operation, table, rows, 1, Dedup::Off)
            .await
    }

    /// Binds the store to `source`, or finds that it is.
    async fn bind(&self, stored: &Stored, source: &SourceId) -> Result<()> {
        const OPERATION: &str = "claim pipeline";
        let text = source.to_string();
        if stored.bound == OWN {
            return Err(self.not_a_replica(OPERATION));
        }
        if stored.bound == EMPTYING {
            let what = self.emptied();
            return Err(Error::new(ErrorKind::SourceDiverged, OPERATION, what));
        }
        if stored.bound == 1
            && let Some(bound) = parse(&stored.bound_source)?
        {
            if !bound.continues(source) {
                return Err(self.diverged(OPERATION, &bound, source));
            }
            if bound == *source {
                return Ok(());
            }
        }
        self.write_binding(OPERATION, (stored.epoch + 1, 1, &text))
            .await
    }
}

#[async_trait]
impl CursorStore for Cursors {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        const OPERATION: &str = "claim pipeline";
        let text = source.to_string();
        for _ in 0..ATTEMPTS {
            let stored = self.load(OPERATION, pipeline).await?;
            if let Some(before) = parse(&stored.source)?
                && !before.continues(source)
            {
                return Err(self.diverged(OPERATION, &before, source));
            }
            self.bind(&stored, source).await?;
            let fence = next_fence(stored.fence);
            self.write(OPERATION, pipeline, (fence, &stored.cursor, &text))
                .await?;
            let now = self.load(OPERATION, pipeline).await?;
            if now.fence == fence {
                self.still_held(OPERATION, pipeline, fence, &now)?;
                return Ok(Claim {
                    fence,
                    cursor: now.cursor()?,
                });
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            format!("others claim pipeline {pipeline} at the same time"),
        ))
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        const OPERATION: &str = "advance cursor";
        let held = self.check(OPERATION, pipeline, fence).await?;
        self.commit(OPERATION, pipeline, held, to).await
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        self.load("read cursor", pipeline).await?.cursor()
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        const OPERATION: &str = "reset pipeline";
        for _ in 0..ATTEMPTS {
            let stored = self.load(OPERATION, pipeline).await?;
            let fence = next_fence(stored.fence);
            self.write(OPERATION, pipeline, (fence, "", "")).await?;
            if self.load(OPERATION, pipeline).await?.fence == fence {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            format!("others claim pipeline {pipeline} at the same time; stop them first"),
        ))
    }
}

fn next_fence(fence: u64) -> u64 {
    let random = Uuid::new_v4().as_u64_pair().1 & ((1 << RANDOM_BITS) - 1);
    (((fence >> RANDOM_BITS) + 1) << RANDOM_BITS) | random
}

/// Reads a stored identity; none where nothing is stored.
fn parse(source: &str) -> Result<Option<SourceId>> {
    if source.is_empty() {
        return Ok(None);
    }
    source.parse().map(Some).map_err(|error: Error| {
        Error::new(ErrorKind::Corrupt, "read the bound source", source).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_above_every_one_before() {
        let mut fence = 0;
        for _ in 0..1_000 {
            let next = next_fence(fence);
            assert!(next > fence);
            fence = next;
        }
    }
}
