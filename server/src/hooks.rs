//! What administration looks after beside bridges: the webhooks of whoever runs the service.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ledger_core::hook::{Attempt, AttemptQuery, Counts, Letter};
use ledger_core::{Cursor, Error, ErrorKind, Result, StoreName, StreamKey, StreamName, Timestamp};

/// The hooks that run beside the service. Every call but `list` is `NotFound` for a name that no hook
/// has.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// All hooks, by name. Rests on what is known already: readiness waits for it.
    async fn list(&self) -> Vec<HookStatus>;

    /// Sends one delivery that is a test.
    async fn test(&self, name: &str) -> Result<Attempt>;

    /// The newest attempts first.
    async fn attempts(&self, name: &str, query: &AttemptQuery) -> Result<Vec<Attempt>>;

    /// Asks a hook to pause.
    async fn pause(&self, name: &str) -> Result<()>;

    /// Lets a hook go on that is paused or disabled; with `restart` from the start of every stream.
    async fn resume(&self, name: &str, restart: bool) -> Result<()>;

    /// Sends again.
    async fn replay(&self, name: &str, replay: &HookReplay) -> Result<HookReplayed>;

    /// Up to `limit` dead letters behind `after`, in log order, and how many there are in all.
    async fn letters(
        &self,
        name: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<Letter>, u64)>;

    /// Forgets these dead letters; none: all. Tells how many there were.
    async fn discard(&self, name: &str, cursors: Option<&[Cursor]>) -> Result<u64>;

    /// Lets dead letters be delivered again: those of `stream`, or all. Tells how many there were.
    async fn requeue(&self, name: &str, stream: Option<StreamKey>) -> Result<u64>;

    /// Draws a new secret, and signs with the old ones too for the time `overlap`: what the receiver
    /// needs, and until when.
    async fn rotate(
        &self,
        name: &str,
        overlap: Duration,
        asymmetric: bool,
    ) -> Result<(String, Timestamp)>;

    /// Forgets a hook that is not configured any more: its cursor, what waits, its attempts and its
    /// place in the retention of logs. `InvalidInput` for one that is.
    async fn remove(&self, name: &str) -> Result<()>;

    /// Whether a signature is the hook's; an inner error is why not.
    async fn verify(&self, name: &str, signed: &HookSigned) -> Result<Result<(), String>>;
}

/// What was signed, and by what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookSigned {
    /// The delivery's id.
    pub id: String,
    /// The time of the attempt, in seconds since 1970.
    pub timestamp: String,
    /// The signature, as the header has it.
    pub signature: String,
    /// The body.
    pub body: Bytes,
}

/// What to send again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HookReplay {
    /// Only this stream.
    pub stream: Option<StreamName>,
    /// Only entries appended at or after this time; with `outcome`, attempts made since.
    pub since: Option<Timestamp>,
    /// Only entries appended before this time; with `outcome`, attempts made before.
    pub until: Option<Timestamp>,
    /// Only deliveries whose last remembered attempt came to this.
    pub outcome: Option<ledger_core::hook::Outcome>,
    /// Tell what would be sent, and send nothing.
    pub dry_run: bool,
    /// How many deliveries are sent a second at most.
    pub rate: Option<f64>,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HookReplayed {
    /// The streams concerned.
    pub streams: u64,
    /// How many deliveries there are.
    pub deliveries: u64,
    /// How many entries they hold.
    pub entries: u64,
    /// How many deliveries were taken.
    pub delivered: u64,
    /// How many were not.
    pub failed: u64,
    /// Deliveries without entries that still exist.
    pub gone: u64,
}

/// What a hook is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HookRunState {
    /// Another instance has it, or the store cannot be reached.
    #[default]
    Waiting,
    /// It sends what the store held before.
    Copying,
    /// It follows the log.
    Following,
    /// It was asked to pause.
    Paused,
    /// It sends nothing until it is resumed.
    Disabled,
    /// It has ended.
    Stopped,
}

impl HookRunState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Stopped => "stopped",
        }
    }
}

/// A hook, as administration and readiness show it.
#[derive(Debug, Clone)]
pub struct HookStatus {
    /// The name.
    pub name: String,
    /// The store it reads.
    pub store: StoreName,
    /// The pattern of the streams; empty for all.
    pub stream: String,
    /// Where it sends to, without secrets.
    pub url: String,
    /// The form of bodies.
    pub format: String,
    /// What it is doing.
    pub state: HookRunState,
    /// Whether it makes progress.
    pub ready: bool,
    /// Whether its endpoint is spoken to, in one word.
    pub breaker: &'static str,
    /// How many changes are behind its cursor.
    pub lag_entries: u64,
    /// How long ago the oldest of them was written.
    pub lag: Duration,
    /// Items that were taken.
    pub delivered: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// The bytes of what was taken.
    pub bytes: u64,
    /// Items a second, lately.
    pub rate: f64,
    /// What waits.
    pub counts: Counts,
    /// The last error since its last success.
    pub last_error: Option<String>,
    /// Why it sends nothing until it is resumed.
    pub disabled: Option<String>,
    /// The last stored position.
    pub position: Option<Cursor>,
}

/// No hooks at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl NoHooks {
    fn unknown<T>(name: &str) -> Result<T> {
        Err(Error::new(
            ErrorKind::NotFound,
            "look after hook",
            format!("there is no hook {name:?}"),
        ))
    }
}

#[async_trait]
impl Hooks for NoHooks {
    async fn remove(&self, name: &str) -> Result<()> {
        Self::unknown(name)
    }

    async fn list(&self) -> Vec<HookStatus> {
        Vec::new()
    }

    async fn test(&self, name: &str) -> Result<Attempt> {
        Self::unknown(name)
    }

    async fn attempts(&self, name: &str, _: &AttemptQuery) -> Result<Vec<Attempt>> {
        Self::unknown(name)
    }

    async fn pause(&self, name: &str) -> Result<()> {
        Self::unknown(name)
    }

    async fn resume(&self, name: &str, _: bool) -> Result<()> {
        Self::unknown(name)
    }

    async fn replay(&self, name: &str, _: &HookReplay) -> Result<HookReplayed> {
        Self::unknown(name)
    }

    async fn letters(
        &self,
        name: &str,
        _: Option<&Cursor>,
        _: usize,
    ) -> Result<(Vec<Letter>, u64)> {
        Self::unknown(name)
    }

    async fn discard(&self, name: &str, _: Option<&[Cursor]>) -> Result<u64> {
        Self::unknown(name)
    }

    async fn requeue(&self, name: &str, _: Option<StreamKey>) -> Result<u64> {
        Self::unknown(name)
    }

    async fn rotate(&self, name: &str, _: Duration, _: bool) -> Result<(String, Timestamp)> {
        Self::unknown(name)
    }

    async fn verify(&self, name: &str, _: &HookSigned) -> Result<Result<(), String>> {
        Self::unknown(name)
    }
}
