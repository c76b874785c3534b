//! Where the log of a store is, by URL.

use super::DatabaseUrl;
#[cfg(feature = "postgres")]
use super::Kind;
use crate::{Error, ErrorKind, Result, StoreName};

/// Where the log of a store is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// In a table beside the entries.
    Table,
    /// In the database's write-ahead log.
    WriteAhead,
}

impl std::fmt::Display for LogKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::WriteAhead => "wal",
        })
    }
}

impl DatabaseUrl {
    /// Where the log of a store is; none where it keeps none. `NotFound` where there is no such store.
    pub async fn log_kind(&self, store: &StoreName) -> Result<Option<LogKind>> {
        #[cfg(feature = "postgres")]
        #[allow(irrefutable_let_patterns, reason = "there may be no other backend")]
        if let Kind::Postgres(config) = &self.0 {
            use ledger_sources::postgres::PostgresStore;
            let wal = PostgresStore::log_is_wal(config.as_ref().clone(), store).await?;
            return Ok(wal.map(|wal| {
                if wal {
                    LogKind::WriteAhead
                } else {
                    LogKind::Table
                }
            }));
        }
        let opened = self.open_store(store).await?;
        let kind = opened.log().map(|_| LogKind::Table);
        opened.close().await;
        Ok(kind)
    }

    /// Keeps the log of a store elsewhere from now on. Its consumers begin anew, and whoever has it
    /// open must open it again; see `PostgresStore::keep_log_in_wal`. `Unsupported` where the
    /// backend knows one kind only.
    pub async fn keep_log_in(&self, store: &StoreName, kind: LogKind) -> Result<()> {
        #[cfg(feature = "postgres")]
        #[allow(irrefutable_let_patterns, reason = "there may be no other backend")]
        if let Kind::Postgres(config) = &self.0 {
            use ledger_sources::postgres::PostgresStore;
            let wal = kind == LogKind::WriteAhead;
            return PostgresStore::keep_log_in_wal(config.as_ref().clone(), store, wal).await;
        }
        match kind {
            LogKind::Table => self.open_store(store).await.map(drop),
            LogKind::WriteAhead => Err(Error::new(
                ErrorKind::Unsupported,
                "switch the log",
                format!("{self} has no write-ahead log that tells changes; PostgreSQL has"),
            )),
        }
    }
}
