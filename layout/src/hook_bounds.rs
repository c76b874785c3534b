//! The bounds of what is kept of hooks, the same on every backend.

/// The version of the tables or collections that this code reads and writes.
pub(crate) const VERSION: i64 = 1;

/// How many attempts of a hook are remembered, and for how long, in microseconds.
pub(crate) const ATTEMPTS: i64 = 10_000;
pub(crate) const ATTEMPTS_FOR: i64 = 7 * 24 * 3_600 * 1_000_000;

/// How often the attempts are cut to that: each time so many were added.
pub(crate) const CUT_EVERY: i64 = 100;

/// How many rows a statement writes at most: with the widest of them far fewer values, and bytes, than
/// any backend takes.
pub(crate) const ROWS: usize = 100;
