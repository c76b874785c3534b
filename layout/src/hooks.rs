//! The state of hooks, the same on every SQL backend: the tables differ in the names of types only,
//! and every statement is one that both understand.

/// The version of the tables that this code reads and writes.
pub(crate) const VERSION: i64 = 1;

/// How many attempts of a hook are remembered, and for how long.
pub(crate) const ATTEMPTS: i64 = 10_000;
pub(crate) const ATTEMPTS_FOR: i64 = 7 * 24 * 3_600 * 1_000_000;

/// How often the attempts are cut to that: each time so many were added.
pub(crate) const CUT_EVERY: i64 = 100;

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

/// Writes the statements for one driver: functions over a connection, to be run in a transaction.
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
        use $crate::hooks::{ATTEMPTS, ATTEMPTS_FOR, CUT_EVERY, VERSION, int, limit};

        fn get<'r, T>(row: &'r $row, index: usize) -> Result<T>
        where
            T: sqlx::Decode<'r, <$row as sqlx::Row>::Database>
                + sqlx::Type<<$row as sqlx::Row>::Database>,
        {
            row.try_get(index)
                .map_err(|error| failed("read hook state", error))
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

        async fn claim_in(
            conn: &mut $connection,
            hook: &PipelineId,
            store: &StoreName,
            source: &SourceId,
        ) -> Result<Claim> {
            const OPERATION: &str = "claim hook";
            let fail = |error| failed(OPERATION, error);
            let row = sqlx::query(
                "INSERT INTO ledger_hooks (name, fence) VALUES ($1, 1)
                 ON CONFLICT (name) DO UPDATE SET fence = ledger_hooks.fence + 1
                 RETURNING fence, store, source, cursor",
            )
            .bind(hook.as_str())
            .fetch_one(&mut *conn)
            .await
            .map_err(fail)?;
            let bound: Option<String> = get(&row, 1)?;
            if let Some(bound) = bound.filter(|bound| bound != store.as_str()) {
                let what = format!(
                    "{hook} followed store {bound} until now, and is configured for {store}"
                );
                return Err(Error::new(ErrorKind::Conflict, OPERATION, what));
            }
            let known: Option<String> = get(&row, 2)?;
            if let Some(known) = known {
                let known: SourceId = known.parse()?;
                if !known.continues(source) {
                    let what =
                        format!("{hook} followed {known} until now, and store {store} is {source}");
                    return Err(Error::new(ErrorKind::SourceDiverged, OPERATION, what));
                }
            }
            sqlx::query("UPDATE ledger_hooks SET store = $2, source = $3 WHERE name = $1")
                .bind(hook.as_str())
                .bind(store.as_str())
                .bind(source.to_string())
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            let stored: Option<Vec<u8>> = get(&row, 3)?;
            Ok(Claim {
                fence: uint(&row, 0)?,
                cursor: stored.map(Cursor::from_bytes).transpose()?,
                waiting: waiting(conn, hook).await?,
                plans: plans(conn, hook).await?,
                settled: settled(conn, hook).await?,
            })
        }

        async fn waiting(conn: &mut $connection, hook: &PipelineId) -> Result<Vec<Waiting>> {
            let rows = sqlx::query(
                "SELECT stream_key, name, through, attempts, next_at, parked, error
                 FROM ledger_hook_streams WHERE hook = $1",
            )
            .bind(hook.as_str())
            .fetch_all(conn)
            .await
            .map_err(|error| failed("claim hook", error))?;
            rows.iter()
                .map(|row| {
                    Ok(Waiting {
                        stream: StreamKey(uint(row, 0)?),
                        name: get(row, 1)?,
                        through: cursor(row, 2)?,
                        attempts: u32::try_from(uint(row, 3)?).unwrap_or(u32::MAX),
                        next_at: Timestamp::from_micros(get(row, 4)?),
                        parked: uint(row, 5)? > 0,
                        error: get(row, 6)?,
                    })
                })
                .collect()
        }

        async fn plans(conn: &mut $connection, hook: &PipelineId) -> Result<Vec<Plan>> {
            let rows = sqlx::query(
                "SELECT stream_key, first, last, through, first_at
                 FROM ledger_hook_plans WHERE hook = $1",
            )
            .bind(hook.as_str())
            .fetch_all(conn)
            .await
            .map_err(|error| failed("claim hook", error))?;
            rows.iter()
                .map(|row| {
                    Ok(Plan {
                        stream: StreamKey(uint(row, 0)?),
                        first: EntryId(uint(row, 1)?),
                        last: EntryId(uint(row, 2)?),
                        through: cursor(row, 3)?,
                        begin: cursor(row, 4)?,
                    })
                })
                .collect()
        }

        async fn settled(conn: &mut $connection, hook: &PipelineId) -> Result<Vec<Settled>> {
            let rows = sqlx::query(
                "SELECT stream_key, id, through FROM ledger_hook_settled WHERE hook = $1",
            )
            .bind(hook.as_str())
            .fetch_all(conn)
            .await
            .map_err(|error| failed("claim hook", error))?;
            rows.iter()
                .map(|row| {
                    Ok(Settled {
                        stream: StreamKey(uint(row, 0)?),
                        id: EntryId(uint(row, 1)?),
                        through: cursor(row, 2)?,
                    })
                })
                .collect()
        }

        async fn commit_in(
            conn: &mut $connection,
            hook: &PipelineId,
            fence: u64,
            writes: &Writes,
        ) -> Result<()> {
            const OPERATION: &str = "store hook state";
            let fail = |error| failed(OPERATION, error);
            let name = hook.as_str();
            let held = sqlx::query(
                "UPDATE ledger_hooks SET cursor = CASE
                   WHEN $3 IS NULL OR cursor > $3 THEN cursor ELSE $3 END,
                   disabled = coalesce($4, disabled)
                 WHERE name = $1 AND fence = $2",
            )
            .bind(name)
            .bind(int(fence))
            .bind(writes.cursor.as_ref().map(Cursor::as_bytes))
            .bind(writes.disabled.as_deref())
            .execute(&mut *conn)
            .await
            .map_err(fail)?;
            if held.rows_affected() == 0 {
                let what = format!("another process has taken {hook} over");
                return Err(Error::new(ErrorKind::Fenced, OPERATION, what));
            }
            if let Some(cursor) = &writes.cursor {
                sqlx::query("DELETE FROM ledger_hook_plans WHERE hook = $1 AND through <= $2")
                    .bind(name)
                    .bind(cursor.as_bytes())
                    .execute(&mut *conn)
                    .await
                    .map_err(fail)?;
            }
            for plan in &writes.plans {
                sqlx::query(
                    "INSERT INTO ledger_hook_plans (hook, stream_key, first, last, through, first_at)
                     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                )
                .bind(name)
                .bind(int(plan.stream.0))
                .bind(int(plan.first.0))
                .bind(int(plan.last.0))
                .bind(plan.through.as_bytes())
                .bind(plan.begin.as_bytes())
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            commit_items_in(conn, hook, writes).await?;
            commit_streams_in(conn, hook, writes).await?;
            remember_in(conn, hook, &writes.attempts).await
        }

        async fn commit_items_in(
            conn: &mut $connection,
            hook: &PipelineId,
            writes: &Writes,
        ) -> Result<()> {
            let fail = |error| failed("store hook state", error);
            let name = hook.as_str();
            let now = Timestamp::now().as_micros();
            for item in &writes.queue {
                sqlx::query(
                    "INSERT INTO ledger_hook_items
                       (hook, stream_key, cursor, description, item, letter, at, border)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
                )
                .bind(name)
                .bind(int(item.stream.0))
                .bind(item.cursor.as_bytes())
                .bind(item.description.as_str())
                .bind(&item.item[..])
                .bind(item.letter.as_deref())
                .bind(now)
                .bind(item.border.map_or(0, |last| int(last.0)))
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            for (stream, through) in &writes.delivered {
                sqlx::query(
                    "DELETE FROM ledger_hook_items
                     WHERE hook = $1 AND stream_key = $2 AND cursor <= $3 AND letter IS NULL",
                )
                .bind(name)
                .bind(int(stream.0))
                .bind(through.as_bytes())
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            for (stream, through, reason) in &writes.skipped {
                sqlx::query(
                    "UPDATE ledger_hook_items SET letter = $4
                     WHERE hook = $1 AND stream_key = $2 AND cursor <= $3 AND letter IS NULL",
                )
                .bind(name)
                .bind(int(stream.0))
                .bind(through.as_bytes())
                .bind(reason.as_str())
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            Ok(())
        }

        async fn commit_streams_in(
            conn: &mut $connection,
            hook: &PipelineId,
            writes: &Writes,
        ) -> Result<()> {
            let fail = |error| failed("store hook state", error);
            let name = hook.as_str();
            for waiting in &writes.waiting {
                sqlx::query(
                    "INSERT INTO ledger_hook_streams
                       (hook, stream_key, name, through, attempts, next_at, parked, error)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                     ON CONFLICT (hook, stream_key) DO UPDATE SET name = excluded.name,
                       through = excluded.through, attempts = excluded.attempts,
                       next_at = excluded.next_at, parked = excluded.parked,
                       error = excluded.error",
                )
                .bind(name)
                .bind(int(waiting.stream.0))
                .bind(waiting.name.as_str())
                .bind(waiting.through.as_bytes())
                .bind(i64::from(waiting.attempts))
                .bind(waiting.next_at.as_micros())
                .bind(i64::from(waiting.parked))
                .bind(waiting.error.as_str())
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            for stream in &writes.released {
                sqlx::query("DELETE FROM ledger_hook_streams WHERE hook = $1 AND stream_key = $2")
                    .bind(name)
                    .bind(int(stream.0))
                    .execute(&mut *conn)
                    .await
                    .map_err(fail)?;
            }
            for settled in &writes.settled {
                sqlx::query(
                    "INSERT INTO ledger_hook_settled (hook, stream_key, id, through)
                     VALUES ($1, $2, $3, $4)
                     ON CONFLICT (hook, stream_key) DO UPDATE SET through = excluded.through,
                       id = CASE WHEN excluded.id > ledger_hook_settled.id
                         THEN excluded.id ELSE ledger_hook_settled.id END",
                )
                .bind(name)
                .bind(int(settled.stream.0))
                .bind(int(settled.id.0))
                .bind(settled.through.as_bytes())
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            if let (Some(cursor), true) = (&writes.cursor, writes.cursor_tells) {
                sqlx::query("DELETE FROM ledger_hook_settled WHERE hook = $1 AND through <= $2")
                    .bind(name)
                    .bind(cursor.as_bytes())
                    .execute(&mut *conn)
                    .await
                    .map_err(fail)?;
            }
            Ok(())
        }

        async fn remember_in(
            conn: &mut $connection,
            hook: &PipelineId,
            attempts: &[Attempt],
        ) -> Result<()> {
            let fail = |error| failed("remember attempts", error);
            let mut cut = false;
            for attempt in attempts {
                let row = sqlx::query(
                    "INSERT INTO ledger_hook_attempts (hook, at, id, stream_key, name, kind, first,
                       last, items, attempt, outcome, status, micros, sent, response, error)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
                     RETURNING number",
                )
                .bind(hook.as_str())
                .bind(attempt.at.as_micros())
                .bind(attempt.id.as_str())
                .bind(int(attempt.stream.0))
                .bind(attempt.name.as_str())
                .bind(attempt.kind.as_str())
                .bind(attempt.first.as_str())
                .bind(attempt.last.as_str())
                .bind(int(attempt.items))
                .bind(i64::from(attempt.attempt))
                .bind(attempt.outcome.as_str())
                .bind(i64::from(attempt.status))
                .bind(int(attempt.micros))
                .bind(int(attempt.sent))
                .bind(&attempt.response[..])
                .bind(attempt.error.as_str())
                .fetch_one(&mut *conn)
                .await
                .map_err(fail)?;
                cut |= get::<i64>(&row, 0)? % CUT_EVERY == 0;
            }
            if cut {
                sqlx::query(
                    "DELETE FROM ledger_hook_attempts WHERE hook = $1 AND (at < $2 OR number <=
                       (SELECT number FROM ledger_hook_attempts WHERE hook = $1
                        ORDER BY number DESC LIMIT 1 OFFSET $3))",
                )
                .bind(hook.as_str())
                .bind(Timestamp::now().as_micros() - ATTEMPTS_FOR)
                .bind(ATTEMPTS)
                .execute(&mut *conn)
                .await
                .map_err(fail)?;
            }
            Ok(())
        }

        async fn queued_in(
            conn: &mut $connection,
            hook: &PipelineId,
            stream: StreamKey,
            through: Option<&Cursor>,
            most: usize,
        ) -> Result<Vec<Queued>> {
            let rows = sqlx::query(
                "SELECT cursor, description, item, border FROM ledger_hook_items
                 WHERE hook = $1 AND stream_key = $2 AND letter IS NULL
                   AND ($3 IS NULL OR cursor <= $3)
                 ORDER BY cursor LIMIT $4",
            )
            .bind(hook.as_str())
            .bind(int(stream.0))
            .bind(through.map(Cursor::as_bytes))
            .bind(limit(most))
            .fetch_all(conn)
            .await
            .map_err(|error| failed("read hook queue", error))?;
            rows.iter()
                .map(|row| {
                    Ok(Queued {
                        stream,
                        cursor: cursor(row, 0)?,
                        description: get(row, 1)?,
                        item: get::<Vec<u8>>(row, 2)?.into(),
                        letter: None,
                        border: Some(EntryId(uint(row, 3)?)).filter(|last| last.0 > 0),
                    })
                })
                .collect()
        }

        async fn attempts_in(
            conn: &mut $connection,
            hook: &PipelineId,
            query: &AttemptQuery,
        ) -> Result<Vec<Attempt>> {
            let rows = sqlx::query(
                "SELECT number, at, id, stream_key, name, kind, first, last, items, attempt,
                   outcome, status, micros, sent, response, error
                 FROM ledger_hook_attempts
                 WHERE hook = $1 AND number < $2 AND at >= $3 AND at < $4
                   AND ($5 = '' OR name = $5) AND ($6 = '' OR outcome = $6)
                   AND ($7 = '' OR id = $7)
                 ORDER BY number DESC LIMIT $8",
            )
            .bind(hook.as_str())
            .bind(query.before.map_or(i64::MAX, int))
            .bind(query.since.map_or(i64::MIN, Timestamp::as_micros))
            .bind(query.until.map_or(i64::MAX, Timestamp::as_micros))
            .bind(query.stream.as_deref().unwrap_or_default())
            .bind(query.outcome.as_deref().unwrap_or_default())
            .bind(query.id.as_deref().unwrap_or_default())
            .bind(limit(query.limit))
            .fetch_all(conn)
            .await
            .map_err(|error| failed("list attempts", error))?;
            rows.iter()
                .map(|row| {
                    Ok(Attempt {
                        number: uint(row, 0)?,
                        at: Timestamp::from_micros(get(row, 1)?),
                        id: get(row, 2)?,
                        stream: StreamKey(uint(row, 3)?),
                        name: get(row, 4)?,
                        kind: get(row, 5)?,
                        first: get(row, 6)?,
                        last: get(row, 7)?,
                        items: uint(row, 8)?,
                        attempt: u32::try_from(uint(row, 9)?).unwrap_or(u32::MAX),
                        outcome: get(row, 10)?,
                        status: u16::try_from(uint(row, 11)?).unwrap_or(0),
                        micros: uint(row, 12)?,
                        sent: uint(row, 13)?,
                        response: get::<Vec<u8>>(row, 14)?.into(),
                        error: get(row, 15)?,
                    })
                })
                .collect()
        }

        async fn letters_in(
            conn: &mut $connection,
            hook: &PipelineId,
            after: Option<&Cursor>,
            most: usize,
        ) -> Result<Vec<Letter>> {
            let rows = sqlx::query(
                "SELECT i.cursor, i.stream_key, i.description, i.at,
                   coalesce(i.letter, CASE WHEN i.cursor <= s.through THEN s.error
                     ELSE 'behind a parked item' END)
                 FROM ledger_hook_items i LEFT JOIN ledger_hook_streams s
                   ON s.hook = i.hook AND s.stream_key = i.stream_key AND s.parked = 1
                 WHERE i.hook = $1 AND (i.letter IS NOT NULL OR s.parked IS NOT NULL)
                   AND i.cursor > $2
                 ORDER BY i.cursor LIMIT $3",
            )
            .bind(hook.as_str())
            .bind(after.map_or(&[][..], Cursor::as_bytes))
            .bind(limit(most))
            .fetch_all(conn)
            .await
            .map_err(|error| failed("list dead letters", error))?;
            rows.iter()
                .map(|row| {
                    Ok(Letter {
                        cursor: cursor(row, 0)?,
                        stream: StreamKey(uint(row, 1)?),
                        description: get(row, 2)?,
                        at: Timestamp::from_micros(get(row, 3)?),
                        reason: get(row, 4)?,
                    })
                })
                .collect()
        }

        async fn requeue_in(
            conn: &mut $connection,
            hook: &PipelineId,
            stream: Option<StreamKey>,
        ) -> Result<u64> {
            let fail = |error| failed("replay dead letters", error);
            let stream = stream.map(|stream| int(stream.0));
            let before = counts_in(conn, hook).await?.letters;
            // A stream that is held up by nothing else begins with its letters, which were left out
            // before: it waits for them until they are delivered.
            sqlx::query(
                "INSERT INTO ledger_hook_streams
                   (hook, stream_key, name, through, attempts, next_at, parked, error)
                 SELECT i.hook, i.stream_key, '', i.cursor, 0, 0, 0, i.letter
                 FROM ledger_hook_items i
                 WHERE i.hook = $1 AND i.letter IS NOT NULL AND ($2 IS NULL OR i.stream_key = $2)
                   AND NOT EXISTS (SELECT 1 FROM ledger_hook_items j WHERE j.hook = i.hook
                     AND j.stream_key = i.stream_key AND j.letter IS NOT NULL
                     AND j.cursor < i.cursor)
                 ON CONFLICT (hook, stream_key) DO NOTHING",
            )
            .bind(hook.as_str())
            .bind(stream)
            .execute(&mut *conn)
            .await
            .map_err(fail)?;
            sqlx::query(
                "UPDATE ledger_hook_items SET letter = NULL
                 WHERE hook = $1 AND letter IS NOT NULL AND ($2 IS NULL OR stream_key = $2)",
            )
            .bind(hook.as_str())
            .bind(stream)
            .execute(&mut *conn)
            .await
            .map_err(fail)?;
            sqlx::query(
                "UPDATE ledger_hook_streams SET parked = 0, attempts = 0, next_at = 0
                 WHERE hook = $1 AND parked = 1 AND ($2 IS NULL OR stream_key = $2)",
            )
            .bind(hook.as_str())
            .bind(stream)
            .execute(&mut *conn)
            .await
            .map_err(fail)?;
            Ok(before.saturating_sub(counts_in(conn, hook).await?.letters))
        }

        async fn discard_in(
            conn: &mut $connection,
            hook: &PipelineId,
            cursors: Option<&[Cursor]>,
        ) -> Result<u64> {
            const PARKED: &str = "(letter IS NOT NULL OR stream_key IN
                (SELECT stream_key FROM ledger_hook_streams WHERE hook = $1 AND parked = 1))";
            let fail = |error| failed("discard dead letters", error);
            let mut discarded = 0;
            if let Some(cursors) = cursors {
                let sql =
                    format!("DELETE FROM ledger_hook_items WHERE hook = $1 AND cursor = $2 AND {PARKED}");
                for cursor in cursors {
                    let done = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
                        .bind(hook.as_str())
                        .bind(cursor.as_bytes())
                        .execute(&mut *conn)
                        .await
                        .map_err(fail)?;
                    discarded += done.rows_affected();
                }
            } else {
                let sql = format!("DELETE FROM ledger_hook_items WHERE hook = $1 AND {PARKED}");
                let done = sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(hook.as_str())
                    .execute(&mut *conn)
                    .await
                    .map_err(fail)?;
                discarded = done.rows_affected();
            }
            // A stream without items is held up by nothing.
            sqlx::query(
                "DELETE FROM ledger_hook_streams WHERE hook = $1 AND parked = 1 AND NOT EXISTS
                   (SELECT 1 FROM ledger_hook_items i WHERE i.hook = $1 AND i.letter IS NULL
                    AND i.stream_key = ledger_hook_streams.stream_key)",
            )
            .bind(hook.as_str())
            .execute(conn)
            .await
            .map_err(fail)?;
            Ok(discarded)
        }

        async fn counts_in(conn: &mut $connection, hook: &PipelineId) -> Result<Counts> {
            let fail = |error| failed("count what waits", error);
            let streams = sqlx::query(
                "SELECT count(*), coalesce(sum(CASE WHEN parked = 1 THEN 1 ELSE 0 END), 0)
                 FROM ledger_hook_streams WHERE hook = $1",
            )
            .bind(hook.as_str())
            .fetch_one(&mut *conn)
            .await
            .map_err(fail)?;
            let items = sqlx::query(
                "SELECT count(*), coalesce(sum(CASE WHEN i.letter IS NOT NULL
                     OR s.parked IS NOT NULL THEN 1 ELSE 0 END), 0)
                 FROM ledger_hook_items i LEFT JOIN ledger_hook_streams s
                   ON s.hook = i.hook AND s.stream_key = i.stream_key AND s.parked = 1
                 WHERE i.hook = $1",
            )
            .bind(hook.as_str())
            .fetch_one(conn)
            .await
            .map_err(fail)?;
            let (all, parked) = (uint(&streams, 0)?, uint(&streams, 1)?);
            let (rows, letters) = (uint(&items, 0)?, uint(&items, 1)?);
            Ok(Counts {
                waiting: all.saturating_sub(parked),
                parked,
                queued: rows.saturating_sub(letters),
                letters,
            })
        }

        async fn asked_in(conn: &mut $connection, hook: &PipelineId) -> Result<Asked> {
            let row = sqlx::query("SELECT disabled, secrets FROM ledger_hooks WHERE name = $1")
                .bind(hook.as_str())
                .fetch_optional(conn)
                .await
                .map_err(|error| failed("read what was asked of a hook", error))?;
            let Some(row) = row else {
                return Ok(Asked::default());
            };
            let secrets: Option<Vec<u8>> = get(&row, 1)?;
            Ok(Asked {
                disabled: get(&row, 0)?,
                secrets: secrets.map(Into::into),
            })
        }

        async fn ask_in(conn: &mut $connection, hook: &PipelineId, asked: &Asked) -> Result<()> {
            sqlx::query(
                "INSERT INTO ledger_hooks (name, fence, disabled, secrets) VALUES ($1, 0, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET disabled = excluded.disabled,
                   secrets = excluded.secrets",
            )
            .bind(hook.as_str())
            .bind(asked.disabled.as_deref())
            .bind(asked.secrets.as_deref())
            .execute(conn)
            .await
            .map(drop)
            .map_err(|error| failed("ask of a hook", error))
        }

        async fn reset_in(conn: &mut $connection, hook: &PipelineId) -> Result<()> {
            for statement in [
                "UPDATE ledger_hooks SET cursor = NULL, source = NULL, store = NULL,
                   fence = fence + 1 WHERE name = $1",
                "DELETE FROM ledger_hook_streams WHERE hook = $1",
                "DELETE FROM ledger_hook_items WHERE hook = $1",
                "DELETE FROM ledger_hook_plans WHERE hook = $1",
                "DELETE FROM ledger_hook_settled WHERE hook = $1",
            ] {
                sqlx::query(statement)
                    .bind(hook.as_str())
                    .execute(&mut *conn)
                    .await
                    .map_err(|error| failed("reset hook", error))?;
            }
            Ok(())
        }
    };
}

/// The contract itself over those functions. `read!(state, function, arguments..)` and `write!` of the
/// backend run one on a connection, the latter in a transaction.
macro_rules! state {
    ($state:ident) => {
        #[async_trait::async_trait]
        impl ledger_core::hook::State for $state {
            async fn claim(
                &self,
                hook: &PipelineId,
                store: &StoreName,
                source: &SourceId,
            ) -> Result<Claim> {
                write!(self, claim_in, hook, store, source)
            }

            async fn commit(&self, hook: &PipelineId, fence: u64, writes: &Writes) -> Result<()> {
                write!(self, commit_in, hook, fence, writes)
            }

            async fn queued(
                &self,
                hook: &PipelineId,
                stream: StreamKey,
                through: Option<&Cursor>,
                limit: usize,
            ) -> Result<Vec<Queued>> {
                read!(self, queued_in, hook, stream, through, limit)
            }

            async fn remember(&self, hook: &PipelineId, attempts: &[Attempt]) -> Result<()> {
                write!(self, remember_in, hook, attempts)
            }

            async fn attempts(
                &self,
                hook: &PipelineId,
                query: &AttemptQuery,
            ) -> Result<Vec<Attempt>> {
                read!(self, attempts_in, hook, query)
            }

            async fn letters(
                &self,
                hook: &PipelineId,
                after: Option<&Cursor>,
                limit: usize,
            ) -> Result<Vec<Letter>> {
                read!(self, letters_in, hook, after, limit)
            }

            async fn requeue(&self, hook: &PipelineId, stream: Option<StreamKey>) -> Result<u64> {
                write!(self, requeue_in, hook, stream)
            }

            async fn discard(&self, hook: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64> {
                write!(self, discard_in, hook, cursors)
            }

            async fn counts(&self, hook: &PipelineId) -> Result<Counts> {
                read!(self, counts_in, hook)
            }

            async fn asked(&self, hook: &PipelineId) -> Result<Asked> {
                read!(self, asked_in, hook)
            }

            async fn ask(&self, hook: &PipelineId, asked: &Asked) -> Result<()> {
                write!(self, ask_in, hook, asked)
            }

            async fn reset(&self, hook: &PipelineId) -> Result<()> {
                write!(self, reset_in, hook)
            }
        }
    };
}

pub(crate) use {state, statements};
