//! The state of hooks, in the file that holds their stores.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::database::Database;
use super::error::failed;
use crate::hooks;

/// The state of the hooks of a file's stores.
#[derive(Debug)]
pub struct SqliteHooks {
    database: Database,
}

impl SqliteHooks {
    /// Uses the tables of this database, and makes them where they do not exist. `Unsupported` where
    /// a newer version of this software has made them.
    pub async fn open(database: Database) -> Result<Self> {
        let fail = |error| failed("open hook state", error);
        let mut writer = database.writer().await?;
        let mut transaction = writer.begin().await?;
        let number = "INTEGER PRIMARY KEY AUTOINCREMENT";
        for statement in hooks::tables("BLOB", " INTEGER", number) {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *transaction)
                .await
                .map_err(fail)?;
        }
        check_version(&mut transaction).await?;
        transaction.commit().await.map_err(fail)?;
        drop(writer);
        Ok(Self { database })
    }
}

macro_rules! read {
    ($state:ident, $call:ident, $($argument:expr),*) => {{
        let mut reader = $state.database.reader().await?;
        let found = $call(&mut reader, $($argument),*).await;
        reader.done(found)
    }};
}

macro_rules! write {
    ($state:ident, $call:ident, $($argument:expr),*) => {{
        let mut writer = $state.database.writer().await?;
        let mut transaction = writer.begin().await?;
        let done = $call(&mut transaction, $($argument),*).await?;
        let committed = transaction.commit().await;
        committed.map_err(|error| failed("store hook state", error))?;
        Ok(done)
    }};
}

hooks::statements!(SqliteConnection, SqliteRow);
hooks::state!(SqliteHooks);
