//! What a hook stores at once.

macro_rules! commit {
    ($connection:ty, $row:ty) => {
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
            for plans in writes.plans.chunks(ROWS) {
                rows("INSERT INTO ledger_hook_plans \
                      (hook, stream_key, first, last, through, first_at) ")
                    .push_values(plans, |mut row, plan| {
                        row.push_bind(name)
                            .push_bind(int(plan.stream.0))
                            .push_bind(int(plan.first.0))
                            .push_bind(int(plan.last.0))
                            .push_bind(plan.through.as_bytes())
                            .push_bind(plan.begin.as_bytes());
                    })
                    .push(" ON CONFLICT DO NOTHING")
                    .build()
                    .persistent(false)
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
            for items in writes.queue.chunks(ROWS) {
                rows("INSERT INTO ledger_hook_items \
                      (hook, stream_key, cursor, description, item, letter, at, border) ")
                    .push_values(items, |mut row, item| {
                        row.push_bind(name)
                            .push_bind(int(item.stream.0))
                            .push_bind(item.cursor.as_bytes())
                            .push_bind(item.description.as_str())
                            .push_bind(&item.item[..])
                            .push_bind(item.letter.as_deref())
                            .push_bind(now)
                            .push_bind(item.border.map_or(0, |last| int(last.0)));
                    })
                    .push(" ON CONFLICT DO NOTHING")
                    .build()
                    .persistent(false)
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
            // One statement may touch a row once only.
            let mut settled = std::collections::BTreeMap::new();
            for one in &writes.settled {
                let (id, through) = settled.entry(one.stream).or_insert((one.id, &one.through));
                (*id, *through) = ((*id).max(one.id), &one.through);
            }
            let settled: Vec<_> = settled.into_iter().collect();
            for settled in settled.chunks(ROWS) {
                rows("INSERT INTO ledger_hook_settled (hook, stream_key, id, through) ")
                    .push_values(settled, |mut row, (stream, (id, through))| {
                        row.push_bind(name)
                            .push_bind(int(stream.0))
                            .push_bind(int(id.0))
                            .push_bind(through.as_bytes());
                    })
                    .push(
                        " ON CONFLICT (hook, stream_key) DO UPDATE SET through = excluded.through,
                           id = CASE WHEN excluded.id > ledger_hook_settled.id
                             THEN excluded.id ELSE ledger_hook_settled.id END",
                    )
                    .build()
                    .persistent(false)
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
    };
}

pub(crate) use commit;
