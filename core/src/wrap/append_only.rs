//! A store whose entries keep the labels they were appended with.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Appended, ChangeLog, EntryId, ExpectedVersion, Labels, NewEntry, Page, ReadOptions, Result,
    Search, Stat, Store, StoreName, StreamName,
};

/// A store that offers no labels: what was appended is never changed, only trimmed.
#[derive(Debug, Clone)]
pub struct AppendOnly<S>(S);

impl<S> AppendOnly<S> {
    /// Takes the labels away from `store`.
    pub fn new(store: S) -> Self {
        Self(store)
    }

    /// The store inside.
    pub fn into_inner(self) -> S {
        self.0
    }
}

impl<S: fmt::Display> fmt::Display for AppendOnly<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "append-only({})", self.0)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for AppendOnly<S> {
    fn name(&self) -> &StoreName {
        self.0.name()
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        self.0.append(stream, entries, expected).await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        self.0.page(stream, options).await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        self.0.stat(stream).await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        self.0.trim(stream, through).await
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        self.0.streams(after, limit).await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        self.0.rename(from, to).await
    }

    fn labels(&self) -> Option<&dyn Labels> {
        None
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
