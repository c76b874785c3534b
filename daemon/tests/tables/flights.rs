//! Real data: the 336,776 flights that left New York City in 2013, with the airlines, airports, planes
//! and weather that they refer to, their types and their NULLs.

use std::time::{Duration, Instant};

use ledger_harness::{ClickHouse, Postgres};

use super::{ledger, ledger_of, start};

/// The weather has no key: its rows are appended.
const CREATE: &str = "
    CREATE TABLE airlines (carrier char(2) PRIMARY KEY, name text NOT NULL);
    CREATE TABLE airports (faa varchar(3) PRIMARY KEY, name text NOT NULL, lat double precision NOT NULL,
        lon double precision NOT NULL, alt integer, tz numeric(3, 1), dst \"char\", tzone text);
    CREATE TABLE planes (tailnum text PRIMARY KEY, year smallint, type text, manufacturer text,
        model text, engines smallint, seats integer, speed real, engine text);
    CREATE TABLE weather (origin varchar(3) NOT NULL, year smallint, month smallint, day smallint,
        hour smallint, temp numeric(5, 2), dewp numeric(5, 2), humid numeric(5, 2), wind_dir smallint,
        wind_speed double precision, wind_gust double precision, precip numeric, pressure numeric(6, 1),
        visib real, time_hour timestamptz NOT NULL);
    CREATE TABLE flights (year smallint, month smallint, day smallint, dep_time smallint,
        sched_dep_time smallint, dep_delay integer, arr_time smallint, sched_arr_time smallint,
        arr_delay integer, carrier char(2), flight integer, tailnum text, origin varchar(3),
        dest varchar(3), air_time interval, distance numeric(7, 1), hour smallint, minute smallint,
        time_hour timestamptz, PRIMARY KEY (time_hour, carrier, flight));";

/// What is counted and added up, as `PostgreSQL` and as `ClickHouse` say it; `=` where both do alike.
const SUMS: [(&str, &[(&str, &str)]); 5] = [
    (
        "airlines",
        &[
            ("sum(length(name))", "sum(lengthUTF8(name))"),
            ("min(carrier)", "="),
        ],
    ),
    (
        "airports",
        &[
            (
                "sum(floor(lat * 1000)::bigint)",
                "sum(toInt64(floor(lat * 1000)))",
            ),
            (
                "sum(floor(lon * 1000)::bigint)",
                "sum(toInt64(floor(lon * 1000)))",
            ),
            ("sum(alt)", "="),
            ("sum(tz * 10)::bigint", "toInt64(sum(tz * 10))"),
            ("count(tzone)", "="),
            ("count(DISTINCT dst)", "="),
        ],
    ),
    (
        "planes",
        &[
            ("count(year)", "="),
            ("sum(year)", "="),
            ("sum(seats)", "="),
            ("count(speed)", "="),
            ("sum(speed)::bigint", "toInt64(sum(speed))"),
            ("count(DISTINCT model)", "="),
        ],
    ),
    (
        "weather",
        &[
            ("sum(temp * 100)::bigint", "toInt64(sum(temp * 100))"),
            ("count(wind_gust)", "="),
            ("count(wind_dir)", "="),
            (
                "sum(floor(wind_speed * 1000)::bigint)",
                "sum(toInt64(floor(wind_speed * 1000)))",
            ),
            (
                "sum(precip * 100)::bigint",
                "toInt64(sum(toDecimal64(precip, 4) * 100))",
            ),
            ("count(pressure)", "="),
            (
                "extract(epoch FROM max(time_hour))::bigint",
                "if(count() = 0, 0, toUnixTimestamp(max(time_hour)))",
            ),
        ],
    ),
    (
        "flights",
        &[
            ("count(dep_time)", "="),
            ("sum(dep_delay)", "="),
            ("count(arr_delay)", "="),
            ("sum(arr_delay)", "="),
            ("count(tailnum)", "="),
            ("count(DISTINCT tailnum)", "="),
            ("sum(distance)::bigint", "toInt64(sum(distance))"),
            ("count(air_time)", "="),
            (
                "sum(extract(epoch FROM time_hour))::bigint",
                "sum(toUnixTimestamp(time_hour))",
            ),
            ("sum(flight)", "="),
        ],
    ),
];

/// Compares both ends, table by table.
async fn assert_equal(postgres: &Postgres, clickhouse: &ClickHouse) {
    for (table, sums) in SUMS {
        let mut at_source = "count(*)".to_owned();
        let mut at_sink = "count()".to_owned();
        for (source, sink) in sums {
            // The sum of nothing is NULL at the source.
            at_source.push_str(&format!(", coalesce({source}::text, '0')"));
            let sink = if *sink == "=" { source } else { sink };
            at_sink.push_str(&format!(", ifNull(toString({sink}), '0')"));
        }
        let at_source = format!("SELECT {at_source} FROM {table}");
        let at_source = postgres.psql(&at_source).await.replace('|', "\t");
        let at_sink = format!("SELECT {at_sink} FROM {table}_current");
        let at_sink = clickhouse.query(&at_sink).await.trim().to_owned();
        println!("{table}: {}", at_source.replace('\t', " "));
        assert_eq!(at_source, at_sink, "{table}");
    }
}

async fn load(postgres: &Postgres) {
    let folder = std::env::var("LEDGER_FLIGHTS").expect("scripts/servers.sh names it");
    postgres.psql(CREATE).await;
    for (table, _) in &SUMS[..4] {
        postgres
            .psql(&format!(
                "\\copy {table} FROM '{folder}/{table}.csv' WITH (FORMAT csv, HEADER, NULL 'NA')"
            ))
            .await;
    }
    // Minutes in the file, an interval in the table.
    postgres
        .psql("ALTER TABLE flights ALTER air_time TYPE smallint USING 0")
        .await;
    postgres
        .psql(&format!(
            "\\copy flights FROM '{folder}/flights.csv' WITH (FORMAT csv, HEADER, NULL 'NA')"
        ))
        .await;
    postgres
        .psql(
            "ALTER TABLE flights ALTER air_time TYPE interval USING make_interval(mins => air_time); \
             ANALYZE",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_related_tables_arrive_whole_and_stay_so() {
    let postgres = Postgres::start().await;
    let clickhouse = ClickHouse::start().await;
    load(&postgres).await;
    let (from, to) = (postgres.url(), clickhouse.url());
    let begun = Instant::now();
    let once = ledger(&from, &to, &["run", "--once"]).output().unwrap();
    assert!(once.status.success(), "{once:?}");
    println!("copied in {:?}", begun.elapsed());
    assert_equal(&postgres, &clickhouse).await;

    let mut bridge = start(&from, &to);
    for change in [
        "UPDATE flights SET dep_delay = dep_delay + 1, tailnum = NULL WHERE month = 7 AND carrier = 'UA'",
        "DELETE FROM flights WHERE dep_time IS NULL",
        "UPDATE flights SET flight = flight + 10000 WHERE month = 1 AND day = 1",
        "ALTER TABLE planes ADD COLUMN first_flown date; \
         UPDATE planes SET first_flown = make_date(year, 1, 1) WHERE year IS NOT NULL",
        "INSERT INTO airlines VALUES ('ZZ', 'Zwölf Züge'); DELETE FROM airlines WHERE carrier = 'OO'",
        "TRUNCATE weather",
        // The last change of all.
        "INSERT INTO airports (faa, name, lat, lon) VALUES ('!!!', 'The end', -0.5, 'NaN')",
    ] {
        postgres.psql(change).await;
    }
    let begun = Instant::now();
    let last = "SELECT count() FROM airports_current WHERE faa = '!!!'";
    while clickhouse.query(last).await.trim() != "1" {
        assert!(bridge.try_wait().unwrap().is_none(), "the bridge has ended");
        assert!(begun.elapsed() < Duration::from_mins(3), "not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("changes followed in {:?}", begun.elapsed());
    postgres
        .psql("DELETE FROM airports WHERE faa = '!!!'")
        .await;
    while clickhouse.query(last).await.trim() != "0" {
        assert!(begun.elapsed() < Duration::from_mins(3), "not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_equal(&postgres, &clickhouse).await;
    let added = "SELECT count(first_flown), min(first_flown), max(first_flown) FROM planes";
    assert_eq!(
        postgres.psql(added).await.replace('|', "\t"),
        clickhouse.query(&format!("{added}_current")).await.trim()
    );
    // All but the flights, which take a minute.
    let verified = ledger_of(
        &from,
        &to,
        "public.*,!public.flights",
        &["verify", "-o", "table"],
    )
    .output()
    .unwrap();
    let told = String::from_utf8_lossy(&verified.stdout);
    assert!(
        verified.status.success() && told.starts_with("equal: "),
        "{verified:?}"
    );
    println!("{}", told.trim());
    // While it runs it cannot be removed; afterwards nothing of it is left at the source.
    let remove = || ledger(&from, &to, &["remove", "--yes"]).output().unwrap();
    let refused = remove();
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("is running"),
        "{refused:?}"
    );
    bridge.kill().await.unwrap();
    let begun = Instant::now();
    // Its lease runs out.
    while !remove().status.success() {
        assert!(begun.elapsed() < Duration::from_mins(2), "not in time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots), \
                (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM ledger_consumers)";
    assert_eq!(postgres.psql(left).await, "0|0|0");
    // What was carried stays.
    let kept = clickhouse
        .query("SELECT count() FROM flights_current")
        .await;
    assert_eq!(kept.trim(), "328521");
}
