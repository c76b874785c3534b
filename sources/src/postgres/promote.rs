//! Turning a replica into a store of its own.

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::postgres::{Role, promote};

use super::PostgresStore;

impl PostgresStore {
    /// Turns a replica into a store that takes writes: names and dedup keys become unique, ids and
    /// the log go on above everything seen, and the store gets an identity of its own, so that its
    /// bridge can no longer write it; a relay keeps its identity, and its log goes on. Refused, changing nothing, where two streams have one name or
    /// two entries of a stream one dedup key; the error names them.
    ///
    /// Stop the bridge before. Handles opened before stay read-only, this one too: open the store
    /// again.
    pub async fn promote(&self) -> Result<()> {
        const OPERATION: &str = "promote replica";
        let inner = &self.inner;
        if inner.row.role == Role::Source {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                OPERATION,
                format!("store {} is not a replica", inner.tables.store()),
            ));
        }
        let mut conn = inner.connection(OPERATION).await?;
        promote(&mut conn, &inner.tables).await
    }
}
