//! What becomes of rows.

use super::ends::{Ends, Engine};
use super::on_both_engines;
use crate::replication::run::until;

on_both_engines!(
    what_a_table_held_and_every_change_of_it_arrive,
    a_value_stored_apart_that_was_not_changed_stays_what_it_was,
    a_truncate_takes_what_was_before_and_nothing_else,
    rows_without_a_key_are_kept_each,
    whole_rows_tell_changes_of_a_table_without_a_key_where_that_is_asked_for,
    tables_that_inherit_are_carried_by_themselves,
    partitions_come_as_the_table_they_are_of,
    names_are_kept_as_they_are_written,
);

const MANY: &str = "CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2), v text);
    INSERT INTO t SELECT i, i * 1.25, 'v' || i FROM generate_series(1, 3000) i;";

async fn what_a_table_held_and_every_change_of_it_arrive(engine: Engine) {
    let ends = Ends::open(engine, "public.*", MANY).await;
    let running = ends.start().await;
    until("the table is made", async || ends.has("t_current").await).await;
    // While it is copied, and after.
    for round in 0..10 {
        ends.sql(&format!(
            "INSERT INTO t SELECT i, 1, 'new' FROM generate_series({0}, {0} + 49) i; \
             UPDATE t SET v = v || '+' WHERE id % 10 = {round}; \
             DELETE FROM t WHERE id BETWEEN {round} * 100 AND {round} * 100 + 20; \
             UPDATE t SET id = -id WHERE id = 3000 - {round}; \
             BEGIN; INSERT INTO t VALUES (-999999, 1, 'never'); ROLLBACK;",
            10_000 + round * 50
        ))
        .await;
    }
    let select = "SELECT count(*), sum(n), sum(length(v)), sum(id) FROM t";
    let expected = ends.source(select).await;
    until("everything has arrived", async || {
        let shown = ends
            .sink(
                "SELECT concat('(', toString(count()), ',', toDecimalString(sum(n), 2), ',', \
                 toString(sum(length(v))), ',', toString(sum(id)), ')') FROM t_current",
            )
            .await;
        shown == expected
    })
    .await;
    let verified = ends.verify(false).await;
    assert!(verified.equal, "{:#?}", verified.differences);
    running.stopped().await;
    ends.close().await;
}

async fn a_value_stored_apart_that_was_not_changed_stays_what_it_was(engine: Engine) {
    let ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE keyed (id int PRIMARY KEY, n int, big text);
         CREATE TABLE whole (id int PRIMARY KEY, n int, big text);
         ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE whole REPLICA IDENTITY FULL;
         INSERT INTO keyed SELECT i, 0, repeat(i::text, 30000) FROM generate_series(1, 20) i;
         INSERT INTO whole SELECT * FROM keyed;",
    )
    .await;
    ends.once().await.unwrap();
    for table in ["keyed", "whole"] {
        ends.sql(&format!(
            "UPDATE {table} SET n = 1 WHERE id <= 10; \
             BEGIN; UPDATE {table} SET n = 2 WHERE id = 3; UPDATE {table} SET n = 3 WHERE id = 3; \
             UPDATE {table} SET id = 103 WHERE id = 3; UPDATE {table} SET n = 4 WHERE id = 103; \
             COMMIT; \
             UPDATE {table} SET id = 104 WHERE id = 4; \
             UPDATE {table} SET big = NULL WHERE id = 5; UPDATE {table} SET n = 5 WHERE id = 5; \
             BEGIN; DELETE FROM {table} WHERE id = 6; \
             INSERT INTO {table} VALUES (6, 6, repeat('y', 100000)); \
             UPDATE {table} SET n = 7 WHERE id = 6; COMMIT;"
        ))
        .await;
    }
    ends.assert_equal().await;
    let wrong = "SELECT count() FROM keyed_current WHERE length(big) < 30000 AND id != 5";
    assert_eq!(ends.number(wrong).await, 0);
    ends.close().await;
}

async fn a_truncate_takes_what_was_before_and_nothing_else(engine: Engine) {
    let ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
         CREATE TABLE l (v text);
         INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i; INSERT INTO b SELECT * FROM a;
         INSERT INTO l SELECT v FROM a;",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql(
        "BEGIN; INSERT INTO a VALUES (200, 'before'); TRUNCATE a, b, l; \
         INSERT INTO a VALUES (1, 'after'), (201, 'after'); INSERT INTO l VALUES ('after'); COMMIT;",
    )
    .await;
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT count() FROM a_current").await, 2);
    assert_eq!(ends.number("SELECT count() FROM b_current").await, 0);
    assert_eq!(ends.number("SELECT count() FROM l_current").await, 1);
    ends.close().await;
}

async fn rows_without_a_key_are_kept_each(engine: Engine) {
    let ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE history (tid int, delta int);
         INSERT INTO history SELECT i % 3, 1 FROM generate_series(1, 1000) i;",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql("INSERT INTO history SELECT 7, 2 FROM generate_series(1, 500)")
        .await;
    // PostgreSQL must not refuse its users' updates because of the publication.
    ends.sql("UPDATE history SET delta = delta WHERE tid = 99")
        .await;
    ends.assert_equal().await;
    assert_eq!(
        ends.number("SELECT count() FROM history_current").await,
        1_500
    );
    // A copy made anew takes the place of the rows of before.
    let flow = ends.flow().await.unwrap();
    flow.resync(&ends.pipeline).await.unwrap();
    ends.assert_equal().await;
    assert_eq!(
        ends.number("SELECT count() FROM history_current").await,
        1_500
    );
    ends.close().await;
}

async fn whole_rows_tell_changes_of_a_table_without_a_key_where_that_is_asked_for(engine: Engine) {
    let mut ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE l (a int, b text); ALTER TABLE l REPLICA IDENTITY FULL;
         INSERT INTO l SELECT i % 5, 'b' FROM generate_series(1, 50) i;",
    )
    .await;
    ends.options.keyless_changes = true;
    ends.routes.others.keyless_changes = true;
    ends.once().await.unwrap();
    ends.sql(
        "UPDATE l SET b = 'c' WHERE a = 1; DELETE FROM l WHERE a = 2; INSERT INTO l VALUES (1, 'c');",
    )
    .await;
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT count() FROM l_current").await, 41);
    let changed = "SELECT count() FROM l_current WHERE b = 'c'";
    assert_eq!(ends.number(changed).await, 11);
    ends.close().await;
}

async fn tables_that_inherit_are_carried_by_themselves(engine: Engine) {
    let ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE parent (id int PRIMARY KEY, v int); CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent VALUES (1, 1); INSERT INTO child VALUES (1, 2), (2, 2);
         CREATE TABLE wide (id int, v int, PRIMARY KEY (id) INCLUDE (v));
         INSERT INTO wide VALUES (1, 1);",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql("UPDATE ONLY parent SET v = v + 1; UPDATE wide SET v = 2 WHERE id = 1;")
        .await;
    ends.assert_equal().await;
    // PostgreSQL would refuse it, if the child were published with its parent.
    ends.sql("UPDATE child SET v = v + 1").await;
    assert_eq!(ends.number("SELECT count() FROM parent_current").await, 1);
    ends.close().await;
}

async fn partitions_come_as_the_table_they_are_of(engine: Engine) {
    let ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE m (id int, day date, v int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE m2 PARTITION OF m FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         INSERT INTO m SELECT i, '2026-01-10'::date + i % 40, i FROM generate_series(1, 500) i;",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql(
        "UPDATE m SET day = '2026-02-20' WHERE id = 40; INSERT INTO m VALUES (501, '2026-01-01', 1);
         DELETE FROM m WHERE id = 41;",
    )
    .await;
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT count() FROM m_current").await, 500);
    ends.close().await;
}

async fn names_are_kept_as_they_are_written(engine: Engine) {
    let ends = Ends::open(
        engine,
        "*.*",
        "CREATE SCHEMA \"Sales\";
         CREATE TABLE \"Sales\".\"My Orders\" (\"Id\" int PRIMARY KEY, \"the 'value'\" text,
           \"gen\" int GENERATED ALWAYS AS (\"Id\" * 2) STORED);
         INSERT INTO \"Sales\".\"My Orders\" VALUES (1, 'one');",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql("INSERT INTO \"Sales\".\"My Orders\" VALUES (2, 'it''s \\ two')")
        .await;
    ends.assert_equal().await;
    let shown = ends
        .sink("SELECT assumeNotNull(`the 'value'`) FROM `Sales_My Orders_current` ORDER BY Id")
        .await;
    assert_eq!(shown, ["one", "it's \\ two"]);
    ends.close().await;
}
