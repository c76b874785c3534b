use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Change, Mutation, MutationKind, PipelineId, Result, StoreName, StreamRef};

/// What one request carries: changes of one stream and one kind, in order.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The idempotency key, the same on each attempt and after a restart: it is made of whose
    /// delivery it is and of what it carries, never of when.
    pub id: String,
    /// The store.
    pub store: StoreName,
    /// The changes: appends, or a single one of another kind. Never empty.
    pub changes: Vec<Change>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

impl Delivery {
    /// The delivery of `changes`, which are of one stream and one kind, by the hook `hook` of the
    /// store with the identity `source`. None where there are no changes.
    pub fn new(
        hook: &PipelineId,
        source: uuid::Uuid,
        store: &StoreName,
        changes: Vec<Change>,
    ) -> Option<Self> {
        let (first, last) = (changes.first()?, changes.last()?);
        let what = format!(
            "{hook}\n{source}\n{}\n{}\n{}",
            first.mutation.kind(),
            part(first),
            part(last)
        );
        let digest = xxhash_rust::xxh3::xxh3_128(what.as_bytes());
        Some(Self {
            id: format!("msg_{digest:032x}"),
            store: store.clone(),
            changes,
            attempt: 1,
        })
    }

    /// The stream.
    pub fn stream(&self) -> Option<&StreamRef> {
        self.changes.first().map(|change| &change.stream)
    }

    /// The kind of its changes.
    pub fn kind(&self) -> MutationKind {
        let first = self.changes.first();
        first.map_or(MutationKind::Append, |change| change.mutation.kind())
    }

    /// The first and the last entry that it is about, as texts; empty for what is about none.
    pub fn range(&self) -> (String, String) {
        let id = |change: Option<&Change>| match change.map(|change| &change.mutation) {
            Some(Mutation::Append { entry, .. }) => entry.id.to_string(),
            Some(Mutation::SetTags { id, .. } | Mutation::SetAnnotations { id, .. }) => {
                id.to_string()
            }
            Some(Mutation::Trim { through }) => through.to_string(),
            Some(Mutation::Rename | Mutation::Stream(_)) | None => String::new(),
        };
        (id(self.changes.first()), id(self.changes.last()))
    }
}

/// What tells a change from every other one of its store and kind. Ids of entries are unique in it.
fn part(change: &Change) -> String {
    match &change.mutation {
        Mutation::Append { entry, .. } => entry.id.to_string(),
        Mutation::SetTags {
            id, label_version, ..
        }
        | Mutation::SetAnnotations {
            id, label_version, ..
        } => format!("{id}/{label_version}"),
        Mutation::Trim { through } => through.to_string(),
        Mutation::Rename => format!("{}/{}", change.stream.key, change.stream.name_version),
        Mutation::Stream(state) => format!("{}/{}", change.stream.key, state.version),
    }
}

/// Who takes deliveries.
#[async_trait]
pub trait Endpoint: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Makes one attempt, within a time of its own. What came of it is the answer, never an error:
    /// an error says that the delivery itself cannot be written down.
    async fn post(&self, delivery: &Delivery) -> Result<Answer>;
}

/// What came of an attempt.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What it means.
    pub outcome: Outcome,
    /// The HTTP status; none where there was no response.
    pub status: Option<u16>,
    /// How long the receiver asks to be left alone.
    pub retry_after: Option<Duration>,
    /// How long it took.
    pub took: Duration,
    /// How many bytes were sent.
    pub sent: usize,
    /// The response's beginning.
    pub response: Bytes,
    /// What went wrong, in words; none for a success.
    pub error: Option<String>,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It may be taken another time.
    Failed,
    /// The receiver has too much to do: it is to be sent less, and this again.
    Throttled,
    /// The receiver will not take it, however often it is sent.
    Refused,
    /// The receiver wants no more deliveries at all.
    Gone,
}

impl Outcome {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
