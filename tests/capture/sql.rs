//! Tables captured into SQL databases.

use ledger::connect::DatabaseUrl;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;

use super::ends::{Ends, Engine};
use crate::replication::run::until;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2), v text, at timestamptz);
    ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, i * 1.25, repeat('v', i), '2026-01-01 00:00:00+00' \
      FROM generate_series(1, 3000) i;
    CREATE TABLE l (x int); INSERT INTO l SELECT generate_series(1, 100);";

const CHANGES: &str = "UPDATE t SET n = 2 WHERE id > 2500; DELETE FROM t WHERE id < 10;
    UPDATE t SET id = -id WHERE id = 2999; INSERT INTO l VALUES (101), (101);
    BEGIN; INSERT INTO t VALUES (9999, 1, NULL, NULL); UPDATE t SET v = 'x' WHERE id = 9999; COMMIT;
    ALTER TABLE t ADD COLUMN extra int; INSERT INTO t VALUES (10000, 1, 'e', NULL, 7);
    TRUNCATE l; INSERT INTO l VALUES (1);";

const SHOWN: &str = "SELECT id, n, length(v) AS v, extra FROM t ORDER BY id";

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_carried_into_postgresql() {
    let ends = Ends::open(Engine::Today, "public.*", TABLES).await;
    let other = Ends::open(Engine::Today, "public.*", "CREATE SCHEMA replica").await;
    let mut carried = ends.elsewhere(&other.from);
    carried.once().await.unwrap();
    ends.sql(CHANGES).await;
    carried.once().await.unwrap();
    assert_eq!(ends.source(SHOWN).await, other.source(SHOWN).await);
    assert_eq!(other.source("SELECT x FROM l").await, ["(1)"]);
    // Copied anew, beside nothing: what was there is taken out first.
    let flow = carried.flow().await.unwrap();
    flow.resync(&carried.pipeline).await.unwrap();
    drop(flow);
    carried.options.copy_width = 3;
    carried.once().await.unwrap();
    assert_eq!(ends.source(SHOWN).await, other.source(SHOWN).await);
    ends.close().await;
    other.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_carried_into_sqlite() {
    let ends = Ends::open(Engine::Today, "public.*", TABLES).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tables.db");
    let url = format!("sqlite:{}", path.display());
    assert!(url.parse::<DatabaseUrl>().is_ok());
    let carried = ends.elsewhere(&url);
    carried.once().await.unwrap();
    ends.sql(CHANGES).await;
    carried.once().await.unwrap();
    let mut conn = sqlx::SqliteConnection::connect(&path.display().to_string())
        .await
        .unwrap();
    let select = "SELECT '(' || id || ',' || n || ',' || ifnull(length(v), '') || ',' || \
                  ifnull(extra, '') || ')' FROM t";
    let rows = sqlx::query(AssertSqlSafe(select.to_owned()))
        .fetch_all(&mut conn)
        .await
        .unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    assert_eq!(ends.source(SHOWN).await, rows);
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_read_and_not_durable_are_told() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0);";
    let ends = Ends::open(Engine::Today, "public.*", tables).await;
    let other = Ends::open(Engine::Today, "public.*", "").await;
    let carried = ends.elsewhere(&other.from);
    carried.once().await.unwrap();
    let running = carried.start().await;
    let told = || {
        let stats = running.bridge.stats();
        (stats.lag_entries, stats.lag_bytes.unwrap_or_default())
    };
    // The sink waits.
    let mut holder = sqlx::PgConnection::connect(&other.from).await.unwrap();
    let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    for first in [1, 101, 201] {
        ends.sql(&format!(
            "INSERT INTO t SELECT generate_series({first}, {first} + 99)"
        ))
        .await;
    }
    until("all of them are behind", async || {
        let (rows, bytes) = told();
        rows == 300 && bytes > 300 * 8
    })
    .await;
    holder.close().await.unwrap();
    until("none is behind", async || told().0 == 0).await;
    assert_eq!(other.source("SELECT count(*) FROM t").await, ["(301)"]);
    running.stopped().await;
    ends.close().await;
    other.drop_databases().await;
}
