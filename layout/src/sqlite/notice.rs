//! Waking readers when something was committed: by this process at once, by another one within
//! some milliseconds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::Duration;

use ledger_core::Result;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{Mutex, watch};

use super::error::failed;

/// How often a waiting process looks whether another one has committed.
const POLL: Duration = Duration::from_millis(15);

/// What all handles of one process on one database share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Counts the commits of this process, and the times it noticed one of another.
    commits: watch::Sender<u64>,
    /// Lets the writers of this process take turns in the order they came; SQLite's own lock makes
    /// them poll.
    pub(super) turn: Arc<Mutex<()>>,
    /// Held by the one reader that looks for other processes' commits on behalf of all.
    watcher: Mutex<Watcher>,
}

#[derive(Debug, Default)]
struct Watcher {
    connection: Option<SqliteConnection>,
    /// `PRAGMA data_version` as it was last; it means something on one connection only.
    version: Option<i64>,
}

static SHARED: StdMutex<Option<HashMap<PathBuf, Weak<Shared>>>> = StdMutex::new(None);

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            commits: watch::Sender::new(0),
            turn: Arc::default(),
            watcher: Mutex::default(),
        })
    }

    /// That of the file at this canonical path.
    pub(super) fn of(path: &Path) -> Arc<Self> {
        let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        if let Some(shared) = all.get(path).and_then(Weak::upgrade) {
            return shared;
        }
        all.retain(|_, shared| shared.strong_count() > 0);
        let shared = Self::new();
        all.insert(path.to_owned(), Arc::downgrade(&shared));
        shared
    }

    pub(super) fn committed(&self) {
        self.commits
            .send_modify(|commits| *commits = commits.wrapping_add(1));
    }
}

/// Waits for commits to a database.
#[derive(Debug)]
pub struct Waiter {
    shared: Arc<Shared>,
    receiver: watch::Receiver<u64>,
    /// How to open the connection that looks for other processes; none where there are none.
    options: Option<SqliteConnectOptions>,
}

impl Waiter {
    pub(super) fn new(shared: Arc<Shared>, options: Option<SqliteConnectOptions>) -> Self {
        let receiver = shared.commits.subscribe();
        Self {
            shared,
            receiver,
            options,
        }
    }

    /// Takes note of all commits so far; called before reading, so that [`changed`](Self::changed)
    /// ends at once for a commit that the read came too early for.
    pub fn mark(&mut self) {
        self.receiver.borrow_and_update();
    }

    /// Waits until something may have been committed since [`mark`](Self::mark).
    pub async fn changed(&mut self) -> Result<()> {
        let Some(options) = &self.options else {
            // The sender lives as long as `shared`.
            self.receiver.changed().await.ok();
            return Ok(());
        };
        tokio::select! {
            _ = self.receiver.changed() => Ok(()),
            mut watcher = self.shared.watcher.lock() => {
                let mut receiver = self.receiver.clone();
                loop {
                    if watcher.look(options).await? {
                        self.shared.committed();
                    }
                    tokio::select! {
                        _ = receiver.changed() => return Ok(()),
                        () = tokio::time::sleep(POLL) => {}
                    }
                }
            }
        }
    }
}

impl Watcher {
    /// Whether another connection has committed since the last look.
    async fn look(&mut self, options: &SqliteConnectOptions) -> Result<bool> {
        let fail = |error| failed("wait for changes", error);
        if self.connection.is_none() {
            self.connection = Some(options.connect().await.map_err(fail)?);
            self.version = None;
        }
        let Some(connection) = &mut self.connection else {
            return Ok(true);
        };
        match sqlx::query_scalar::<_, i64>("PRAGMA data_version")
            .fetch_one(connection)
            .await
        {
            Ok(version) => Ok(self.version.replace(version) != Some(version)),
            Err(error) => {
                self.connection = None;
                Err(fail(error))
            }
        }
    }
}
