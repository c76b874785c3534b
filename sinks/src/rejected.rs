//! Rows of captured tables that a destination cannot take.

use ledger_core::{Error, ErrorKind, RowChange};

/// The error of a value that cannot be carried, or of a row that lacks one. It names table, column
/// and key, and not the value.
pub(crate) fn rejected(change: &RowChange, column: &str, rule: &str) -> Error {
    let table = &change.table.name;
    let row = match change.shown_key() {
        key if key.is_empty() => format!("the row at {}", change.version),
        key => format!("row ({key}) at {}", change.version),
    };
    let what = if column.is_empty() {
        format!("table {table}, {row}: it {rule}")
    } else {
        format!("table {table}, column {column:?}, {row}: the value {rule}")
    };
    Error::new(ErrorKind::Rejected, "deliver rows", what)
}
