//! Connections that several stores share.

use ledger_core::{Result, StoreName};
use sqlx::postgres::PgPool;

use super::{PostgresConfig, failed, is_undefined_table};

/// A PostgreSQL database whose connections several stores share. Cloning shares it.
#[derive(Debug, Clone)]
pub struct PostgresDatabase {
    pool: PgPool,
    config: PostgresConfig,
}

impl PostgresDatabase {
    /// Opens a pool of `config.max_connections`, and tries one connection.
    pub async fn open(config: PostgresConfig) -> Result<Self> {
        let pool = config.connect().await?;
        Ok(Self { pool, config })
    }

    /// How the server is reached.
    pub fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// The connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The names of the stores and replicas that are there, ascending. A name that another program
    /// has written and that is none here is left out.
    pub async fn stores(&self) -> Result<Vec<StoreName>> {
        let names = sqlx::query_scalar("SELECT name FROM ledger_stores ORDER BY name")
            .fetch_all(&self.pool)
            .await;
        let names: Vec<String> = match names {
            Ok(names) => names,
            Err(error) if is_undefined_table(&error) => Vec::new(),
            Err(error) => {
                let server = format!("server {}", self.config.target());
                return Err(failed("list stores", server, error));
            }
        };
        Ok(names
            .into_iter()
            .filter_map(|name| StoreName::new(name).ok())
            .collect())
    }

    /// Gives the connections back. Every later call on a store of it is `Closed`.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
