//! Which tables, columns and rows are carried, and how.

use ledger::postgres::capture::TableFilter;
use ledger::{ErrorKind, Protection, TableName, TableOptions};

use super::ends::{Ends, Engine};
use super::on_both_engines;
use crate::replication::run::until;

on_both_engines!(
    a_table_that_is_made_later_joins,
    one_table_is_copied_anew_while_the_others_go_on,
    columns_and_rows_that_are_not_wanted_stay_at_the_source,
    a_slot_and_a_publication_of_ones_own_are_used_and_kept,
);

async fn a_table_that_is_made_later_joins(engine: Engine) {
    let ends = Ends::open(
        engine,
        "public.*,!public.secret",
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY);
         INSERT INTO a SELECT generate_series(1, 10); INSERT INTO secret VALUES (1);",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql(
        "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later SELECT generate_series(1, 10);",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql("INSERT INTO later VALUES (11); INSERT INTO secret VALUES (2)")
        .await;
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT count() FROM later_current").await, 11);
    let tables = "SELECT count() FROM system.tables WHERE database = currentDatabase() \
                  AND name LIKE '%secret%'";
    assert_eq!(ends.number(tables).await, 0);
    ends.close().await;
}

async fn one_table_is_copied_anew_while_the_others_go_on(engine: Engine) {
    let mut ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE small (id int PRIMARY KEY);
         INSERT INTO big SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i;",
    )
    .await;
    ends.options.copy_width = 1;
    ends.once().await.unwrap();
    let flow = ends.flow().await.unwrap();
    let unknown = TableName::new("public", "none");
    let error = flow
        .resync_table(&ends.pipeline, &unknown)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let table = TableName::new("public", "big");
    flow.resync_table(&ends.pipeline, &table).await.unwrap();
    let running = ends.start().await;
    for id in 1..=20 {
        ends.sql(&format!(
            "INSERT INTO small VALUES ({id}); UPDATE big SET v = 'u' WHERE id = {id} * 3000; \
             DELETE FROM big WHERE id = {id} * 3000 + 1"
        ))
        .await;
    }
    until("both are there", async || {
        ends.has("big_current").await
            && ends.has("small_current").await
            && ends.number("SELECT count() FROM small_current").await == 20
            && ends.number("SELECT count() FROM big_current").await == 59_981
    })
    .await;
    running.stopped().await;
    ends.assert_equal().await;
    ends.close().await;
}

async fn columns_and_rows_that_are_not_wanted_stay_at_the_source(engine: Engine) {
    let mut ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE users (region int, id int, email text, phone text, password text,
           PRIMARY KEY (region, id));
         INSERT INTO users SELECT i % 3, i, 'e' || i % 5, '555', 'secret' \
           FROM generate_series(1, 30) i;",
    )
    .await;
    let table = TableName::new("public", "users");
    let filter = TableFilter {
        exclude: ["password".to_owned()].into(),
        rows: Some("region <> 2".to_owned()),
    };
    ends.options.filters.insert(table.clone(), filter);
    let mut options = TableOptions {
        target: Some("people".to_owned()),
        ..TableOptions::default()
    };
    let hash = Protection::Hash(b"key".to_vec());
    options.columns.entry("email".into()).or_default().protect = Some(hash);
    let mask = Protection::Mask("***".into());
    options.columns.entry("phone".into()).or_default().protect = Some(mask);
    ends.routes.tables.insert(table.clone(), options);
    ends.once().await.unwrap();
    ends.sql(
        "UPDATE users SET email = 'e0', password = 'other' WHERE region = 1;
         UPDATE users SET region = 2 WHERE id = 1; UPDATE users SET region = 0 WHERE id = 2;",
    )
    .await;
    ends.assert_equal().await;
    let expected = ends
        .source("SELECT count(*), count(DISTINCT email) FROM users WHERE region <> 2")
        .await;
    let shown = ends
        .sink(
            "SELECT concat('(', toString(count()), ',', toString(uniqExact(email)), ')') \
             FROM people_current WHERE phone = '***' AND length(email) = 64",
        )
        .await;
    assert_eq!(shown, expected);
    let columns = "SELECT count() FROM system.columns WHERE database = currentDatabase() \
                   AND name = 'password'";
    assert_eq!(ends.number(columns).await, 0);
    // A condition that would have PostgreSQL refuse its users' updates.
    let filter = ends.options.filters.get_mut(&table).unwrap();
    filter.rows = Some("phone = '555'".to_owned());
    let error = ends.once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", error.chain());
    assert!(error.chain().contains("phone"), "{}", error.chain());
    ends.sql("UPDATE users SET phone = '556' WHERE id = 3")
        .await;
    // A table under another name must not show what was hidden under this one.
    let filter = ends.options.filters.get_mut(&table).unwrap();
    filter.rows = Some("region <> 2".to_owned());
    let running = ends.start().await;
    ends.sql(
        "ALTER TABLE users RENAME TO others; UPDATE others SET email = 'plain' WHERE region = 0",
    )
    .await;
    let error = running.ended().await.unwrap_err();
    let told = error.chain();
    assert!(told.contains("is called public.others now"), "{told}");
    let shown = "SELECT count() FROM people_current WHERE email = 'plain'";
    assert_eq!(ends.number(shown).await, 0);
    ends.close().await;
}

async fn a_slot_and_a_publication_of_ones_own_are_used_and_kept(engine: Engine) {
    let mut ends = Ends::open(
        engine,
        "public.a",
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);",
    )
    .await;
    let slot = format!("own_{}", ends.pipeline);
    ends.options.slot = Some(slot.clone());
    ends.options.publication = Some("mine".to_owned());
    let error = ends.once().await.unwrap_err();
    assert!(
        error.chain().contains("no publication mine"),
        "{}",
        error.chain()
    );
    ends.sql("CREATE TABLE b (id int); CREATE PUBLICATION mine FOR TABLE b")
        .await;
    let error = ends.once().await.unwrap_err();
    assert!(error.chain().contains("ADD TABLE a"), "{}", error.chain());
    ends.sql("ALTER PUBLICATION mine ADD TABLE a").await;
    ends.sql(&format!(
        "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
    ))
    .await;
    ends.sql("INSERT INTO a VALUES (2); INSERT INTO b VALUES (1)")
        .await;
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT count() FROM a_current").await, 2);
    let flow = ends.flow().await.unwrap();
    until("it can be removed", async || {
        flow.remove(&ends.pipeline).await.is_ok()
    })
    .await;
    let kept = ends
        .source("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'own_%' AND database = current_database()")
        .await;
    assert_eq!(kept.len(), 1);
    until("the slot is free", async || {
        ends.source(
            "SELECT 1 FROM pg_replication_slots WHERE active AND database = current_database()",
        )
        .await
        .is_empty()
    })
    .await;
    ends.sql(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
    ends.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_changes_has_the_table_copied_anew_and_no_other() {
    let setup = "CREATE TABLE t (region int, id int, PRIMARY KEY (region, id));
        CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO t SELECT i % 3, i FROM generate_series(1, 30) i;
        INSERT INTO other SELECT generate_series(1, 50);";
    let mut ends = Ends::open(Engine::Today, "public.*", setup).await;
    let table = TableName::new("public", "t");
    for (condition, delivered) in [
        (Some("region = 1"), 60),
        // The same, in other words: nothing is copied.
        (Some("(region =  1)"), 0),
        (Some("region <> 1"), 20),
        (None, 30),
        (Some("id > 15"), 15),
    ] {
        let filter = ends.options.filters.entry(table.clone()).or_default();
        filter.rows = condition.map(str::to_owned);
        let carried = ends.once().await.unwrap().stats.delivered;
        // The rows, and a few notes.
        assert!(
            (delivered..delivered + 10).contains(&carried),
            "{condition:?}: {carried}"
        );
        let select = format!(
            "SELECT count(*) FROM t WHERE {}",
            condition.unwrap_or("true")
        );
        let held = ends.number("SELECT count() FROM t_current").await;
        assert_eq!(
            ends.source(&select).await,
            [format!("({held})")],
            "{condition:?}"
        );
        ends.assert_equal().await;
    }
    ends.close().await;
}
