//! The mutation log of a store: what consumers follow, and what is kept for them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Change, Contents, Cursor, Error, Result, StreamKey, Timestamp, stream};

/// The mutation log of a store.
#[async_trait]
pub trait ChangeLog: Send + Sync {
    /// Which history this is. Asked for at the backend each time, since it changes when a backup is
    /// restored.
    async fn identity(&self) -> Result<SourceId>;

    /// The position before the first change.
    fn start(&self) -> Cursor;

    /// Every change after `after`, in log order; then waits for more, pushed, and never ends by
    /// itself but with an error.
    ///
    /// It MUST NOT skip a committed change, MUST give the changes of a stream in the order in which
    /// they took effect, and MUST hold bounded memory however large the backlog is. Its errors:
    /// `CursorExpired` where changes behind `after` have been pruned; `SourceDiverged` where
    /// `after` is not a position of this history; after any error the stream ends.
    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>>;

    /// A position with no gap below it: every change at or before it can be seen by a read that
    /// begins after this call. It waits for transactions that are about to write below it.
    async fn head(&self) -> Result<Cursor>;

    /// How far behind the log's end this position is.
    async fn lag(&self, after: &Cursor) -> Result<Lag>;

    /// What the store holds: each stream's state ([`Mutation::Stream`](crate::Mutation::Stream)),
    /// then each entry with its present labels, read in short chunks without holding a snapshot
    /// open. Each change's cursor is a key of this copy (not of the log): given as `after`, the
    /// copy goes on behind it.
    ///
    /// With the changes after a [`head`](Self::head) taken before the first chunk it converges to
    /// the store's present content.
    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>>;

    /// About how many entries the store holds.
    async fn size(&self) -> Result<u64>;

    /// The content, for verification.
    fn contents(&self) -> &dyn Contents;

    /// Who consumes this log.
    fn consumers(&self) -> &dyn Consumers;

    /// What its consumers could not deliver.
    fn dead_letters(&self) -> &dyn DeadLetters;
}

/// The identity of a source's history. A cursor is meaningful only within one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceId {
    /// The store's own id, drawn when it was created.
    pub store: Uuid,
    /// What the backend calls its cluster or file: PostgreSQL's system identifier, for example.
    pub system: String,
    /// The backend's timeline; it changes when a standby is promoted or a backup is restored.
    pub timeline: u32,
    /// Of a relay, the stores that its changes came through before it, the first of them first; none
    /// of a store that takes appends of its own.
    #[serde(default)]
    pub origins: Vec<Uuid>,
}

impl SourceId {
    /// Whether `other` can be the same history: store and system agree. The timeline may differ, as
    /// after a failover: the log tells whether a cursor is still in its history.
    pub fn continues(&self, other: &Self) -> bool {
        self.store == other.store && self.system == other.system
    }

    /// The stores that the changes of a relay of this source came through, this one last.
    pub fn passed_on(&self) -> Vec<Uuid> {
        self.origins.iter().copied().chain([self.store]).collect()
    }

    /// Checks that carrying this history into the store `sink` closes no loop; `InvalidInput` names
    /// the one that it would close. `name` tells the sink in words.
    pub fn check_sink(&self, sink: Uuid, name: &dyn fmt::Display) -> Result<()> {
        let passed = self.passed_on();
        let Some(from) = passed.iter().position(|store| *store == sink) else {
            return Ok(());
        };
        let around = passed.iter().skip(from).chain([&sink]);
        let around: Vec<String> = around.map(Uuid::to_string).collect();
        Err(Error::invalid(
            "check for loops",
            format!(
                "{name} is where these changes come from, and cannot be carried into itself; the loop \
                 would be {}",
                around.join(" -> ")
            ),
        ))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.store, self.system, self.timeline)?;
        for origin in &self.origins {
            write!(f, "+{origin}")?;
        }
        Ok(())
    }
}

impl FromStr for SourceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (store, rest) = text.split_once('@')?;
            let (system, rest) = rest.rsplit_once('/')?;
            let mut rest = rest.split('+');
            let timeline = rest.next()?.parse().ok()?;
            let origins: Option<_> = rest.map(|origin| origin.parse().ok()).collect();
            Some(Self {
                store: store.parse().ok()?,
                system: system.to_owned(),
                timeline,
                origins: origins?,
            })
        };
        parse().ok_or_else(|| {
            Error::invalid(
                "parse source identity",
                format!("{text:?} is not store@system/timeline, with +origin for each origin"),
            )
        })
    }
}

/// How far a reader is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lag {
    /// How many changes are behind the position; above some 100,000 an estimate.
    pub entries: u64,
    /// How long ago the oldest of them was written.
    pub age: Duration,
    /// How many bytes of the log are behind the position, where the log is one of bytes: with all that
    /// is no change in it.
    pub bytes: Option<u64>,
    /// Who holds the log's readers back at this moment, in words.
    pub held_by: Vec<String>,
}

/// The name of a pipeline: of a bridge, a hook, a registered reader. It matches
/// `^[a-zA-Z0-9_.:-]+$` and has at most 200 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PipelineId(Arc<str>);

impl PipelineId {
    /// Checks the rule and takes the name.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        if name.is_empty() || name.len() > 200 || !name.chars().all(allowed) {
            return Err(Error::invalid(
                "check pipeline name",
                format!("name {name:?} must match ^[a-zA-Z0-9_.:-]+$, with at most 200 characters"),
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
stream::name!(PipelineId);

/// The registered consumers of a log. The log keeps what the slowest of them has not confirmed,
/// within its retention.
#[async_trait]
pub trait Consumers: Send + Sync {
    /// Registers a consumer at `at`, or leaves one that is registered where it is.
    async fn register(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()>;

    /// Says that the consumer no longer needs what is at or before `at`. Never moves backward;
    /// `NotFound` for one that is not registered.
    async fn confirm(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()>;

    /// Moves a consumer to `at`, forward or back, as a resync does.
    async fn reset(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()>;

    /// Forgets a consumer, its lease and its dead letters.
    async fn unregister(&self, pipeline: &PipelineId) -> Result<()>;

    /// All consumers, by name.
    async fn list(&self) -> Result<Vec<Consumer>>;

    /// Takes or renews the lease on a pipeline for `ttl`, by the backend's clock. Registers
    /// nothing: `NotFound` for a consumer that is not registered.
    async fn lease(&self, pipeline: &PipelineId, holder: &str, ttl: Duration) -> Result<Lease>;

    /// Gives the lease back, where `holder` has it.
    async fn release(&self, pipeline: &PipelineId, holder: &str) -> Result<()>;

    /// Asks the pipeline to pause, or to go on; whoever holds the lease sees it at its renewal.
    async fn set_paused(&self, pipeline: &PipelineId, paused: bool) -> Result<()>;
}

/// A registered consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub pipeline: PipelineId,
    /// What it has confirmed.
    pub confirmed: Cursor,
    /// When it confirmed last.
    pub confirmed_at: Timestamp,
    /// Who has its lease, while that lasts.
    pub holder: Option<String>,
    /// Whether it has been asked to pause.
    pub paused: bool,
}

/// The answer to asking for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// The caller has it, until the time-to-live is over.
    Held {
        /// Whether the pipeline has been asked to pause.
        paused: bool,
    },
    /// Somebody else has it.
    HeldBy {
        /// Who.
        holder: String,
    },
}

/// Items that a pipeline could not deliver and set aside.
///
/// Parking is idempotent: one letter a pipeline and cursor.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Stores letters durably.
    async fn park(&self, letters: Vec<DeadLetter>) -> Result<()>;

    /// Up to `limit` letters of a pipeline in log order, after `after`.
    async fn list(
        &self,
        pipeline: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// The keys whose items are parked, each with the cursor of its first letter.
    async fn parked_keys(&self, pipeline: &PipelineId) -> Result<Vec<StreamKey>>;

    /// How many letters there are.
    async fn count(&self, pipeline: &PipelineId) -> Result<u64>;

    /// Removes the letters with these cursors; those that do not exist are no error.
    async fn remove(&self, pipeline: &PipelineId, cursors: &[Cursor]) -> Result<()>;
}

/// An item set aside, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which pipeline could not deliver it.
    pub pipeline: PipelineId,
    /// The item's position.
    pub cursor: Cursor,
    /// The key whose later items are parked behind it.
    pub key: StreamKey,
    /// What it is, in words.
    pub description: String,
    /// Why it was set aside; for items behind a parked one, says so.
    pub reason: String,
    /// The item, in MessagePack.
    pub item: Bytes,
    /// When it was set aside.
    pub parked_at: Timestamp,
}
