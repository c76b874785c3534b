//! What SQLite's errors mean.

use ledger_core::{Error, ErrorKind};

/// The primary result code, where the error came from SQLite itself.
/// <https://www.sqlite.org/rescode.html>
fn code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

/// The error of a statement that failed during `operation`.
pub fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let (kind, context) = match (&error, code(&error)) {
        (_, Some(5 | 6)) => (
            ErrorKind::Unavailable,
            "another transaction holds the database's lock; try again",
        ),
        (_, Some(7)) => (ErrorKind::Unavailable, "out of memory"),
        (_, Some(8)) => (ErrorKind::ReadOnly, "the database file cannot be written"),
        (_, Some(10)) => (ErrorKind::Unavailable, "the disk failed"),
        (_, Some(11 | 26)) => (
            ErrorKind::Corrupt,
            "the file is not a sound SQLite database",
        ),
        (_, Some(13)) => (ErrorKind::Unavailable, "the disk is full"),
        (_, Some(14)) => (ErrorKind::Unavailable, "the database file cannot be opened"),
        (_, Some(18)) => (
            ErrorKind::InvalidInput,
            "a value is larger than SQLite can hold",
        ),
        (sqlx::Error::WorkerCrashed | sqlx::Error::Io(_), _) => {
            (ErrorKind::Unavailable, "the connection was lost")
        }
        (sqlx::Error::ColumnDecode { .. }, _) => (
            ErrorKind::Corrupt,
            "a stored value is not of its column's type",
        ),
        _ => (ErrorKind::Internal, "SQLite refused the statement"),
    };
    Error::new(kind, operation, context).with_source(error)
}

/// As [`failed`], for data on its way into a replica: what the database will never take is
/// `Rejected`.
pub fn rejected(operation: &'static str, error: sqlx::Error) -> Error {
    match code(&error) {
        Some(18..=20) => {
            Error::new(ErrorKind::Rejected, operation, "SQLite refuses the data").with_source(error)
        }
        _ => failed(operation, error),
    }
}
