//! The attempts that are remembered.

macro_rules! attempts {
    ($connection:ty, $row:ty) => {
        async fn remember_in(
            conn: &mut $connection,
            hook: &PipelineId,
            attempts: &[Attempt],
        ) -> Result<()> {
            let fail = |error| failed("remember attempts", error);
            let mut cut = false;
            for attempts in attempts.chunks(ROWS) {
                let numbers = rows(
                    "INSERT INTO ledger_hook_attempts (hook, at, id, stream_key, name, kind, first, \
                     last, items, attempt, outcome, status, micros, sent, response, error) ",
                )
                .push_values(attempts, |mut row, attempt| {
                    row.push_bind(hook.as_str())
                        .push_bind(attempt.at.as_micros())
                        .push_bind(attempt.id.as_str())
                        .push_bind(int(attempt.stream.0))
                        .push_bind(attempt.name.as_str())
                        .push_bind(attempt.kind.as_str())
                        .push_bind(attempt.first.as_str())
                        .push_bind(attempt.last.as_str())
                        .push_bind(int(attempt.items))
                        .push_bind(i64::from(attempt.attempt))
                        .push_bind(attempt.outcome.as_str())
                        .push_bind(i64::from(attempt.status))
                        .push_bind(int(attempt.micros))
                        .push_bind(int(attempt.sent))
                        .push_bind(&attempt.response[..])
                        .push_bind(attempt.error.as_str());
                })
                .push(" RETURNING number")
                .build()
                .persistent(false)
                .fetch_all(&mut *conn)
                .await
                .map_err(fail)?;
                for row in &numbers {
                    cut |= get::<i64>(row, 0)? % CUT_EVERY == 0;
                }
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
    };
}

pub(crate) use attempts;
