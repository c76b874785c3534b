//! The state of hooks, in the database that holds their stores.

use sqlx::postgres::{PgPool, PgRow};
use sqlx::{AssertSqlSafe, PgConnection};

use super::begin_in;
use super::schema::lock;
use crate::hooks;

/// The state of the hooks of a database's stores.
#[derive(Debug)]
pub struct PostgresHooks {
    pool: PgPool,
}

fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    super::failed(operation, "", error)
}

impl PostgresHooks {
    /// Uses the tables of this database, in the first schema of its search path, and makes them
    /// where they do not exist. `Unsupported` where a newer version of this software has made them.
    pub async fn open(pool: PgPool) -> Result<Self> {
        let fail = |error| failed("open hook state", error);
        let mut transaction = begin_in(&pool).await.map_err(fail)?;
        lock(&mut transaction).await?;
        let number = "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
        for statement in hooks::tables("bytea", " bigint", number) {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *transaction)
                .await
                .map_err(fail)?;
        }
        check_version(&mut transaction).await?;
        transaction.commit().await.map_err(fail)?;
        Ok(Self { pool })
    }
}

macro_rules! read {
    ($state:ident, $call:ident, $($argument:expr),*) => {{
        let connection = $state.pool.acquire().await;
        let mut connection = connection.map_err(|error| failed("read hook state", error))?;
        $call(&mut connection, $($argument),*).await
    }};
}

macro_rules! write {
    ($state:ident, $call:ident, $($argument:expr),*) => {{
        let fail = |error| failed("store hook state", error);
        let mut transaction = begin_in(&$state.pool).await.map_err(fail)?;
        // A cursor that is confirmed must not be lost with the server, whatever its own setting.
        sqlx::query("SET LOCAL synchronous_commit = on")
            .execute(&mut *transaction)
            .await
            .map_err(fail)?;
        let done = $call(&mut transaction, $($argument),*).await?;
        transaction.commit().await.map_err(fail)?;
        Ok(done)
    }};
}

hooks::statements!(PgConnection, PgRow);
hooks::state!(PostgresHooks);
