//! Beginning a transaction.

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres, Transaction};

/// Begins a transaction on a connection of a pool.
///
/// In a task of its own: whoever goes away while the server has not answered yet would leave a
/// transaction open that nobody counts, and give the connection back with it. The next one who got the
/// connection would write into that transaction, which nobody commits. What was begun for nobody is
/// rolled back.
pub async fn begin(
    connection: PoolConnection<Postgres>,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let begun = tokio::spawn(Transaction::begin(connection, None)).await;
    begun.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// As [`begin`], on any connection of the pool.
pub async fn begin_in(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin(pool.acquire().await?).await
}
