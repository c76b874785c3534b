//! How a hook is taken, what it resumes from, and what an operator asked of it.

macro_rules! claim {
    ($connection:ty, $row:ty) => {
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

        async fn remove_in(conn: &mut $connection, hook: &PipelineId) -> Result<bool> {
            let mut removed = 0;
            for table in [
                "ledger_hooks",
                "ledger_hook_streams",
                "ledger_hook_items",
                "ledger_hook_plans",
                "ledger_hook_settled",
                "ledger_hook_attempts",
            ] {
                let column = if table == "ledger_hooks" {
                    "name"
                } else {
                    "hook"
                };
                let sql = format!("DELETE FROM {table} WHERE {column} = $1");
                let done = sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(hook.as_str())
                    .execute(&mut *conn)
                    .await
                    .map_err(|error| failed("remove hook", error))?;
                removed += done.rows_affected();
            }
            Ok(removed > 0)
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

pub(crate) use claim;
