//! A real sink that misbehaves as told.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ledger::{Batch, Change, Cursor, CursorStore, Error, ErrorKind, Replica, Result, Sink};

/// How a sink misbehaves.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Not at all.
    None,
    /// It writes, and then fails, this many times out of this many.
    WriteThenFail(usize, usize),
    /// It fails before it writes, this many times out of this many.
    Fail(usize, usize),
    /// It cannot be reached.
    Unavailable,
    /// It takes a batch, and never answers.
    Hang,
    /// It writes, and never answers.
    WriteThenHang,
    /// It takes its time.
    Slow(Duration),
    /// It refuses every item.
    RefuseAll,
    /// It refuses batches that hold an item of these descriptions.
    Refuse(Vec<String>),
}

/// A sink and its fault, which can be changed while it is in use.
pub(crate) struct Double {
    inner: Arc<dyn Sink<Change>>,
    fault: Mutex<Fault>,
    calls: AtomicUsize,
    /// What the inner sink has taken, in this order.
    delivered: Mutex<Vec<(Cursor, String)>>,
}

impl Double {
    pub(crate) fn of(inner: Arc<dyn Sink<Change>>, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault: Mutex::new(fault),
            calls: AtomicUsize::new(0),
            delivered: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How many deliveries were asked for.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// What was taken, with its cursor and in words.
    pub(crate) fn delivered(&self) -> Vec<(Cursor, String)> {
        self.delivered.lock().unwrap().clone()
    }

    /// What was taken, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        let delivered = self.delivered();
        delivered.into_iter().map(|(_, words)| words).collect()
    }

    async fn write(&self, batch: &Batch<Change>) -> Result<()> {
        self.inner.deliver(batch).await?;
        let items = batch.items.iter();
        let taken = items.map(|(cursor, change)| (cursor.clone(), ledger::Item::describe(change)));
        self.delivered.lock().unwrap().extend(taken);
        Ok(())
    }
}

fn fail(kind: ErrorKind) -> Error {
    Error::new(kind, "deliver", "as told")
}

#[async_trait]
impl Sink<Change> for Double {
    async fn deliver(&self, batch: &Batch<Change>) -> Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let fault = self.fault.lock().unwrap().clone();
        match fault {
            Fault::WriteThenFail(times, of) => {
                self.write(batch).await?;
                if call % of < times {
                    return Err(fail(ErrorKind::Unavailable));
                }
                Ok(())
            }
            Fault::Fail(times, of) if call % of < times => Err(fail(ErrorKind::Unavailable)),
            Fault::None | Fault::Fail(..) => self.write(batch).await,
            Fault::Unavailable => Err(fail(ErrorKind::Unavailable)),
            Fault::Hang => std::future::pending().await,
            Fault::WriteThenHang => {
                self.write(batch).await?;
                std::future::pending().await
            }
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                self.write(batch).await
            }
            Fault::RefuseAll if batch.items.is_empty() => self.write(batch).await,
            Fault::RefuseAll => Err(fail(ErrorKind::Rejected)),
            Fault::Refuse(refused) => {
                let words = |change| ledger::Item::describe(change);
                let mut items = batch.items.iter();
                if items.any(|(_, change)| refused.contains(&words(change))) {
                    return Err(fail(ErrorKind::Rejected));
                }
                self.write(batch).await
            }
        }
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        self.inner.cursors()
    }

    fn replica(&self) -> Option<&dyn Replica> {
        self.inner.replica()
    }
}

impl fmt::Display for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "double of {}", self.inner)
    }
}

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Double({self})")
    }
}
