//! Reading a change stream ahead.

use std::sync::Arc;
use std::time::Duration;

use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::mongodb::{MongoDatabase, failed};
use mongodb::bson::{Bson, RawDocumentBuf, doc};
use mongodb::options::FullDocumentType;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::follow::OPERATION;
use super::position::{Position, time_of, timestamp};

/// How many bytes of events are read ahead.
const AHEAD: usize = 32 << 20;
/// How long the server waits for an event before it says that there is none.
const AWAIT: Duration = Duration::from_millis(300);

/// What the change stream tells.
pub(super) enum Told {
    /// An event, with the room that it takes.
    Event(RawDocumentBuf, OwnedSemaphorePermit),
    /// Nothing more up to this time, itself included.
    Nothing(u64),
}

/// A change stream, read ahead in a task of its own.
pub(super) struct Feed(mpsc::Receiver<Result<Told>>);

impl Feed {
    /// Opens a change stream where a position stands; `CursorExpired` where the oplog does not reach
    /// back so far.
    pub(super) async fn at(database: &MongoDatabase, position: Position) -> Result<Self> {
        // Between events the time before is one that there was, and need not be waited for.
        let from = match position.ordinal {
            0 => position.time.saturating_sub(1),
            _ => position.time,
        };
        Self::open(database, from).await
    }

    pub(super) async fn open(database: &MongoDatabase, from: u64) -> Result<Self> {
        let fail = |error| {
            let error = failed(OPERATION, database.config().to_string(), error);
            if error.kind() == ErrorKind::CursorExpired {
                let what = format!(
                    "{}: the oplog no longer holds what came behind the bridge's position; copy the \
                     collections anew with `ledger bridge run --resync`",
                    database.config()
                );
                return Error::new(ErrorKind::CursorExpired, OPERATION, what).with_source(error);
            }
            error
        };
        // Without the description of updates, which the document holds too: an event is to stay below
        // the size of a document.
        let project = doc! {"$project": {
            "operationType": 1, "ns": 1, "to": 1, "documentKey": 1, "fullDocument": 1,
            "clusterTime": 1, "wallTime": 1,
        }};
        let stream = database
            .database()
            .watch()
            .pipeline([project])
            .start_at_operation_time(timestamp(from))
            .full_document(FullDocumentType::UpdateLookup)
            .max_await_time(AWAIT)
            .await
            .map_err(fail)?;
        let mut stream = stream.with_type::<RawDocumentBuf>();
        let (sender, receiver) = mpsc::channel(4_096);
        let room = Arc::new(Semaphore::new(AHEAD));
        let target = database.config().to_string();
        tokio::spawn(async move {
            let read = async {
                let mut received = false;
                while stream.is_alive() {
                    let told = match stream.next_if_any().await {
                        Ok(Some(event)) => {
                            received = true;
                            let size = event.as_bytes().len().min(AHEAD);
                            let size = u32::try_from(size).unwrap_or(u32::MAX);
                            // The semaphore is never closed.
                            let Ok(room) = Arc::clone(&room).acquire_many_owned(size).await else {
                                return;
                            };
                            Ok(Told::Event(event, room))
                        }
                        Ok(None) => {
                            let token = stream.resume_token().and_then(|token| token_text(&token));
                            let time = token.as_deref().and_then(time_of);
                            // The token that the stream began with says nothing of its own time.
                            match time.filter(|time| received || *time > from) {
                                Some(time) => Ok(Told::Nothing(time)),
                                None => continue,
                            }
                        }
                        Err(error) => Err(failed(OPERATION, target.clone(), error)),
                    };
                    let over = told.is_err();
                    if sender.send(told).await.is_err() || over {
                        return;
                    }
                }
            };
            tokio::select! {
                () = read => {}
                () = sender.closed() => {}
            }
        });
        Ok(Self(receiver))
    }

    pub(super) async fn next(&mut self) -> Result<Told> {
        self.0.recv().await.unwrap_or_else(|| {
            let what = "the change stream ended";
            Err(Error::new(ErrorKind::Unavailable, OPERATION, what))
        })
    }

    pub(super) fn ready(&mut self) -> Option<Result<Told>> {
        self.0.try_recv().ok()
    }
}

/// The text of a resume token, which is a document of one field.
fn token_text(token: &mongodb::change_stream::event::ResumeToken) -> Option<String> {
    match mongodb::bson::serialize_to_bson(token).ok()? {
        Bson::Document(document) => document.get_str("_data").ok().map(str::to_owned),
        _ => None,
    }
}
