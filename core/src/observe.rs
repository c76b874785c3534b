//! What the wrapper [`Observed`](crate::Observed) tells of calls and deliveries. Core counts
//! nothing itself: a [`Recorder`] does, with whatever metrics system it stands for.

use std::fmt;
use std::time::Duration;

use crate::{Error, ErrorKind, PipelineId, StoreName, StreamName};

/// Takes down what happened. It is called on the way of every call, so it MUST NOT block.
pub trait Recorder: fmt::Debug + Send + Sync + 'static {
    /// A call to a store has ended. One whose future was dropped before has not.
    fn operation(&self, operation: &Operation<'_>);

    /// A delivery of a bridge has ended.
    fn poll(&self, poll: &Poll<'_>);

    /// A bridge left out one mutation, as it is configured to.
    fn skipped(&self, bridge: &PipelineId, kind: &'static str);

    /// How old the oldest mutation is that a bridge has not delivered; zero where there is none.
    fn lag(&self, bridge: &PipelineId, lag: Duration);
}

/// A call to a store that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// Which method it was.
    pub kind: OperationKind,
    /// What the wrapper was told that the backend is.
    pub backend: &'static str,
    /// The store's name.
    pub store: &'a StoreName,
    /// The stream that it concerned; none for those of the whole store.
    pub stream: Option<&'a StreamName>,
    /// From the call to its answer.
    pub took: Duration,
    /// How many entries were appended (duplicates are not), read, found, or trimmed; 0 for the
    /// other calls and for those that failed.
    pub entries: u64,
    /// Why it failed.
    pub error: Option<&'a Error>,
}

/// The methods of a store, as telemetry names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// [`Store::append`](crate::Store::append).
    Append,
    /// [`Store::page`](crate::Store::page).
    Read,
    /// [`Store::stat`](crate::Store::stat), which counts as well.
    Stat,
    /// [`Store::trim`](crate::Store::trim).
    Trim,
    /// [`Store::streams`](crate::Store::streams).
    ListStreamIds,
    /// [`Store::rename`](crate::Store::rename).
    RenameStream,
    /// [`Labels::set_tags`](crate::Labels::set_tags).
    SetTags,
    /// [`Labels::set_annotations`](crate::Labels::set_annotations).
    SetAnnotations,
    /// [`Search::search`](crate::Search::search).
    Search,
}

impl OperationKind {
    /// The value of the attribute `operation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Stat => "stat",
            Self::Trim => "trim",
            Self::ListStreamIds => "list_stream_ids",
            Self::RenameStream => "rename_stream",
            Self::SetTags => "set_tags",
            Self::SetAnnotations => "set_annotations",
            Self::Search => "search",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A delivery to a sink that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Poll<'a> {
    /// Whose delivery it was.
    pub bridge: &'a PipelineId,
    /// How long the sink took.
    pub took: Duration,
    /// How many mutations of each kind it carried; kinds that it had none of are left out.
    pub mutations: &'a [(&'static str, u64)],
    /// Why it failed; nothing of it counts as applied then.
    pub error: Option<&'a Error>,
}

/// The value of the attribute `error_type`.
///
/// What a caller may have got wrong has a word of its own; what the backend got wrong is
/// `internal`.
pub fn error_type(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "not_found",
        ErrorKind::Closed => "store_closed",
        ErrorKind::CursorExpired | ErrorKind::SourceDiverged => "invalid_cursor",
        ErrorKind::Corrupt => "decode",
        ErrorKind::InvalidInput if error.operation().starts_with("encode") => "encode",
        ErrorKind::InvalidInput => "invalid_input",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::ReadOnly => "read_only",
        ErrorKind::Unavailable | ErrorKind::Fenced | ErrorKind::Rejected | ErrorKind::Internal => {
            "internal"
        }
    }
}
