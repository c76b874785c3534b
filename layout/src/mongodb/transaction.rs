//! Transactions.

use std::time::{Duration, Instant};

use ledger_core::{Error, Result, StoreName};
use mongodb::ClientSession;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::error::{Error as Mongo, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{Acknowledgment, ReadConcern, ReturnDocument, WriteConcern};

use super::database::{Deployment, MongoDatabase};
use super::error::{failed, is_conflict, rejected};
use super::lock::unlock;
use super::orphans;

/// How often a commit of unknown outcome is asked about again.
const COMMIT_ATTEMPTS: usize = 5;
/// The most statements of one `update` command.
const STATEMENTS: usize = 1_000;
/// How long others may be in the way before it is looked whether they are still there.
const LOOK: Duration = Duration::from_secs(1);

/// A transaction: one of its own, or one in a session of the caller's. On a standalone server it is
/// none, and only holds the store's lock.
pub struct Tx<'s> {
    pub(super) database: MongoDatabase,
    session: Session<'s>,
    /// The store whose lock is to be given back, on a standalone server.
    pub(super) locked: Option<StoreName>,
}

enum Session<'s> {
    None,
    Own(Box<ClientSession>),
    Callers(&'s mut ClientSession),
}

impl Tx<'static> {
    pub(super) async fn begin(database: MongoDatabase, operation: &'static str) -> Result<Self> {
        let session = match database.deployment() {
            Deployment::Standalone => Session::None,
            Deployment::ReplicaSet => {
                let fail = |error| failed(operation, database.config().to_string(), error);
                let mut session = database.client().start_session().await.map_err(fail)?;
                let durable = WriteConcern::builder()
                    .w(Acknowledgment::Majority)
                    .journal(true)
                    .build();
                session
                    .start_transaction()
                    .read_concern(ReadConcern::snapshot())
                    .write_concern(durable)
                    .await
                    .map_err(fail)?;
                Session::Own(Box::new(session))
            }
        };
        Ok(Self {
            database,
            session,
            locked: None,
        })
    }
}

impl<'s> Tx<'s> {
    /// Joins the transaction that is open in the caller's session.
    pub fn joined(database: MongoDatabase, session: &'s mut ClientSession) -> Self {
        Self {
            database,
            session: Session::Callers(session),
            locked: None,
        }
    }

    /// The session, for the driver's own calls.
    pub fn session(&mut self) -> Option<&mut ClientSession> {
        match &mut self.session {
            Session::None => None,
            Session::Own(session) => Some(session),
            Session::Callers(session) => Some(session),
        }
    }

    /// The database.
    pub fn database(&self) -> &MongoDatabase {
        &self.database
    }

    /// Inserts documents, in order.
    pub async fn insert(
        &mut self,
        operation: &'static str,
        collection: &str,
        documents: &[RawDocumentBuf],
    ) -> Result<()> {
        self.try_insert(collection, documents)
            .await
            .map_err(|error| failed(operation, "", error))
    }

    /// As [`insert`](Self::insert), of data on its way into a replica.
    pub async fn insert_delivered(
        &mut self,
        operation: &'static str,
        collection: &str,
        documents: &[RawDocumentBuf],
    ) -> Result<()> {
        self.try_insert(collection, documents)
            .await
            .map_err(|error| rejected(operation, error))
    }

    async fn try_insert(
        &mut self,
        collection: &str,
        documents: &[RawDocumentBuf],
    ) -> Result<(), Mongo> {
        if documents.is_empty() {
            return Ok(());
        }
        let collection = self.database.collection(collection);
        let insert = collection.insert_many(documents);
        match self.session() {
            Some(session) => insert.session(session).await?,
            None => insert.await?,
        };
        Ok(())
    }

    /// Runs statements of an `update` command, each `{q, u, ...}`, in order; tells how many documents
    /// they matched.
    pub async fn update(
        &mut self,
        operation: &'static str,
        collection: &str,
        statements: Vec<Document>,
    ) -> Result<u64> {
        let mut matched = 0;
        let mut statements = statements.into_iter().peekable();
        while statements.peek().is_some() {
            let chunk: Vec<Document> = statements.by_ref().take(STATEMENTS).collect();
            let mut command = doc! {"update": collection, "updates": chunk};
            if matches!(self.session, Session::None) {
                command.insert("writeConcern", doc! {"w": "majority", "j": true});
            }
            let done = self.run(operation, command).await?;
            matched += count(&done, "n");
        }
        Ok(matched)
    }

    /// Removes documents, and tells how many there were.
    pub async fn delete(
        &mut self,
        operation: &'static str,
        collection: &str,
        filter: Document,
    ) -> Result<u64> {
        let collection = self.database.collection(collection);
        let delete = collection.delete_many(filter);
        let done = match self.session() {
            Some(session) => delete.session(session).await,
            None => delete.await,
        };
        let done = done.map_err(|error| failed(operation, "", error))?;
        Ok(done.deleted_count)
    }

    /// Changes one document, and returns it as it is then.
    pub async fn change(
        &mut self,
        operation: &'static str,
        collection: &str,
        filter: Document,
        update: Vec<Document>,
    ) -> Result<Option<RawDocumentBuf>> {
        let collection = self.database.collection(collection);
        let change = collection
            .find_one_and_update(filter, update)
            .return_document(ReturnDocument::After);
        let done = match self.session() {
            Some(session) => change.session(session).await,
            None => change.await,
        };
        done.map_err(|error| failed(operation, "", error))
    }

    /// Runs a command. A write that the server refuses is an error also where the command is none.
    pub async fn run(&mut self, operation: &'static str, command: Document) -> Result<Document> {
        let database = self.database.database().clone();
        let run = database.run_command(command);
        let done = match self.session() {
            Some(session) => run.session(session).await,
            None => run.await,
        };
        let done = done.map_err(|error| failed(operation, "", error))?;
        if let Ok(refused) = done.get_array("writeErrors") {
            let what = format!("MongoDB refused the write: {refused:?}");
            let kind = ledger_core::ErrorKind::Rejected;
            return Err(Error::new(kind, operation, what));
        }
        Ok(done)
    }

    /// Commits a transaction of its own, so that it is durable; one of the caller's is the caller's
    /// to commit.
    pub async fn commit(mut self, operation: &'static str) -> Result<()> {
        if let Some(store) = self.locked.take() {
            unlock(&self.database, &store).await?;
        }
        let Session::Own(mut session) = self.session else {
            return Ok(());
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            match session.commit_transaction().await {
                Ok(()) => return Ok(()),
                Err(error)
                    if attempts < COMMIT_ATTEMPTS
                        && error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {}
                Err(error) => {
                    let what = if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                        "it is not known whether the transaction was committed"
                    } else {
                        ""
                    };
                    return Err(failed(operation, what, error));
                }
            }
        }
    }

    /// Gives a transaction of its own up.
    pub async fn abort(mut self) {
        if let Some(store) = self.locked.take() {
            // It expires by itself.
            let _ = unlock(&self.database, &store).await;
        }
        if let Session::Own(mut session) = self.session {
            // The server gives up by itself what it is not told of.
            let _ = session.abort_transaction().await;
        }
    }
}

/// A number of a command's answer.
pub(super) fn count(answer: &Document, field: &str) -> u64 {
    let number = match answer.get(field) {
        Some(mongodb::bson::Bson::Int32(number)) => i64::from(*number),
        Some(mongodb::bson::Bson::Int64(number)) => *number,
        _ => 0,
    };
    u64::try_from(number).unwrap_or(0)
}

/// How often a transaction is tried that others get in the way of.
#[derive(Debug)]
pub struct Attempts {
    database: MongoDatabase,
    until: Instant,
    /// When to look for transactions whose process is gone.
    look: Instant,
    delay: Duration,
}

impl Attempts {
    pub(super) fn new(database: MongoDatabase, patience: Duration) -> Self {
        Self {
            database,
            until: Instant::now() + patience,
            look: Instant::now() + LOOK,
            delay: Duration::from_micros(500),
        }
    }

    /// Waits, and tells whether to try again: where the error says so and there is time left.
    pub async fn again(&mut self, error: &Error) -> bool {
        if !is_conflict(error) {
            return false;
        }
        if Instant::now() >= self.look {
            self.look = Instant::now() + LOOK;
            match orphans::abort(&self.database).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "aborted transactions whose process is gone"),
                Err(error) => tracing::debug!(%error, "cannot look for orphaned transactions"),
            }
        }
        self.wait().await
    }

    /// Waits a little longer than the last time; whether there is time left.
    pub async fn wait(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        // The clock's last digits keep two that have collided apart.
        let spread = self
            .until
            .saturating_duration_since(Instant::now())
            .subsec_nanos()
            % 1_000;
        let factor = 500 + spread;
        tokio::time::sleep(self.delay * factor / 1_000).await;
        self.delay = (self.delay * 2).min(Duration::from_millis(20));
        true
    }
}

/// Runs a transaction, again where others got in its way.
#[macro_export]
#[doc(hidden)]
macro_rules! mongodb_transaction {
    ($database:expr, $operation:expr, $tx:ident => $body:expr) => {{
        let mut attempts = $database.attempts();
        loop {
            let mut own = match $database.begin($operation).await {
                Ok(own) => own,
                Err(error) => break Err(error),
            };
            let done = {
                let $tx = &mut own;
                $body.await
            };
            let ended = match done {
                Ok(value) => own.commit($operation).await.map(|()| value),
                Err(error) => {
                    own.abort().await;
                    Err(error)
                }
            };
            match ended {
                Ok(value) => break Ok(value),
                Err(error) => {
                    if !attempts.again(&error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
