//! A shared store is a store, and a shared sink a sink, so that wrappers go around shared ones too.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Appended, Batch, ChangeLog, CursorStore, EntryId, ExpectedVersion, Labels, NewEntry, Page,
    ReadOptions, Replica, Result, Search, Sink, Stat, Store, StoreName, StreamName,
};

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn name(&self) -> &StoreName {
        (**self).name()
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        (**self).append(stream, entries, expected).await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        (**self).page(stream, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        (**self).stat(stream).await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        (**self).trim(stream, through).await
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        (**self).streams(after, limit).await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        (**self).rename(from, to).await
    }

    fn labels(&self) -> Option<&dyn Labels> {
        (**self).labels()
    }

    fn search(&self) -> Option<&dyn Search> {
        (**self).search()
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        (**self).log()
    }

    async fn close(&self) {
        (**self).close().await;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Send + Sync + 'static, S: Sink<T> + ?Sized> Sink<T> for Arc<S> {
    async fn deliver(&self, batch: &Batch<T>) -> Result<()> {
        (**self).deliver(batch).await
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        (**self).cursors()
    }

    fn replica(&self) -> Option<&dyn Replica> {
        (**self).replica()
    }
}
