//! Waking readers of changes.
//!
//! Readers of this process are woken at once. Those of other processes by NOTIFY, sent from a task
//! of its own: NOTIFY takes a lock that all committing notifiers share, so it must not stand in the
//! appends' transactions. At most one is sent every few milliseconds. Whatever a notice misses, the
//! readers' poll finds.

use std::sync::Arc;
use std::time::Duration;

use ledger_layout::postgres::{Tables, channel, notify};
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::{Notify, OnceCell, watch};

/// The shortest time between two notices to other processes.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How long to wait before listening again after the connection broke; readers poll meanwhile.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Wake {
    pool: PgPool,
    channel: String,
    readers: Arc<watch::Sender<u64>>,
    written: Arc<Notify>,
    notifier: OnceCell<()>,
    listener: OnceCell<()>,
    closed: watch::Sender<bool>,
}

impl Wake {
    pub(super) fn new(pool: PgPool, tables: &Tables) -> Self {
        Self {
            pool,
            channel: channel(tables),
            readers: Arc::new(watch::Sender::new(0)),
            written: Arc::new(Notify::new()),
            notifier: OnceCell::new(),
            listener: OnceCell::new(),
            closed: watch::Sender::new(false),
        }
    }

    /// Something was committed.
    pub(super) fn committed(&self) {
        self.readers.send_modify(|count| *count += 1);
        if self.notifier.set(()).is_ok() {
            self.spawn_notifier();
        }
        self.written.notify_one();
    }

    fn spawn_notifier(&self) {
        let (pool, channel) = (self.pool.clone(), self.channel.clone());
        let (written, mut closed) = (Arc::clone(&self.written), self.closed.subscribe());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = written.notified() => {}
                    _ = closed.wait_for(|closed| *closed) => return,
                }
                notify(&pool, &channel).await;
                tokio::time::sleep(DEBOUNCE).await;
            }
        });
    }

    /// Ends when the store is closed.
    pub(super) async fn until_closed(&self) {
        // The sender lives as long as this.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A receiver that changes whenever something may have been committed.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        if self.listener.set(()).is_ok() {
            self.spawn_listener();
        }
        self.readers.subscribe()
    }

    fn spawn_listener(&self) {
        let (pool, channel) = (self.pool.clone(), self.channel.clone());
        let (readers, mut closed) = (Arc::clone(&self.readers), self.closed.subscribe());
        tokio::spawn(async move {
            let listen = async {
                loop {
                    if let Err(error) = listen(&pool, &channel, &readers).await {
                        tracing::debug!(%error, "lost the connection that listens for notices");
                    }
                    tokio::time::sleep(LISTEN_AGAIN).await;
                }
            };
            tokio::select! {
                () = listen => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
        self.readers.send_modify(|count| *count += 1);
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.close();
    }
}

async fn listen(
    pool: &PgPool,
    channel: &str,
    readers: &watch::Sender<u64>,
) -> Result<(), sqlx::Error> {
    // A connection of its own, not one that calls wait for: several stores may share the pool.
    let options = pool.connect_options().as_ref().clone();
    let own = PgPoolOptions::new().max_connections(1);
    let own = own.connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&own).await?;
    // The pool may close while this listens.
    listener.ignore_pool_close_event(true);
    listener.listen(channel).await?;
    loop {
        listener.recv().await?;
        readers.send_modify(|count| *count += 1);
    }
}
