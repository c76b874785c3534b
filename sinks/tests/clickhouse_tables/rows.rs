//! Rows: inserts, updates, deletes, keys, truncations, replays.

use ledger_core::{ColumnType, ErrorKind, RowChange, Sink as _, TableSink as _};
use ledger_layout::tables::TableOptions;

use crate::database::{
    Database, batch, begun, change, claim, column, cursor, delete, deliver, done, full, insert,
    key, moved, pipeline, refused, row, run, simple, source, table, truncate, try_deliver, update,
};

/// Everything that may happen to rows with a key.
fn history() -> (Vec<RowChange>, Vec<&'static str>) {
    let t = simple();
    let changes = vec![
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "10", "one"]),
        insert(&t, (100, 0), &["2", "20", "two"]),
        insert(&t, (100, 0), &["3", "~", "~"]),
        done(&t, 100, 110),
        update(&t, (120, 2), &["1", "11", "?"]),
        insert(&t, (120, 4), &["4", "40", "four"]),
        delete(&t, (130, 2), &["2", "?", "?"]),
        insert(&t, (140, 2), &["2", "22", "again"]),
        moved(&t, (150, 3), &["3", "?", "?"], &["5", "50", "?"]),
        moved(&t, (150, 5), &["1", "?", "?"], &["3", "13", "?"]),
        update(&t, (160, 2), &["3", "14", "?"]),
        delete(&t, (170, 2), &["4", "?", "?"]),
    ];
    (changes, vec!["2|22|again", "3|14|one", "5|50|\\N"])
}

pub(crate) async fn rows_are_inserted_updated_moved_and_deleted(database: Database) {
    let (changes, expected) = history();
    let sink = database.sink().await;
    run(&sink, &changes).await;
    assert_eq!(database.view("t").await, expected);
    let noted = sink.tables(&pipeline()).await.unwrap();
    assert_eq!(noted.len(), 1);
    assert_eq!(*noted[0].table, *simple());
    let cursors = sink.cursors().unwrap();
    assert_eq!(
        cursors.stored(&pipeline()).await.unwrap(),
        Some(cursor(changes.len()))
    );
    database.execute("OPTIMIZE TABLE t FINAL").await;
    assert_eq!(database.view("t").await, expected);
    database.drop().await;
}

pub(crate) async fn replays_with_other_borders_converge(database: Database) {
    let (changes, expected) = history();
    let sink = database.sink().await;
    let mut fence = claim(&sink).await;
    for size in [1, 4] {
        let mut from = 0;
        while from < changes.len() {
            let to = (from + size).min(changes.len());
            sink.deliver(&batch(fence, &changes, from, to))
                .await
                .unwrap();
            from = to;
        }
        assert_eq!(database.view("t").await, expected);
    }
    // From any place, as after a crash before the cursor was stored.
    for from in 0..changes.len() {
        let sink = database.sink().await;
        fence = claim(&sink).await;
        for to in [from + 1, changes.len()] {
            sink.deliver(&batch(fence, &changes, from, to))
                .await
                .unwrap();
        }
        assert_eq!(database.view("t").await, expected, "from {from}");
    }
    database.drop().await;
}

pub(crate) async fn a_truncation_hides_what_came_before_also_on_replay(database: Database) {
    let t = simple();
    let changes = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "10", "one"]),
        done(&t, 100, 100),
        insert(&t, (110, 2), &["2", "20", "two"]),
        truncate(&t, (120, 2)),
        insert(&t, (120, 4), &["2", "21", "new"]),
        insert(&t, (130, 2), &["3", "30", "three"]),
    ];
    let expected = vec!["2|21|new", "3|30|three"];
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    deliver(&sink, fence, &changes).await;
    assert_eq!(database.view("t").await, expected);
    // What stood before the truncation comes again, by an instance that begins anew.
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    sink.deliver(&batch(fence, &changes, 0, 4)).await.unwrap();
    assert_eq!(database.view("t").await, expected);
    sink.deliver(&batch(fence, &changes, 4, 7)).await.unwrap();
    assert_eq!(database.view("t").await, expected);
    // An update of a row that the truncation took away has nothing to go by.
    let lost = [update(&t, (140, 2), &["1", "11", "?"])];
    let error = try_deliver(&sink, fence, &lost).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    database.drop().await;
}

pub(crate) async fn a_later_copy_hides_what_it_does_not_find(database: Database) {
    let t = simple();
    let sink = database.sink().await;
    let first = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "10", "one"]),
        insert(&t, (100, 0), &["2", "20", "two"]),
        done(&t, 100, 100),
    ];
    run(&sink, &first).await;
    let second = [
        begun(&t, 200),
        insert(&t, (200, 0), &["2", "21", "two"]),
        insert(&t, (210, 2), &["3", "30", "three"]),
    ];
    run(&sink, &second).await;
    assert_eq!(
        database.view("t").await,
        vec!["1|10|one", "2|21|two", "3|30|three"]
    );
    run(&sink, &[done(&t, 200, 210)]).await;
    assert_eq!(database.view("t").await, vec!["2|21|two", "3|30|three"]);
    database.drop().await;
}

pub(crate) async fn a_value_that_is_not_told_is_never_made_up(database: Database) {
    let t = simple();
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    deliver(&sink, fence, &[begun(&t, 100), done(&t, 100, 150)]).await;
    let lost = [update(&t, (200, 2), &["9", "1", "?"])];
    let error = try_deliver(&sink, fence, &lost).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let text = error.to_string();
    for word in [
        "public.t",
        "\"s\"",
        "id=9",
        "REPLICA IDENTITY FULL",
        "resync",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // Before the copy's end its row is on its way out: the copy would have it otherwise.
    let passing = [
        update(&t, (140, 2), &["9", "1", "?"]),
        delete(&t, (142, 2), &["9", "?", "?"]),
    ];
    deliver(&sink, fence, &passing).await;
    assert!(database.view("t").await.is_empty());
    // But not a row that went from key to key, which the copy may have missed under each.
    let missed = [moved(&t, (141, 3), &["9", "?", "?"], &["8", "2", "?"])];
    let error = try_deliver(&sink, fence, &missed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(
        error
            .to_string()
            .contains("while the table was being copied"),
        "{error}"
    );
    // Where the source tells the row before, nothing has to be looked up.
    let whole = full(&t);
    let told = [moved(
        &whole,
        (210, 2),
        &["9", "0", "long"],
        &["9", "1", "?"],
    )];
    deliver(&sink, fence, &told).await;
    assert_eq!(database.view("t").await, vec!["9|1|long"]);
    database.drop().await;
}

pub(crate) async fn a_row_that_moved_before_the_copy_saw_it_is_taken_from_there(
    database: Database,
) {
    let t = simple();
    let sink = database.sink().await;
    // The copy has read the row under its new key.
    let changes = [
        begun(&t, 100),
        insert(&t, (100, 0), &["2", "20", "long"]),
        done(&t, 100, 150),
        update(&t, (110, 2), &["1", "11", "?"]),
        moved(&t, (120, 3), &["1", "?", "?"], &["2", "12", "?"]),
    ];
    let fence = claim(&sink).await;
    for at in 0..changes.len() {
        sink.deliver(&batch(fence, &changes, at, at + 1))
            .await
            .unwrap();
    }
    assert_eq!(database.view("t").await, vec!["2|12|long"]);
    database.drop().await;
}

pub(crate) async fn what_a_row_lacks_is_waited_for_while_it_is_copied(database: Database) {
    let t = simple();
    let changes = [
        begun(&t, 100),
        // Long before the copy comes to it.
        update(&t, (110, 2), &["1", "11", "?"]),
        update(&t, (111, 2), &["1", "12", "?"]),
        moved(&t, (112, 3), &["2", "?", "?"], &["3", "30", "?"]),
        update(&t, (113, 2), &["4", "41", "?"]),
        delete(&t, (114, 2), &["4", "?", "?"]),
        insert(&t, (100, 0), &["1", "10", "one"]),
        // Read after it got its new key.
        insert(&t, (100, 0), &["3", "30", "three"]),
        update(&t, (115, 2), &["3", "31", "?"]),
        done(&t, 100, 120),
        update(&t, (120, 2), &["1", "13", "?"]),
    ];
    for size in [1, 3, changes.len()] {
        let sink = database.sink().await;
        let fence = claim(&sink).await;
        for from in (0..changes.len()).step_by(size) {
            let to = (from + size).min(changes.len());
            sink.deliver(&batch(fence, &changes, from, to))
                .await
                .unwrap();
        }
        assert_eq!(database.view("t").await, ["1|13|one", "3|31|three"]);
        sink.resync(&pipeline()).await.unwrap();
    }
    database.drop().await;
}

pub(crate) async fn long_values_go_along_in_every_form(database: Database) {
    let t = table(vec![
        key("id", ColumnType::Text),
        key("part", ColumnType::Uuid),
        column("big", ColumnType::Bytes),
        column("list", ColumnType::Array(Box::new(ColumnType::Text))),
        column("n", ColumnType::Int32),
    ]);
    let part = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let big = format!("\\x{}", "00ff27".repeat(30_000));
    let list = "{a,NULL,\"b c\"}";
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let rows: Vec<String> = (0..40).map(|at| format!("k'{at}\\")).collect();
    let inserts: Vec<RowChange> = rows
        .iter()
        .map(|id| insert(&t, (100, 0), &[id, part, &big, list, "0"]))
        .collect();
    deliver(&sink, fence, &inserts).await;
    // Each a few times, from the destination first and from the batch then.
    let updates: Vec<RowChange> = rows
        .iter()
        .chain(&rows)
        .zip(1..)
        .map(|(id, at)| update(&t, (200, 2 * at), &[id, part, "?", "?", &at.to_string()]))
        .collect();
    deliver(&sink, fence, &updates).await;
    let moves: Vec<RowChange> = rows
        .iter()
        .zip(1..)
        .map(|(id, at)| {
            let new = format!("{id}!");
            moved(
                &t,
                (300, 2 * at + 1),
                &[id, part, "?", "?", "?"],
                &[&new, part, "?", "?", "7"],
            )
        })
        .collect();
    deliver(&sink, fence, &moves).await;
    let sums = "SELECT count(), uniqExact(big), min(length(big)), min(list = ['a', NULL, 'b c']), \
                max(list_is_null), min(n), max(n), min(endsWith(id, '!')) FROM t_current";
    assert_eq!(database.lines(sums).await, vec!["40|1|90000|1|false|7|7|1"]);
    database.drop().await;
}

pub(crate) async fn a_written_batch_that_failed_is_written_again(database: Database) {
    let (changes, expected) = history();
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    sink.deliver(&batch(fence, &changes, 0, 7)).await.unwrap();
    // The rows are written, then the cursor cannot be.
    database
        .execute("RENAME TABLE ledger_cursors TO aside")
        .await;
    let rest = batch(fence, &changes, 7, changes.len());
    sink.deliver(&rest).await.unwrap_err();
    database
        .execute("RENAME TABLE aside TO ledger_cursors")
        .await;
    let cursors = sink.cursors().unwrap();
    assert_eq!(cursors.stored(&pipeline()).await.unwrap(), Some(cursor(7)));
    // The notes cannot be written, though the rows are.
    database
        .execute("RENAME TABLE ledger_tables TO aside")
        .await;
    sink.deliver(&rest).await.unwrap_err();
    database
        .execute("RENAME TABLE aside TO ledger_tables")
        .await;
    sink.deliver(&rest).await.unwrap();
    assert_eq!(database.view("t").await, expected);
    database.drop().await;
}

pub(crate) async fn of_two_instances_the_earlier_is_fenced(database: Database) {
    let (changes, expected) = history();
    let (one, other) = (database.sink().await, database.sink().await);
    let first = claim(&one).await;
    one.deliver(&batch(first, &changes, 0, 8)).await.unwrap();
    let second = claim(&other).await;
    let late = one.deliver(&batch(first, &changes, 8, changes.len())).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    other
        .deliver(&batch(second, &changes, 8, changes.len()))
        .await
        .unwrap();
    let late = one.deliver(&batch(first, &[], 0, 0)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(database.view("t").await, expected);
    // Another source's tables come in by another pipeline only.
    let cursors = other.cursors().unwrap();
    let error = cursors.claim(&pipeline(), &source(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    other.resync(&pipeline()).await.unwrap();
    cursors.claim(&pipeline(), &source(2)).await.unwrap();
    assert!(other.tables(&pipeline()).await.unwrap().is_empty());
    let tables = "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name";
    assert_eq!(
        database.lines(tables).await,
        vec![
            "ledger_cursors",
            "ledger_deferred",
            "ledger_stores",
            "ledger_tables"
        ]
    );
    database.drop().await;
}

pub(crate) async fn rows_without_a_key_are_told_apart(database: Database) {
    let t = table(vec![
        column("a", ColumnType::Int32),
        column("b", ColumnType::Text),
    ]);
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let abandoned = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "x"]),
        insert(&t, (100, 0), &["1", "x"]),
    ];
    deliver(&sink, fence, &abandoned).await;
    assert_eq!(database.view("t").await.len(), 2);
    let changes = [
        begun(&t, 200),
        insert(&t, (200, 0), &["1", "x"]),
        insert(&t, (200, 0), &["1", "x"]),
        insert(&t, (200, 0), &["2", "~"]),
        done(&t, 200, 210),
        insert(&t, (210, 2), &["1", "x"]),
        insert(&t, (210, 4), &["1", "x"]),
    ];
    for _ in 0..2 {
        deliver(&sink, fence, &changes).await;
        let expected = vec!["1|x", "1|x", "1|x", "1|x", "2|\\N"];
        assert_eq!(database.view("t").await, expected);
    }
    // Copied rows are told apart by their cursors.
    let mut same = batch(fence, &changes, 1, 3);
    same.items[1].0 = same.items[0].0.clone();
    let error = sink.deliver(&same).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let removal = [delete(&full(&t), (220, 2), &["1", "x"])];
    let error = try_deliver(&sink, fence, &removal).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains("keyless_changes"), "{error}");
    deliver(
        &sink,
        fence,
        &[truncate(&t, (230, 2)), insert(&t, (230, 4), &["9", "y"])],
    )
    .await;
    assert_eq!(database.view("t").await, vec!["9|y"]);
    database.drop().await;
}

pub(crate) async fn of_equal_rows_without_a_key_one_is_removed(database: Database) {
    let t = full(&table(vec![
        column("a", ColumnType::Int32),
        column("b", ColumnType::Array(Box::new(ColumnType::Float64))),
    ]));
    let sink = database
        .sink_with(TableOptions {
            keyless_changes: true,
            ..TableOptions::default()
        })
        .await;
    let changes = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "{1.5,NaN}"]),
        insert(&t, (100, 0), &["1", "{1.5,NaN}"]),
        insert(&t, (100, 0), &["1", "{}"]),
        insert(&t, (100, 0), &["1", "~"]),
        done(&t, 100, 100),
        delete(&t, (110, 2), &["1", "{1.5,NaN}"]),
        moved(&t, (120, 2), &["1", "~"], &["2", "~"]),
        moved(&t, (130, 2), &["2", "~"], &["3", "?"]),
    ];
    let expected = vec!["1|[]|false", "1|[1.5,nan]|false", "3|[]|true"];
    let fence = claim(&sink).await;
    for _ in 0..2 {
        for at in 0..changes.len() {
            sink.deliver(&batch(fence, &changes, at, at + 1))
                .await
                .unwrap();
        }
        assert_eq!(database.view("t").await, expected);
    }
    database.drop().await;
}

pub(crate) async fn removed_rows_stay_to_be_seen_where_asked(database: Database) {
    let t = simple();
    let sink = database
        .sink_with(TableOptions {
            soft_delete: true,
            ..TableOptions::default()
        })
        .await;
    let changes = [
        insert(&t, (100, 2), &["1", "10", "one"]),
        insert(&t, (100, 4), &["2", "20", "two"]),
        delete(&t, (110, 2), &["1", "?", "?"]),
        delete(&t, (110, 4), &["9", "?", "?"]),
    ];
    let fence = claim(&sink).await;
    for at in 0..changes.len() {
        sink.deliver(&batch(fence, &changes, at, at + 1))
            .await
            .unwrap();
    }
    let expected = vec!["1|10|one|1", "2|20|two|0", "9|\\N|\\N|1"];
    assert_eq!(database.view("t").await, expected);
    deliver(&sink, fence, &changes).await;
    assert_eq!(database.view("t").await, expected);
    database.drop().await;
}

pub(crate) async fn rows_move_where_the_order_has_more_than_the_key(database: Database) {
    let mut columns = simple().columns.clone();
    columns[1].nullable = false;
    let plain = table(columns);
    let options = TableOptions {
        order_by: vec!["n".to_owned(), "id".to_owned()],
        ..TableOptions::default()
    };
    let sink = database.sink_with(options).await;
    let error = refused(&sink, &[insert(&plain, (100, 2), &["1", "1", "x"])]).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().contains("REPLICA IDENTITY FULL"),
        "{error}"
    );
    let t = full(&plain);
    let changes = [
        insert(&t, (100, 2), &["1", "10", "one"]),
        moved(&t, (110, 2), &["1", "10", "one"], &["1", "11", "?"]),
        moved(&t, (110, 5), &["1", "11", "one"], &["2", "11", "?"]),
        insert(&t, (120, 2), &["3", "30", "three"]),
        delete(&t, (130, 2), &["3", "30", "three"]),
    ];
    let fence = claim(&sink).await;
    for _ in 0..2 {
        deliver(&sink, fence, &changes).await;
        assert_eq!(database.view("t").await, vec!["2|11|one"]);
    }
    for order_by in [vec!["n"], vec!["id", "nowhere"], vec!["id", "s"]] {
        let options = TableOptions {
            order_by: order_by.into_iter().map(str::to_owned).collect(),
            ..TableOptions::default()
        };
        let sink = database.sink_with(options).await;
        let error = refused(&sink, &changes).await;
        assert!(error.to_string().contains("order_by"), "{error}");
    }
    database.drop().await;
}

pub(crate) async fn a_value_that_does_not_fit_is_named(database: Database) {
    let t = table(vec![
        key("id", ColumnType::Int32),
        column("d", ColumnType::Date),
        column(
            "x",
            ColumnType::Decimal {
                precision: 5,
                scale: 2,
            },
        ),
        column("a", ColumnType::Array(Box::new(ColumnType::Int32))),
        column("at", ColumnType::TimestampTz),
    ]);
    let sink = database.sink().await;
    let fence = claim(&sink).await;
    let good = ["1", "2020-01-01", "1.50", "{1}", "2020-01-01 00:00:00+00"];
    for (place, value) in [
        (1, "infinity"),
        (1, "1899-12-31"),
        (1, "0044-03-15 BC"),
        (2, "NaN"),
        (3, "{{1}}"),
        (3, "[0:1]={1,2}"),
        (4, "-infinity"),
        (4, "2300-01-01 00:00:00+00"),
    ] {
        let mut values = good;
        values[place] = value;
        let changes = [
            insert(&t, (100, 2), &["2", "~", "~", "~", "~"]),
            change(&t, (100, 4), ledger_core::RowOp::Insert(row(&values))),
        ];
        let error = try_deliver(&sink, fence, &changes).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{text}");
        let column = format!("{:?}", t.columns[place].name);
        assert!(
            text.contains("public.t") && text.contains(&column) && text.contains("id=1"),
            "{text}"
        );
    }
    deliver(&sink, fence, &[insert(&t, (100, 2), &good)]).await;
    assert_eq!(
        database.view("t").await.len(),
        1,
        "a refused batch leaves nothing"
    );
    database.drop().await;
}
