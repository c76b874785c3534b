//! How a capture behaves.

use crate::select::TableSelection;

/// How a capture behaves.
#[derive(Debug, Clone)]
pub struct CollectionOptions {
    /// Which collections are carried: patterns without a schema. Time-series collections, views and
    /// those that the server or a ledger's store keeps its own state in never are.
    pub collections: TableSelection,
    /// Whether what the collections held before is copied. True by default.
    pub copy: bool,
}

impl CollectionOptions {
    /// The defaults, for these collections.
    pub fn new(collections: TableSelection) -> Self {
        Self {
            collections,
            copy: true,
        }
    }
}
