//! A database in which nothing happens, beside one in which much does.

use ledger_harness::Postgres;

use super::ends::{Ends, Engine, postgres, with_database};
use crate::replication::run::until;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_holds_no_log_back_for_a_busy_one() {
    let server = Postgres::start().await;
    server.psql("CREATE TABLE t (id int PRIMARY KEY)").await;
    server.psql("INSERT INTO t VALUES (1)").await;
    server.psql("CREATE DATABASE busy").await;
    let busy = with_database(&server.url(), "busy");
    postgres(&busy, "CREATE TABLE b (v text)").await;
    let mut ends = Ends::open(Engine::Today, "public.*", "").await;
    let own = std::mem::replace(&mut ends.from, server.url());
    let running = ends.start().await;
    until("the table is copied", async || {
        ends.has("t_current").await && ends.number("SELECT count() FROM t_current").await == 1
    })
    .await;
    for _ in 0..3 {
        let before = server.psql("SELECT pg_current_wal_lsn()").await;
        // Of the size that the server keeps in a segment or two, and more.
        postgres(
            &busy,
            "INSERT INTO b SELECT repeat('x', 1000) FROM generate_series(1, 50000)",
        )
        .await;
        let written = server.psql("SELECT pg_current_wal_lsn()").await;
        let size = format!("SELECT pg_wal_lsn_diff('{written}', '{before}')::int8");
        assert!(server.psql(&size).await.parse::<u64>().unwrap() > 40 << 20);
        until("the slot lets the log go", async || {
            // As time would have it done: what runs is written to the log, and segments are removed.
            server.psql("CHECKPOINT").await;
            let gone = format!(
                "SELECT restart_lsn >= '{written}' AND confirmed_flush_lsn >= '{written}' \
                 FROM pg_replication_slots WHERE slot_name = 'ledger_{}'",
                ends.pipeline
            );
            server.psql(&gone).await == "t"
        })
        .await;
    }
    // Nothing of the captured database was lost over it.
    server.psql("INSERT INTO t VALUES (2)").await;
    let verified = ends.verify(false).await;
    assert!(verified.equal, "{:#?}", verified.differences);
    running.stopped().await;
    ends.from = own;
    ends.drop_databases().await;
}
