//! The one error type of Ledger.

use std::error::Error as StdError;
use std::fmt;

use crate::store::ExpectedVersion;

/// The result of every fallible call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse enough to decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's input breaks a rule; the message names the field and the rule.
    InvalidInput,
    /// The named stream, entry, store or pipeline does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The stream is not at the version that the append expected.
    Conflict,
    /// The store cannot do this, or was opened without the option that allows it.
    Unsupported,
    /// The handle or the store takes no writes.
    ReadOnly,
    /// The backend does not answer now; the same call may succeed later.
    Unavailable,
    /// The cursor's position has been pruned from the log; start again with a snapshot.
    CursorExpired,
    /// The cursor, or the data, belongs to another history than the source's present one.
    SourceDiverged,
    /// Another process has taken the pipeline over.
    Fenced,
    /// A healthy sink refuses the data itself; sending it again will not help.
    Rejected,
    /// Stored bytes cannot be understood.
    Corrupt,
    /// The store was closed.
    Closed,
    /// A bug, or a failure that fits no other kind.
    Internal,
}

impl ErrorKind {
    /// The kind in words, as error messages show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid input",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Conflict => "version conflict",
            Self::Unsupported => "not supported",
            Self::ReadOnly => "read-only",
            Self::Unavailable => "unavailable",
            Self::CursorExpired => "cursor expired",
            Self::SourceDiverged => "source diverged",
            Self::Fenced => "fenced",
            Self::Rejected => "rejected",
            Self::Corrupt => "corrupt data",
            Self::Closed => "closed",
            Self::Internal => "internal error",
        }
    }
}

/// The two versions of a failed append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionConflict {
    /// What the caller expected.
    pub expected: ExpectedVersion,
    /// How many entries had ever been appended to the stream.
    pub actual: u64,
}

/// An error: its kind, the operation that was attempted, the object it concerned, and its cause.
///
/// `Display` prints one line: operation, context, and nothing of the source (walk
/// [`source`](StdError::source) for it, or use [`Error::chain`]). No secret is ever part of it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    context: String,
    retryable: bool,
    conflict: Option<VersionConflict>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` while attempting `operation` (as in `append to stream`); `context` names
    /// the object or field and says what to do.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: &'static str, context: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            context: context.into(),
            retryable: kind == ErrorKind::Unavailable,
            conflict: None,
            source: None,
        }))
    }

    /// The caller's input breaks the rule that `context` names.
    #[must_use]
    pub fn invalid(operation: &'static str, context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, operation, context)
    }

    /// The stream is at `actual`, which is not what the append expected.
    #[must_use]
    pub fn conflict(context: impl Into<String>, conflict: VersionConflict) -> Self {
        let mut error = Self::new(
            ErrorKind::Conflict,
            "append",
            format!(
                "{}: expected {}, but {} entries were ever appended",
                context.into(),
                conflict.expected,
                conflict.actual
            ),
        );
        error.0.conflict = Some(conflict);
        error
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says that the same call may succeed later although the kind alone does not tell (a
    /// serialization failure, a deadlock victim).
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Puts `outer` and a colon before the context, as an error travels up.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.0.context = format!("{outer}: {}", self.0.context);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anything being changed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// What was attempted.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The object or field concerned, and what to do.
    pub fn context(&self) -> &str {
        &self.0.context
    }

    /// The versions, where the kind is [`ErrorKind::Conflict`].
    pub fn version_conflict(&self) -> Option<VersionConflict> {
        self.0.conflict
    }

    /// The same, for one more of those whose work it ended: its kind, whether it can be retried,
    /// and its causes as text.
    #[must_use]
    pub fn again(&self) -> Self {
        let mut context = self.context().to_owned();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string().replace('\n', " ");
            if !context.contains(&text) {
                context.push_str(if context.is_empty() { "" } else { ": " });
                context.push_str(&text);
            }
            cause = error.source();
        }
        let mut again = Self::new(self.kind(), self.operation(), context);
        again.0.retryable = self.0.retryable;
        again.0.conflict = self.0.conflict;
        again
    }

    /// The error and its causes on one line, outermost first.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string().replace('\n', " ");
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.kind.as_str())?;
        if !self.0.context.is_empty() {
            write!(f, ": {}", self.0.context)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("operation", &self.0.operation)
            .field("context", &self.0.context)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
