//! A real write load, carried while everything is killed.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_harness::{ClickHouse, Postgres};

use super::{ledger, start};

const BRIDGE_KILLS: u64 = 20;

fn pgbench(url: &str, arguments: &[&str]) -> Command {
    let folder = std::env::var("LEDGER_PG_BIN").expect("scripts/servers.sh names it");
    let mut command = Command::new(format!("{folder}/pgbench"));
    command
        .args(arguments)
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The invariant of the load: after every committed transaction these are equal.
const SUMS: [(&str, &str); 4] = [
    ("pgbench_accounts", "abalance"),
    ("pgbench_tellers", "tbalance"),
    ("pgbench_branches", "bbalance"),
    ("pgbench_history", "delta"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_balances_agree_after_everything_was_killed() {
    let mut postgres = Postgres::start().await;
    let mut clickhouse = ClickHouse::start().await;
    let (from, to) = (postgres.url(), clickhouse.url());
    let initialised = pgbench(&from, &["-i", "-q", "-s", "2"]).status().unwrap();
    assert!(initialised.success());

    // Clients end when their server is killed; new ones come.
    let over = Arc::new(AtomicBool::new(false));
    let (load, stop) = (from.clone(), Arc::clone(&over));
    let load = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let arguments = ["-n", "-c", "8", "-j", "2", "-T", "5", "-R", "400"];
            let ended = pgbench(&load, &arguments).status().unwrap();
            if !ended.success() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    });
    for kill in 0..BRIDGE_KILLS {
        let mut bridge = start(&from, &to);
        tokio::time::sleep(Duration::from_millis(400 + 137 * (kill * 7 % 11))).await;
        match kill % 7 {
            2 => {
                postgres.kill().await;
                postgres.restart().await;
            }
            5 => {
                clickhouse.kill().await;
                clickhouse.restart().await;
            }
            _ => {}
        }
        bridge.kill().await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || load.join())
        .await
        .unwrap()
        .unwrap();

    let once = ledger(&from, &to, &["run", "--once"]).output().unwrap();
    assert!(
        once.status.success(),
        "{}",
        String::from_utf8_lossy(&once.stderr)
    );
    let mut sums = Vec::new();
    for (table, column) in SUMS {
        let select = format!("SELECT count(*), sum({column}) FROM {table}");
        let at_source = postgres.psql(&select).await.trim().replace('|', "\t");
        let select = format!("SELECT count(), sum({column}) FROM {table}_current");
        let at_sink = clickhouse.query(&select).await.trim().to_owned();
        assert_eq!(at_source, at_sink, "{table}");
        let (_, sum) = at_sink.split_once('\t').unwrap();
        sums.push(sum.parse::<i64>().unwrap());
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    let history = postgres.psql("SELECT count(*) FROM pgbench_history").await;
    assert!(history.trim().parse::<u64>().unwrap() > 1_000, "{history}");

    // The tables are compared row by row while the bridge runs.
    let mut bridge = start(&from, &to);
    let begun = Instant::now();
    let verified = tokio::task::spawn_blocking(move || {
        ledger(&from, &to, &["verify", "-o", "table"])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    bridge.kill().await.unwrap();
    let told = String::from_utf8_lossy(&verified.stdout);
    assert!(
        verified.status.success(),
        "{told} {}",
        String::from_utf8_lossy(&verified.stderr)
    );
    assert!(told.starts_with("equal: "), "{told}");
    println!(
        "{} transactions; {told} in {:?}",
        history.trim(),
        begun.elapsed()
    );
}
