//! One database: its one writing connection, its readers, and who waits for commits.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ledger_core::{Error, ErrorKind, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Sqlite, SqliteConnection, Transaction};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::config::{Durability, Location, SqliteConfig};
use super::error::failed;
use super::notice::{Shared, Waiter};

/// An open database. Clones are closed together; [`share`](Self::share) gives a handle that is
/// closed by itself.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
    closed: Arc<AtomicBool>,
}

struct Inner {
    config: SqliteConfig,
    options: SqliteConnectOptions,
    writer: Slot,
    /// None for a database in memory, which has one connection only.
    readers: Vec<Slot>,
    free_readers: Arc<Semaphore>,
    shared: Arc<Shared>,
    /// How many handles are not closed yet.
    handles: AtomicUsize,
}

/// A connection that is opened when first needed, and again after it broke.
#[derive(Clone, Default)]
struct Slot {
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    broken: Arc<AtomicBool>,
}

impl Slot {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }
}

type Guard = OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>;

impl Database {
    /// Opens the database, and creates the file where it does not exist and may be created.
    pub async fn open(config: SqliteConfig) -> Result<Self> {
        let options = match &config.location {
            Location::File(path) => {
                check_path(path, config.create)?;
                SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(config.create)
                    .pragma("journal_size_limit", "67108864")
            }
            Location::Memory => SqliteConnectOptions::new().in_memory(true),
        };
        let options = options
            .busy_timeout(config.busy_timeout)
            .synchronous(match config.durability {
                Durability::Full => SqliteSynchronous::Full,
                Durability::Relaxed => SqliteSynchronous::Normal,
            })
            .pragma("cache_size", "-16000")
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(128)
            .disable_statement_logging();
        let writer = connect_first(&config, &options).await?;
        let shared = match &config.location {
            Location::File(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                Shared::of(&path)
            }
            Location::Memory => Shared::new(),
        };
        let readers = match config.location {
            Location::File(_) => config.readers.max(1),
            Location::Memory => 0,
        };
        let slot = Slot::default();
        *slot.connection.lock().await = Some(writer);
        let inner = Inner {
            config,
            options,
            writer: slot,
            readers: (0..readers).map(|_| Slot::default()).collect(),
            free_readers: Arc::new(Semaphore::new(readers)),
            shared,
            handles: AtomicUsize::new(1),
        };
        Ok(Self {
            inner: Arc::new(inner),
            closed: Arc::default(),
        })
    }

    /// A handle on the same connections that is closed by itself.
    #[must_use]
    pub fn share(&self) -> Self {
        self.inner.handles.fetch_add(1, Ordering::AcqRel);
        Self {
            inner: Arc::clone(&self.inner),
            closed: Arc::default(),
        }
    }

    /// Where the database is and how it was opened.
    pub fn config(&self) -> &SqliteConfig {
        &self.inner.config
    }

    /// Takes the writing connection, after those who asked before; `Unavailable` when they take
    /// longer than the busy timeout.
    pub async fn writer(&self) -> Result<Writer> {
        self.check_open()?;
        let take = async {
            let turn = Arc::clone(&self.inner.shared.turn).lock_owned().await;
            (
                turn,
                Arc::clone(&self.inner.writer.connection).lock_owned().await,
            )
        };
        let (turn, connection) = tokio::time::timeout(self.inner.config.busy_timeout, take)
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Unavailable,
                    "begin transaction",
                    format!(
                        "{}: other writers took longer than the busy timeout",
                        self.inner.config
                    ),
                )
            })?;
        self.check_open()?;
        let connection = self.connected(&self.inner.writer, connection).await?;
        Ok(Writer {
            connection,
            database: self.clone(),
            _turn: turn,
        })
    }

    /// Takes the writing connection, if nobody has it or waits for it.
    pub async fn free_writer(&self) -> Result<Option<Writer>> {
        self.check_open()?;
        let Ok(turn) = Arc::clone(&self.inner.shared.turn).try_lock_owned() else {
            return Ok(None);
        };
        let Ok(connection) = Arc::clone(&self.inner.writer.connection).try_lock_owned() else {
            return Ok(None);
        };
        let connection = self.connected(&self.inner.writer, connection).await?;
        Ok(Some(Writer {
            connection,
            database: self.clone(),
            _turn: turn,
        }))
    }

    /// Takes a connection for reading.
    pub async fn reader(&self) -> Result<Reader> {
        self.check_open()?;
        if self.inner.readers.is_empty() {
            let connection = Arc::clone(&self.inner.writer.connection).lock_owned().await;
            self.check_open()?;
            let connection = self.connected(&self.inner.writer, connection).await?;
            let broken = Arc::clone(&self.inner.writer.broken);
            return Ok(Reader {
                connection,
                broken,
                _permit: None,
            });
        }
        let permit = Arc::clone(&self.inner.free_readers)
            .acquire_owned()
            .await
            .map_err(|_| self.closed())?;
        for slot in &self.inner.readers {
            let Ok(connection) = Arc::clone(&slot.connection).try_lock_owned() else {
                continue;
            };
            let connection = self.connected(slot, connection).await?;
            let broken = Arc::clone(&slot.broken);
            return Ok(Reader {
                connection,
                broken,
                _permit: Some(permit),
            });
        }
        // There are as many permits as connections, so one is free.
        Err(Error::new(
            ErrorKind::Internal,
            "read",
            "no free connection",
        ))
    }

    async fn connected(
        &self,
        slot: &Slot,
        mut connection: OwnedMutexGuard<Option<SqliteConnection>>,
    ) -> Result<Guard> {
        let broken = slot.broken.swap(false, Ordering::Relaxed);
        if connection.is_none() || (broken && self.inner.config.location != Location::Memory) {
            let opened = self.inner.options.connect().await;
            *connection = Some(opened.map_err(|error| self.open_failed(error))?);
        }
        OwnedMutexGuard::try_map(connection, Option::as_mut).map_err(|_| self.closed())
    }

    /// Whoever waits for commits.
    pub fn waiter(&self) -> Waiter {
        let other_processes = self.inner.config.location != Location::Memory;
        let options = other_processes.then(|| self.inner.options.clone());
        Waiter::new(Arc::clone(&self.inner.shared), options)
    }

    /// Wakes those who wait for commits.
    pub fn committed(&self) {
        self.inner.shared.committed();
    }

    /// `Closed` after [`close`](Self::close).
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(self.closed())
        } else {
            Ok(())
        }
    }

    /// Closes this handle, so that every later call is `Closed`. With the last one the connections
    /// are closed, each as soon as nobody uses it.
    pub async fn close(&self) {
        let before = self.closed.swap(true, Ordering::AcqRel);
        self.committed();
        if before || self.inner.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.inner.free_readers.close();
        for slot in self.inner.readers.iter().chain([&self.inner.writer]) {
            if let Some(mut connection) = slot.connection.lock().await.take() {
                // The last connection's end does the same, but another one may be about to end, or
                // be another process's. As far as it gets without waiting for readers.
                if slot.is(&self.inner.writer) {
                    let checkpoint = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)");
                    checkpoint.execute(&mut connection).await.ok();
                }
                // Nothing is left to be written, so a failure to close loses nothing.
                connection.close().await.ok();
            }
        }
    }

    fn closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            "use database",
            format!("{} was closed", self.inner.config),
        )
    }

    fn open_failed(&self, error: sqlx::Error) -> Error {
        failed("open database", error).within(&self.inner.config)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.inner.config).finish()
    }
}

/// Opens the first connection, which makes the file a WAL database. SQLite answers "busy" without
/// waiting where another process does so at the same moment.
async fn connect_first(
    config: &SqliteConfig,
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection> {
    let options = match config.location {
        Location::File(_) => options.clone().journal_mode(SqliteJournalMode::Wal),
        Location::Memory => options.clone(),
    };
    let begun = tokio::time::Instant::now();
    loop {
        let opened = async {
            let mut connection = options.connect().await?;
            // Nothing of the file is read before the first statement that needs it.
            sqlx::query("SELECT count(*) FROM sqlite_master")
                .execute(&mut connection)
                .await?;
            Ok(connection)
        };
        let error = match opened.await {
            Ok(connection) => return Ok(connection),
            Err(error) => failed("open database", error).within(config),
        };
        if !error.is_retryable() || begun.elapsed() > config.busy_timeout {
            return Err(error);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Tells what SQLite would only call "unable to open database file".
fn check_path(path: &Path, create: bool) -> Result<()> {
    let error = |kind, what: String| Err(Error::new(kind, "open database", what));
    let shown = path.display();
    if path.is_dir() {
        return error(
            ErrorKind::InvalidInput,
            format!("{shown} is a directory, not a file"),
        );
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let folder = folder.display();
        return error(
            ErrorKind::NotFound,
            format!("the directory {folder} does not exist"),
        );
    }
    if !create && !path.exists() {
        return error(
            ErrorKind::NotFound,
            format!("the file {shown} does not exist"),
        );
    }
    Ok(())
}

/// The writing connection, while it is held.
pub struct Writer {
    connection: Guard,
    database: Database,
    _turn: OwnedMutexGuard<()>,
}

impl Writer {
    /// Begins a transaction that holds the database's write lock from its beginning. Dropped, it
    /// rolls back.
    pub async fn begin(&mut self) -> Result<Transaction<'_, Sqlite>> {
        let begun = self.connection.begin_with("BEGIN IMMEDIATE").await;
        begun.map_err(|error| {
            let inner = &self.database.inner;
            // SQLite ends a transaction by itself where the disk is full or fails; the client then
            // goes on counting it, and takes this one for one within it. After whatever it was but
            // a lock that another one holds, the next writer gets a connection of its own.
            let uncounted = matches!(error, sqlx::Error::InvalidSavePointStatement);
            let failed = failed("begin transaction", error).within(&inner.config);
            if uncounted {
                inner.writer.broken.store(true, Ordering::Relaxed);
                return Error::new(
                    ErrorKind::Unavailable,
                    failed.operation(),
                    format!(
                        "{}: a failure of the disk ended the transaction before this one; the \
                         connection is opened anew",
                        inner.config
                    ),
                );
            }
            if !failed.is_retryable() {
                inner.writer.broken.store(true, Ordering::Relaxed);
            }
            failed
        })
    }
}

impl Deref for Writer {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Writer {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(&self.database).finish()
    }
}

impl Drop for Writer {
    /// Whatever was committed, somebody may wait for it.
    fn drop(&mut self) {
        self.database.committed();
    }
}

/// A reading connection, while it is held.
pub struct Reader {
    connection: Guard,
    broken: Arc<AtomicBool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reader {
    /// Passes the result of a read on, and has the connection opened anew where it may have broken.
    pub fn done<T>(self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal)
        {
            self.broken.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}
