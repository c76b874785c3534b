//! A store that counts who reads its log, and lets something happen around the reading of a page.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ledger_core::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryId,
    ExpectedVersion, Labels, Lag, NewEntry, Page, ReadOptions, Result, Search, SourceId, Stat,
    Store, StoreName, StreamName,
};

type Happening = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Counted {
    inner: Arc<dyn Store>,
    readers: AtomicUsize,
    reading: Arc<AtomicUsize>,
    told: Arc<AtomicUsize>,
    before: Mutex<Option<Happening>>,
    after: Mutex<Option<Happening>>,
}

/// Counts for as long as it is there.
struct Reading(Arc<AtomicUsize>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Counted {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            readers: AtomicUsize::new(0),
            reading: Arc::default(),
            told: Arc::default(),
            before: Mutex::default(),
            after: Mutex::default(),
        }
    }

    /// How many streams of changes were ever opened and read from.
    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::SeqCst)
    }

    /// How many streams of changes are open.
    pub(crate) fn reading(&self) -> usize {
        self.reading.load(Ordering::SeqCst)
    }

    /// Lets this happen before the next page is read.
    pub(crate) fn before_page(&self, happening: impl Future<Output = ()> + Send + 'static) {
        *self.before.lock().unwrap() = Some(Box::pin(happening));
    }

    /// Lets this happen after the next page is read, before it is handed over.
    pub(crate) fn after_page(&self, happening: impl Future<Output = ()> + Send + 'static) {
        *self.after.lock().unwrap() = Some(Box::pin(happening));
    }

    /// How many changes the readers of the log were told.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }

    fn inner_log(&self) -> &dyn ChangeLog {
        self.inner.log().unwrap()
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counted({})", self.inner)
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
        let before = self.before.lock().unwrap().take();
        if let Some(happening) = before {
            happening.await;
        }
        let page = self.inner.page(stream, options).await;
        let after = self.after.lock().unwrap().take();
        if let Some(happening) = after {
            happening.await;
        }
        page
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
        self.inner.log().map(|_| self as &dyn ChangeLog)
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl ChangeLog for Counted {
    async fn identity(&self) -> Result<SourceId> {
        self.inner_log().identity().await
    }

    fn start(&self) -> Cursor {
        self.inner_log().start()
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        self.readers.fetch_add(1, Ordering::SeqCst);
        self.reading.fetch_add(1, Ordering::SeqCst);
        let reading = Reading(Arc::clone(&self.reading));
        let told = Arc::clone(&self.told);
        let changes = self.inner_log().changes(after);
        changes
            .map(move |change| {
                let _ = &reading;
                told.fetch_add(1, Ordering::SeqCst);
                change
            })
            .boxed()
    }

    async fn head(&self) -> Result<Cursor> {
        self.inner_log().head().await
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        self.inner_log().lag(after).await
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        self.inner_log().snapshot(after)
    }

    async fn size(&self) -> Result<u64> {
        self.inner_log().size().await
    }

    fn contents(&self) -> &dyn Contents {
        self.inner_log().contents()
    }

    fn consumers(&self) -> &dyn Consumers {
        self.inner_log().consumers()
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self.inner_log().dead_letters()
    }
}
