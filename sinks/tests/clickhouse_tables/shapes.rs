//! Tables that change their columns, and tables that are not what they should be.

use std::sync::Arc;

use ledger_core::{
    ColumnType, CopyState, ErrorKind, RowChange, RowOp, Sink as _, Table, TableName,
    TableSink as _, Version,
};
use ledger_layout::tables::{TableOptions, TableRoutes};
use ledger_sinks::clickhouse::ClickHouseTables;

use crate::database::{
    Database, batch, begun, claim, column, delete, deliver, done, insert, key, pipeline, refused,
    run, shape, simple, table, try_deliver, update,
};

fn array() -> ColumnType {
    ColumnType::Array(Box::new(ColumnType::Int32))
}

/// The shapes of a table, one after the other.
fn shapes() -> [Arc<Table>; 5] {
    let id = || key("id", ColumnType::Int32);
    [
        table(vec![id(), column("n", ColumnType::Int32)]),
        // A column more.
        table(vec![
            id(),
            column("n", ColumnType::Int32),
            column("a", array()),
        ]),
        // A wider one.
        table(vec![
            id(),
            column("n", ColumnType::Int64),
            column("a", array()),
        ]),
        // One less.
        table(vec![id(), column("n", ColumnType::Int64)]),
        // One of the old name, which is another one.
        table(vec![
            id(),
            column("n", ColumnType::Int64),
            column("a", ColumnType::Text),
        ]),
    ]
}

fn history() -> (Vec<RowChange>, Vec<&'static str>) {
    let [first, more, wider, less, again] = shapes();
    let changes = vec![
        begun(&first, 100),
        insert(&first, (100, 0), &["1", "10"]),
        insert(&first, (100, 0), &["2", "20"]),
        done(&first, 100, 100),
        shape(&more, (110, 2)),
        insert(&more, (110, 4), &["3", "30", "{3}"]),
        update(&more, (120, 2), &["2", "21", "{2}"]),
        // Without a word of the shape before it.
        insert(&wider, (130, 2), &["4", "4000000000", "~"]),
        shape(&less, (140, 2)),
        insert(&less, (140, 4), &["5", "50"]),
        shape(&again, (150, 2)),
        insert(&again, (150, 4), &["6", "60", "six"]),
        update(&again, (160, 2), &["1", "11", "one"]),
        delete(&again, (170, 2), &["5", "?", "?"]),
    ];
    let expected = vec![
        "1|11|one",
        "2|21|\\N",
        "3|30|\\N",
        "4|4000000000|\\N",
        "6|60|six",
    ];
    (changes, expected)
}

/// What the dropped column holds, under the name that it has now.
const KEPT: &str = "SELECT id, a_until_96_2, a_until_96_2_is_null FROM t FINAL \
    WHERE _deleted = 0 ORDER BY id";

fn kept() -> Vec<&'static str> {
    vec![
        "1|[]|true",
        "2|[2]|false",
        "3|[3]|false",
        "4|[]|true",
        "6|[]|true",
    ]
}

pub(crate) async fn columns_come_widen_and_go_in_the_middle_of_a_batch(database: Database) {
    let (changes, expected) = history();
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    deliver(&sink, fence, &changes).await;
    assert_eq!(database.view("t").await, expected);
    let noted = sink.tables(&pipeline()).await.unwrap();
    assert_eq!(*noted[0].table, *shapes()[4]);
    let through = CopyState::Done {
        point: 100,
        through: 100,
    };
    assert_eq!(noted[0].copy, through);
    database.drop().await;
}

pub(crate) async fn a_replay_across_changes_of_shape_converges(database: Database) {
    let (changes, expected) = history();
    for size in [1, 3, changes.len()] {
        let sink = database.sink().await;
        let fence = claim(&sink).await;
        let mut from = 0;
        while from < changes.len() {
            let to = (from + size).min(changes.len());
            sink.deliver(&batch(fence, &changes, from, to))
                .await
                .unwrap();
            from = to;
        }
        assert_eq!(database.view("t").await, expected, "{size} at a time");
    }
    for from in 0..changes.len() {
        // An instance that begins anew, from any place.
        let sink = database.sink().await;
        let fence = claim(&sink).await;
        sink.deliver(&batch(fence, &changes, from, changes.len()))
            .await
            .unwrap();
        assert_eq!(database.view("t").await, expected, "from {from}");
    }
    assert_eq!(
        database.lines(KEPT).await,
        kept(),
        "what was dropped is kept"
    );
    database.drop().await;
}

/// A crash anywhere: after the first words of a change of shape are noted, after it is done.
pub(crate) async fn a_change_of_shape_that_broke_off_is_finished(database: Database) {
    let (changes, expected) = history();
    for (from, to) in [(0, 4), (4, 7), (7, 8), (8, 10), (10, changes.len())] {
        let sink = database.sink().await;
        let fence = claim(&sink).await;
        let part = batch(fence, &changes, from, to);
        // The rows before are written and noted; the alteration is noted, and cannot be done.
        if from > 0 {
            database.execute("RENAME TABLE t TO aside").await;
            sink.deliver(&part).await.unwrap_err();
            database.execute("RENAME TABLE aside TO t").await;
            // It is done, and the rest is not noted.
            database
                .execute("RENAME TABLE ledger_cursors TO aside")
                .await;
            sink.deliver(&part).await.unwrap_err();
            database
                .execute("RENAME TABLE aside TO ledger_cursors")
                .await;
        }
        let sink = database.sink().await;
        let fence = claim(&sink).await;
        sink.deliver(&batch(fence, &changes, from, to))
            .await
            .unwrap();
    }
    assert_eq!(database.view("t").await, expected);
    assert_eq!(database.lines(KEPT).await, kept());
    database.drop().await;
}

pub(crate) async fn a_copied_row_may_show_a_column_before_the_log_does(database: Database) {
    let [first, more, ..] = shapes();
    let sink = database.sink().await;
    let changes = [
        begun(&first, 100),
        insert(&first, (100, 0), &["1", "10"]),
        insert(&more, (100, 0), &["2", "20", "{2}"]),
        done(&more, 100, 150),
        // From before the column.
        update(&first, (110, 2), &["1", "11"]),
        shape(&more, (120, 2)),
        update(&more, (120, 4), &["1", "12", "{1}"]),
    ];
    let fence = claim(&sink).await;
    for at in 0..changes.len() {
        sink.deliver(&batch(fence, &changes, at, at + 1))
            .await
            .unwrap();
    }
    assert_eq!(
        database.view("t").await,
        ["1|12|[1]|false", "2|20|[2]|false"]
    );
    database.drop().await;
}

pub(crate) async fn what_cannot_be_followed_stops_with_what_to_do(database: Database) {
    let t = simple();
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    deliver(&sink, fence, &[insert(&t, (100, 2), &["1", "10", "one"])]).await;
    let id = || key("id", ColumnType::Int32);
    let n = || column("n", ColumnType::Int64);
    let s = || column("s", ColumnType::Text);
    for (columns, words) in [
        // A rename, or not.
        (
            vec![id(), n(), column("title", ColumnType::Text)],
            vec!["\"s\"", "\"title\"", "renames"],
        ),
        (
            vec![id(), column("n", ColumnType::Int32), s()],
            vec!["\"n\"", "cannot follow"],
        ),
        (
            vec![id(), column("n", ColumnType::Bool), s()],
            vec!["\"n\"", "cannot follow"],
        ),
        (
            vec![key("id", ColumnType::Int64), n(), s()],
            vec!["\"id\"", "cannot follow"],
        ),
        (vec![n(), s()], vec!["\"id\"", "key"]),
        (
            vec![id(), key("n", ColumnType::Int64), s()],
            vec!["\"n\"", "key"],
        ),
    ] {
        let shaped = [shape(&table(columns), (110, 2))];
        let error = try_deliver(&sink, fence, &shaped).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        assert!(!error.is_retryable());
        for word in words
            .into_iter()
            .chain(["public.t", "--resync-table public.t"])
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    assert_eq!(database.view("t").await, ["1|10|one"]);
    database.drop().await;
}

pub(crate) async fn a_rename_is_followed_where_it_is_declared(database: Database) {
    let first = table(vec![key("id", ColumnType::Int32), column("a", array())]);
    let second = table(vec![key("id", ColumnType::Int32), column("b", array())]);
    let third = table(vec![key("id", ColumnType::Int32), column("c", array())]);
    let renames = [("a", Some("b")), ("b", Some("c"))];
    let renames = renames.map(|(from, to)| (from.to_owned(), to.map(str::to_owned)));
    let options = TableOptions {
        renames: renames.into(),
        ..TableOptions::default()
    };
    let sink = database.sink_with(options).await;
    let changes = [
        insert(&first, (100, 2), &["1", "{1}"]),
        insert(&first, (100, 4), &["2", "{2}"]),
        shape(&second, (110, 2)),
        update(&second, (110, 4), &["1", "{11}"]),
        shape(&third, (120, 2)),
        insert(&third, (120, 4), &["3", "{3}"]),
    ];
    let fence = claim(&sink).await;
    for _ in 0..2 {
        deliver(&sink, fence, &changes).await;
        for at in 0..changes.len() {
            sink.deliver(&batch(fence, &changes, at, at + 1))
                .await
                .unwrap();
        }
        assert_eq!(
            database
                .lines("SELECT id, c FROM t_current ORDER BY id")
                .await,
            ["1|[11]", "2|[2]", "3|[3]"]
        );
    }
    database.drop().await;
}

pub(crate) async fn a_table_of_another_shape_is_refused_and_left_alone(database: Database) {
    let rows = [insert(&simple(), (100, 2), &["1", "10", "one"])];
    let columns = "id Int32, n Nullable(Int64), s Nullable(String), _version UInt128, \
                   _deleted UInt8";
    let engine = "ENGINE = ReplacingMergeTree(_version)";
    let settings = "SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, \
                    fsync_part_directory = 1";
    let comment = "COMMENT 'ledger table 7 of capture-1'";
    let other = columns.replace("Nullable(Int64)", "Int64");
    let fewer = columns.replace("n Nullable(Int64), ", "");
    let order = "ORDER BY id";
    for (create, difference) in [
        (
            format!("({columns}) {engine} {order} {settings}"),
            "comment",
        ),
        (
            format!("({columns}) ENGINE = MergeTree {order} {settings} {comment}"),
            "engine",
        ),
        (
            format!("({columns}) {engine} ORDER BY (id, _version) {settings} {comment}"),
            "sorting key",
        ),
        (
            format!("({other}) {engine} {order} {settings} {comment}"),
            "\"n\" is Int64",
        ),
        (
            format!("({fewer}) {engine} {order} {settings} {comment}"),
            "\"n\" is missing",
        ),
        (
            format!("({columns}, x Int8) {engine} {order} {settings} {comment}"),
            "\"x\" is unknown",
        ),
        (
            format!("({columns}) {engine} {order} {comment}"),
            "non_replicated",
        ),
        (
            format!("({columns}) {engine} PARTITION BY id {order} {settings} {comment}"),
            "partition",
        ),
    ] {
        database.execute(&format!("CREATE TABLE t {create}")).await;
        let error = refused(&database.sink().await, &rows).await;
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        assert!(
            text.contains("\"t\"") && text.contains(difference),
            "{difference}: {text}"
        );
        let tables = "SELECT name FROM system.tables WHERE database = currentDatabase() \
                      AND name NOT LIKE 'ledger%'";
        assert_eq!(
            database.lines(tables).await,
            ["t"],
            "nothing is created beside it"
        );
        database.execute("DROP TABLE t").await;
    }
    database
        .execute("CREATE VIEW t_current AS SELECT 1 AS one")
        .await;
    let error = refused(&database.sink().await, &rows).await;
    assert!(error.to_string().contains("t_current"), "{error}");
    database.execute("DROP VIEW t_current").await;
    // What a delivery that failed has made is its own.
    let create = format!("CREATE TABLE t ({columns}) {engine} {order} {settings} {comment}");
    database.execute(&create).await;
    let sink = database.sink().await;
    run(&sink, &rows).await;
    assert_eq!(database.view("t").await, ["1|10|one"]);
    // A table that is gone is not begun again without its rows.
    database.execute("DROP TABLE t").await;
    let error = refused(&database.sink().await, &rows).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("resync"), "{error}");
    sink.forget(&pipeline(), &TableName::new("public", "t"))
        .await
        .unwrap();
    run(&sink, &rows).await;
    assert_eq!(database.view("t").await, ["1|10|one"]);
    let absent = sink
        .forget(&pipeline(), &TableName::new("public", "x"))
        .await;
    assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
    database.drop().await;
}

pub(crate) async fn tables_have_targets_of_their_own(database: Database) {
    let named = |id, schema: &str, name: &str| {
        let mut table = Table::clone(&simple());
        (table.id, table.name) = (id, TableName::new(schema, name));
        Arc::new(table)
    };
    let odd = named(1, "public", "it's `odd`");
    let sales = named(2, "sales", "orders");
    let renamed = named(3, "sales", "lines");
    let mut routes = TableRoutes::default();
    let options = TableOptions {
        target: Some("order_lines".to_owned()),
        ..TableOptions::default()
    };
    routes.tables.insert(renamed.name.clone(), options);
    let sink = ClickHouseTables::open(&database.config, routes)
        .await
        .unwrap();
    let fence = claim(&sink).await;
    let rows: Vec<RowChange> = [&odd, &sales, &renamed]
        .into_iter()
        .map(|table| insert(table, (100, 2), &["1", "10", "one"]))
        .collect();
    deliver(&sink, fence, &rows).await;
    for target in ["it's `odd`", "sales_orders", "order_lines"] {
        assert_eq!(database.view(target).await, ["1|10|one"], "{target}");
    }
    // Two tables never share one, nor do two pipelines.
    for (id, schema, name) in [(4, "public", "order_lines"), (5, "public", "sales_orders")] {
        let rows = [insert(&named(id, schema, name), (110, 2), &["1", "1", "1"])];
        let error = try_deliver(&sink, fence, &rows).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("target"), "{error}");
    }
    // Renamed at the source it stays where it is; made again it is another table.
    let moved = named(2, "sales", "orders_2024");
    deliver(
        &sink,
        fence,
        &[insert(&moved, (120, 2), &["2", "20", "two"])],
    )
    .await;
    assert_eq!(database.view("sales_orders").await.len(), 2);
    let again = [insert(
        &named(9, "sales", "lines"),
        (130, 2),
        &["1", "1", "1"],
    )];
    let error = try_deliver(&sink, fence, &again).await.unwrap_err();
    assert!(error.to_string().contains("resync"), "{error}");
    let other = ledger_core::PipelineId::new("capture-2").unwrap();
    let cursors = sink.cursors().unwrap();
    let claimed = cursors
        .claim(&other, &crate::database::source(2))
        .await
        .unwrap();
    let mut foreign = batch(claimed.fence, &rows, 1, 2);
    foreign.pipeline = other;
    let error = sink.deliver(&foreign).await.unwrap_err();
    assert!(error.to_string().contains("capture-1"), "{error}");
    assert_eq!(rows[0].version, Version::new(100, 2));
    assert!(matches!(rows[0].op, RowOp::Insert(_)));
    database.drop().await;
}
