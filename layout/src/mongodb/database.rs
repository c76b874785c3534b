//! Connections that several stores share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use ledger_core::{Error, ErrorKind, Result, StoreName};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{CollectionOptions, ReadConcern};
use mongodb::{Client, Collection, Database};
use tokio::sync::watch;

use super::config::MongoConfig;
use super::error::failed;
use super::schema::Collections;
use super::transaction::{Attempts, Tx};

/// What a deployment can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// A replica set or a sharded cluster: transactions and change streams.
    ReplicaSet,
    /// One server by itself: neither.
    Standalone,
}

/// A MongoDB database whose connections several stores share. Cloning shares the handle;
/// [`share`](Self::share) gives another one, which is closed by itself.
#[derive(Clone)]
pub struct MongoDatabase {
    shared: Arc<Shared>,
    closed: Arc<watch::Sender<bool>>,
}

struct Shared {
    client: Client,
    database: Database,
    config: MongoConfig,
    deployment: Deployment,
    /// How many handles are not closed.
    open: AtomicUsize,
    /// What wakes the readers of each store's log.
    wakes: Mutex<BTreeMap<StoreName, Arc<watch::Sender<u64>>>>,
}

/// How long to wait before listening again after a change stream broke; readers poll meanwhile.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);

impl MongoDatabase {
    /// Connects, and asks the server what it is.
    pub async fn open(config: MongoConfig) -> Result<Self> {
        let fail = |error| failed("connect", config.to_string(), error);
        let options = config.client_options().await?;
        let client = Client::with_options(options).map_err(fail)?;
        let database = client.database(&config.database);
        let hello = database.run_command(doc! {"hello": 1}).await;
        let hello = hello.map_err(fail)?;
        let member = hello.contains_key("setName")
            || hello.contains_key("isreplicaset")
            || hello.get_str("msg").is_ok_and(|text| text == "isdbgrid");
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                database,
                config,
                deployment: if member {
                    Deployment::ReplicaSet
                } else {
                    Deployment::Standalone
                },
                open: AtomicUsize::new(1),
                wakes: Mutex::default(),
            }),
            closed: Arc::new(watch::Sender::new(false)),
        })
    }

    /// Another handle on the same connections.
    #[must_use]
    pub fn share(&self) -> Self {
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        Self {
            shared: Arc::clone(&self.shared),
            closed: Arc::new(watch::Sender::new(false)),
        }
    }

    /// How the deployment is reached.
    pub fn config(&self) -> &MongoConfig {
        &self.shared.config
    }

    /// What the deployment can do.
    pub fn deployment(&self) -> Deployment {
        self.shared.deployment
    }

    /// The driver's handle.
    pub fn database(&self) -> &Database {
        &self.shared.database
    }

    /// The driver's client, for sessions of the caller's own.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// A collection by its name.
    pub fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.shared.database.collection(name)
    }

    /// A collection by its name, for reads in a session that see one moment. The driver sets the read
    /// concern of such a session only where client and collection have none, and the client has one; in
    /// a transaction that of the transaction holds.
    pub fn snapshot_of(&self, name: &str) -> Collection<RawDocumentBuf> {
        let options = CollectionOptions::builder().read_concern(ReadConcern::snapshot());
        let database = &self.shared.database;
        database.collection_with_options(name, options.build())
    }

    /// `Closed` once this handle was closed.
    pub fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(closed());
        }
        Ok(())
    }

    /// Begins a transaction; on a standalone server the writes of one are only each atomic.
    pub async fn begin(&self, operation: &'static str) -> Result<Tx<'static>> {
        self.check_open()?;
        Tx::begin(self.clone(), operation).await
    }

    /// How often a transaction is tried.
    pub fn attempts(&self) -> Attempts {
        Attempts::new(self.clone(), self.shared.config.acquire_timeout)
    }

    /// Runs a command outside of any transaction.
    pub async fn run(&self, operation: &'static str, command: Document) -> Result<Document> {
        self.check_open()?;
        let done = self.shared.database.run_command(command).await;
        done.map_err(|error| failed(operation, self.config().to_string(), error))
    }

    /// The names of the stores and replicas that are there, ascending. A name that another program
    /// has written and that is none here is left out.
    pub async fn stores(&self) -> Result<Vec<StoreName>> {
        self.check_open()?;
        let fail = |error| failed("list stores", self.config().to_string(), error);
        let stores: Collection<Document> = self.database().collection(Collections::STORES);
        let found = stores.find(doc! {}).projection(doc! {"_id": 1});
        let mut found = found.sort(doc! {"_id": 1}).await.map_err(fail)?;
        let mut names = Vec::new();
        while let Some(store) = found.next().await {
            let store = store.map_err(fail)?;
            names.extend(
                store
                    .get_str("_id")
                    .ok()
                    .and_then(|name| StoreName::new(name).ok()),
            );
        }
        Ok(names)
    }

    /// Something was committed to a store's log.
    pub fn committed(&self, store: &StoreName) {
        self.wake(store).send_modify(|count| *count += 1);
    }

    fn wake(&self, store: &StoreName) -> Arc<watch::Sender<u64>> {
        let mut wakes = self
            .shared
            .wakes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let wake = wakes.entry(store.clone());
        Arc::clone(wake.or_insert_with(|| Arc::new(watch::Sender::new(0))))
    }

    /// What wakes one reader of a store's log: this process at once, other processes' commits by a
    /// change stream on the log, which all readers of this process share.
    pub fn waiter(&self, collections: &Collections) -> Waiter {
        let wake = self.wake(&collections.store);
        let first = wake.receiver_count() == 0;
        let waiter = Waiter {
            written: wake.subscribe(),
            closed: self.closed.subscribe(),
            poll: self.shared.config.poll_interval,
        };
        if first && self.deployment() == Deployment::ReplicaSet {
            tokio::spawn(listen(self.collection(&collections.log), wake));
        }
        waiter
    }

    /// Closes this handle. Every later call on it is `Closed`; the connections end with the last
    /// handle.
    pub async fn close(&self) {
        if self.closed.send_replace(true) {
            return;
        }
        if self.shared.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.client.clone().shutdown().immediate(true).await;
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "use store", "it was closed")
}

/// Wakes the readers of a log until the last of them has gone.
async fn listen(log: Collection<RawDocumentBuf>, wake: Arc<watch::Sender<u64>>) {
    let listening = async {
        loop {
            if let Err(error) = follow(&log, &wake).await {
                tracing::debug!(%error, "lost the change stream that wakes readers");
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    };
    tokio::select! {
        () = listening => {}
        () = wake.closed() => {}
    }
}

async fn follow(
    log: &Collection<RawDocumentBuf>,
    wake: &watch::Sender<u64>,
) -> Result<(), mongodb::error::Error> {
    // Only that something came is of interest, and never the bodies.
    let only = [
        doc! {"$match": {"operationType": "insert"}},
        doc! {"$project": {"_id": 1}},
    ];
    let mut events = log.watch().pipeline(only).await?.with_type::<Document>();
    // What was committed before the stream was open.
    wake.send_modify(|count| *count += 1);
    while let Some(event) = events.next().await {
        event?;
        wake.send_modify(|count| *count += 1);
    }
    Ok(())
}

/// What a reader at the log's end waits with.
#[derive(Debug)]
pub struct Waiter {
    written: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
    poll: Duration,
}

impl Waiter {
    /// What is committed from now on counts as new.
    pub fn mark(&mut self) {
        self.written.borrow_and_update();
    }

    /// Waits until something may have been committed since the mark; `Closed` once the handle was.
    pub async fn changed(&mut self) -> Result<()> {
        tokio::select! {
            _ = self.closed.wait_for(|closed| *closed) => Err(closed()),
            _ = self.written.changed() => Ok(()),
            () = tokio::time::sleep(self.poll) => Ok(()),
        }
    }
}

impl fmt::Debug for MongoDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MongoDatabase({})", self.shared.config)
    }
}
