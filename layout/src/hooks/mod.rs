//! The state of hooks, the same on every SQL backend: the tables differ in the names of types only,
//! and every statement is one that both understand.

mod attempts;
mod claim;
mod commit;
mod queue;
mod state;

pub(crate) use crate::hook_bounds::{ATTEMPTS, ATTEMPTS_FOR, CUT_EVERY, ROWS, VERSION};

/// What hooks share, with `BYTES`, `INT` and `NUMBER` in place of a backend's types. Every statement
/// can be run again.
const TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS ledger_hooks_version (version INT NOT NULL PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS ledger_hooks (
        name TEXT NOT NULL PRIMARY KEY, store TEXT, source TEXT, fence INT NOT NULL,
        cursor BYTES, disabled TEXT, secrets BYTES)",
    "CREATE TABLE IF NOT EXISTS ledger_hook_streams (
        hook TEXT NOT NULL, stream_key INT NOT NULL, name TEXT NOT NULL, through BYTES NOT NULL,
        attempts INT NOT NULL, next_at INT NOT NULL, parked INT NOT NULL, error TEXT NOT NULL,
        PRIMARY KEY (hook, stream_key))",
    "CREATE TABLE IF NOT EXISTS ledger_hook_items (
        hook TEXT NOT NULL, stream_key INT NOT NULL, cursor BYTES NOT NULL,
        description TEXT NOT NULL, item BYTES NOT NULL, letter TEXT, border INT NOT NULL,
        at INT NOT NULL,
        PRIMARY KEY (hook, stream_key, cursor))",
    "CREATE TABLE IF NOT EXISTS ledger_hook_plans (
        hook TEXT NOT NULL, through BYTES NOT NULL, stream_key INT NOT NULL, first INT NOT NULL,
        last INT NOT NULL, first_at BYTES NOT NULL, PRIMARY KEY (hook, through))",
    "CREATE TABLE IF NOT EXISTS ledger_hook_settled (
        hook TEXT NOT NULL, stream_key INT NOT NULL, id INT NOT NULL, through BYTES NOT NULL,
        PRIMARY KEY (hook, stream_key))",
    "CREATE TABLE IF NOT EXISTS ledger_hook_attempts (
        number NUMBER, hook TEXT NOT NULL, at INT NOT NULL, id TEXT NOT NULL,
        stream_key INT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, first TEXT NOT NULL,
        last TEXT NOT NULL, items INT NOT NULL, attempt INT NOT NULL, outcome TEXT NOT NULL,
        status INT NOT NULL, micros INT NOT NULL, sent INT NOT NULL, response BYTES NOT NULL,
        error TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS ledger_hook_attempts_hook ON ledger_hook_attempts (hook, number)",
];

/// The statements that make the tables, in the words of a backend.
pub(crate) fn tables(bytes: &str, int: &str, number: &str) -> Vec<String> {
    let word = |statement: &str| {
        let statement = statement.replace("BYTES", bytes).replace(" INT", int);
        statement.replace("NUMBER", number)
    };
    TABLES.iter().map(|statement| word(statement)).collect()
}

/// A number on its way into a column, which are all signed.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A limit on its way into a statement.
pub(crate) fn limit(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Writes the statements for one driver: functions over a connection, to be run in a transaction. The
/// child modules have a part of them each.
///
/// `failed(operation, error)` must be in scope.
macro_rules! statements {
    ($connection:ty, $row:ty) => {
        use ledger_core::hook::{
            Asked, Attempt, AttemptQuery, Claim, Counts, Letter, Plan, Queued, Settled, Waiting,
            Writes,
        };
        use ledger_core::{
            Cursor, EntryId, Error, ErrorKind, PipelineId, Result, SourceId, StoreName, StreamKey,
            Timestamp,
        };
        use sqlx::Row as _;
        use $crate::hooks::{ATTEMPTS, ATTEMPTS_FOR, CUT_EVERY, ROWS, VERSION, int, limit};

        fn get<'r, T>(row: &'r $row, index: usize) -> Result<T>
        where
            T: sqlx::Decode<'r, <$row as sqlx::Row>::Database>
                + sqlx::Type<<$row as sqlx::Row>::Database>,
        {
            row.try_get(index)
                .map_err(|error| failed("read hook state", error))
        }

        /// The beginning of a statement that writes several rows.
        fn rows(sql: &str) -> sqlx::QueryBuilder<<$row as sqlx::Row>::Database> {
            sqlx::QueryBuilder::new(sql)
        }

        fn uint(row: &$row, index: usize) -> Result<u64> {
            let value: i64 = get(row, index)?;
            u64::try_from(value).map_err(|_| {
                let what = "a number that counts is negative";
                Error::new(ErrorKind::Corrupt, "read hook state", what)
            })
        }

        fn cursor(row: &$row, index: usize) -> Result<Cursor> {
            Cursor::from_bytes(get::<Vec<u8>>(row, index)?)
        }

        /// Notes the version; `Unsupported` where a newer program was here.
        async fn check_version(conn: &mut $connection) -> Result<()> {
            const OPERATION: &str = "open hook state";
            let fail = |error| failed(OPERATION, error);
            sqlx::query(
                "INSERT INTO ledger_hooks_version (version) SELECT CAST($1 AS BIGINT)
                 WHERE NOT EXISTS (SELECT 1 FROM ledger_hooks_version)",
            )
            .bind(VERSION)
            .execute(&mut *conn)
            .await
            .map_err(fail)?;
            let row = sqlx::query("SELECT max(version) FROM ledger_hooks_version")
                .fetch_one(conn)
                .await
                .map_err(fail)?;
            let version: i64 = get(&row, 0)?;
            if version > VERSION {
                let what = format!(
                    "the state of hooks has version {version}, this program knows {VERSION}; use a \
                     newer one"
                );
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, what));
            }
            Ok(())
        }

        $crate::hooks::claim!($connection, $row);
        $crate::hooks::commit!($connection, $row);
        $crate::hooks::attempts!($connection, $row);
        $crate::hooks::queue!($connection, $row);
    };
}

pub(crate) use {attempts::attempts, claim::claim, commit::commit, queue::queue};
pub(crate) use {state::state, statements};
