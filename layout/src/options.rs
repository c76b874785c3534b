//! The options of stores that are kept in SQL tables.

use std::time::Duration;

/// How a store behaves. [`Default`] is what almost everyone wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an independent switch, off by default but one"
)]
pub struct StoreOptions {
    /// Keep the mutation log, from which bridges and other consumers follow the store. Fixed when
    /// the store is created. On by default.
    pub log: bool,
    /// Take the log from the database's own write-ahead log, where the backend has one that tells
    /// (PostgreSQL), instead of writing each mutation a second time into a table. What differs is
    /// said where the store of the backend is. Fixed when the store is created; refused by backends
    /// that cannot. Off by default.
    pub write_ahead_log: bool,
    /// Refuse changes of labels; trimming stays possible.
    pub append_only: bool,
    /// Offer full-text search, where the backend has it, over an index that
    /// `ensure_search_index` makes.
    pub full_text: bool,
    /// How long the mutation log is kept.
    pub retention: Retention,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            log: true,
            write_ahead_log: false,
            append_only: false,
            full_text: false,
            retention: Retention::default(),
        }
    }
}

/// How long the mutation log is kept: `min` for everyone, then until the slowest registered
/// consumer has confirmed, but never longer than `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Nothing younger is pruned. 24 hours by default.
    pub min: Duration,
    /// Everything older is pruned, even where a consumer still needs it: that one then gets
    /// `CursorExpired`. None, the default, waits for it without end.
    pub max: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            min: Duration::from_hours(24),
            max: None,
        }
    }
}
