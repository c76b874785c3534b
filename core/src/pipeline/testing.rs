//! Doubles for the tests of pipelines: an item, a scripted sink, a scripted cursor store, a task.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures::task::{ArcWake, waker};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Lead;
use crate::{
    Batch, Claim, Cursor, CursorStore, Error, ErrorKind, Item, PipelineId, Result, Sink, SourceId,
    StreamKey, Timestamp,
};

pub(super) fn at(position: u64) -> Cursor {
    Cursor::new(b't', &position.to_be_bytes())
}

pub(super) fn lead(resume_from: Option<Cursor>) -> Lead {
    Lead {
        pipeline: PipelineId::new("test").unwrap(),
        fence: 1,
        resume_from,
    }
}

pub(super) fn fail(kind: ErrorKind) -> Error {
    Error::new(kind, "deliver", "as scripted")
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) cursor: Cursor,
    pub(super) key: u64,
    pub(super) size: usize,
    pub(super) barrier: bool,
}

impl Row {
    pub(super) fn new(position: u64, key: u64) -> Self {
        Self {
            cursor: at(position),
            key,
            size: 1,
            barrier: false,
        }
    }
}

impl Item for Row {
    fn cursor(&self) -> &Cursor {
        &self.cursor
    }
    fn committed_at(&self) -> Option<Timestamp> {
        None
    }
    fn key(&self) -> StreamKey {
        StreamKey(self.key)
    }
    fn size(&self) -> usize {
        self.size
    }
    fn is_barrier(&self) -> bool {
        self.barrier
    }
    fn kind(&self) -> &'static str {
        "row"
    }

    fn describe(&self) -> String {
        format!("row {}", self.key)
    }
}

/// A task that is polled by hand and knows whether it was woken.
pub(super) struct Task {
    flag: Arc<Flag>,
    waker: Waker,
}

struct Flag(AtomicBool);

impl ArcWake for Flag {
    fn wake_by_ref(flag: &Arc<Self>) {
        flag.0.store(true, Ordering::SeqCst);
    }
}

impl Task {
    pub(super) fn new() -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        Self {
            waker: waker(Arc::clone(&flag)),
            flag,
        }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }

    /// Polls as an executor would: again and again while it wakes itself.
    pub(super) fn poll_next<S: Stream + Unpin>(&mut self, stream: &mut S) -> Poll<Option<S::Item>> {
        for _ in 0..1_000_000 {
            self.flag.0.store(false, Ordering::SeqCst);
            let next = stream.poll_next_unpin(&mut Context::from_waker(&self.waker));
            if next.is_ready() {
                // The one who polls comes back for more.
                self.flag.0.store(true, Ordering::SeqCst);
                return next;
            }
            if !self.is_woken() {
                return Poll::Pending;
            }
        }
        panic!("the stream wakes itself without end");
    }
}

/// A sink whose deliveries stay open until the test answers them. Clones share one state.
#[derive(Clone, Default)]
pub(super) struct Probe {
    calls: Arc<Mutex<Vec<Call>>>,
    script: Arc<Mutex<Script>>,
    cursors: Option<Arc<Cursors>>,
}

struct Call {
    batch: Batch<Row>,
    reply: Option<oneshot::Sender<Result<()>>>,
}

#[derive(Clone, Copy, Default)]
enum Script {
    #[default]
    Hold,
    Succeed,
    Fail(ErrorKind),
}

impl Probe {
    /// Holds every delivery open.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Takes everything at once.
    pub(super) fn willing() -> Self {
        let probe = Self::new();
        probe.be_willing();
        probe
    }

    /// Takes everything at once, and says that it keeps its own cursor.
    pub(super) fn with_cursors() -> Self {
        Self {
            cursors: Some(Arc::new(Cursors::default())),
            ..Self::willing()
        }
    }

    pub(super) fn failing(kind: ErrorKind) -> Self {
        let probe = Self::new();
        *lock(&probe.script) = Script::Fail(kind);
        probe
    }

    /// Takes everything from now on.
    pub(super) fn be_willing(&self) {
        *lock(&self.script) = Script::Succeed;
    }

    /// How many deliveries have begun.
    pub(super) fn calls(&self) -> usize {
        lock(&self.calls).len()
    }

    /// Those that are neither answered nor given up.
    pub(super) fn open(&self) -> Vec<usize> {
        let open = |call: &Call| call.reply.as_ref().is_some_and(|reply| !reply.is_closed());
        let calls = lock(&self.calls);
        (0..calls.len())
            .filter(|index| open(&calls[*index]))
            .collect()
    }

    pub(super) fn batch(&self, call: usize) -> Batch<Row> {
        lock(&self.calls)[call].batch.clone()
    }

    pub(super) fn answer(&self, call: usize, result: Result<()>) {
        let reply = lock(&self.calls)[call]
            .reply
            .take()
            .expect("it is answered already");
        reply.send(result).expect("it was given up");
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("probe")
    }
}

#[async_trait]
impl Sink<Row> for Probe {
    async fn deliver(&self, batch: &Batch<Row>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let script = *lock(&self.script);
        let reply = matches!(script, Script::Hold).then_some(reply);
        lock(&self.calls).push(Call {
            batch: batch.clone(),
            reply,
        });
        match script {
            Script::Succeed => Ok(()),
            Script::Fail(kind) => Err(fail(kind)),
            Script::Hold => answer.await.expect("the probe is gone"),
        }
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        self.cursors
            .as_deref()
            .map(|cursors| cursors as &dyn CursorStore)
    }
}

/// A cursor store that records what it is asked to store.
#[derive(Default)]
pub(super) struct Cursors {
    asked: Mutex<Vec<Cursor>>,
    reply: Mutex<Option<oneshot::Sender<Result<()>>>>,
    holds: bool,
}

impl Cursors {
    /// Answers nothing by itself.
    pub(super) fn held() -> Arc<Self> {
        Arc::new(Self {
            holds: true,
            ..Self::default()
        })
    }

    /// Stores everything at once.
    pub(super) fn willing() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(super) fn asked(&self) -> Vec<Cursor> {
        lock(&self.asked).clone()
    }

    pub(super) fn answer(&self, result: Result<()>) {
        let reply = lock(&self.reply).take().expect("nothing is asked");
        reply.send(result).expect("it was given up");
    }
}

#[async_trait]
impl CursorStore for Cursors {
    async fn claim(&self, _: &PipelineId, _: &SourceId) -> Result<Claim> {
        Ok(Claim {
            fence: 1,
            cursor: None,
        })
    }

    async fn advance(&self, _: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        assert_eq!(fence, 1);
        lock(&self.asked).push(to.clone());
        if self.holds {
            let (reply, answer) = oneshot::channel();
            *lock(&self.reply) = Some(reply);
            answer.await.expect("the store is gone")?;
        }
        Ok(to.clone())
    }

    async fn stored(&self, _: &PipelineId) -> Result<Option<Cursor>> {
        Ok(self.asked().into_iter().max())
    }

    async fn reset(&self, _: &PipelineId) -> Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a test has failed before")
}
