//! What administration looks after: the bridges of whoever runs the service.

use std::time::Duration;

use async_trait::async_trait;
use ledger_core::{Cursor, DeadLetter, Error, ErrorKind, PipelineId, Result};

/// The bridges that run beside the service. Every call but `list` is `NotFound` for a name that no
/// bridge has.
#[async_trait]
pub trait Bridges: Send + Sync + 'static {
    /// All bridges, by name. Rests on what is known already: readiness waits for it.
    async fn list(&self) -> Vec<BridgeStatus>;

    /// Asks a bridge to pause.
    async fn pause(&self, name: &PipelineId) -> Result<()>;

    /// Lets a bridge go on.
    async fn resume(&self, name: &PipelineId) -> Result<()>;

    /// Ends a bridge for good: gives back what it holds at its source, and forgets its dead letters.
    /// What it has written stays. Of one that is not configured any more, what the stores of this daemon
    /// know is forgotten; `NotFound` where that is nothing.
    async fn remove(&self, name: &PipelineId) -> Result<()>;

    /// Makes a bridge copy everything again, or only this table, then follow. Returns when that has
    /// begun.
    async fn resync(&self, name: &PipelineId, table: Option<&str>) -> Result<()>;

    /// Compares the two sides of a bridge, and mends what differs where `repair` is set.
    async fn verify(&self, name: &PipelineId, repair: bool) -> Result<Verification>;

    /// Up to `limit` dead letters behind `after`, in log order, and how many there are in all.
    async fn dead_letters(
        &self,
        name: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Letters>;

    /// Forgets these dead letters; none: all. Tells how many there were.
    async fn discard(&self, name: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64>;

    /// Delivers the dead letters again: how many were delivered, and how many are left.
    async fn replay(&self, name: &PipelineId) -> Result<(u64, u64)>;
}

/// Some dead letters, and how many there are in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letters {
    /// The letters, in log order.
    pub letters: Vec<DeadLetter>,
    /// How many there are in all.
    pub total: u64,
}

/// What a bridge is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BridgeState {
    /// Another instance has it, or a side cannot be reached.
    #[default]
    Waiting,
    /// It copies what the store held before.
    Copying,
    /// It follows the log.
    Following,
    /// It was asked to pause.
    Paused,
    /// It has ended.
    Stopped,
}

impl BridgeState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A bridge, as administration and readiness show it.
#[derive(Debug, Clone)]
pub struct BridgeStatus {
    /// The name.
    pub name: PipelineId,
    /// The store it reads; the patterns of its tables, where it carries tables.
    pub store: String,
    /// What it writes to, without secrets.
    pub to: String,
    /// What it is doing.
    pub state: BridgeState,
    /// Whether it makes progress.
    pub ready: bool,
    /// How many mutations it is behind.
    pub lag_entries: u64,
    /// How many bytes of the source's log it is behind, where the source can tell.
    pub lag_bytes: Option<u64>,
    /// How long ago the oldest of them was written.
    pub lag: Duration,
    /// The last error since its last success.
    pub last_error: Option<String>,
    /// Mutations delivered.
    pub delivered: u64,
    /// The bytes of these, roughly.
    pub bytes: u64,
    /// Mutations left out as configured.
    pub skipped: u64,
    /// Mutations set aside.
    pub parked: u64,
    /// Mutations refused and left out.
    pub refused: u64,
    /// How many entries there were to copy; 0 where nothing was copied.
    pub to_copy: u64,
    /// Mutations a second, lately.
    pub rate: f64,
    /// The last position that is durable at the target.
    pub position: Option<Cursor>,
    /// How many dead letters there are.
    pub dead_letters: u64,
}

/// What a comparison of two sides found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// How many streams the source has.
    pub streams: u64,
    /// How many entries the source has.
    pub compared: u64,
    /// How many rows differ.
    pub different: u64,
    /// How many rows are on their way.
    pub pending: u64,
    /// How many were mended.
    pub repaired: u64,
    /// How many could not be mended.
    pub unrepaired: u64,
    /// Some of the differences, in words.
    pub differences: Vec<String>,
    /// Whether the sides are equal, or were mended.
    pub equal: bool,
    /// The bridges from a relay that was mended, which are to be verified as well.
    pub verify_too: Vec<String>,
}

/// No bridges at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBridges;

impl NoBridges {
    fn unknown<T>(name: &PipelineId) -> Result<T> {
        Err(Error::new(
            ErrorKind::NotFound,
            "look after bridge",
            format!("there is no bridge {name:?}"),
        ))
    }
}

#[async_trait]
impl Bridges for NoBridges {
    async fn list(&self) -> Vec<BridgeStatus> {
        Vec::new()
    }

    async fn pause(&self, name: &PipelineId) -> Result<()> {
        Self::unknown(name)
    }

    async fn resume(&self, name: &PipelineId) -> Result<()> {
        Self::unknown(name)
    }

    async fn resync(&self, name: &PipelineId, _: Option<&str>) -> Result<()> {
        Self::unknown(name)
    }

    async fn remove(&self, name: &PipelineId) -> Result<()> {
        Self::unknown(name)
    }

    async fn verify(&self, name: &PipelineId, _: bool) -> Result<Verification> {
        Self::unknown(name)
    }

    async fn dead_letters(
        &self,
        name: &PipelineId,
        _: Option<&Cursor>,
        _: usize,
    ) -> Result<Letters> {
        Self::unknown(name)
    }

    async fn discard(&self, name: &PipelineId, _: Option<&[Cursor]>) -> Result<u64> {
        Self::unknown(name)
    }

    async fn replay(&self, name: &PipelineId) -> Result<(u64, u64)> {
        Self::unknown(name)
    }
}
