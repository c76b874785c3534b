//! What PostgreSQL's errors mean.

use ledger_core::{Error, ErrorKind};

/// Maps an error of the driver: what cannot be reached is `Unavailable`, what the server refuses in
/// the data itself is `Rejected`, and so on by SQLSTATE (PostgreSQL documentation, appendix A).
#[must_use]
pub fn failed(operation: &'static str, context: impl Into<String>, error: sqlx::Error) -> Error {
    let context = context.into();
    let (kind, hint, retryable) = classify(&error);
    let context = match hint {
        "" => context,
        hint if context.is_empty() => hint.to_owned(),
        hint => format!("{context}: {hint}"),
    };
    let mapped = Error::new(kind, operation, context).with_source(error);
    if retryable {
        mapped.retryable()
    } else {
        mapped
    }
}

fn classify(error: &sqlx::Error) -> (ErrorKind, &'static str, bool) {
    use sqlx::Error as Sqlx;
    match error {
        Sqlx::Database(error) => by_sqlstate(error.code().as_deref().unwrap_or_default()),
        Sqlx::Io(_) | Sqlx::PoolTimedOut | Sqlx::WorkerCrashed => {
            (ErrorKind::Unavailable, "", true)
        }
        // A server that is killed leaves half a message behind.
        Sqlx::Protocol(_) => (ErrorKind::Unavailable, "the connection broke", true),
        Sqlx::PoolClosed => (ErrorKind::Closed, "", false),
        Sqlx::Tls(_) | Sqlx::Configuration(_) => (ErrorKind::InvalidInput, "", false),
        Sqlx::Decode(_) | Sqlx::ColumnDecode { .. } => (ErrorKind::Corrupt, "", false),
        _ => (ErrorKind::Internal, "", false),
    }
}

fn by_sqlstate(code: &str) -> (ErrorKind, &'static str, bool) {
    match code {
        "28P01" | "28000" => (
            ErrorKind::InvalidInput,
            "the user or password is refused",
            false,
        ),
        // No store is missing here but what should hold it: nobody takes it for an empty one.
        "3D000" => (
            ErrorKind::InvalidInput,
            "the database does not exist",
            false,
        ),
        "42P01" | "3F000" => (ErrorKind::Corrupt, "a table is missing", false),
        "42501" => (ErrorKind::InvalidInput, "the user lacks a privilege", false),
        // As while a name still points at the primary of before a failover.
        "25006" => (
            ErrorKind::Unavailable,
            "the server takes no writes: is it a standby?",
            true,
        ),
        // Deadlock, serialization failure, lock timeout: the same call may succeed.
        "40P01" | "40001" | "55P03" => (ErrorKind::Unavailable, "", true),
        // The disk is full, out of memory, too many connections.
        code if code.starts_with("53") => (ErrorKind::Unavailable, "", true),
        // Shutdown, crash recovery, starting up.
        code if code.starts_with("57") || code.starts_with("08") || code.starts_with("58") => {
            (ErrorKind::Unavailable, "", true)
        }
        // Data exceptions, integrity violations, program limits such as an index row's size.
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => {
            (ErrorKind::Rejected, "", false)
        }
        _ => (ErrorKind::Internal, "", false),
    }
}

/// Whether a table or schema is missing.
pub fn is_undefined_table(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("42P01"))
}
