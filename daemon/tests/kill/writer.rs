//! Writers that do everything a store can, and note what was acknowledged.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ledger::mongodb::MongoStore;
use ledger::postgres::PostgresStore;
use ledger::{EntryId, Error, ErrorKind, ExpectedVersion, NewEntry, Pairs, Store, StreamName};
use sqlx::Connection as _;

const STREAMS: u64 = 12;

/// A small generator: the same seed gives the same choices.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the writers know to be committed.
#[derive(Default)]
pub(crate) struct Acknowledged {
    pub(crate) appended: Mutex<HashSet<EntryId>>,
    pub(crate) operations: AtomicU64,
}

/// How a writer appends in a transaction of its own.
#[derive(Clone)]
pub(crate) enum Transactions {
    Postgres(String, PostgresStore),
    Mongo(MongoStore),
    None,
}

pub(crate) struct Writer {
    pub(crate) number: u64,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transactions: Transactions,
    pub(crate) random: Random,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) recent: Vec<(StreamName, EntryId)>,
}

impl Writer {
    fn stream(&mut self) -> StreamName {
        // Two names a stream: renames go back and forth between them.
        let side = if self.random.below(10) == 0 { "b" } else { "a" };
        StreamName::new(format!("{side}{}", self.random.below(STREAMS))).unwrap()
    }

    fn entries(&mut self) -> Vec<NewEntry> {
        let count = 1 + self.random.below(12);
        (0..count)
            .map(|_| {
                let number = self.random.below(1_000_000);
                let entry =
                    NewEntry::new(format!("{{\"writer\": {}, \"n\": {number}}}", self.number))
                        .order_key(format!("k{}", number % 7))
                        .meta("writer", self.number.to_string());
                if number.is_multiple_of(3) {
                    entry.dedup_key(format!("d{}", number % 5_000))
                } else {
                    entry
                }
            })
            .collect()
    }

    fn note(&mut self, stream: &StreamName, appended: &[ledger::Appended]) {
        let mut all = self.acknowledged.appended.lock().unwrap();
        for appended in appended.iter().filter(|appended| !appended.duplicate) {
            all.insert(appended.id);
            self.recent.push((stream.clone(), appended.id));
        }
        drop(all);
        let excess = self.recent.len().saturating_sub(50);
        self.recent.drain(..excess);
    }

    async fn step(&mut self) -> Result<(), Error> {
        let stream = self.stream();
        match self.random.below(100) {
            0..45 => {
                let entries = self.entries();
                let appended = self
                    .store
                    .append(&stream, entries, ExpectedVersion::Any)
                    .await?;
                self.note(&stream, &appended);
            }
            45..65 => self.late_transaction(&stream).await?,
            65..88 if !self.recent.is_empty() => {
                let pick = self.random.below(self.recent.len() as u64) as usize;
                let (stream, id) = self.recent[pick].clone();
                let labels = self.store.labels().unwrap();
                let value = self.random.below(1000).to_string();
                let outcome = if self.random.below(2) == 0 {
                    labels.set_tags(&stream, id, vec![value, "t".into()]).await
                } else {
                    let set = Pairs::from([(format!("a{}", self.random.below(3)), value)]);
                    labels
                        .set_annotations(&stream, id, set, vec!["a0".into()])
                        .await
                };
                ignore(outcome, ErrorKind::NotFound)?;
            }
            88..90 if !self.recent.is_empty() => {
                let (stream, id) = self.recent[0].clone();
                self.store.trim(&stream, id).await?;
            }
            90..95 => {
                let other = if stream.as_str().starts_with('a') {
                    "b"
                } else {
                    "a"
                };
                let other = StreamName::new(format!("{other}{}", &stream.as_str()[1..])).unwrap();
                let renamed = self.store.rename(&stream, &other).await;
                ignore(
                    ignore(renamed, ErrorKind::NotFound),
                    ErrorKind::AlreadyExists,
                )?;
            }
            _ => {}
        }
        self.acknowledged.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Appends in a transaction that stays open for a while, and rolls some of them back.
    async fn late_transaction(&mut self, stream: &StreamName) -> Result<(), Error> {
        let entries = self.entries();
        let open = Duration::from_millis(self.random.below(40));
        let commits = self.random.below(3) > 0;
        let appended = match self.transactions.clone() {
            Transactions::None => return Ok(()),
            Transactions::Postgres(url, store) => {
                let mut conn = sqlx::PgConnection::connect(&url).await.map_err(lost)?;
                let mut tx = conn.begin().await.map_err(lost)?;
                let appended = store
                    .within(&mut tx)
                    .append(stream, entries, ExpectedVersion::Any)
                    .await?;
                tokio::time::sleep(open).await;
                if commits {
                    tx.commit().await.map_err(lost)?;
                } else {
                    tx.rollback().await.map_err(lost)?;
                }
                appended
            }
            Transactions::Mongo(store) => {
                let session = store.database().client().start_session().await;
                let mut session = session.map_err(lost)?;
                session.start_transaction().await.map_err(lost)?;
                let appended = store
                    .within(&mut session)
                    .append(stream, entries, ExpectedVersion::Any)
                    .await?;
                tokio::time::sleep(open).await;
                if commits {
                    session.commit_transaction().await.map_err(lost)?;
                } else {
                    session.abort_transaction().await.map_err(lost)?;
                }
                appended
            }
        };
        if commits {
            self.note(stream, &appended);
        }
        Ok(())
    }

    pub(crate) async fn write(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.step().await {
                assert!(
                    error.is_retryable(),
                    "writer {}: {}",
                    self.number,
                    error.chain()
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(self.random.below(8))).await;
        }
    }
}

/// What a transaction of the caller's own ran into, as a store would tell it.
fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "write in a transaction", "test").with_source(error)
}

fn ignore(outcome: Result<(), Error>, kind: ErrorKind) -> Result<(), Error> {
    match outcome {
        Err(error) if error.kind() == kind => Ok(()),
        outcome => outcome,
    }
}
