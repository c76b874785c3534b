//! Changes: the mutations of a store, as its log tells them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{
    Cursor, Entry, EntryId, Error, Pairs, Result, StreamKey, StreamRef, StreamState, Timestamp,
};

/// One mutation of a store, at its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The position; of two changes of one log the later has the higher cursor.
    pub cursor: Cursor,
    /// When it was written, by the source's clock. For display and lag only, never for order.
    pub committed_at: Timestamp,
    /// The stream concerned.
    pub stream: StreamRef,
    /// What happened.
    pub mutation: Mutation,
}

/// What happened to a stream.
///
/// Every variant carries the full resulting state with a version, so that applying one twice, or
/// an old one after a new one, changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutation {
    /// An entry was appended; the stream then had had `version` entries. A snapshot emits one for
    /// each entry that exists, with its present labels, and so does the log of a relay that was given
    /// it by a snapshot.
    Append {
        /// The entry.
        entry: Box<Entry>,
        /// How many entries the stream ever had, this one included; 0 where a snapshot does not
        /// know.
        version: u64,
    },
    /// The tags of an entry are now these.
    SetTags {
        /// The entry.
        id: EntryId,
        /// The entry's label version after this change.
        label_version: u64,
        /// All its tags.
        tags: Vec<String>,
    },
    /// The annotations of an entry are now these.
    SetAnnotations {
        /// The entry.
        id: EntryId,
        /// The entry's label version after this change.
        label_version: u64,
        /// All its annotations.
        annotations: Pairs,
    },
    /// Every entry with an id up to and including this one was removed.
    Trim {
        /// The highest id that was really removed.
        through: EntryId,
    },
    /// The stream has the name that its [`StreamRef`] carries.
    Rename,
    /// The state of a stream; snapshots emit one a stream, before its entries. In a log it stands
    /// only where a relay has told what it was given by a snapshot.
    Stream(StreamState),
}

impl Mutation {
    /// The kind.
    pub fn kind(&self) -> MutationKind {
        match self {
            Self::Append { .. } => MutationKind::Append,
            Self::SetTags { .. } => MutationKind::SetTags,
            Self::SetAnnotations { .. } => MutationKind::SetAnnotations,
            Self::Trim { .. } => MutationKind::Trim,
            Self::Rename => MutationKind::Rename,
            Self::Stream(_) => MutationKind::Stream,
        }
    }
}

/// The kinds of mutation. Each prints and parses as its name in skip lists and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MutationKind {
    /// `append`
    Append,
    /// `set_tags`
    SetTags,
    /// `set_annotations`
    SetAnnotations,
    /// `trim`
    Trim,
    /// `rename`
    Rename,
    /// `stream`: a snapshot's stream state; it cannot be skipped.
    Stream,
}

impl MutationKind {
    /// The kinds a pipeline may skip.
    pub const SKIPPABLE: [Self; 4] = [
        Self::SetTags,
        Self::SetAnnotations,
        Self::Trim,
        Self::Rename,
    ];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::SetTags => "set_tags",
            Self::SetAnnotations => "set_annotations",
            Self::Trim => "trim",
            Self::Rename => "rename",
            Self::Stream => "stream",
        }
    }
}

impl fmt::Display for MutationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for MutationKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::SKIPPABLE
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(
                    "parse mutation kind",
                    format!("{text:?} is none of set_tags, set_annotations, trim, rename"),
                )
            })
    }
}

/// What a pipeline carries: changes of ledgers, rows of tables.
pub trait Item:
    Clone + fmt::Debug + Send + Sync + 'static + Serialize + serde::de::DeserializeOwned
{
    /// The item's place in its log.
    fn cursor(&self) -> &Cursor;
    /// When it was written at the source, where that is known.
    fn committed_at(&self) -> Option<Timestamp>;
    /// The key within which order is kept: a stream's identity, never its name.
    fn key(&self) -> StreamKey;
    /// Roughly how many bytes it holds in memory.
    fn size(&self) -> usize;
    /// Whether it must be applied alone, after everything before it and before everything behind,
    /// when several lanes work side by side: a rename, the creation of a stream.
    fn is_barrier(&self) -> bool;
    /// The kind, as skip lists and metrics name it.
    fn kind(&self) -> &'static str;
    /// What it is, in words, for a dead letter's list; no payload.
    fn describe(&self) -> String;
}

impl Item for Change {
    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn committed_at(&self) -> Option<Timestamp> {
        Some(self.committed_at)
    }

    fn key(&self) -> StreamKey {
        self.stream.key
    }

    fn size(&self) -> usize {
        let pairs = |pairs: &Pairs| {
            pairs
                .iter()
                .map(|(k, v)| k.len() + v.len() + 64)
                .sum::<usize>()
        };
        let texts = |texts: &[String]| texts.iter().map(|text| text.len() + 24).sum::<usize>();
        160 + match &self.mutation {
            Mutation::Append { entry, .. } => {
                256 + entry.payload.len()
                    + entry.order_key.len()
                    + entry.dedup_key.len()
                    + pairs(&entry.metadata)
                    + pairs(&entry.annotations)
                    + texts(&entry.tags)
            }
            Mutation::SetTags { tags, .. } => texts(tags),
            Mutation::SetAnnotations { annotations, .. } => pairs(annotations),
            Mutation::Trim { .. } | Mutation::Rename | Mutation::Stream(_) => 0,
        }
    }

    fn is_barrier(&self) -> bool {
        match &self.mutation {
            Mutation::Rename | Mutation::Stream(_) => true,
            Mutation::Append { version, .. } => *version == 1,
            _ => false,
        }
    }

    fn kind(&self) -> &'static str {
        self.mutation.kind().as_str()
    }

    fn describe(&self) -> String {
        let stream = &self.stream.name;
        match &self.mutation {
            Mutation::Append { entry, .. } => format!("append {stream}#{}", entry.id),
            Mutation::SetTags { id, .. } => format!("set_tags {stream}#{id}"),
            Mutation::SetAnnotations { id, .. } => format!("set_annotations {stream}#{id}"),
            Mutation::Trim { through } => format!("trim {stream} through #{through}"),
            Mutation::Rename => format!("rename to {stream}"),
            Mutation::Stream(_) => format!("stream {stream}"),
        }
    }
}
