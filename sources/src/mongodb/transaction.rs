//! A store's operations as part of the caller's own transaction.

use ledger_core::{
    Appended, EntryId, ExpectedVersion, NewEntry, Page, Pairs, ReadOptions, Result, Stat,
    StreamName,
};
use ledger_layout::mongodb::Tx;
use mongodb::ClientSession;

use super::append::{self, Asked};
use super::store::MongoStore;
use super::{labels, read};

/// A store's operations in the caller's session, joining the transaction that is open there; made by
/// [`MongoStore::within`].
///
/// # Behavior
/// - They see what the transaction has not committed yet, and are committed and aborted with it. An
///   operation that is refused, as for a version, leaves the transaction as it was; any other error
///   is the transaction's end, as MongoDB has it.
/// - From the first one that writes until the transaction ends, no other writer of the store gets
///   on: keep it short. One that another transaction got in the way of is `Unavailable`; abort, and
///   begin again.
/// - The session's transaction should have the write concern `majority`.
#[derive(Debug)]
pub struct MongoTransaction<'s> {
    store: MongoStore,
    session: &'s mut ClientSession,
}

impl<'s> MongoTransaction<'s> {
    pub(super) fn new(store: MongoStore, session: &'s mut ClientSession) -> Self {
        Self { store, session }
    }

    fn tx(&mut self) -> Result<Tx<'_>> {
        self.store.database().check_open()?;
        Ok(Tx::joined(self.store.database().clone(), self.session))
    }

    /// See [`Store::append`](ledger_core::Store::append).
    pub async fn append(
        &mut self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let asked = Asked::new(stream, entries, expected, self.store.logs())?;
        let store = self.store.clone();
        let mut tx = self.tx()?;
        let mut results = append::append(&mut tx, store.collections(), &[asked]).await?;
        results.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// See [`Store::page`](ledger_core::Store::page).
    pub async fn page(&mut self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let (database, collections) = (self.store.database(), self.store.collections());
        let session = Some(&mut *self.session);
        read::page(database, session, collections, Some(stream), None, options).await
    }

    /// See [`Store::stat`](ledger_core::Store::stat).
    pub async fn stat(&mut self, stream: &StreamName) -> Result<Stat> {
        let (database, collections) = (self.store.database(), self.store.collections());
        read::stat(database, Some(&mut *self.session), collections, stream).await
    }

    /// See [`Store::streams`](ledger_core::Store::streams).
    pub async fn streams(
        &mut self,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<StreamName>> {
        let (database, collections) = (self.store.database(), self.store.collections());
        let session = Some(&mut *self.session);
        read::streams(database, session, collections, after, limit).await
    }

    /// See [`Store::trim`](ledger_core::Store::trim).
    pub async fn trim(&mut self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let store = self.store.clone();
        labels::trim(&mut self.tx()?, store.collections(), stream, through, None).await
    }

    /// See [`Store::rename`](ledger_core::Store::rename).
    pub async fn rename(&mut self, from: &StreamName, to: &StreamName) -> Result<()> {
        let store = self.store.clone();
        labels::rename(&mut self.tx()?, store.collections(), from, to).await
    }

    /// See [`Labels::set_tags`](ledger_core::Labels::set_tags); `Unsupported` where the store is
    /// append-only.
    pub async fn set_tags(
        &mut self,
        stream: &StreamName,
        id: EntryId,
        tags: &[String],
    ) -> Result<()> {
        self.store.check_labels()?;
        let store = self.store.clone();
        labels::set_tags(&mut self.tx()?, store.collections(), stream, id, tags).await
    }

    /// See [`Labels::set_annotations`](ledger_core::Labels::set_annotations); `Unsupported` where
    /// the store is append-only.
    pub async fn set_annotations(
        &mut self,
        stream: &StreamName,
        id: EntryId,
        set: &Pairs,
        delete: &[String],
    ) -> Result<()> {
        self.store.check_labels()?;
        let store = self.store.clone();
        let mut tx = self.tx()?;
        labels::set_annotations(&mut tx, store.collections(), stream, id, set, delete).await
    }
}
