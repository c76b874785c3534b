//! Every type, value by value, through the database and back.

use std::sync::Arc;

use ledger_core::{ColumnType, RowChange, Table, TableReplica as _, Value};
use ledger_layout::tables::{ColumnOptions, Protection, TableOptions};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::database::{Database, column, insert, key, pipeline, run, table};

fn decimal(precision: u16, scale: i16) -> ColumnType {
    ColumnType::Decimal { precision, scale }
}

fn array(of: ColumnType) -> ColumnType {
    ColumnType::Array(Box::new(of))
}

/// A type of the source, its type in ClickHouse, and values as both show them.
type Edge = (ColumnType, &'static str, Vec<(String, &'static str)>);

/// Each type with the type that it has in ClickHouse, values at its edges, and as ClickHouse shows
/// them where that tells something.
#[allow(clippy::too_many_lines, reason = "a list")]
fn edges() -> Vec<Edge> {
    let same = |texts: &[&str]| texts.iter().map(|text| ((*text).to_owned(), "")).collect();
    let shown = |pairs: &[(&str, &'static str)]| {
        let pairs = pairs
            .iter()
            .map(|(text, shown)| ((*text).to_owned(), *shown));
        pairs.collect::<Vec<_>>()
    };
    let nines = "9".repeat(76);
    let mut wide = shown(&[("0", "0"), ("-1", "-1")]);
    wide.extend([(nines.clone(), ""), (format!("-{nines}"), "")]);
    vec![
        (
            ColumnType::Bool,
            "Nullable(Bool)",
            shown(&[("t", "true"), ("f", "false")]),
        ),
        (
            ColumnType::Int16,
            "Nullable(Int16)",
            shown(&[("-32768", "-32768"), ("32767", "32767"), ("0", "0")]),
        ),
        (
            ColumnType::Int32,
            "Nullable(Int32)",
            shown(&[("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
        ),
        (
            ColumnType::Int64,
            "Nullable(Int64)",
            shown(&[
                ("-9223372036854775808", "-9223372036854775808"),
                ("9223372036854775807", "9223372036854775807"),
            ]),
        ),
        (
            ColumnType::UInt32,
            "Nullable(UInt32)",
            shown(&[("0", "0"), ("4294967295", "4294967295")]),
        ),
        (
            ColumnType::Float32,
            "Nullable(Float32)",
            shown(&[
                ("1.5", "1.5"),
                ("NaN", "nan"),
                ("Infinity", "inf"),
                ("-Infinity", "-inf"),
                ("3.4028235e+38", "3.4028235e38"),
                ("1e-45", "1e-45"),
                ("-0", "-0"),
                ("123456", "123456"),
                ("1.234567e+06", ""),
            ]),
        ),
        (
            ColumnType::Float64,
            "Nullable(Float64)",
            shown(&[
                ("0.1", "0.1"),
                ("NaN", "nan"),
                ("Infinity", "inf"),
                ("-Infinity", "-inf"),
                ("1.7976931348623157e+308", "1.7976931348623157e308"),
                ("5e-324", "5e-324"),
                ("-0", "-0"),
                ("123456789012345.6", ""),
                ("1e+15", ""),
                ("1e-05", ""),
            ]),
        ),
        (
            decimal(9, 2),
            "Nullable(Decimal(9, 2))",
            shown(&[
                ("-9999999.99", "-9999999.99"),
                ("0.01", "0.01"),
                ("1.50", "1.5"),
            ]),
        ),
        (
            decimal(18, 18),
            "Nullable(Decimal(18, 18))",
            shown(&[("0.000000000000000001", ""), ("-0.999999999999999999", "")]),
        ),
        (
            decimal(38, 10),
            "Nullable(Decimal(38, 10))",
            shown(&[
                ("-9999999999999999999999999999.9999999999", ""),
                ("0.0000000000", "0"),
            ]),
        ),
        (decimal(76, 0), "Nullable(Decimal(76, 0))", wide),
        (decimal(77, 2), "Nullable(String)", same(&["123.45", "NaN"])),
        (decimal(5, -2), "Nullable(String)", same(&["12300"])),
        (decimal(2, 5), "Nullable(String)", same(&["0.00012"])),
        (
            ColumnType::Number,
            "Nullable(String)",
            same(&["1.000", "NaN", "Infinity", "-1e1000"]),
        ),
        (
            ColumnType::Text,
            "Nullable(String)",
            shown(&[
                ("", ""),
                ("a", "a"),
                ("ünï 🦀 'x'", "ünï 🦀 \\'x\\'"),
                ("padded   ", "padded   "),
            ]),
        ),
        (
            ColumnType::Bytes,
            "Nullable(String)",
            shown(&[("\\x", ""), ("\\x6162", "ab"), ("\\x00ff275c0a", "")]),
        ),
        (
            ColumnType::Uuid,
            "Nullable(UUID)",
            shown(&[
                (
                    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                ),
                (
                    "00000000-0000-0000-0000-000000000000",
                    "00000000-0000-0000-0000-000000000000",
                ),
                (
                    "ffffffff-ffff-ffff-ffff-ffffffffffff",
                    "ffffffff-ffff-ffff-ffff-ffffffffffff",
                ),
            ]),
        ),
        (
            ColumnType::Date,
            "Nullable(Date32)",
            shown(&[
                ("1900-01-01", "1900-01-01"),
                ("1969-12-31", "1969-12-31"),
                ("2024-02-29", "2024-02-29"),
                ("2299-12-31", "2299-12-31"),
            ]),
        ),
        (
            ColumnType::Timestamp,
            "Nullable(DateTime64(6, 'UTC'))",
            shown(&[
                ("1900-01-01 00:00:00", "1900-01-01 00:00:00.000000"),
                ("1969-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999"),
                ("2024-03-31 02:30:00.5", "2024-03-31 02:30:00.500000"),
                ("2299-12-31 23:59:59.999999", "2299-12-31 23:59:59.999999"),
            ]),
        ),
        (
            ColumnType::TimestampTz,
            "Nullable(DateTime64(6, 'UTC'))",
            shown(&[
                ("1900-01-01 00:00:00+00", "1900-01-01 00:00:00.000000"),
                (
                    "2013-01-01 10:00:00.000001+00",
                    "2013-01-01 10:00:00.000001",
                ),
                (
                    "2299-12-31 23:59:59.999999+00",
                    "2299-12-31 23:59:59.999999",
                ),
            ]),
        ),
        (
            ColumnType::Time,
            "Nullable(String)",
            shown(&[
                ("00:00:00", "00:00:00"),
                ("24:00:00", "24:00:00"),
                ("12:34:56.789012", "12:34:56.789012"),
            ]),
        ),
        (
            ColumnType::Json,
            "Nullable(String)",
            shown(&[("null", "null"), ("{\"a\": [1, 1.0]}", "{\"a\": [1, 1.0]}")]),
        ),
        (
            array(ColumnType::Int32),
            "Array(Nullable(Int32))",
            shown(&[("{}", "[]"), ("{1,NULL,-3}", "[1,NULL,-3]")]),
        ),
        (
            array(ColumnType::Text),
            "Array(Nullable(String))",
            shown(&[
                ("{a,\"b c\",\"NULL\",NULL,\"\",\"x\\\"y\\\\z\"}", ""),
                ("{\"{\",\"}\",\",\"}", "['{','}',',']"),
            ]),
        ),
        (
            array(ColumnType::TimestampTz),
            "Array(Nullable(DateTime64(6, 'UTC')))",
            shown(&[(
                "{\"2013-01-01 10:00:00+00\"}",
                "['2013-01-01 10:00:00.000000']",
            )]),
        ),
        (
            array(decimal(40, 1)),
            "Array(Nullable(Decimal(40, 1)))",
            shown(&[("{1.5,-0.1}", "[1.5,-0.1]")]),
        ),
        (
            array(ColumnType::Bytes),
            "Array(Nullable(String))",
            shown(&[("{\"\\\\x6162\",NULL}", "['ab',NULL]")]),
        ),
        (
            array(ColumnType::Pairs),
            "Array(Nullable(String))",
            shown(&[("{\"\\\"a\\\"=>\\\"1\\\"\"}", "")]),
        ),
        (
            ColumnType::Vector,
            "Array(Float32)",
            shown(&[("[1,2.5,-3e-05]", "[1,2.5,-0.00003]"), ("[]", "[]")]),
        ),
        (
            ColumnType::Pairs,
            "Map(String, Nullable(String))",
            shown(&[
                ("", "{}"),
                ("\"a\"=>\"1\", \"b\"=>NULL, \"\"=>\"x\\\"y\"", ""),
                ("\"k\"=>\"v\"", "{'k':'v'}"),
            ]),
        ),
    ]
}

/// A table with a column of each type, and rows of which each has one value of each column.
fn everything() -> (Arc<Table>, Vec<RowChange>) {
    let edges = edges();
    let names = edges.iter().enumerate();
    let columns = names.map(|(at, (kind, ..))| column(&format!("c{at}"), kind.clone()));
    let mut all = vec![key("id", ColumnType::Int32)];
    all.extend(columns);
    let t = table(all);
    let most = edges.iter().map(|(.., values)| values.len()).max().unwrap();
    let rows = (0..=most).map(|at| {
        let mut values = vec![at.to_string()];
        for (.., edge) in &edges {
            let value = edge.get(at).map_or("~", |(text, _)| text);
            values.push(value.to_owned());
        }
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        insert(&t, (100, 2 * u64::try_from(at).unwrap()), &values)
    });
    let rows = rows.collect();
    (t, rows)
}

fn values(change: &RowChange) -> &Vec<Value> {
    match &change.op {
        ledger_core::RowOp::Insert(row) => row,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn every_type_comes_back_value_by_value(database: Database) {
    let (t, changes) = everything();
    let sink = database.sink().await;
    run(&sink, &changes).await;
    for (at, (kind, name, edge)) in edges().into_iter().enumerate() {
        let found = database
            .lines(&format!(
                "SELECT type FROM system.columns WHERE database = currentDatabase() \
                 AND table = 't' AND name = 'c{at}'"
            ))
            .await;
        assert_eq!(found, [name.replace('\'', "\\'")], "{kind:?}");
        for (place, (text, shown)) in edge.iter().enumerate().filter(|(_, (_, s))| !s.is_empty()) {
            let sql = format!("SELECT c{at} FROM t_current WHERE id = {place}");
            let found = database.lines(&sql).await.join("");
            let found = found.replace("\\'", "'");
            assert_eq!(found, shown.replace("\\'", "'"), "{kind:?} {text}");
        }
        let nulls = if matches!(
            kind,
            ColumnType::Array(_) | ColumnType::Vector | ColumnType::Pairs
        ) {
            format!("SELECT count() FROM t_current WHERE c{at}_is_null AND empty(c{at})")
        } else {
            format!("SELECT count() FROM t_current WHERE c{at} IS NULL")
        };
        let rows = changes.len() - edge.len();
        assert_eq!(database.lines(&nulls).await, [rows.to_string()], "{kind:?}");
    }
    let held = sink.rows(&pipeline(), &t, None, 1_000).await.unwrap();
    assert_eq!(held.len(), changes.len());
    for (held, change) in held.iter().zip(&changes) {
        for ((column, found), value) in t.columns.iter().zip(&held.row).zip(values(change)) {
            assert_eq!(found, value, "{:?}", column.kind);
        }
        assert_eq!(held.version, change.version);
    }
    database.drop().await;
}

/// A value of a type, as the source may write it.
fn any_value(kind: &ColumnType) -> BoxedStrategy<String> {
    match kind {
        ColumnType::Bool => prop_oneof![Just("t"), Just("f")]
            .prop_map(str::to_owned)
            .boxed(),
        ColumnType::Int16 => any::<i16>().prop_map(|n| n.to_string()).boxed(),
        ColumnType::Int32 => any::<i32>().prop_map(|n| n.to_string()).boxed(),
        ColumnType::Int64 => any::<i64>().prop_map(|n| n.to_string()).boxed(),
        ColumnType::UInt32 => any::<u32>().prop_map(|n| n.to_string()).boxed(),
        ColumnType::Float32 => any::<u32>()
            .prop_map(|bits| {
                let mut text = Vec::new();
                ledger_layout::tables::push_float32(f32::from_bits(bits), &mut text);
                String::from_utf8(text).unwrap()
            })
            .boxed(),
        ColumnType::Float64 => any::<u64>()
            .prop_map(|bits| {
                let mut text = Vec::new();
                ledger_layout::tables::push_float64(f64::from_bits(bits), &mut text);
                String::from_utf8(text).unwrap()
            })
            .boxed(),
        ColumnType::Decimal { scale, .. } => {
            let scale = usize::try_from(*scale).unwrap();
            any::<i64>()
                .prop_map(move |n| {
                    let digits = format!("{:0>1$}", n.unsigned_abs(), scale + 1);
                    let (whole, fraction) = digits.split_at(digits.len() - scale);
                    let sign = if n < 0 { "-" } else { "" };
                    let point = if scale > 0 { "." } else { "" };
                    format!("{sign}{whole}{point}{fraction}")
                })
                .boxed()
        }
        ColumnType::Bytes => any::<Vec<u8>>()
            .prop_map(|bytes| {
                let mut text = Vec::new();
                ledger_layout::tables::push_bytes(&bytes, &mut text);
                String::from_utf8(text).unwrap()
            })
            .boxed(),
        ColumnType::Uuid => any::<u128>()
            .prop_map(|n| uuid::Uuid::from_u128(n).to_string())
            .boxed(),
        ColumnType::Date => (-25_567_i64..=120_529)
            .prop_map(|days| {
                let mut text = Vec::new();
                ledger_layout::tables::push_date(days, &mut text);
                String::from_utf8(text).unwrap()
            })
            .boxed(),
        ColumnType::TimestampTz => (-2_208_988_800_000_000_i64..10_413_792_000_000_000)
            .prop_map(|micros| {
                let mut text = Vec::new();
                ledger_layout::tables::push_timestamp(micros, true, &mut text);
                String::from_utf8(text).unwrap()
            })
            .boxed(),
        ColumnType::Array(of) => {
            let values = proptest::collection::vec(proptest::option::of(any_value(of)), 0..5);
            values
                .prop_map(|values| {
                    let mut text = b"{".to_vec();
                    for (at, value) in values.iter().enumerate() {
                        if at > 0 {
                            text.push(b',');
                        }
                        let value = value.as_deref().map(str::as_bytes);
                        ledger_layout::tables::push_element(value, &mut text);
                    }
                    text.push(b'}');
                    String::from_utf8(text).unwrap()
                })
                .boxed()
        }
        ColumnType::Vector => proptest::collection::vec(any_value(&ColumnType::Float32), 0..4)
            .prop_map(|numbers| format!("[{}]", numbers.join(",")))
            .boxed(),
        ColumnType::Pairs => {
            proptest::collection::btree_map(".*", proptest::option::of(".*"), 0..4)
                .prop_map(|pairs| {
                    let mut text = Vec::new();
                    for (at, (key, value)) in pairs.iter().enumerate() {
                        let value = value.as_deref().map(str::as_bytes);
                        ledger_layout::tables::push_pair(key.as_bytes(), value, at == 0, &mut text);
                    }
                    String::from_utf8(text).unwrap()
                })
                .boxed()
        }
        _ => "[^\0]*".boxed(),
    }
}

pub(crate) async fn any_value_comes_back(database: Database) {
    let kinds = [
        ColumnType::Bool,
        ColumnType::Int16,
        ColumnType::Int32,
        ColumnType::Int64,
        ColumnType::UInt32,
        ColumnType::Float32,
        ColumnType::Float64,
        decimal(19, 0),
        decimal(19, 19),
        decimal(60, 30),
        ColumnType::Text,
        ColumnType::Bytes,
        ColumnType::Uuid,
        ColumnType::Date,
        ColumnType::TimestampTz,
        array(ColumnType::Text),
        array(ColumnType::Float64),
        array(ColumnType::TimestampTz),
        ColumnType::Vector,
        ColumnType::Pairs,
    ];
    // Also as keys, where there is no NULL.
    let mut columns = vec![key("id", ColumnType::Int32)];
    for (at, kind) in kinds.iter().enumerate() {
        columns.push(column(&format!("v{at}"), kind.clone()));
        columns.push(key(&format!("k{at}"), kind.clone()));
    }
    let t = table(columns);
    let mut runner = TestRunner::default();
    let mut changes = Vec::new();
    for at in 0..200_u64 {
        let mut row = vec![at.to_string()];
        for kind in &kinds {
            let value = proptest::option::of(any_value(kind));
            let value = value.new_tree(&mut runner).unwrap().current();
            row.push(value.filter(|text| text != "?").unwrap_or("~".to_owned()));
            let value = any_value(kind).new_tree(&mut runner).unwrap().current();
            row.push(
                Some(value)
                    .filter(|text| text != "?" && text != "~")
                    .unwrap_or_else(|| "x".to_owned()),
            );
        }
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        changes.push(insert(&t, (100, 2 * at), &row));
    }
    let sink = database.sink().await;
    run(&sink, &changes).await;
    let mut found = Vec::new();
    loop {
        let after = found
            .last()
            .map(|held: &ledger_core::HeldRow| held.place.clone());
        let rows = sink
            .rows(&pipeline(), &t, after.as_deref(), 7)
            .await
            .unwrap();
        if rows.is_empty() {
            break;
        }
        found.extend(rows);
    }
    found.sort_by_key(|held| held.version);
    assert_eq!(found.len(), changes.len());
    let sent: Vec<_> = changes
        .iter()
        .map(|change| values(change).clone())
        .collect();
    for (held, sent) in found.iter().zip(&sent) {
        assert_eq!(held.row, *sent, "a source's {} was sent", changes.len());
    }
    assert_eq!(sink.expected(&pipeline(), &t, &sent).await.unwrap(), sent);
    let keys = &sent[20..60];
    let mut some = sink.rows_at(&pipeline(), &t, keys).await.unwrap();
    some.sort_by_key(|held| held.version);
    assert_eq!(some, found[20..60]);
    // A repair removes by key and writes.
    let removed: Vec<_> = sent[..30].to_vec();
    let again: Vec<_> = (20..25)
        .map(|at| (sent[at].clone(), found[at].version))
        .collect();
    sink.repair(&pipeline(), &t, &removed, &again)
        .await
        .unwrap();
    assert_eq!(sink.count(&pipeline(), &t.name).await.unwrap(), 175);
    let mut some = sink.rows_at(&pipeline(), &t, &sent).await.unwrap();
    some.sort_by_key(|held| held.version);
    assert_eq!(some[..5], found[20..25]);
    assert_eq!(some[5..], found[30..]);
    database.drop().await;
}

pub(crate) async fn columns_go_as_text_hashed_or_masked_where_asked(database: Database) {
    let t = table(vec![
        key("id", ColumnType::Int32),
        column("born", ColumnType::Date),
        column("grid", array(ColumnType::Int32)),
        column("deep", array(ColumnType::Int32)),
        column("card", ColumnType::Text),
        column("name", ColumnType::Text),
    ]);
    let text = ColumnOptions {
        text: true,
        ..ColumnOptions::default()
    };
    let protect = |protection| ColumnOptions {
        protect: Some(protection),
        ..ColumnOptions::default()
    };
    let two = ColumnOptions {
        dimensions: Some(2),
        ..ColumnOptions::default()
    };
    let columns = [
        ("born", text.clone()),
        ("deep", text),
        ("grid", two),
        ("card", protect(Protection::Hash(b"Jefe".to_vec()))),
        ("name", protect(Protection::Mask("***".to_owned()))),
    ];
    let sink = database
        .sink_with(TableOptions {
            columns: columns.map(|(name, c)| (name.to_owned(), c)).into(),
            ..TableOptions::default()
        })
        .await;
    let secret = "what do ya want for nothing?";
    let first = [
        "1",
        "infinity",
        "{{1,2},{3,NULL}}",
        "[0:1]={1,2}",
        secret,
        "Ada",
    ];
    run(
        &sink,
        &[
            insert(&t, (100, 2), &first),
            insert(&t, (100, 4), &["2", "0044-03-15 BC", "{}", "~", "~", "~"]),
        ],
    )
    .await;
    let hash = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(
        database.view("t").await,
        [
            format!("1|infinity|[[1,2],[3,NULL]]|false|[0:1]={{1,2}}|{hash}|***"),
            "2|0044-03-15 BC|[]|false|\\N|\\N|\\N".to_owned(),
        ]
    );
    let row = crate::database::row(&first);
    let expected = sink.expected(&pipeline(), &t, &[row]).await.unwrap();
    let held = sink.rows(&pipeline(), &t, None, 1).await.unwrap();
    assert_eq!(expected[0], held[0].row);
    assert!(
        !format!("{sink:?}").contains("74, 101, 102"),
        "the key is not shown"
    );
    database.drop().await;
}
