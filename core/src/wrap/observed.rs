//! A store or a sink whose calls are traced and counted.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tracing::{Instrument as _, Span, field};

use crate::observe::{Operation, OperationKind, Recorder, error_type};
use crate::{
    Appended, ChangeLog, EntryId, ExpectedVersion, Labels, NewEntry, Page, Pairs, Query,
    ReadOptions, Result, Search, Stat, Store, StoreName, StreamName,
};

/// Traces and counts every call to the store or the sink inside, and changes nothing else.
///
/// - A call to a store is a span `ledger.Append`, `ledger.Read` and so on, a delivery to a sink a
///   span `ledger.bridge.Poll`. Spans are of level debug, so that a subscriber for log lines leaves
///   them alone; they name stores, streams and bridges, and hold no payload.
/// - Numbers go to the recorder, where there is one.
/// - Where no subscriber asks for the spans and there is no recorder, a call costs a few compares.
/// - The log of a store, with all that follows it, is that of the store inside, and not counted.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
    backend: &'static str,
    recorder: Option<Arc<dyn Recorder>>,
}

impl<S> Observed<S> {
    /// Traces `inner`, and has nothing counted yet. `backend` is the value of the attribute
    /// `ledger.backend`, such as the scheme of a URL.
    pub fn new(inner: S, backend: &'static str) -> Self {
        Self {
            inner,
            backend,
            recorder: None,
        }
    }

    /// Has `recorder` count.
    #[must_use]
    pub fn recorded_by(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// The store or sink inside.
    pub fn into_inner(self) -> S {
        self.inner
    }

    pub(super) fn inner(&self) -> &S {
        &self.inner
    }

    pub(super) fn recorder(&self) -> Option<&dyn Recorder> {
        self.recorder.as_deref()
    }
}

impl<S: fmt::Display> fmt::Display for Observed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "observed({})", self.inner)
    }
}

/// The span of a call. Its name must be a literal, so each call makes its own.
macro_rules! span {
    ($name:literal, $of:expr, $stream:expr) => {{
        let stream: Option<&StreamName> = $stream;
        tracing::debug_span!(
            $name,
            ledger.backend = $of.backend,
            ledger.store_type = $of.inner.name().as_str(),
            ledger.stream = stream.map(StreamName::as_str),
            error_type = field::Empty,
            otel.status_code = field::Empty,
        )
    }};
}

/// Does `work` in its span, which tells of a failure.
pub(super) async fn traced<T>(span: Span, work: impl Future<Output = Result<T>>) -> Result<T> {
    if span.is_disabled() {
        return work.await;
    }
    let answer = work.instrument(span.clone()).await;
    if let Err(error) = &answer {
        span.record("error_type", error_type(error));
        span.record("otel.status_code", "ERROR");
    }
    answer
}

impl<S: Store> Observed<S> {
    async fn observe<T>(
        &self,
        kind: OperationKind,
        stream: Option<&StreamName>,
        span: Span,
        work: impl Future<Output = Result<T>>,
        entries: impl Fn(&T) -> usize,
    ) -> Result<T> {
        let Some(recorder) = self.recorder() else {
            return traced(span, work).await;
        };
        let begun = Instant::now();
        let answer = traced(span, work).await;
        recorder.operation(&Operation {
            kind,
            backend: self.backend,
            store: self.inner.name(),
            stream,
            took: begun.elapsed(),
            entries: answer.as_ref().map_or(0, |answer| entries(answer) as u64),
            error: answer.as_ref().err(),
        });
        answer
    }
}

fn none<T>(_: &T) -> usize {
    0
}

fn entries(page: &Page) -> usize {
    page.entries.len()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Observed<S> {
    fn name(&self) -> &StoreName {
        self.inner.name()
    }

    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let span = span!("ledger.Append", self, Some(stream));
        let work = self.inner.append(stream, entries, expected);
        let new = |all: &Vec<Appended>| all.iter().filter(|one| !one.duplicate).count();
        self.observe(OperationKind::Append, Some(stream), span, work, new)
            .await
    }

    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page> {
        let span = span!("ledger.Read", self, Some(stream));
        let work = self.inner.page(stream, options);
        self.observe(OperationKind::Read, Some(stream), span, work, entries)
            .await
    }

    async fn stat(&self, stream: &StreamName) -> Result<Stat> {
        let span = span!("ledger.Stat", self, Some(stream));
        let work = self.inner.stat(stream);
        self.observe(OperationKind::Stat, Some(stream), span, work, none)
            .await
    }

    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64> {
        let span = span!("ledger.Trim", self, Some(stream));
        let work = self.inner.trim(stream, through);
        let trimmed = |count: &u64| usize::try_from(*count).unwrap_or(usize::MAX);
        self.observe(OperationKind::Trim, Some(stream), span, work, trimmed)
            .await
    }

    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>> {
        let span = span!("ledger.ListStreamIDs", self, None);
        let work = self.inner.streams(after, limit);
        self.observe(OperationKind::ListStreamIds, None, span, work, none)
            .await
    }

    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()> {
        let span = span!("ledger.RenameStream", self, Some(from));
        let work = self.inner.rename(from, to);
        self.observe(OperationKind::RenameStream, Some(from), span, work, none)
            .await
    }

    fn labels(&self) -> Option<&dyn Labels> {
        self.inner.labels().is_some().then_some(self as &dyn Labels)
    }

    fn search(&self) -> Option<&dyn Search> {
        self.inner.search().is_some().then_some(self as &dyn Search)
    }

    fn log(&self) -> Option<&dyn ChangeLog> {
        self.inner.log()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// What the store inside is asked for although it does not offer it.
fn lacking<T>(operation: &'static str, store: &impl fmt::Display) -> Result<T> {
    let context = format!("{store} does not offer it");
    Err(crate::Error::new(
        crate::ErrorKind::Unsupported,
        operation,
        context,
    ))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Labels for Observed<S> {
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()> {
        let Some(labels) = self.inner.labels() else {
            return lacking("set tags", &self.inner);
        };
        let span = span!("ledger.SetTags", self, Some(stream));
        let work = labels.set_tags(stream, id, tags);
        self.observe(OperationKind::SetTags, Some(stream), span, work, none)
            .await
    }

    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        let Some(labels) = self.inner.labels() else {
            return lacking("set annotations", &self.inner);
        };
        let span = span!("ledger.SetAnnotations", self, Some(stream));
        let work = labels.set_annotations(stream, id, set, delete);
        self.observe(
            OperationKind::SetAnnotations,
            Some(stream),
            span,
            work,
            none,
        )
        .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Search for Observed<S> {
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page> {
        let Some(search) = self.inner.search() else {
            return lacking("search", &self.inner);
        };
        let span = span!("ledger.Search", self, stream);
        let work = search.search(stream, query, options);
        self.observe(OperationKind::Search, stream, span, work, entries)
            .await
    }
}
