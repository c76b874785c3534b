//! A store that does not exist yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryFutureExt as _;
use futures::stream::{BoxStream, StreamExt as _};
use ledger::{
    Appended, Change, ChangeLog, Consumer, Consumers, Contents, Cursor, DeadLetter, DeadLetters,
    EntryId, EntryKey, Error, ErrorKind, ExpectedVersion, Labels, Lag, Lease, NewEntry, Page,
    Pairs, PipelineId, Query, ReadOptions, Record, Result, Search, SourceId, Stat, Store,
    StoreName, StreamKey, StreamName, StreamState,
};

use super::Served;

/// Stands in for a store that does not exist: it reads as an empty one, and creates nothing by
/// that. The first append makes the store, and so does who begins to follow it: there must be a log
/// to follow. From then on it passes everything on.
pub(super) struct Absent {
    name: StoreName,
    stores: Arc<Served>,
}

/// The tag of the position before the first change. It sorts before those of every log.
const START_TAG: u8 = b'0';

impl Absent {
    pub(super) fn new(name: StoreName, stores: Arc<Served>) -> Self {
        Self { name, stores }
    }

    /// The store, where it has been made since.
    fn made(&self) -> Option<Arc<dyn Store>> {
        self.stores.opened(&self.name)
    }

    async fn make(&self) -> Result<Arc<dyn Store>> {
        self.stores.create(&self.name).await
    }

    fn missing(&self, operation: &'static str) -> Error {
        missing(&self.name, operation)
    }
}

fn missing(name: &StoreName, operation: &'static str) -> Error {
    let what = format!("store {name} does not exist yet; the first append makes it");
    Error::new(ErrorKind::NotFound, operation, what)
}

/// The log of a store that has been made.
fn log(store: &dyn Store) -> Result<&dyn ChangeLog> {
    store.log().ok_or_else(|| {
        let what = format!("{store} keeps no mutation log");
        Error::new(ErrorKind::Unsupported, "follow store", what)
    })
}

/// The position in the log that was made.
fn real(after: &Cursor, log: &dyn ChangeLog) -> Cursor {
    if after.tag() == START_TAG {
        log.start()
    } else {
        after.clone()
    }
}

#[async_trait]
impl Store for Absent {
    fn name(&self) -> &StoreName {
        &self.name
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        // An append of nothing creates nothing.
        if entries.is_empty() && expected.accepts(0) {
            return match self.made() {
                Some(store) => store.append(stream, entries, expected).await,
                None => Ok(Vec::new()),
            };
        }
        self.make().await?.append(stream, entries, expected).await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        match self.made() {
            Some(store) => store.page(stream, options).await,
            None => Ok(Page::default()),
        }
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        match self.made() {
            Some(store) => store.stat(stream).await,
            None => Ok(Stat::default()),
        }
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        match self.made() {
            Some(store) => store.trim(stream, through).await,
            None => Ok(0),
        }
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        match self.made() {
            Some(store) => store.streams(after, limit).await,
            None => Ok(Vec::new()),
        }
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        match self.made() {
            Some(store) => store.rename(from, to).await,
            None => Err(no_stream(from, "rename stream")),
        }
    }

    fn labels(&self) -> Option<&dyn Labels> {
        Some(self)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        Some(self)
    }

    /// The store is closed by who opened it.
    async fn close(&self) {}
}

fn no_stream(stream: &StreamName, operation: &'static str) -> Error {
    Error::new(ErrorKind::NotFound, operation, format!("stream {stream:?}"))
}

#[async_trait]
impl Labels for Absent {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        let store = self.made().ok_or_else(|| no_stream(stream, "set tags"))?;
        let labels = store
            .labels()
            .ok_or_else(|| unsupported(&*store, "labels"))?;
        labels.set_tags(stream, id, tags).await
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        let store = self
            .made()
            .ok_or_else(|| no_stream(stream, "set annotations"))?;
        let labels = store
            .labels()
            .ok_or_else(|| unsupported(&*store, "labels"))?;
        labels.set_annotations(stream, id, set, delete).await
    }
}

fn unsupported(store: &dyn Store, what: &str) -> Error {
    let text = format!("{store} has no {what}");
    Error::new(ErrorKind::Unsupported, "use store", text)
}

#[async_trait]
impl Search for Absent {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let Some(store) = self.made() else {
            return Ok(Page::default());
        };
        let search = store
            .search()
            .ok_or_else(|| unsupported(&*store, "search"))?;
        search.search(stream, query, options).await
    }
}

#[async_trait]
impl ChangeLog for Absent {
    async fn identity(&self) -> Result<SourceId> {
        log(&*self.make().await?)?.identity().await
    }

    fn start(&self) -> Cursor {
        Cursor::new(START_TAG, &[])
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        let (stores, name) = (Arc::clone(&self.stores), self.name.clone());
        async move {
            let store = stores.create(&name).await?;
            let log = log(&*store)?;
            Ok(log.changes(real(&after, log)))
        }
        .try_flatten_stream()
        .boxed()
    }

    async fn head(&self) -> Result<Cursor> {
        log(&*self.make().await?)?.head().await
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        let store = self.make().await?;
        let log = log(&*store)?;
        log.lag(&real(after, log)).await
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        let (stores, name) = (Arc::clone(&self.stores), self.name.clone());
        async move {
            let store = stores.create(&name).await?;
            Ok(log(&*store)?.snapshot(after))
        }
        .try_flatten_stream()
        .boxed()
    }

    async fn size(&self) -> Result<u64> {
        match self.made() {
            Some(store) => log(&*store)?.size().await,
            None => Ok(0),
        }
    }

    fn contents(&self) -> &dyn Contents {
        self
    }

    fn consumers(&self) -> &dyn Consumers {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }
}

// Bridges open their stores themselves, and never meet a stand-in.

#[async_trait]
impl Contents for Absent {
    async fn entries(
        &self,
        _: Option<EntryKey>,
        _: Option<EntryKey>,
        _: usize,
    ) -> Result<Vec<Record>> {
        Err(self.missing("read contents"))
    }

    async fn entries_at(&self, _: &[EntryKey]) -> Result<Vec<Record>> {
        Err(self.missing("read contents"))
    }

    async fn streams(&self, _: Option<StreamKey>, _: usize) -> Result<Vec<StreamState>> {
        Err(self.missing("read contents"))
    }

    async fn streams_at(&self, _: &[StreamKey]) -> Result<Vec<StreamState>> {
        Err(self.missing("read contents"))
    }
}

#[async_trait]
impl Consumers for Absent {
    async fn register(&self, _: &PipelineId, _: &Cursor) -> Result<()> {
        Err(self.missing("register consumer"))
    }

    async fn confirm(&self, _: &PipelineId, _: &Cursor) -> Result<()> {
        Err(self.missing("confirm position"))
    }

    async fn reset(&self, _: &PipelineId, _: &Cursor) -> Result<()> {
        Err(self.missing("reset consumer"))
    }

    async fn unregister(&self, _: &PipelineId) -> Result<()> {
        Err(self.missing("unregister consumer"))
    }

    async fn list(&self) -> Result<Vec<Consumer>> {
        Err(self.missing("list consumers"))
    }

    async fn lease(&self, _: &PipelineId, _: &str, _: Duration) -> Result<Lease> {
        Err(self.missing("take lease"))
    }

    async fn release(&self, _: &PipelineId, _: &str) -> Result<()> {
        Err(self.missing("release lease"))
    }

    async fn set_paused(&self, _: &PipelineId, _: bool) -> Result<()> {
        Err(self.missing("pause consumer"))
    }
}

#[async_trait]
impl DeadLetters for Absent {
    async fn park(&self, _: Vec<DeadLetter>) -> Result<()> {
        Err(self.missing("park"))
    }

    async fn list(&self, _: &PipelineId, _: Option<&Cursor>, _: usize) -> Result<Vec<DeadLetter>> {
        Err(self.missing("list dead letters"))
    }

    async fn parked_keys(&self, _: &PipelineId) -> Result<Vec<StreamKey>> {
        Err(self.missing("list dead letters"))
    }

    async fn count(&self, _: &PipelineId) -> Result<u64> {
        Err(self.missing("count dead letters"))
    }

    async fn remove(&self, _: &PipelineId, _: &[Cursor]) -> Result<()> {
        Err(self.missing("remove dead letters"))
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {} (not made yet)", self.name)
    }
}

impl fmt::Debug for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Absent").field(&self.name).finish()
    }
}
