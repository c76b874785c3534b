//! One reading of a source for several sinks, of which one is away for a while.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use ledger::bridge::{Bridge, VerifyOptions, verify};
use ledger::connect::DatabaseUrl;
use ledger::{
    Appended, Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, EntryId,
    ExpectedVersion, FanOut, Labels, Lag, NewEntry, Page, PipelineId, ReadOptions, Result,
    Retention, Search, SourceId, Stat, Store, StoreName, StreamName,
};
use ledger_harness::ClickHouse;

use super::content::{everything, fill};
use super::pair::{Kind, Pair, open};
use super::run::{Running, head, options, reached, until};

/// A store that counts who reads its log at this moment, and what they were told.
struct Counted {
    inner: Arc<dyn Store>,
    readers: Arc<AtomicUsize>,
    told: Arc<AtomicUsize>,
}

struct Reading(Arc<AtomicUsize>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Counted {
    fn inner(&self) -> &dyn ChangeLog {
        self.inner.log().unwrap()
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
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
        self.readers.fetch_add(1, Ordering::SeqCst);
        let (reading, told) = (Reading(Arc::clone(&self.readers)), Arc::clone(&self.told));
        let changes = self.inner().changes(after);
        changes
            .inspect(move |_| {
                let _ = &reading;
                told.fetch_add(1, Ordering::SeqCst);
            })
            .boxed()
    }

    async fn head(&self) -> Result<Cursor> {
        self.inner().head().await
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        self.inner().lag(after).await
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        self.inner().snapshot(after)
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

/// Three sinks follow one reading. ClickHouse is killed: the two others are not held up, though the
/// shared reading keeps less than what comes meanwhile. When it is back it catches up by itself, and
/// takes part in the shared reading again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sink_that_is_away_holds_up_no_other() {
    let pair = Pair::open(Kind::Postgres, Kind::Sqlite).await;
    let mut server = ClickHouse::start().await;
    let (readers, told) = (Arc::default(), Arc::default());
    let counted = Counted {
        inner: open(&pair.from, &pair.name, Retention::default())
            .await
            .store(),
        readers: Arc::clone(&readers),
        told: Arc::clone(&told),
    };
    let source: Arc<dyn Store> = Arc::new(FanOut::new(counted, 200_000));
    everything(&source).await;

    let second = pair.another(Kind::Sqlite, "second").await;
    let third = DatabaseUrl::parse(&server.url()).unwrap();
    let sinks = [
        pair.sink.clone(),
        second.sink(&pair.name).await,
        Box::pin(third.open_sink(&pair.name)).await.unwrap(),
    ];
    let pipelines = ["one", "two", "three"].map(|name| PipelineId::new(name).unwrap());
    let ends: Vec<_> = sinks.iter().zip(&pipelines).collect();
    let running: Vec<Running> = ends
        .iter()
        .map(|(sink, pipeline)| {
            let bridge = Bridge::new(
                Arc::clone(&source),
                sink.sink(),
                options(pipeline, sink.batch()),
            );
            Running::start(bridge.unwrap())
        })
        .collect();
    let at = head(&source).await;
    for (sink, pipeline) in &ends {
        reached(sink.sink().as_ref(), pipeline, &at).await;
    }
    // Those that caught up have let go of their own readings.
    let reading = || readers.load(Ordering::SeqCst);
    fill(&source, 1, 3).await;
    until("one reading is left", async || reading() == 1).await;
    let at = head(&source).await;
    for (sink, pipeline) in &ends {
        reached(sink.sink().as_ref(), pipeline, &at).await;
    }
    let before = told.load(Ordering::SeqCst);
    fill(&source, 1, 50).await;
    let at = head(&source).await;
    for (sink, pipeline) in &ends {
        reached(sink.sink().as_ref(), pipeline, &at).await;
    }
    assert_eq!(reading(), 1);
    assert_eq!(
        told.load(Ordering::SeqCst) - before,
        50,
        "each change was read once for all three"
    );

    server.kill().await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        // More than the shared reading keeps.
        fill(&source, 3, 200).await;
        let (at, begun) = (head(&source).await, Instant::now());
        for (sink, pipeline) in &ends[..2] {
            reached(sink.sink().as_ref(), pipeline, &at).await;
        }
        waits.push(begun.elapsed());
    }
    let longest = waits.iter().max().unwrap();
    println!("behind the source while one sink was away, at most: {longest:?}");
    assert!(*longest < Duration::from_secs(10), "{waits:?}");

    server.restart().await;
    let (at, begun) = (head(&source).await, Instant::now());
    let (sink, pipeline) = ends[2];
    reached(sink.sink().as_ref(), pipeline, &at).await;
    println!("the third caught up within {:?}", begun.elapsed());
    fill(&source, 1, 3).await;
    until("one reading is left", async || reading() == 1).await;
    for (sink, pipeline) in &ends {
        let options = VerifyOptions::new((*pipeline).clone());
        let sink = sink.sink();
        let report = verify(source.as_ref(), sink.as_ref(), &options, |_| {})
            .await
            .unwrap();
        assert!(report.is_equal(), "{report:?}");
    }
    for running in running {
        running.stopped().await;
    }
    source.close().await;
    pair.close().await;
}
