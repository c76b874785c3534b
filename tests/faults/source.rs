//! A real source that counts what is pulled from it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ledger::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryId,
    ExpectedVersion, Labels, Lag, NewEntry, Page, ReadOptions, Result, Search, SourceId, Stat,
    Store, StoreName, StreamName,
};

/// A store and how many changes were pulled from it.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    inner: Arc<dyn Store>,
    pulled: Arc<AtomicU64>,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            pulled: Arc::default(),
        }
    }

    pub(super) fn pulled(&self) -> u64 {
        self.pulled.load(Ordering::Relaxed)
    }

    fn inner(&self) -> &dyn ChangeLog {
        self.inner.log().unwrap()
    }

    fn count(
        &self,
        changes: BoxStream<'static, Result<Change>>,
    ) -> BoxStream<'static, Result<Change>> {
        let pulled = Arc::clone(&self.pulled);
        let counted = changes.inspect(move |_| {
            pulled.fetch_add(1, Ordering::Relaxed);
        });
        counted.boxed()
    }
}

#[async_trait]
impl Store for Counted {
    fn name(&self) -> &StoreName {
        self.inner.name()
    }
    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        self.inner.append(stream, entries, expected).await
    }
    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        self.inner.page(stream, options).await
    }
    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        self.inner.stat(stream).await
    }
    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        self.inner.trim(stream, through).await
    }
    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        self.inner.streams(after, limit).await
    }
    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        self.inner.rename(from, to).await
    }
    fn labels(&self) -> Option<&dyn Labels> {
        self.inner.labels()
    }
    fn search(&self) -> Option<&dyn Search> {
        self.inner.search()
    }
    fn log(&self) -> Option<&dyn ChangeLog> {
        Some(self)
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl ChangeLog for Counted {
    async fn identity(&self) -> Result<SourceId> {
        self.inner().identity().await
    }
    fn start(&self) -> Cursor {
        self.inner().start()
    }
    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        self.count(self.inner().changes(after))
    }
    async fn head(&self) -> Result<Cursor> {
        self.inner().head().await
    }
    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        self.inner().lag(after).await
    }
    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        self.count(self.inner().snapshot(after))
    }
    async fn size(&self) -> Result<u64> {
        self.inner().size().await
    }
    fn contents(&self) -> &dyn Contents {
        self.inner().contents()
    }
    fn consumers(&self) -> &dyn Consumers {
        self.inner().consumers()
    }
    fn dead_letters(&self) -> &dyn DeadLetters {
        self.inner().dead_letters()
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counted({})", self.inner)
    }
}
