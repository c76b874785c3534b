//! Slots that are gone, servers that are killed, transactions that are large.

use std::time::Duration;

use ledger::ErrorKind;
use ledger::postgres::capture::{WalBudget, WalExceeded};
use ledger_harness::Postgres;
use sqlx::Connection as _;

use super::ends::{Ends, Engine};
use crate::replication::run::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_dropped_is_never_replaced_silently() {
    let ends = Ends::open(
        Engine::Today,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);",
    )
    .await;
    ends.once().await.unwrap();
    until("the slot is dropped", async || {
        let mine = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                    WHERE database = current_database() AND NOT active";
        ends.sql(mine).await;
        ends.source("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")
            .await
            .is_empty()
    })
    .await;
    ends.sql("INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1")
        .await;
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{}", error.chain());
    assert!(error.chain().contains("--resync"), "{}", error.chain());
    let flow = ends.flow().await.unwrap();
    flow.resync(&ends.pipeline).await.unwrap();
    ends.assert_equal().await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_drops_ends_the_bridge_that_reads_it() {
    let ends = Ends::open(
        Engine::Today,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);",
    )
    .await;
    let running = ends.start().await;
    until("the table is copied", async || {
        ends.has("t_current").await && ends.number("SELECT count() FROM t_current").await == 1
    })
    .await;
    // Whoever drops it ends its reader first; the bridge reads again at once, so both are tried
    // until the drop wins.
    until("the slot is dropped", async || {
        let drop = "DO $$ BEGIN
            PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots
                WHERE database = current_database() AND active;
            PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                WHERE database = current_database() AND NOT active;
            EXCEPTION WHEN object_in_use THEN NULL; END $$";
        ends.sql(drop).await;
        ends.source("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")
            .await
            .is_empty()
    })
    .await;
    ends.sql("INSERT INTO t VALUES (2)").await;
    let error = running.ended().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{}", error.chain());
    assert!(
        error.chain().contains("`ledger bridge run --resync`"),
        "{}",
        error.chain()
    );
    let flow = ends.flow().await.unwrap();
    flow.resync(&ends.pipeline).await.unwrap();
    ends.assert_equal().await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_stands_further_than_the_sink_is_not_followed() {
    let ends = Ends::open(
        Engine::Today,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql("INSERT INTO t VALUES (2)").await;
    until("the slot is moved", async || {
        let moved = "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) \
                     FROM pg_replication_slots WHERE database = current_database() AND NOT active";
        !ends.source(moved).await.is_empty()
    })
    .await;
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{}", error.chain());
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_lacks_is_told_with_what_mends_it() {
    let server = Postgres::start_with(&["wal_level=replica"]).await;
    server.psql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut ends = Ends::open(Engine::Today, "public.*", "").await;
    let own = std::mem::replace(&mut ends.from, server.url());
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.chain().contains("ALTER SYSTEM SET wal_level"),
        "{}",
        error.chain()
    );
    ends.from = own;
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    assert!(error.chain().contains("public.*"), "{}", error.chain());
    ends.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_and_doubles_nothing() {
    let mut server = Postgres::start().await;
    server
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE l (v int); \
               INSERT INTO t SELECT i, 0 FROM generate_series(1, 5000) i; INSERT INTO l VALUES (0)",
        )
        .await;
    let mut ends = Ends::open(Engine::Today, "public.*", "").await;
    let own = std::mem::replace(&mut ends.from, server.url());
    let running = ends.start().await;
    for round in 1..=3 {
        server
            .psql(&format!(
                "UPDATE t SET v = {round} WHERE id % 7 = {round}; INSERT INTO l VALUES ({round})"
            ))
            .await;
        server.kill().await;
        server.restart().await;
    }
    until("everything has arrived", async || {
        ends.has("t_current").await
            && ends.has("l_current").await
            && ends.number("SELECT count() FROM l_current").await == 4
    })
    .await;
    let verified = ends.verify(false).await;
    assert!(verified.equal, "{:#?}", verified.differences);
    running.stopped().await;
    ends.from = own;
    ends.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_back_too_much_ends_the_bridge() {
    let mut ends = Ends::open(
        Engine::Today,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY, v text);",
    )
    .await;
    ends.once().await.unwrap();
    // Behind what the sink has: it is held back since nothing confirms it.
    ends.sql("CREATE TABLE other (v text); INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        .await;
    ends.options.wal_budget = Some(WalBudget {
        bytes: 1,
        exceeded: WalExceeded::DropSlot,
    });
    let running = ends.start().await;
    let ended = tokio::time::timeout(Duration::from_mins(1), running.ended()).await;
    let error = ended.expect("it ends").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{}", error.chain());
    until("the slot is gone", async || {
        ends.source("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")
            .await
            .is_empty()
    })
    .await;
    ends.options.wal_budget = None;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_back_too_much_is_given_up_and_everything_copied_anew() {
    let mut ends = Ends::open(
        Engine::Today,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'before');",
    )
    .await;
    ends.once().await.unwrap();
    let own = "SELECT restart_lsn FROM pg_replication_slots WHERE database = current_database()";
    let before = ends.source(own).await;
    // More than the new slot will hold back, and less than the old one does.
    ends.sql(
        "CREATE TABLE other (v text); INSERT INTO other SELECT repeat('x', 1000) FROM \
         generate_series(1, 200000); DROP TABLE other; DELETE FROM t; INSERT INTO t VALUES (1, 'after')",
    )
    .await;
    ends.options.wal_budget = Some(WalBudget {
        bytes: 100 << 20,
        exceeded: WalExceeded::Resync,
    });
    // The server keeps the log of the slot until a checkpoint after it has moved; nothing moves it.
    let mut holder = sqlx::PgConnection::connect(&ends.from).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT txid_current()")
        .execute(&mut holder)
        .await
        .unwrap();
    let running = ends.start().await;
    until("the slot is another one", async || {
        let now = ends.source(own).await;
        now.len() == 1 && now != before
    })
    .await;
    holder.close().await.unwrap();
    until("what is there now is copied", async || {
        ends.has("t_current").await
            && ends.sink("SELECT v FROM t_current ORDER BY v").await == ["after"]
    })
    .await;
    running.stopped().await;
    ends.options.wal_budget = None;
    ends.assert_equal().await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_holds_up_the_copy_that_waits_for_it_only() {
    let setup = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE c (v int);";
    let ends = Ends::open(Engine::Today, "public.*", setup).await;
    ends.once().await.unwrap();
    // Both kinds of copies: by key, and from a snapshot.
    ends.sql("CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE d (v int)")
        .await;
    let mut long = sqlx::PgConnection::connect(&ends.from).await.unwrap();
    sqlx::raw_sql("BEGIN; INSERT INTO b VALUES (1); INSERT INTO d VALUES (1)")
        .execute(&mut long)
        .await
        .unwrap();
    let running = ends.start().await;
    ends.sql("INSERT INTO a VALUES (1); INSERT INTO c VALUES (1)")
        .await;
    until("the others have gone on", async || {
        ends.number("SELECT count() FROM a_current").await == 1
            && ends.number("SELECT count() FROM c_current").await == 1
    })
    .await;
    // The shape changes while the copy waits: what is copied is what the table has come to.
    sqlx::raw_sql("ALTER TABLE b ADD COLUMN v text; UPDATE b SET v = 'v'; COMMIT")
        .execute(&mut long)
        .await
        .unwrap();
    until("what was waited for is copied", async || {
        ends.has("b_current").await
            && ends.has("d_current").await
            && ends.number("SELECT count() FROM b_current").await == 1
            && ends.number("SELECT count() FROM d_current").await == 1
    })
    .await;
    let verified = ends.verify(false).await;
    assert!(verified.equal, "{:#?}", verified.differences);
    running.stopped().await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_where_it_was_interrupted() {
    let mut ends = Ends::open(
        Engine::Today,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, 300000) i; ANALYZE t;",
    )
    .await;
    ends.options.copy_width = 1;
    let running = ends.start().await;
    until("a part is copied", async || {
        running.bridge.stats().delivered > 120_000
    })
    .await;
    running.task.abort();
    ends.sql("UPDATE t SET v = 'u' WHERE id % 1000 = 0; DELETE FROM t WHERE id % 1000 = 1")
        .await;
    let summary = ends.once().await.unwrap();
    // Not from the beginning again.
    assert!(
        summary.stats.delivered < 280_000,
        "{}",
        summary.stats.delivered
    );
    ends.assert_equal().await;
    drop(running.flow);
    ends.close().await;
}
