//! A store's operations as part of the caller's own transaction.

use ledger_core::{
    Appended, EntryId, ExpectedVersion, NewEntry, Page, Pairs, ReadOptions, Result, Stat,
    StreamName,
};
use ledger_layout::sqlite::failed;
use sqlx::{Connection as _, SqliteConnection};

use super::append::{self, Prepared};
use super::store::SqliteStore;
use super::{labels, read};

/// A store's operations on the caller's connection, joining the transaction that is open there;
/// made by [`SqliteStore::within`].
///
/// # Behavior
/// - They see what the transaction has not committed yet, and are committed and rolled back with
///   it. An operation that fails leaves no trace of its own.
/// - Without an open transaction each operation is one.
/// - A transaction that has read before it writes may find the database changed in between:
///   `Unavailable`; roll back and begin again. One that begins with `BEGIN IMMEDIATE` never does.
/// - Readers of the log learn of the commit within some 15 milliseconds.
#[derive(Debug)]
pub struct SqliteTransaction<'c> {
    store: SqliteStore,
    connection: &'c mut SqliteConnection,
}

/// Takes the write lock by a statement that writes nothing, so that what is read next stays true.
async fn lock(conn: &mut SqliteConnection) -> Result<()> {
    sqlx::query("UPDATE ledger_stores SET log = log WHERE name IS NULL")
        .execute(conn)
        .await
        .map_err(|error| failed("begin transaction", error))?;
    Ok(())
}

macro_rules! nested {
    ($self:ident, $name:ident => $body:expr) => {{
        let begun = $self.connection.begin().await;
        let mut inner = begun.map_err(|error| failed("begin savepoint", error))?;
        let result = {
            let $name = &mut *inner;
            lock($name).await?;
            $body?
        };
        inner
            .commit()
            .await
            .map_err(|error| failed("release savepoint", error))?;
        Ok(result)
    }};
}

impl<'c> SqliteTransaction<'c> {
    pub(super) fn new(store: SqliteStore, connection: &'c mut SqliteConnection) -> Self {
        Self { store, connection }
    }

    /// See [`Store::append`](ledger_core::Store::append).
    pub async fn append(
        &mut self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let prepared = Prepared::new(entries, self.store.logs())?;
        let tables = self.store.tables();
        nested!(self, conn => append::append(conn, tables, stream, prepared, expected).await)
    }

    /// See [`Store::page`](ledger_core::Store::page).
    pub async fn page(&mut self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        read::page(
            self.connection,
            self.store.tables(),
            Some(stream),
            None,
            options,
        )
        .await
    }

    /// See [`Store::stat`](ledger_core::Store::stat).
    pub async fn stat(&mut self, stream: &StreamName) -> Result<Stat> {
        read::stat(self.connection, self.store.tables(), stream).await
    }

    /// See [`Store::streams`](ledger_core::Store::streams).
    pub async fn streams(
        &mut self,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<StreamName>> {
        read::streams(self.connection, self.store.tables(), after, limit).await
    }

    /// See [`Store::trim`](ledger_core::Store::trim).
    pub async fn trim(&mut self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let tables = self.store.tables();
        nested!(self, conn => labels::trim(conn, tables, stream, through).await)
    }

    /// See [`Store::rename`](ledger_core::Store::rename).
    pub async fn rename(&mut self, from: &StreamName, to: &StreamName) -> Result<()> {
        let tables = self.store.tables();
        nested!(self, conn => labels::rename(conn, tables, from, to).await)
    }

    /// See [`Labels::set_tags`](ledger_core::Labels::set_tags); `Unsupported` where the store is
    /// append-only.
    pub async fn set_tags(
        &mut self,
        stream: &StreamName,
        id: EntryId,
        tags: Vec<String>,
    ) -> Result<()> {
        self.store.check_labels()?;
        let tables = self.store.tables();
        nested!(self, conn => labels::set_tags(conn, tables, stream, id, tags).await)
    }

    /// See [`Labels::set_annotations`](ledger_core::Labels::set_annotations); `Unsupported` where
    /// the store is append-only.
    pub async fn set_annotations(
        &mut self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: &[String],
    ) -> Result<()> {
        self.store.check_labels()?;
        let tables = self.store.tables();
        nested!(self, conn => labels::set_annotations(conn, tables, stream, id, set, delete).await)
    }
}
