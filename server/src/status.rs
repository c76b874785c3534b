//! What errors become on the wire.

use std::collections::HashMap;

use ledger_core::{Error, ErrorKind, ExpectedVersion};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "ledger";

/// The status of an error: its code, its message, and a `google.rpc.ErrorInfo` with a reason that
/// does not change.
///
/// | kind | code | reason |
/// |---|---|---|
/// | `InvalidInput` | `INVALID_ARGUMENT` | `INVALID_INPUT` |
/// | `NotFound` | `NOT_FOUND` | `NOT_FOUND` |
/// | `AlreadyExists` | `ALREADY_EXISTS` | `ALREADY_EXISTS` |
/// | `Conflict` | `ABORTED` | `VERSION_CONFLICT`, with `expected` and `actual` |
/// | `Unsupported` | `UNIMPLEMENTED` | `UNSUPPORTED` |
/// | `ReadOnly` | `FAILED_PRECONDITION` | `READ_ONLY` |
/// | `Unavailable` | `UNAVAILABLE` | `BACKEND_UNAVAILABLE` |
/// | `CursorExpired` | `OUT_OF_RANGE` | `CURSOR_EXPIRED` |
/// | `SourceDiverged` | `FAILED_PRECONDITION` | `SOURCE_DIVERGED` |
/// | `Fenced` | `ABORTED` | `FENCED` |
/// | `Rejected` | `FAILED_PRECONDITION` | `REJECTED` |
/// | `Corrupt` | `DATA_LOSS` | `CORRUPT` |
/// | `Closed` | `UNAVAILABLE` | `CLOSED` |
/// | `Internal`, others | `INTERNAL`, or `UNAVAILABLE` where a retry may succeed | `INTERNAL` |
///
/// The causes behind the message stay here: they are logged, where the fault is not the caller's.
pub fn status(error: &Error) -> Status {
    let (code, reason) = match error.kind() {
        ErrorKind::InvalidInput => (Code::InvalidArgument, "INVALID_INPUT"),
        ErrorKind::NotFound => (Code::NotFound, "NOT_FOUND"),
        ErrorKind::AlreadyExists => (Code::AlreadyExists, "ALREADY_EXISTS"),
        ErrorKind::Conflict => (Code::Aborted, "VERSION_CONFLICT"),
        ErrorKind::Unsupported => (Code::Unimplemented, "UNSUPPORTED"),
        ErrorKind::ReadOnly => (Code::FailedPrecondition, "READ_ONLY"),
        ErrorKind::Unavailable => (Code::Unavailable, "BACKEND_UNAVAILABLE"),
        ErrorKind::CursorExpired => (Code::OutOfRange, "CURSOR_EXPIRED"),
        ErrorKind::SourceDiverged => (Code::FailedPrecondition, "SOURCE_DIVERGED"),
        ErrorKind::Fenced => (Code::Aborted, "FENCED"),
        ErrorKind::Rejected => (Code::FailedPrecondition, "REJECTED"),
        ErrorKind::Corrupt => (Code::DataLoss, "CORRUPT"),
        ErrorKind::Closed => (Code::Unavailable, "CLOSED"),
        _ if error.is_retryable() => (Code::Unavailable, "INTERNAL"),
        _ => (Code::Internal, "INTERNAL"),
    };
    if matches!(code, Code::Unavailable | Code::DataLoss | Code::Internal) {
        tracing::warn!(error = %error.chain(), "a call failed");
    }
    let mut metadata = HashMap::new();
    if let Some(conflict) = error.version_conflict() {
        let expected = match conflict.expected {
            ExpectedVersion::Any => "any".to_owned(),
            ExpectedVersion::None => "none".to_owned(),
            ExpectedVersion::Exists => "exists".to_owned(),
            ExpectedVersion::Exactly(version) => version.to_string(),
        };
        metadata.insert("expected".to_owned(), expected);
        metadata.insert("actual".to_owned(), conflict.actual.to_string());
    }
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, error.to_string(), details)
}

/// A refusal of the service's own.
pub(crate) fn refusal<const N: usize>(
    code: Code,
    reason: &'static str,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::from(metadata));
    Status::with_error_details(code, message, details)
}

/// A field breaks a rule.
pub(crate) fn invalid(field: &str, rule: impl std::fmt::Display) -> Status {
    refusal(
        Code::InvalidArgument,
        "INVALID_INPUT",
        format!("{field} {rule}"),
        [("field", field.to_owned())],
    )
}

/// The service is about to end.
pub(crate) fn shutting_down() -> Status {
    refusal(
        Code::Unavailable,
        "SHUTTING_DOWN",
        "the server is shutting down; connect again",
        [],
    )
}

/// A response would be larger than messages may be.
pub(crate) fn too_large(limit: usize) -> Status {
    refusal(
        Code::ResourceExhausted,
        "RESPONSE_TOO_LARGE",
        format!(
            "the response is over the message limit of {limit} bytes; ask for fewer entries with limit"
        ),
        [("limit", limit.to_string())],
    )
}

/// What the backend of a store cannot do.
pub(crate) fn unsupported(store: &dyn ledger_core::Store, what: &str) -> Status {
    refusal(
        Code::Unimplemented,
        "UNSUPPORTED",
        format!("{store} does not support {what}"),
        [],
    )
}
