//! A store that takes no writes.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Appended, ChangeLog, EntryId, Error, ErrorKind, ExpectedVersion, Labels, NewEntry, Page, Pairs,
    ReadOptions, Result, Search, Stat, Store, StoreName, StreamName,
};

/// A store every write to which is an error of kind [`ErrorKind::ReadOnly`].
///
/// Also a write that would change nothing, such as an append of no entries. Where the store inside
/// has labels this one has them too, and writing them is that error: they can be read. The log is
/// that of the store inside, with its consumers and dead letters, which are not content. Closing
/// closes the store inside.
#[derive(Debug, Clone)]
pub struct ReadOnly<S>(S);

impl<S> ReadOnly<S> {
    /// Refuses writes to `store`.
    pub fn new(store: S) -> Self {
        Self(store)
    }

    /// The store inside.
    pub fn into_inner(self) -> S {
        self.0
    }
}

impl<S: fmt::Display> ReadOnly<S> {
    fn refuse(&self, operation: &'static str, stream: &StreamName) -> Error {
        let context = format!("stream {stream:?}: {} is open for reading only", self.0);
        Error::new(ErrorKind::ReadOnly, operation, context)
    }
}

impl<S: fmt::Display> fmt::Display for ReadOnly<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read-only({})", self.0)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for ReadOnly<S> {
    fn name(&self) -> &StoreName {
        self.0.name()
    }

    async fn append(
        &self,
        stream: &StreamName,
        _entries: Vec<NewEntry>,
        _expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        Err(self.refuse("append", stream))
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        self.0.page(stream, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        self.0.stat(stream).await
    }

    async fn trim(&self, stream: &StreamName, _through: EntryId) -> Result<u64> {
        Err(self.refuse("trim", stream))
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        self.0.streams(after, limit).await
    }

    async fn rename(&self, from: &StreamName, _to: &StreamName) -> Result<()> {
        Err(self.refuse("rename", from))
    }

    fn labels(&self) -> Option<&dyn Labels> {
        self.0.labels().is_some().then_some(self as &dyn Labels)
    }

    fn search(&self) -> Option<&dyn Search> {
        self.0.search()
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        self.0.log()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Labels for ReadOnly<S> {
    async fn set_tags(&self, stream: &StreamName, _: EntryId, _: Vec<String>) -> Result<()> {
        Err(self.refuse("set tags", stream))
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        _: EntryId,
        _: Pairs,
        _: Vec<String>,
    ) -> Result<()> {
        Err(self.refuse("set annotations", stream))
    }
}
