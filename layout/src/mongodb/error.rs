//! What MongoDB's errors mean.

use std::error::Error as _;

use ledger_core::{Error, ErrorKind};
use mongodb::error::{
    Error as Mongo, ErrorKind as Kind, TRANSIENT_TRANSACTION_ERROR, WriteFailure,
};

/// Maps an error of the driver: what cannot be reached is `Unavailable`, and so on by the server's
/// error codes (`src/mongo/base/error_codes.yml` in the server's sources).
pub fn failed(operation: &'static str, context: impl Into<String>, error: Mongo) -> Error {
    let (kind, hint) = classify(&error);
    let context = context.into();
    let context = match hint {
        "" => context,
        hint if context.is_empty() => hint.to_owned(),
        hint => format!("{context}: {hint}"),
    };
    Error::new(kind, operation, context).with_source(error)
}

/// As [`failed`], for data on its way into a replica: what the server will never take is `Rejected`.
pub fn rejected(operation: &'static str, error: Mongo) -> Error {
    match code(&error) {
        Some(2 | 121 | 10334 | 17280 | 11000) => {
            Error::new(ErrorKind::Rejected, operation, "MongoDB refuses the data")
                .with_source(error)
        }
        _ => failed(operation, "", error),
    }
}

/// Whether the transaction in which this error came may be run again from its beginning.
pub fn is_conflict(error: &Error) -> bool {
    driver(error).is_some_and(|error| {
        error.contains_label(TRANSIENT_TRANSACTION_ERROR) || code(error) == Some(112)
    })
}

/// Whether a unique index refused a document.
pub fn is_duplicate(error: &Mongo) -> bool {
    code(error) == Some(11000)
}

fn driver(error: &Error) -> Option<&Mongo> {
    error.source()?.downcast_ref::<Mongo>()
}

/// The server's code, whatever kind of answer it came in.
pub(super) fn code(error: &Mongo) -> Option<i32> {
    match error.kind.as_ref() {
        Kind::Command(command) => Some(command.code),
        Kind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        Kind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        Kind::InsertMany(failure) => {
            let first = failure.write_errors.as_ref().and_then(|all| all.first());
            let concern = failure.write_concern_error.as_ref();
            first
                .map(|error| error.code)
                .or(concern.map(|error| error.code))
        }
        _ => None,
    }
}

fn classify(error: &Mongo) -> (ErrorKind, &'static str) {
    if error.contains_label(TRANSIENT_TRANSACTION_ERROR) {
        return (
            ErrorKind::Unavailable,
            "another transaction changed the same documents, or the primary changed; try again",
        );
    }
    if let Some(code) = code(error) {
        return by_code(code);
    }
    match error.kind.as_ref() {
        Kind::Io(_)
        | Kind::ServerSelection { .. }
        | Kind::ConnectionPoolCleared { .. }
        | Kind::DnsResolve { .. } => (ErrorKind::Unavailable, "the server cannot be reached"),
        Kind::Shutdown => (ErrorKind::Closed, ""),
        Kind::Authentication { .. } => (ErrorKind::InvalidInput, "the user or password is refused"),
        Kind::InvalidTlsConfig { .. } | Kind::InvalidArgument { .. } => {
            (ErrorKind::InvalidInput, "")
        }
        Kind::SessionsNotSupported => (ErrorKind::Unsupported, REPLICA_SET),
        Kind::BsonDeserialization(_) | Kind::InvalidResponse { .. } => (ErrorKind::Corrupt, ""),
        _ => (ErrorKind::Internal, ""),
    }
}

/// What a standalone server lacks.
const REPLICA_SET: &str = "the server is no member of a replica set";

fn by_code(code: i32) -> (ErrorKind, &'static str) {
    match code {
        13 => (ErrorKind::InvalidInput, "the user lacks a privilege"),
        18 => (ErrorKind::InvalidInput, "the user or password is refused"),
        20 | 40573 => (ErrorKind::Unsupported, REPLICA_SET),
        11000 => (ErrorKind::AlreadyExists, ""),
        10334 | 17280 | 17419 | 17420 => (
            ErrorKind::InvalidInput,
            "a document is larger than the 16 MiB that MongoDB can hold",
        ),
        27 => (ErrorKind::Unsupported, "a text index is needed for that"),
        136 | 286 => (
            ErrorKind::CursorExpired,
            "the oplog no longer reaches back so far",
        ),
        280 => (
            ErrorKind::SourceDiverged,
            "the position is not in the oplog",
        ),
        112 => (
            ErrorKind::Unavailable,
            "another transaction changed the same documents; try again",
        ),
        14031 => (ErrorKind::Unavailable, "the disk is full"),
        // Not reachable, not primary, shutting down, timed out, a cursor lost with its server.
        6 | 7 | 43 | 50 | 64 | 89 | 91 | 100 | 133 | 134 | 189 | 202 | 237 | 251 | 262 | 9001
        | 10107 | 11600 | 11602 | 13388 | 13435 | 13436 | 24 | 225 | 239 | 244 | 246 => {
            (ErrorKind::Unavailable, "the server cannot serve this now")
        }
        _ => (ErrorKind::Internal, "MongoDB refused the command"),
    }
}
