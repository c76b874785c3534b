//! Values of every type, compared as the two databases write them.

use super::ends::{Ends, Engine};
use super::on_both_engines;

on_both_engines!(
    values_of_every_type_arrive_as_they_are,
    a_value_that_cannot_be_held_names_table_column_and_key,
);

const EVERY: &str = "CREATE EXTENSION IF NOT EXISTS hstore;
    CREATE TYPE mood AS ENUM ('sad', 'very happy');
    CREATE DOMAIN cents AS numeric(10,2);
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE every (id int PRIMARY KEY,
      b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8,
      n numeric(38,10), wide numeric(76,0), beyond numeric(100,2), free numeric, cut numeric(5,-2),
      t text, vc varchar(20), ch char(6), by bytea, u uuid,
      d date, ts timestamp, tz timestamptz, ti time, tt timetz, iv interval,
      j json, jb jsonb, ai int[], at text[], an numeric(10,2)[], e mood, dom cents,
      r int4range, c pair, ip inet, m money, h hstore, bits bit(4), x xml);";

async fn values_of_every_type_arrive_as_they_are(engine: Engine) {
    let ends = Ends::open(engine, "public.*", EVERY).await;
    // Copied.
    ends.sql(
        "INSERT INTO every (id) VALUES (1);
         INSERT INTO every VALUES (2, true, -32768, 2147483647, -9223372036854775808, 4294967295,
           'NaN', '-Infinity', 1234567890123456789012345678.0123456789, repeat('9', 76)::numeric,
           repeat('8', 98)::numeric + 0.25, 1e-30, 12345,
           E'quote '' tab \\t newline \\n back \\\\ nul-free', 'é€😀', 'ab', '\\x00ff5c', \
           'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
           '1969-12-31', '2026-02-28 23:59:59.999999', '2026-02-28 23:59:59.000001+13', '23:59:59.5',
           '12:00:00+02', '1 year 2 mons -3 days 04:05:06.000007',
           '{\"a\": 1.10, \"a\": [2 ,3]}', '{\"b\": {\"c\": null}}', '{1,NULL,-3}',
           '{\"a,b\",\"\",NULL,\"null\",\"q\\\"\\\\\"}', '{1.5,NULL}', 'very happy', 12.30,
           '[1,10)', '(1,\"x y\")', '192.168.0.1/24', '12.34', 'a=>1, b=>NULL, \"c d\"=>\"\"', \
           '1010', '<a/>');",
    )
    .await;
    ends.once().await.unwrap();
    // Told by the log.
    ends.sql(
        "INSERT INTO every SELECT 3, false, 32767, -2147483648, 9223372036854775807, 0, \
           '1e-45', '1.7976931348623157e308', -0.0000000001, -1, -0.01, 'NaN', -149, '', '', '', '', \
           '00000000-0000-0000-0000-000000000000', '2100-01-01', '1970-01-01', \
           '1969-12-31 23:59:59.999999+00', '00:00', '00:00-12', '-1 us', '[]', '[]', '{}', '{}', \
           '{}', 'sad', -0.01, 'empty', '(,)', '::1', '-0.01', '', '0000', '<b>t</b>';
         INSERT INTO every SELECT 4, b, i2, i4, i8, o, 'Infinity', -0.0, n, wide, beyond, free, cut, \
           t, vc, ch, by, u, d, ts, tz, '24:00', tt, iv, j, jb, ai, at, an, e, dom, r, c, ip, m, h, \
           bits, x FROM every WHERE id = 2;
         UPDATE every SET b = NOT b, t = NULL WHERE id = 2;",
    )
    .await;
    ends.assert_equal().await;
    let shown = "SELECT concat(toString(n), ' ', toString(wide), ' ', beyond, ' ', toString(d), ' ', \
                 toString(ts), ' ', toString(tz), ' ', lower(hex(by)), ' ', ch) \
                 FROM every_current WHERE id = 2";
    let nines = "9".repeat(76);
    let eights = format!("{}.25", "8".repeat(98));
    let expected = format!(
        "1234567890123456789012345678.0123456789 {nines} {eights} 1969-12-31 \
         2026-02-28 23:59:59.999999 2026-02-28 10:59:59.000001 00ff5c ab    "
    );
    assert_eq!(ends.sink(shown).await, [expected]);
    let nulls =
        "SELECT toUInt64(isNull(t) + isNull(n) + isNull(d)) FROM every_current WHERE id = 1";
    assert_eq!(ends.number(nulls).await, 3);
    ends.close().await;
}

async fn a_value_that_cannot_be_held_names_table_column_and_key(engine: Engine) {
    let mut ends = Ends::open(
        engine,
        "public.*",
        "CREATE TABLE t (id int PRIMARY KEY, d date, v text);
         INSERT INTO t VALUES (1, '2026-01-01', 'good');",
    )
    .await;
    ends.once().await.unwrap();
    ends.sql("INSERT INTO t VALUES (2, 'infinity', 'bad'), (3, '2026-01-02', 'good')")
        .await;
    let error = ends.once().await.unwrap_err();
    assert_eq!(
        error.kind(),
        ledger::ErrorKind::Rejected,
        "{}",
        error.chain()
    );
    for part in ["public.t", "d", "id=2"] {
        assert!(error.chain().contains(part), "{}", error.chain());
    }
    // Set aside, with what comes behind it for the same key; the others go on.
    ends.on_failure = ledger::bridge::OnFailure::Park;
    ends.sql("UPDATE t SET v = 'still bad' WHERE id = 2").await;
    let summary = ends.once().await.unwrap();
    assert_eq!(summary.dead_letters, 2);
    assert_eq!(ends.number("SELECT count() FROM t_current").await, 2);
    ends.close().await;
}
