//! What waits, and what was given up.

macro_rules! queue {
    ($connection:ty, $row:ty) => {
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
    };
}

pub(crate) use queue;
