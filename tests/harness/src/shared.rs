//! The servers that one test run shares.
//!
//! Each function reads one `LEDGER_TEST_*` variable, and panics if it is not set.

use crate::server::required;

/// A PostgreSQL with `wal_level=logical`: `postgres://user:password@host:port/database`.
///
/// # Panics
/// If `LEDGER_TEST_POSTGRES` is not set.
#[must_use]
pub fn postgres_url() -> String {
    required("LEDGER_TEST_POSTGRES")
}

/// Today's ClickHouse: `clickhouse://user:password@host:port/database`, HTTP.
///
/// # Panics
/// If `LEDGER_TEST_CLICKHOUSE` is not set.
#[must_use]
pub fn clickhouse_url() -> String {
    required("LEDGER_TEST_CLICKHOUSE")
}

/// The oldest supported ClickHouse, 24.8: `clickhouse://user:password@host:port/database`, HTTP.
///
/// # Panics
/// If `LEDGER_TEST_CLICKHOUSE_OLD` is not set.
#[must_use]
pub fn clickhouse_old_url() -> String {
    required("LEDGER_TEST_CLICKHOUSE_OLD")
}

/// A MongoDB replica set of one: `mongodb://host:port/database?directConnection=true`.
///
/// # Panics
/// If `LEDGER_TEST_MONGODB` is not set.
#[must_use]
pub fn mongodb_url() -> String {
    required("LEDGER_TEST_MONGODB")
}
