use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Cursor, EntryId, PipelineId, Result, SourceId, StoreName, StreamKey, Timestamp};

/// What keeps the state of hooks, durably. In the database that holds their stores, so that a backup
/// holds both.
#[async_trait]
pub trait State: fmt::Debug + Send + Sync + 'static {
    /// Takes the hook for this process: what is stored of it, and a fence higher than every one
    /// before. `Conflict` where the hook was one of another store before, `SourceDiverged` where
    /// the store was another one of that name.
    async fn claim(&self, hook: &PipelineId, store: &StoreName, source: &SourceId)
    -> Result<Claim>;

    /// Stores everything of `writes` or nothing, in one transaction. `Fenced` where another claim
    /// came in between.
    async fn commit(&self, hook: &PipelineId, fence: u64, writes: &Writes) -> Result<()>;

    /// Up to `limit` items of a stream that wait, in log order, up to and including `through`; dead
    /// letters that hold no stream up are not among them.
    async fn queued(
        &self,
        hook: &PipelineId,
        stream: StreamKey,
        through: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Queued>>;

    /// Remembers attempts that were made beside the hook's own work, as a replay's.
    async fn remember(&self, hook: &PipelineId, attempts: &[Attempt]) -> Result<()>;

    /// The newest attempts first.
    async fn attempts(&self, hook: &PipelineId, query: &AttemptQuery) -> Result<Vec<Attempt>>;

    /// Up to `limit` dead letters in log order, behind `after`.
    async fn letters(
        &self,
        hook: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Letter>>;

    /// Lets dead letters be tried again: those of `stream`, or all. No instance of the hook may
    /// run. Tells how many there were.
    async fn requeue(&self, hook: &PipelineId, stream: Option<StreamKey>) -> Result<u64>;

    /// Forgets dead letters: those with these cursors, or all. Tells how many there were.
    async fn discard(&self, hook: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64>;

    /// How much waits.
    async fn counts(&self, hook: &PipelineId) -> Result<Counts>;

    /// What an operator has asked for that outlives a restart; the default for an unknown hook.
    async fn asked(&self, hook: &PipelineId) -> Result<Asked>;

    /// Stores what an operator asks for.
    async fn ask(&self, hook: &PipelineId, asked: &Asked) -> Result<()>;

    /// Forgets everything of a hook but what was asked for and its attempts, so that it begins anew,
    /// with whichever store. Whoever claimed it before is fenced.
    async fn reset(&self, hook: &PipelineId) -> Result<()>;

    /// Forgets a hook altogether, as one that never was. Tells whether there was anything of it.
    async fn remove(&self, hook: &PipelineId) -> Result<bool>;
}

/// A hook taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Higher than that of every claim before.
    pub fence: u64,
    /// Where to resume: everything at or before it is delivered, or stands in the queue.
    pub cursor: Option<Cursor>,
    /// The streams that wait for another attempt, or are parked.
    pub waiting: Vec<Waiting>,
    /// The deliveries of several items behind the cursor that may have been sent already.
    pub plans: Vec<Plan>,
    /// How far streams are settled, as long as the cursor does not tell.
    pub settled: Vec<Settled>,
}

/// What an operator asked for, or a receiver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Why nothing is sent until the hook is resumed, where that is so.
    pub disabled: Option<String>,
    /// Secrets beside the configuration's, in the form of who wrote them; none for none. The bytes
    /// are secret.
    pub secrets: Option<Bytes>,
}

/// A stream that is held up by a delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The stream.
    pub stream: StreamKey,
    /// Its name, to be shown.
    pub name: String,
    /// The last item of the delivery that is tried again; items up to here go together.
    pub through: Cursor,
    /// How many attempts have failed.
    pub attempts: u32,
    /// When the next one is due.
    pub next_at: Timestamp,
    /// Whether it waits for an operator: its items are dead letters.
    pub parked: bool,
    /// The last error.
    pub error: String,
}

/// A delivery of several items that is about to be sent. Noted before, so that after a restart the
/// same items go together, under the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The stream.
    pub stream: StreamKey,
    /// The first entry.
    pub first: EntryId,
    /// The last one.
    pub last: EntryId,
    /// The position of the first.
    pub begin: Cursor,
    /// The position of the last. A copy that is begun anew meets the entries at other positions.
    pub through: Cursor,
}

/// How far a stream is settled: everything in it up to here is delivered or queued, and is not to be
/// taken up again when it is met again behind the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The stream.
    pub stream: StreamKey,
    /// The last entry; 0 where only other kinds of change are settled.
    pub id: EntryId,
    /// The last position.
    pub through: Cursor,
}

/// An item that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The stream.
    pub stream: StreamKey,
    /// Its position in the log.
    pub cursor: Cursor,
    /// What it is, in words.
    pub description: String,
    /// The item, in MessagePack.
    pub item: Bytes,
    /// Why it is a dead letter that holds no stream up; none for one that waits in order.
    pub letter: Option<String>,
    /// The last entry of the delivery that it may have been sent in before: those of one border go
    /// together again, and with no other. None for what was never sent.
    pub border: Option<EntryId>,
}

/// What is stored at once.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// Everything at or before it is delivered, or stands in the queue with this write. Plans up to
    /// here are forgotten.
    pub cursor: Option<Cursor>,
    /// Deliveries that are about to be sent.
    pub plans: Vec<Plan>,
    /// Items to be queued.
    pub queue: Vec<Queued>,
    /// Queued items of a stream that are delivered: those up to and including the cursor.
    pub delivered: Vec<(StreamKey, Cursor)>,
    /// Queued items that no longer hold their stream up, up to and including the cursor: they are
    /// dead letters now, for this reason.
    pub skipped: Vec<(StreamKey, Cursor, String)>,
    /// Streams that wait, as they now stand.
    pub waiting: Vec<Waiting>,
    /// Streams that wait no more.
    pub released: Vec<StreamKey>,
    /// How far streams are settled although the cursor does not tell.
    pub settled: Vec<Settled>,
    /// Whether what is settled at or before the cursor is told by the cursor from now on.
    pub cursor_tells: bool,
    /// Attempts to be remembered, oldest first.
    pub attempts: Vec<Attempt>,
    /// Why nothing is to be sent any more.
    pub disabled: Option<String>,
}

impl Writes {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.cursor.is_none()
            && self.plans.is_empty()
            && self.queue.is_empty()
            && self.delivered.is_empty()
            && self.skipped.is_empty()
            && self.waiting.is_empty()
            && self.released.is_empty()
            && self.settled.is_empty()
            && !self.cursor_tells
            && self.attempts.is_empty()
            && self.disabled.is_none()
    }
}

/// An attempt that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its number in the log of attempts; 0 where it has none yet.
    pub number: u64,
    /// When it ended.
    pub at: Timestamp,
    /// The delivery's id.
    pub id: String,
    /// The stream.
    pub stream: StreamKey,
    /// Its name then.
    pub name: String,
    /// The kind of what was sent.
    pub kind: String,
    /// The first entry.
    pub first: String,
    /// The last entry.
    pub last: String,
    /// How many items it held.
    pub items: u64,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// What it came to: the word of an [`Outcome`](super::Outcome).
    pub outcome: String,
    /// The HTTP status; 0 for none.
    pub status: u16,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// How many bytes were sent.
    pub sent: u64,
    /// The response's beginning.
    pub response: Bytes,
    /// What went wrong; empty for nothing.
    pub error: String,
}

/// Which attempts to tell of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptQuery {
    /// Only those with a lower number.
    pub before: Option<u64>,
    /// Only those of the stream of this name.
    pub stream: Option<String>,
    /// Only those that came to this.
    pub outcome: Option<String>,
    /// Only those of this delivery.
    pub id: Option<String>,
    /// Only those at or after this time.
    pub since: Option<Timestamp>,
    /// Only those before this time.
    pub until: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
}

/// An item that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its position in the log, by which it is named.
    pub cursor: Cursor,
    /// The stream.
    pub stream: StreamKey,
    /// What it is, in words.
    pub description: String,
    /// Why.
    pub reason: String,
    /// When it was queued.
    pub at: Timestamp,
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Streams that wait for another attempt.
    pub waiting: u64,
    /// Streams that are parked.
    pub parked: u64,
    /// Items that wait for another attempt, or behind one that does.
    pub queued: u64,
    /// Dead letters.
    pub letters: u64,
}
