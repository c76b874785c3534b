//! Rows, shapes and values.

use ledger_core::{ColumnType, CopyState, ErrorKind};
use ledger_layout::tables::{ColumnOptions, Protection, TableOptions};

use crate::changes::{
    batch, begun, column, cursor, delete, done, full, insert, key, moved, pipeline, shape, simple,
    source, table, truncate, update,
};
use crate::database::{Database, claim, refused, run};

pub(crate) async fn rows_are_inserted_updated_moved_and_deleted(database: Database) {
    let t = simple();
    let changes = [
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
        moved(&t, (180, 3), &["2", "?", "?"], &["9", "90", "nine"]),
    ];
    for size in [1, 3, changes.len()] {
        let sink = database.sink().await;
        run(sink.as_ref(), &changes, size).await;
        let rows = database.rows(&["id", "n", "s"]).await;
        assert_eq!(
            rows,
            ["3|14|one", "5|50|~", "9|90|nine"],
            "{size} at a time"
        );
        let noted = sink.tables(&pipeline()).await.unwrap();
        assert_eq!(*noted[0].table, *t);
        let through = CopyState::Done {
            point: 100,
            through: 110,
        };
        assert_eq!(noted[0].copy, through);
        assert!(!sink.is_versioned());
        sink.cursors().unwrap().reset(&pipeline()).await.unwrap();
    }
}

pub(crate) async fn a_batch_is_one_transaction_with_its_cursor(database: Database) {
    let t = simple();
    let sink = database.sink().await;
    let fence = claim(sink.as_ref()).await;
    let changes = [
        insert(&t, (100, 2), &["1", "10", "one"]),
        insert(&t, (100, 4), &["2", "20", "two"]),
        update(&t, (100, 6), &["~", "1", "x"]),
    ];
    sink.deliver(&batch(fence, &changes, 0, 1)).await.unwrap();
    let error = sink
        .deliver(&batch(fence, &changes, 1, 3))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains("public.t"), "{error}");
    assert_eq!(database.rows(&["id"]).await, ["1"]);
    let cursors = sink.cursors().unwrap();
    assert_eq!(cursors.stored(&pipeline()).await.unwrap(), Some(cursor(1)));
    sink.deliver(&batch(fence, &changes, 1, 2)).await.unwrap();
    assert_eq!(database.rows(&["id"]).await, ["1", "2"]);
    assert_eq!(cursors.stored(&pipeline()).await.unwrap(), Some(cursor(2)));
}

pub(crate) async fn a_value_that_is_not_told_stays_as_it_is(database: Database) {
    let t = simple();
    let sink = database.sink().await;
    let changes = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "10", "long"]),
        // Copied under its new key.
        insert(&t, (100, 0), &["3", "30", "three"]),
        done(&t, 100, 150),
        update(&t, (110, 2), &["8", "1", "?"]),
        moved(&t, (120, 3), &["2", "?", "?"], &["3", "31", "?"]),
        update(&t, (160, 2), &["1", "11", "?"]),
        moved(&t, (170, 3), &["1", "?", "?"], &["4", "?", "?"]),
        moved(&full(&t), (180, 2), &["4", "11", "long"], &["4", "12", "?"]),
    ];
    run(sink.as_ref(), &changes, 2).await;
    assert_eq!(
        database.rows(&["id", "n", "s"]).await,
        ["3|31|three", "4|12|long"]
    );
    let lost = [moved(&t, (190, 3), &["7", "?", "?"], &["6", "1", "?"])];
    let error = refused(sink.as_ref(), &lost).await;
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(
        error.to_string().contains("REPLICA IDENTITY FULL"),
        "{error}"
    );
}

pub(crate) async fn truncations_and_copies_that_begin_empty_a_table(database: Database) {
    let t = simple();
    let sink = database.sink().await;
    let changes = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "10", "one"]),
        truncate(&t, (110, 2)),
        insert(&t, (110, 4), &["2", "20", "two"]),
        begun(&t, 200),
        insert(&t, (200, 0), &["3", "30", "three"]),
    ];
    for size in [1, changes.len()] {
        run(sink.as_ref(), &changes[..4], size).await;
        assert_eq!(database.rows(&["id"]).await, ["2"]);
        run(sink.as_ref(), &changes, size).await;
        assert_eq!(database.rows(&["id"]).await, ["3"]);
    }
}

pub(crate) async fn columns_come_widen_and_go(database: Database) {
    let id = || key("id", ColumnType::Int32);
    let first = table(vec![id(), column("n", ColumnType::Int32)]);
    let more = table(vec![
        id(),
        column("n", ColumnType::Int32),
        column("a", ColumnType::Text),
    ]);
    let wider = table(vec![
        id(),
        column("n", ColumnType::Int64),
        column("a", ColumnType::Text),
    ]);
    let less = table(vec![id(), column("n", ColumnType::Int64)]);
    let again = table(vec![
        id(),
        column("n", ColumnType::Int64),
        column("a", ColumnType::Int32),
    ]);
    let changes = [
        insert(&first, (100, 2), &["1", "10"]),
        shape(&more, (110, 2)),
        insert(&more, (110, 4), &["2", "20", "two"]),
        insert(&wider, (120, 2), &["3", "3000000000", "~"]),
        shape(&less, (130, 2)),
        insert(&less, (130, 4), &["4", "40"]),
        shape(&again, (140, 2)),
        update(&again, (140, 4), &["1", "11", "7"]),
    ];
    let sink = database.sink().await;
    run(sink.as_ref(), &changes, 3).await;
    let expected = ["1|11|7|~", "2|20|~|two", "3|3000000000|~|~", "4|40|~|~"];
    assert_eq!(
        database.rows(&["id", "n", "a", "a_until_8c_2"]).await,
        expected
    );
    for (columns, word) in [
        (
            vec![
                id(),
                column("n", ColumnType::Int64),
                column("b", ColumnType::Int32),
            ],
            "renames",
        ),
        (
            vec![
                id(),
                column("n", ColumnType::Bool),
                column("a", ColumnType::Int32),
            ],
            "\"n\"",
        ),
        (
            vec![
                column("n", ColumnType::Int64),
                column("a", ColumnType::Int32),
            ],
            "\"id\"",
        ),
    ] {
        let error = refused(sink.as_ref(), &[shape(&table(columns), (150, 2))]).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert_eq!(database.rows(&["id"]).await.len(), 4);
}

pub(crate) async fn rows_without_a_key_are_counted(database: Database) {
    let t = full(&table(vec![
        column("a", ColumnType::Int32),
        column("b", ColumnType::Text),
    ]));
    let plain = database.sink().await;
    let inserts = [
        begun(&t, 100),
        insert(&t, (100, 0), &["1", "x"]),
        insert(&t, (100, 0), &["1", "x"]),
        insert(&t, (100, 0), &["1", "~"]),
        done(&t, 100, 100),
    ];
    run(plain.as_ref(), &inserts, 2).await;
    let removal = [delete(&t, (110, 2), &["1", "x"])];
    let error = refused(plain.as_ref(), &removal).await;
    assert!(error.to_string().contains("keyless_changes"), "{error}");
    let options = TableOptions {
        keyless_changes: true,
        ..TableOptions::default()
    };
    let sink = database.sink_with(options).await;
    let changes = [
        removal[0].clone(),
        moved(&t, (120, 2), &["1", "~"], &["2", "~"]),
        moved(&t, (130, 2), &["2", "~"], &["3", "?"]),
        insert(&t, (140, 2), &["4", "y"]),
        delete(&t, (150, 2), &["4", "y"]),
    ];
    run(sink.as_ref(), &changes, 3).await;
    assert_eq!(database.rows(&["a", "b"]).await, ["1|x", "3|~"]);
}

#[allow(clippy::too_many_lines, reason = "a list")]
pub(crate) async fn every_type_keeps_its_values(database: Database) {
    let decimal = ColumnType::Decimal {
        precision: 12,
        scale: 2,
    };
    let texts = || ColumnType::Array(Box::new(ColumnType::Text));
    // The type, a value, and how the two databases show it.
    let mut cases = vec![
        (ColumnType::Bool, "boolean", "t", "true", "1"),
        (ColumnType::Int16, "smallint", "-32768", "-32768", "-32768"),
        (
            ColumnType::Int64,
            "bigint",
            "-9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775808",
        ),
        (
            ColumnType::UInt32,
            "oid",
            "4294967295",
            "4294967295",
            "4294967295",
        ),
        (ColumnType::Float32, "real", "0.1", "0.1", "0.1"),
        (ColumnType::Float64, "double precision", "NaN", "NaN", "NaN"),
        (
            ColumnType::Float64,
            "double precision",
            "Infinity",
            "Infinity",
            "Inf",
        ),
        (decimal, "numeric(12,2)", "1.50", "1.50", "1.50"),
        (ColumnType::Number, "numeric", "NaN", "NaN", "NaN"),
        (
            ColumnType::Text,
            "interval",
            "1 day 02:00:00",
            "1 day 02:00:00",
            "1 day 02:00:00",
        ),
        (
            ColumnType::Text,
            "inet",
            "10.0.0.1/24",
            "10.0.0.1/24",
            "10.0.0.1/24",
        ),
        (
            ColumnType::Text,
            "mood",
            "hap'py \"ü\"",
            "hap'py \"ü\"",
            "hap'py \"ü\"",
        ),
        (ColumnType::Bytes, "bytea", "\\x6162", "\\x6162", "ab"),
        (
            ColumnType::Uuid,
            "uuid",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        (ColumnType::Date, "date", "infinity", "infinity", "infinity"),
        (
            ColumnType::Date,
            "date",
            "0044-03-15 BC",
            "0044-03-15 BC",
            "0044-03-15 BC",
        ),
        (
            ColumnType::Timestamp,
            "timestamp without time zone",
            "2024-01-01 10:00:00.5",
            "2024-01-01 10:00:00.5",
            "2024-01-01 10:00:00.5",
        ),
        (
            ColumnType::Time,
            "time without time zone",
            "24:00:00",
            "24:00:00",
            "24:00:00",
        ),
        (
            ColumnType::Json,
            "json",
            "{\"a\":  1}",
            "{\"a\":  1}",
            "{\"a\":  1}",
        ),
        (
            ColumnType::Json,
            "jsonb",
            "{\"a\": 1}",
            "{\"a\": 1}",
            "{\"a\": 1}",
        ),
        (
            texts(),
            "text[]",
            "{{a,\"b c\"},{NULL,\"\"}}",
            "{{a,\"b c\"},{NULL,\"\"}}",
            "{{a,\"b c\"},{NULL,\"\"}}",
        ),
        (
            ColumnType::Array(Box::new(ColumnType::Int32)),
            "integer[]",
            "[0:1]={1,2}",
            "[0:1]={1,2}",
            "[0:1]={1,2}",
        ),
        (
            ColumnType::Vector,
            "vector",
            "[1,2.5]",
            "[1,2.5]",
            "[1,2.5]",
        ),
        (
            ColumnType::Pairs,
            "hstore",
            "\"a\"=>NULL",
            "\"a\"=>NULL",
            "\"a\"=>NULL",
        ),
    ];
    let mut columns = vec![key("id", ColumnType::Int32)];
    for (at, (kind, declared, ..)) in cases.iter().enumerate() {
        let mut column = column(&format!("c{at}"), kind.clone());
        (*declared).clone_into(&mut column.declared);
        columns.push(column);
    }
    columns.push(column("hashed", ColumnType::Text));
    let t = table(columns);
    let hash = ColumnOptions {
        protect: Some(Protection::Hash(b"Jefe".to_vec())),
        ..ColumnOptions::default()
    };
    let options = TableOptions {
        columns: [("hashed".to_owned(), hash)].into(),
        ..TableOptions::default()
    };
    let options_again = options.clone();
    let sink = database.sink_with(options).await;
    let mut row = vec!["1"];
    row.extend(cases.iter().map(|(_, _, value, ..)| *value));
    row.push("what do ya want for nothing?");
    let mut nulls = vec!["~"; row.len()];
    nulls[0] = "2";
    run(
        sink.as_ref(),
        &[insert(&t, (100, 2), &row), insert(&t, (100, 4), &nulls)],
        2,
    )
    .await;
    let hash = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    cases.push((ColumnType::Text, "text", "", hash, hash));
    for (at, (kind, declared, _, postgres, sqlite)) in cases.iter().enumerate() {
        let name = if *postgres == hash {
            "hashed".to_owned()
        } else {
            format!("c{at}")
        };
        let shown = if database.is_sqlite() {
            sqlite
        } else {
            postgres
        };
        let found = database.rows(&["id", &name]).await;
        assert_eq!(
            found,
            [format!("1|{shown}"), "2|~".to_owned()],
            "{kind:?} {declared}"
        );
    }
    // Read back, it is what the source wrote.
    let others = TableOptions {
        columns: options_again.columns,
        ..TableOptions::default()
    };
    let routes = ledger_layout::tables::TableRoutes {
        others,
        ..ledger_layout::tables::TableRoutes::default()
    };
    let replica = database.replica(routes).await;
    let sent = [crate::changes::row(&row), crate::changes::row(&nulls)];
    let expected = replica.expected(&pipeline(), &t, &sent).await.unwrap();
    assert_eq!(expected[0][1..cases.len()], sent[0][1..cases.len()]);
    let first = replica.rows(&pipeline(), &t, None, 1).await.unwrap();
    assert_eq!(first[0].row, expected[0]);
    let rest = replica
        .rows(&pipeline(), &t, Some(&first[0].place), 9)
        .await
        .unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].row, expected[1]);
    assert_eq!(
        replica.rows_at(&pipeline(), &t, &sent).await.unwrap(),
        [first, rest].concat()
    );
    let again = [(sent[1].clone(), ledger_core::Version::default())];
    replica
        .repair(&pipeline(), &t, &sent[..1], &again)
        .await
        .unwrap();
    assert_eq!(replica.count(&pipeline(), &t.name).await.unwrap(), 1);
    if !database.is_sqlite() {
        let sql = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute \
                   WHERE attrelid = 't'::regclass AND attnum > 1 ORDER BY attnum";
        let found = database.lines(sql).await;
        for ((_, declared, ..), found) in cases.iter().zip(&found) {
            let known = !matches!(*declared, "mood" | "vector" | "hstore");
            assert_eq!(found, if known { declared } else { "text" });
        }
    }
}

pub(crate) async fn a_table_that_is_another_ones_is_refused(database: Database) {
    database.execute("CREATE TABLE t (id integer)").await;
    let sink = database.sink().await;
    let rows = [insert(&simple(), (100, 2), &["1", "10", "one"])];
    let error = refused(sink.as_ref(), &rows).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("\"t\""), "{error}");
    database.execute("DROP TABLE t").await;
    let soft = TableOptions {
        soft_delete: true,
        ..TableOptions::default()
    };
    let error = refused(database.sink_with(soft).await.as_ref(), &rows).await;
    assert!(error.to_string().contains("soft_delete"), "{error}");
    run(sink.as_ref(), &rows, 1).await;
    assert_eq!(database.rows(&["id"]).await, ["1"]);
}

pub(crate) async fn of_two_instances_the_earlier_is_fenced(database: Database) {
    let (one, other) = (database.sink().await, database.sink().await);
    let t = simple();
    let changes = [
        insert(&t, (100, 2), &["1", "10", "one"]),
        insert(&t, (100, 4), &["2", "20", "two"]),
    ];
    let first = claim(one.as_ref()).await;
    one.deliver(&batch(first, &changes, 0, 1)).await.unwrap();
    let second = claim(other.as_ref()).await;
    assert!(second > first);
    let late = one.deliver(&batch(first, &changes, 1, 2)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    let late = one.deliver(&batch(first, &[], 0, 0)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(database.rows(&["id"]).await, ["1"]);
    other.deliver(&batch(second, &changes, 1, 2)).await.unwrap();
    assert_eq!(database.rows(&["id"]).await, ["1", "2"]);
    let cursors = other.cursors().unwrap();
    let error = cursors.claim(&pipeline(), &source(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged);
    // Never backward.
    let stored = cursors
        .advance(&pipeline(), second, &cursor(1))
        .await
        .unwrap();
    assert_eq!(stored, cursor(2));
}
