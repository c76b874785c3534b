//! When entries become visible at a sink.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinHandle;

use super::Outcome;
use super::database::{ClickHouse, Postgres};

/// A table of a sink that is asked again and again which ids it holds.
pub(crate) enum Watched {
    Postgres(PgConnection, String),
    ClickHouse(Arc<ClickHouse>, String),
}

impl Watched {
    pub(crate) async fn postgres(database: &Postgres, table: &str) -> Outcome<Self> {
        Ok(Self::Postgres(database.connect().await?, table.to_owned()))
    }

    pub(crate) fn clickhouse(database: &Arc<ClickHouse>, table: &str) -> Self {
        Self::ClickHouse(Arc::clone(database), table.to_owned())
    }

    async fn above(&mut self, id: u64) -> Outcome<Vec<u64>> {
        match self {
            Self::Postgres(connection, table) => {
                let sql = format!("SELECT id FROM {table} WHERE id > $1");
                let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .bind(i64::try_from(id)?)
                    .fetch_all(connection)
                    .await?;
                Ok(ids.into_iter().map(i64::unsigned_abs).collect())
            }
            Self::ClickHouse(database, table) => {
                let sql = format!("SELECT toUInt64(id) FROM {table} WHERE id > {id}");
                database.numbers(&sql).await
            }
        }
    }
}

/// When each id was first seen, and when it was acknowledged.
#[derive(Clone, Default)]
pub(crate) struct Times(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    acknowledged: HashMap<u64, Instant>,
    seen: HashMap<u64, Instant>,
    polls: u64,
    /// Why nothing more will be seen.
    failed: Option<String>,
}

impl Times {
    /// An id was acknowledged just now.
    pub(crate) fn acknowledged(&self, id: u64) {
        let now = Instant::now();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.acknowledged.insert(id, now);
    }

    /// A poll, or a reader, has just shown these ids.
    pub(crate) fn seen(&self, ids: &[u64]) {
        let now = Instant::now();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.polls += 1;
        for id in ids {
            inner.seen.entry(*id).or_insert(now);
        }
    }

    /// How many polls there were.
    pub(crate) fn polls(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).polls
    }

    /// Whether every id that was acknowledged has been seen.
    pub(crate) fn complete(&self) -> bool {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .acknowledged
            .keys()
            .all(|id| inner.seen.contains_key(id))
    }

    fn failed(&self) -> Option<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.failed.clone()
    }

    fn fail(&self, error: &dyn std::error::Error) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.failed = Some(format!("the sink cannot be asked: {error}"));
    }

    /// Waits until every id that was acknowledged has been seen, at most that long.
    pub(crate) async fn wait(&self, most: Duration) -> Outcome {
        let begun = Instant::now();
        while !self.complete() {
            if let Some(error) = self.failed() {
                return Err(error.into());
            }
            if begun.elapsed() > most {
                return Err(format!("the sink did not hold everything after {most:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Milliseconds from acknowledged to seen, of what was acknowledged since. An entry that was
    /// seen before its writer knew of it counts 0.
    pub(crate) fn delays(&self, since: Instant) -> Vec<f64> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = inner.acknowledged.iter().filter(|(_, at)| **at >= since);
        counted
            .filter_map(|(id, at)| {
                let seen = inner.seen.get(id)?;
                Some(seen.saturating_duration_since(*at).as_secs_f64() * 1e3)
            })
            .collect()
    }
}

/// Polls the table for ids above `after`, with a pause between two polls, until the handle is
/// aborted or asking fails, which `Times::wait` tells. Ids are expected without gaps, in whatever
/// order they come.
pub(crate) fn watch(
    mut table: Watched,
    after: u64,
    pause: Duration,
    times: Times,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // All up to `below` have been seen, and those in `ahead`.
        let (mut below, mut ahead) = (after, BTreeSet::new());
        loop {
            let ids = match table.above(below).await {
                Ok(ids) => ids,
                Err(error) => return times.fail(error.as_ref()),
            };
            times.seen(&ids);
            ahead.extend(ids);
            while ahead.remove(&(below + 1)) {
                below += 1;
            }
            tokio::time::sleep(pause).await;
        }
    })
}
