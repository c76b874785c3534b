//! Running bridges in tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::bridge::{Bridge, BridgeOptions, Report, Summary, VerifyOptions, verify};
use ledger::pipeline::{Backoff, BatchOptions, Stop};
use ledger::{Change, Cursor, PipelineId, Progress, Result, Sink, Store};
use tokio::task::JoinHandle;

use super::pair::Pair;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_mins(3);

/// Waits until a condition holds; looks again every 10 ms.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A bridge in a task of its own.
pub(crate) struct Running {
    pub(crate) bridge: Bridge,
    pub(crate) stop: Stop,
    pub(crate) task: JoinHandle<Result<Summary>>,
}

impl Running {
    pub(crate) fn start(bridge: Bridge) -> Self {
        let (stop, running) = (Stop::new(), bridge.clone());
        let handle = stop.clone();
        let task = tokio::spawn(async move { running.run(&handle).await });
        Self { bridge, stop, task }
    }

    /// What it ends with by itself.
    pub(crate) async fn ended(self) -> Result<Summary> {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the bridge ends")
            .unwrap()
    }

    /// Lets it deliver what it has read, and end.
    pub(crate) async fn stopped(self) -> Summary {
        self.stop.stop();
        self.ended().await.unwrap()
    }
}

pub(crate) fn options(pipeline: &PipelineId, batch: BatchOptions) -> BridgeOptions {
    BridgeOptions {
        batch,
        lease: Duration::from_secs(2),
        backoff: Backoff {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(200),
        },
        ..BridgeOptions::new(pipeline.clone())
    }
}

impl Pair {
    pub(crate) fn options(&self) -> BridgeOptions {
        // A pace for few, large writes would only make the tests slower.
        let batch = BatchOptions {
            max_wait: Duration::from_millis(20),
            ..self.sink.batch()
        };
        let options = options(&self.pipeline, batch);
        BridgeOptions {
            // A lease there is two reads and an insert, which may take a while on a busy machine.
            lease: options.lease * if self.from.is_clickhouse() { 4 } else { 1 },
            ..options
        }
    }

    pub(crate) fn bridge(&self, options: BridgeOptions) -> Bridge {
        Bridge::new(Arc::clone(&self.source), self.sink.sink(), options).unwrap()
    }

    /// A bridge to this sink in place of the pair's.
    pub(crate) fn bridge_to(&self, sink: Arc<dyn Sink<Change>>, options: BridgeOptions) -> Bridge {
        Bridge::new(Arc::clone(&self.source), sink, options).unwrap()
    }

    pub(crate) fn start(&self) -> Running {
        Running::start(self.bridge(self.options()))
    }

    /// Runs until the log as it stands has been carried.
    pub(crate) async fn once(&self) -> Result<Summary> {
        let options = BridgeOptions {
            once: true,
            ..self.options()
        };
        Running::start(self.bridge(options)).ended().await
    }

    /// The cursor in the sink.
    pub(crate) async fn stored(&self) -> Option<Cursor> {
        let sink = self.sink.sink();
        let cursors = sink.cursors().unwrap();
        cursors.stored(&self.pipeline).await.unwrap()
    }

    /// Waits until a running bridge has carried the log as it stands.
    pub(crate) async fn caught_up(&self) {
        let head = self.source.log().unwrap().head().await.unwrap();
        reached(self.sink.sink().as_ref(), &self.pipeline, &head).await;
    }

    pub(crate) fn verify_options(&self) -> VerifyOptions {
        VerifyOptions {
            // Several chunks, where waiting for the sink between them is cheap.
            chunk: if self.to.is_clickhouse() { 500 } else { 100 },
            ..VerifyOptions::new(self.pipeline.clone())
        }
    }

    pub(crate) async fn verify(&self, options: &VerifyOptions) -> Report {
        let sink = self.sink.sink();
        verify(self.source.as_ref(), sink.as_ref(), options, |_| {})
            .await
            .unwrap()
    }
}

/// Waits until a sink's cursor is at `head`.
pub(crate) async fn reached(sink: &dyn Sink<Change>, pipeline: &PipelineId, head: &Cursor) {
    until("the sink reaches the head", async || {
        let stored = sink.cursors().unwrap().stored(pipeline).await.unwrap();
        match stored.map(|cursor| Progress::from_cursor(&cursor).unwrap()) {
            Some(Progress::Follow(cursor)) => cursor >= *head,
            _ => false,
        }
    })
    .await;
}

/// The head of a store's log.
pub(crate) async fn head(store: &Arc<dyn Store>) -> Cursor {
    store.log().unwrap().head().await.unwrap()
}
