//! One transaction of many rows.

use std::time::{Duration, Instant};

use ledger_harness::{ClickHouse, Postgres};

use super::{ledger, start};

/// The most memory, in kB, that a process has taken so far.
fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

/// `LEDGER_TEST_TRANSACTION_ROWS` sets how many rows the transaction has.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_any_size_takes_little_memory() {
    let rows: u64 =
        std::env::var("LEDGER_TEST_TRANSACTION_ROWS").map_or(300_000, |rows| rows.parse().unwrap());
    let postgres = Postgres::start().await;
    let clickhouse = ClickHouse::start().await;
    let (from, to) = (postgres.url(), clickhouse.url());
    postgres
        .psql("CREATE TABLE big (id bigint PRIMARY KEY, n int NOT NULL, v text)")
        .await;
    let once = ledger(&from, &to, &["run", "--once"]).status().unwrap();
    assert!(once.success());
    postgres
        .psql(&format!(
            "INSERT INTO big SELECT i, i % 1000, lpad(i::text, 100, 'x') \
             FROM generate_series(1, {rows}) i"
        ))
        .await;
    let begun = Instant::now();
    let mut bridge = start(&from, &to);
    let pid = bridge.id().unwrap();
    // Within the transaction, and behind it.
    let counts = "SELECT count(), sum(id), sum(n) FROM big_current";
    let at_source = counts.replace("_current", "");
    let expected = postgres
        .psql(&at_source.replace("count()", "count(*)"))
        .await;
    let expected = expected.replace('|', "\t");
    loop {
        assert!(bridge.try_wait().unwrap().is_none(), "the bridge has ended");
        assert!(begun.elapsed() < Duration::from_mins(30), "not in time");
        if clickhouse.query(counts).await.trim() == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = begun.elapsed();
    // The next one arrives as well: the slot has got past it.
    postgres.psql("INSERT INTO big VALUES (0, 0, 'end')").await;
    while clickhouse
        .query("SELECT count() FROM big_current WHERE id = 0")
        .await
        .trim()
        != "1"
    {
        assert!(begun.elapsed() < Duration::from_mins(30), "not in time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let peak = peak_kb(pid);
    bridge.kill().await.unwrap();
    println!("{rows} rows in {took:?}, {} MB at the most", peak / 1024);
    assert!(peak < 250 * 1024, "{peak} kB");
}
