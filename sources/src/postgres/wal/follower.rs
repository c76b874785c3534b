//! The follower of a store's log: it knows where the newest change stands and up to where nothing came
//! behind it, and moves the store's slot.
//!
//! There is one in each process that has the store open. What it knows makes an end of the log that is
//! a change's position, as with a table; and it lets the slot move while nothing happens in the store
//! and much in the rest of the server.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ledger_core::{Cursor, Error, ErrorKind, Result};
use ledger_layout::postgres::wal;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::position::Position;
use super::reader::{Came, Reader};
use super::slot;
use crate::postgres::capture::slot::find as find_slot;
use crate::postgres::read::safe;
use crate::postgres::replication::shown;
use crate::postgres::store::Inner;

const OPERATION: &str = "follow the write-ahead log";

/// After which time it begins to follow where nobody asks before: a call or two need it not.
const LATER: Duration = Duration::from_secs(10);
/// How often it looks whether the store is still open.
const TICK: Duration = Duration::from_millis(250);
/// How often the slot is moved.
const MOVE: Duration = Duration::from_secs(30);
/// How long to wait before trying again; it doubles up to the second while that fails.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long who asks for the log's end waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often the server is asked meanwhile how far it has read.
const ASK: Duration = Duration::from_millis(20);

/// What is known of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The newest change.
    pub(super) last: Position,
    /// Behind `last` there is no change of a transaction whose commit record begins below.
    pub(super) through: u64,
}

/// The follower of one open store.
pub(in crate::postgres) struct Follower {
    seen: watch::Sender<Option<Seen>>,
    wanted: Notify,
    ask: Mutex<Option<Arc<Notify>>>,
    failure: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Follower {
    pub(in crate::postgres) fn new() -> Self {
        Self {
            seen: watch::Sender::new(None),
            wanted: Notify::new(),
            ask: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// What is known now.
    pub(super) fn seen(&self) -> Option<Seen> {
        *self.seen.borrow()
    }

    /// Waits until everything below `lsn` has been read, and gives the newest change.
    pub(super) async fn reach(&self, lsn: u64) -> Result<Seen> {
        self.wanted.notify_one();
        let mut seen = self.seen.subscribe();
        let (mut begun, mut known) = (Instant::now(), None);
        loop {
            let now = *seen.borrow_and_update();
            if let Some(seen) = now
                && seen.through >= lsn
            {
                return Ok(seen);
            }
            // As long as it gets on it is waited for.
            if now != known {
                (begun, known) = (Instant::now(), now);
            }
            if begun.elapsed() > PATIENCE {
                let failure = lock(&self.failure).clone();
                let what = format!(
                    "the log is not read up to {} after {PATIENCE:?}",
                    shown(lsn)
                );
                let error = Error::new(ErrorKind::Unavailable, OPERATION, what);
                return Err(match failure {
                    Some(failure) => error.with_source(failure),
                    None => error,
                });
            }
            if let Some(ask) = lock(&self.ask).as_ref() {
                ask.notify_one();
            }
            // The sender lives as long as this.
            let _ = timeout(ASK, seen.changed()).await;
        }
    }
}

/// Starts the follower of a store, which ends with it.
pub(in crate::postgres) fn start(inner: &Arc<Inner>) {
    let store = Arc::downgrade(inner);
    tokio::spawn(async move {
        wait(&store).await;
        let mut again = AGAIN.0;
        while let Some(inner) = open(&store) {
            let name = inner.tables.store().clone();
            let begun = Instant::now();
            let error = match follow(inner, &store).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if begun.elapsed() > AGAIN.1 {
                again = AGAIN.0;
            }
            let Some(inner) = open(&store) else { return };
            tracing::warn!(
                store = %name,
                error = error.chain(),
                "the store's write-ahead log is not followed; trying again"
            );
            *lock(&inner.follower.failure) = Some(error.chain());
            *lock(&inner.follower.ask) = None;
            // What was known is that of a server that may be another one by now.
            inner.follower.seen.send_replace(None);
            if error.kind() == ErrorKind::CursorExpired {
                // The slot is gone, and with it what nobody has read; the log goes on from now.
                if let Err(error) = slot::prepare(&inner).await {
                    tracing::warn!(store = %name, error = error.chain(), "no slot can be made");
                }
            }
            drop(inner);
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN.1);
        }
    });
}

async fn wait(store: &Weak<Inner>) {
    let begun = Instant::now();
    while begun.elapsed() < LATER {
        let Some(inner) = open(store) else { return };
        if timeout(TICK, inner.follower.wanted.notified())
            .await
            .is_ok()
        {
            return;
        }
    }
}

/// The store, where it is still open.
fn open(store: &Weak<Inner>) -> Option<Arc<Inner>> {
    store.upgrade().filter(|inner| !inner.is_closed())
}

async fn follow(inner: Arc<Inner>, store: &Weak<Inner>) -> Result<()> {
    let row = {
        let mut conn = inner.connection(OPERATION).await?;
        wal::find(&mut conn, &inner.tables).await?
    };
    let last = row.last.map_or(Ok(Position::START), |last| {
        Position::from_cursor(&Cursor::from_bytes(last)?, &inner.history)
    })?;
    let mut seen = Seen {
        last,
        through: row.through,
    };
    let mut reader = Reader::open(&inner, seen.last, seen.through).await?;
    *lock(&inner.follower.ask) = Some(reader.ask());
    *lock(&inner.follower.failure) = None;
    inner.follower.seen.send_replace(Some(seen));
    drop(inner);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut moving: Option<(Instant, JoinHandle<()>)> = None;
    loop {
        tokio::select! {
            came = reader.next() => {
                let mut came = Some(came?);
                let before = seen;
                while let Some((what, _)) = came {
                    match what {
                        Came::Change(position, _) => seen.last = position,
                        Came::Through(through) => {
                            seen.through = seen.through.max(through);
                            if seen != before {
                                let Some(inner) = open(store) else { return Ok(()) };
                                inner.follower.seen.send_replace(Some(seen));
                            }
                        }
                        Came::Nothing => {}
                    }
                    came = reader.ready()?;
                }
            }
            _ = tick.tick() => {
                let Some(inner) = open(store) else { return Ok(()) };
                let due = moving.as_ref().is_none_or(|(at, task)| {
                    task.is_finished() && at.elapsed() >= MOVE
                });
                if due && let Some(seen) = inner.follower.seen() {
                    // It may take a while, and the log is read meanwhile.
                    let task = tokio::spawn(async move {
                        if let Err(error) = retain(&inner, seen).await {
                            let error = error.chain();
                            tracing::warn!(error, "the slot of a store cannot be moved; trying again");
                        }
                    });
                    moving = Some((Instant::now(), task));
                }
            }
        }
    }
}

/// Up to where the log may be forgotten, and behind which position it is then kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Border {
    lsn: u64,
    kept_after: Position,
}

impl Border {
    /// The border of a reader that has confirmed `position`.
    fn of_consumer(position: Position, seen: Seen) -> Self {
        if position >= seen.last {
            return Self::of_seen(seen);
        }
        Self {
            lsn: position.commit,
            kept_after: Position::before(position.commit, position.id),
        }
    }

    fn of_seen(seen: Seen) -> Self {
        Self {
            lsn: seen.through,
            kept_after: seen.last,
        }
    }
}

/// Notes what is known, and moves the slot as far as the retention allows: what is younger than its
/// `min` stays, and what a registered consumer has not confirmed, unless it is older than its `max`.
pub(super) async fn retain(inner: &Inner, seen: Seen) -> Result<()> {
    let failed = |error| inner.failed(OPERATION, error);
    let mut conn = inner.connection(OPERATION).await?;
    let mut tx = conn.begin().await.map_err(failed)?;
    slot::lock(inner, &mut tx).await?;
    let row = wal::find(&mut tx, &inner.tables).await?;
    let slot = find_slot(&mut tx, &row.slot).await?;
    let slot = slot.filter(|slot| !slot.lost);
    let (Some(slot), Some(kept)) = (slot, row.kept_after) else {
        return Ok(());
    };
    let uuid = &inner.history;
    let kept = Position::from_cursor(&Cursor::from_bytes(kept)?, uuid)?;
    note(inner, &mut tx, seen).await?;
    let consumers = consumers(inner, &mut tx).await?;
    let retention = inner.options.retention;
    let young = mark(inner, &mut tx, retention.min, seen).await?;
    let consumed = consumers
        .into_iter()
        .map(|at| Border::of_consumer(at, seen));
    let border = young.map(|young| consumed.fold(young, lower));
    let old = match retention.max {
        Some(max) => mark(inner, &mut tx, max, seen).await?,
        None => None,
    };
    let border = match (border, old) {
        (Some(border), Some(old)) if old.lsn > border.lsn => Some(old),
        (border, _) => border,
    };
    let Some(border) = border.filter(|border| {
        border.lsn > slot.confirmed && border.kept_after >= kept && border.lsn <= seen.through
    }) else {
        tx.commit().await.map_err(failed)?;
        return Ok(());
    };
    let sql = inner.tables.sql(
        "WITH marks AS (DELETE FROM {ledger.wal_marks} WHERE store = $1 AND through < $3) \
         UPDATE {ledger.wal_logs} SET kept_after = $2, kept_lsn = $3 WHERE store = $1",
    );
    sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(border.kept_after.to_cursor(uuid).as_bytes())
        .bind(border.lsn.cast_signed())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    // First noted, then moved: a reader that copies the slot looks into the note afterwards.
    tx.commit().await.map_err(failed)?;
    advance(inner, &mut conn, &row.slot, border.lsn).await
}

/// Moves the slot. The server reads the log up to there for it.
async fn advance(inner: &Inner, conn: &mut PgConnection, name: &str, to: u64) -> Result<()> {
    let failed = |error| inner.failed(OPERATION, error);
    let mut tx = conn.begin().await.map_err(failed)?;
    slot::lock(inner, &mut tx).await?;
    sqlx::query("SET LOCAL statement_timeout = '1h'")
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let Some(slot) = find_slot(&mut tx, name).await? else {
        return Ok(());
    };
    if slot.confirmed >= to {
        return Ok(());
    }
    sqlx::query("SELECT pg_replication_slot_advance($1, $2::pg_lsn)")
        .bind(name)
        .bind(shown(to))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

fn lower(a: Border, b: Border) -> Border {
    if b.lsn < a.lsn { b } else { a }
}

/// Stores what is known, for whoever opens the store later, and as a mark of this moment.
async fn note(inner: &Inner, conn: &mut PgConnection, seen: Seen) -> Result<()> {
    let (last, through) = (seen.last.to_cursor(&inner.history), seen.through);
    for sql in [
        "UPDATE {ledger.wal_logs} SET last = $2, through = $3 WHERE store = $1 AND through < $3",
        "INSERT INTO {ledger.wal_marks} (store, at, last, through) \
         SELECT $1, clock_timestamp(), $2, $3 WHERE NOT EXISTS (SELECT FROM {ledger.wal_marks} \
         WHERE store = $1 AND (through >= $3 OR at > clock_timestamp() - interval '20 seconds'))",
    ] {
        let noted = sqlx::query(safe(inner.tables.sql(sql)))
            .bind(inner.tables.store().as_str())
            .bind(last.as_bytes())
            .bind(through.cast_signed())
            .execute(&mut *conn)
            .await;
        noted.map_err(|error| inner.failed(OPERATION, error))?;
    }
    Ok(())
}

async fn consumers(inner: &Inner, conn: &mut PgConnection) -> Result<Vec<Position>> {
    let sql = inner
        .tables
        .sql("SELECT confirmed FROM {ledger.consumers} WHERE store = $1");
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(safe(sql))
        .bind(inner.tables.store().as_str())
        .fetch_all(conn)
        .await
        .map_err(|error| inner.failed(OPERATION, error))?;
    // A position in the log of before, which was another kind, is none that could be kept for.
    let position = |bytes| {
        let cursor = Cursor::from_bytes(bytes).ok()?;
        Position::from_cursor(&cursor, &inner.history).ok()
    };
    Ok(rows.into_iter().filter_map(position).collect())
}

/// The newest border that is at least this old.
async fn mark(
    inner: &Inner,
    conn: &mut PgConnection,
    age: Duration,
    seen: Seen,
) -> Result<Option<Border>> {
    if age.is_zero() {
        return Ok(Some(Border::of_seen(seen)));
    }
    let sql = inner.tables.sql(
        "SELECT last, through FROM {ledger.wal_marks} WHERE store = $1 \
         AND at <= clock_timestamp() - $2 * interval '1 second' ORDER BY at DESC LIMIT 1",
    );
    let row = sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(age.as_secs_f64())
        .fetch_optional(conn)
        .await
        .map_err(|error| inner.failed(OPERATION, error))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let last = Cursor::from_bytes(row.get::<Vec<u8>, _>(0))?;
    Ok(Some(Border {
        lsn: row.get::<i64, _>(1).cast_unsigned(),
        kept_after: Position::from_cursor(&last, &inner.history)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit: u64, ordinal: u32) -> Position {
        Position {
            commit,
            ordinal,
            ..Position::START
        }
    }

    #[test]
    fn a_consumer_that_has_everything_holds_back_nothing() {
        let seen = Seen {
            last: at(5, 3),
            through: 900,
        };
        let border = Border::of_consumer(at(5, 3), seen);
        assert_eq!(border, Border::of_seen(seen));
    }

    #[test]
    fn what_a_consumer_lacks_is_kept_with_the_transaction_in_which_it_stands() {
        let seen = Seen {
            last: at(500, 3),
            through: 900,
        };
        let border = Border::of_consumer(at(500, 2), seen);
        assert_eq!(border.lsn, 500);
        assert!(border.kept_after < at(500, 1));
    }
}
