//! Tables that change their shape.

use ledger::ErrorKind;

use super::ends::{Ends, Engine};
use super::on_both_engines;

on_both_engines!(
    columns_are_added_dropped_and_widened_at_their_place,
    a_column_added_with_a_value_for_old_rows_has_the_table_copied_anew,
    a_rename_stops_with_what_to_do,
    what_was_delivered_before_a_change_of_shape_may_be_delivered_again,
);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(5), c numeric(5,1));
    INSERT INTO t SELECT i, i, 'b', i FROM generate_series(1, 10) i;";

async fn columns_are_added_dropped_and_widened_at_their_place(engine: Engine) {
    let ends = Ends::open(engine, "public.*", TABLE).await;
    ends.once().await.unwrap();
    ends.sql(
        "UPDATE t SET a = 100 WHERE id = 1; ALTER TABLE t ADD COLUMN extra text;
         INSERT INTO t VALUES (11, 11, 'b', 1, 'extra'); ALTER TABLE t ALTER a TYPE bigint;
         UPDATE t SET a = 5000000000 WHERE id = 2; ALTER TABLE t ALTER b TYPE text;
         UPDATE t SET b = 'longer than five' WHERE id = 3; ALTER TABLE t ALTER c TYPE numeric(20,1);
         UPDATE t SET c = 1234567890123456.5 WHERE id = 4; ALTER TABLE t DROP COLUMN b;
         INSERT INTO t VALUES (12, 12, 12, 'last');",
    )
    .await;
    ends.assert_equal().await;
    let added = ends
        .sink("SELECT extra FROM t_current WHERE extra IS NOT NULL ORDER BY id")
        .await;
    assert_eq!(added, ["extra", "last"]);
    ends.close().await;
}

async fn a_column_added_with_a_value_for_old_rows_has_the_table_copied_anew(engine: Engine) {
    let ends = Ends::open(engine, "public.*", TABLE).await;
    let running = ends.start().await;
    ends.sql("ALTER TABLE t ADD COLUMN kind text NOT NULL DEFAULT 'usual'")
        .await;
    // The log tells a shape with the next row only.
    ends.sql("UPDATE t SET a = 7 WHERE id = 1").await;
    crate::replication::run::until("the old rows have the value", async || {
        let column = "SELECT count() FROM system.columns WHERE database = currentDatabase() \
                      AND table = 't_current' AND name = 'kind'";
        ends.number(column).await == 1
            && ends
                .number("SELECT count() FROM t_current WHERE kind = 'usual'")
                .await
                == 10
    })
    .await;
    running.stopped().await;
    ends.assert_equal().await;
    ends.close().await;
}

async fn a_rename_stops_with_what_to_do(engine: Engine) {
    let ends = Ends::open(engine, "public.*", TABLE).await;
    ends.once().await.unwrap();
    ends.sql("ALTER TABLE t RENAME a TO z; INSERT INTO t VALUES (11, 11, 'b', 1)")
        .await;
    let error = ends.once().await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    for part in ["public.t", "\"a\"", "\"z\""] {
        assert!(error.chain().contains(part), "{}", error.chain());
    }
    // What it says: the table is copied anew.
    let flow = ends.flow().await.unwrap();
    let table = ledger::TableName::new("public", "t");
    flow.resync_table(&ends.pipeline, &table).await.unwrap();
    ends.assert_equal().await;
    assert_eq!(ends.number("SELECT sum(z) FROM t_current").await, 66);
    ends.close().await;
}

async fn what_was_delivered_before_a_change_of_shape_may_be_delivered_again(engine: Engine) {
    let ends = Ends::open(engine, "public.*", TABLE).await;
    ends.once().await.unwrap();
    let pipeline = &ends.pipeline;
    let kept =
        "CREATE TABLE kept ENGINE = MergeTree ORDER BY pipeline AS SELECT * FROM ledger_cursors";
    super::ends::client(&ends.to)
        .query_raw(kept)
        .execute()
        .await
        .unwrap();
    ends.sql(
        "UPDATE t SET a = 1 WHERE id = 1; ALTER TABLE t ADD COLUMN x int;
         UPDATE t SET x = 2 WHERE id = 2; ALTER TABLE t DROP COLUMN b; UPDATE t SET x = 3 WHERE id = 3;",
    )
    .await;
    // As where the process dies after the rows are written and before the cursor is. The slot has not
    // moved: only what the sink holds counts.
    let flow = ends.flow().await.unwrap();
    let mut options = ends.bridge_options(&flow);
    options.batch.max_items = 1;
    options.once = true;
    let sql = format!("SELECT toString(count()) FROM kept WHERE pipeline = '{pipeline}'");
    assert_ne!(ends.sink(&sql).await, ["0"]);
    flow.bridge(options.clone())
        .unwrap()
        .run(&ledger::pipeline::Stop::new())
        .await
        .unwrap();
    options.batch.max_items = 1_000;
    flow.bridge(options)
        .unwrap()
        .run(&ledger::pipeline::Stop::new())
        .await
        .unwrap();
    ends.assert_equal().await;
    ends.close().await;
}
