//! A standby that is promoted in the primary's place.

use std::sync::atomic::{AtomicU32, Ordering};

use ledger::ErrorKind;
use ledger_harness::Postgres;

use super::ends::{Ends, Engine};
use crate::replication::run::until;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE log (v int);
    INSERT INTO t SELECT i, 'copied' FROM generate_series(1, 2000) i;
    INSERT INTO log SELECT generate_series(1, 2000)";

/// The ends between which tables of `primary` are carried, and what they were before.
async fn ends_of(primary: &Postgres) -> (Ends, String) {
    primary.psql(TABLES).await;
    let mut ends = Ends::open(Engine::Today, "public.*", "").await;
    let own = std::mem::replace(&mut ends.from, primary.url());
    (ends, own)
}

async fn close(mut ends: Ends, own: String) {
    ends.from = own;
    ends.drop_databases().await;
}

/// Waits until the standby has everything that the primary has written.
async fn caught_up(primary: &Postgres, standby: &Postgres) {
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()").await;
    until("the standby has caught up", async || {
        let has = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        standby.psql(&has).await == "t"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_without_the_slot_is_told_and_copied_anew() {
    let mut primary = Postgres::start().await;
    let (mut ends, own) = ends_of(&primary).await;
    let standby = primary.standby(None, &[]).await;
    ends.once().await.unwrap();
    primary.psql("INSERT INTO log VALUES (0)").await;
    caught_up(&primary, &standby).await;
    primary.kill().await;
    standby.promote().await;
    ends.from = standby.url();
    standby
        .psql("UPDATE t SET v = 'promoted' WHERE id <= 10; INSERT INTO log VALUES (-1)")
        .await;
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{}", error.chain());
    assert!(error.chain().contains("--resync"), "{}", error.chain());
    let flow = ends.flow().await.unwrap();
    flow.resync(&ends.pipeline).await.unwrap();
    ends.assert_equal().await;
    close(ends, own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standby_never_got_is_another_history() {
    let mut primary = Postgres::start().await;
    let (mut ends, own) = ends_of(&primary).await;
    ends.once().await.unwrap();
    let mut standby = primary.standby(None, &[]).await;
    standby.stop().await;
    // Carried, and then lost with the primary.
    primary
        .psql("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(3000, 6000) i")
        .await;
    ends.once().await.unwrap();
    let lost = primary.psql("SELECT pg_current_wal_flush_lsn()").await;
    primary.kill().await;
    standby.restart().await;
    standby.promote().await;
    // The slot stands there, before what the bridge has got, and the log has become longer than it
    // was: nothing but the timeline's beginning tells that they are not the same.
    standby
        .psql(&format!(
            "SELECT pg_create_logical_replication_slot('ledger_{}', 'pgoutput')",
            ends.pipeline
        ))
        .await;
    standby
        .psql("INSERT INTO t SELECT i, repeat('y', 1000) FROM generate_series(3000, 9000) i")
        .await;
    let longer = format!("SELECT pg_current_wal_flush_lsn() > '{lost}'");
    assert_eq!(standby.psql(&longer).await, "t");
    ends.from = standby.url();
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged, "{}", error.chain());
    assert!(error.chain().contains("timeline 1"), "{}", error.chain());
    assert!(error.chain().contains("--resync"), "{}", error.chain());
    let flow = ends.flow().await.unwrap();
    flow.resync(&ends.pipeline).await.unwrap();
    ends.assert_equal().await;
    close(ends, own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_slot_goes_on_at_the_new_primary() {
    let mut primary = Postgres::start_newer(&[]).await;
    primary
        .psql("SELECT pg_create_physical_replication_slot('standby')")
        .await;
    let (mut ends, own) = ends_of(&primary).await;
    let standby = primary
        .standby(
            Some("standby"),
            &["sync_replication_slots = on", "hot_standby_feedback = on"],
        )
        .await;
    // Nothing is told of the log before the standby has it.
    primary
        .psql("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
        .await;
    primary.psql("SELECT pg_reload_conf()").await;
    let running = ends.start().await;
    let slot = format!(
        "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'ledger_{}' AND failover AND synced \
         AND NOT temporary AND invalidation_reason IS NULL",
        ends.pipeline
    );
    let written = AtomicU32::new(0);
    until("the slot is at the standby", async || {
        let written = written.fetch_add(1, Ordering::Relaxed);
        primary
            .psql(&format!(
                "INSERT INTO log VALUES (-{written}); UPDATE t SET v = 'u{written}' WHERE id % 97 = 0"
            ))
            .await;
        standby.psql(&slot).await == "1"
    })
    .await;
    // Some of it is carried, and some not.
    primary
        .psql("INSERT INTO log SELECT generate_series(5000, 25000); DELETE FROM t WHERE id % 3 = 0")
        .await;
    caught_up(&primary, &standby).await;
    primary.kill().await;
    running.task.abort();
    standby.promote().await;
    ends.from = standby.url();
    standby
        .psql("INSERT INTO log VALUES (-5000); UPDATE t SET v = 'promoted' WHERE id <= 100")
        .await;
    let summary = ends.once().await.unwrap();
    // Not copied anew: what follows is less than the copy was, and what the tables hold.
    assert_eq!(standby.psql(&slot.replace(" AND synced", "")).await, "1");
    assert_eq!(
        ends.number("SELECT count() FROM log_current")
            .await
            .to_string(),
        standby.psql("SELECT count(*) FROM log").await,
        "{summary:?}"
    );
    ends.assert_equal().await;
    // And on, after the promotion.
    standby.psql("INSERT INTO log VALUES (-5001)").await;
    ends.assert_equal().await;
    close(ends, own).await;
}
