//! The private instances do what they promise.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "also in what the tests call"
)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ledger_harness::{ClickHouse, Mongo, Postgres, shared};

#[tokio::test]
async fn postgres_keeps_what_was_committed_over_a_kill_in_mid_load() {
    let mut postgres = Postgres::start_with(&["wal_sender_timeout = 2s"]).await;
    let url = postgres.url();
    assert_eq!(postgres.psql("SHOW wal_level").await, "logical");
    assert_eq!(postgres.psql("SHOW wal_sender_timeout").await, "2s");
    assert_eq!(postgres.psql("SHOW fsync").await, "on");
    postgres.psql("CREATE TABLE t AS SELECT 1 AS a").await;
    postgres
        .psql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        .await;
    for round in 1..=3 {
        let busy = postgres.psql("SELECT pg_sleep(60)");
        let busy = tokio::time::timeout(Duration::from_millis(200), busy);
        assert!(busy.await.is_err());
        postgres.psql("INSERT INTO t VALUES (1)").await;
        postgres.kill().await;
        postgres.restart().await;
        assert_eq!(
            postgres.psql("SELECT count(*) FROM t").await,
            (round + 1).to_string()
        );
    }
    assert_eq!(postgres.url(), url);
    assert_eq!(
        postgres
            .psql("SELECT slot_name FROM pg_replication_slots")
            .await,
        "s"
    );
    postgres.stop().await;
    postgres.restart().await;
    assert_eq!(postgres.psql("SELECT count(*) FROM t").await, "4");
}

#[tokio::test]
async fn every_postgres_has_an_identity_of_its_own() {
    let (one, other) = tokio::join!(Postgres::start(), Postgres::start());
    let sql = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(one.psql(sql).await, other.psql(sql).await);
    assert_ne!(one.port(), other.port());
}

#[tokio::test]
async fn clickhouse_keeps_what_was_inserted_over_a_kill() {
    for mut clickhouse in [ClickHouse::start().await, ClickHouse::start_old().await] {
        clickhouse
            .query("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
            .await;
        clickhouse.query("INSERT INTO t VALUES (1), (2)").await;
        clickhouse.kill().await;
        clickhouse.restart().await;
        assert_eq!(clickhouse.query("SELECT sum(a) FROM t").await, "3\n");
        clickhouse.stop().await;
        clickhouse.restart().await;
        assert_eq!(clickhouse.query("SELECT count() FROM t").await, "2\n");
    }
}

#[tokio::test]
async fn mongodb_keeps_what_was_written_over_a_kill() {
    let mut mongo = Mongo::start().await;
    let port = mongo.port();
    let insert = "{'insert': 't', 'documents': [{'a': 1}], 'writeConcern': {'j': True}}";
    assert!(ask_mongo(port, insert).contains("'n': 1"));
    mongo.kill().await;
    mongo.restart().await;
    assert!(ask_mongo(port, "{'count': 't'}").contains("'n': 1"));
    let before = Instant::now();
    mongo.stop().await;
    assert!(before.elapsed() < Duration::from_secs(10));
    mongo.restart().await;
    assert!(ask_mongo(port, insert).contains("'n': 1"));
    assert!(ask_mongo(port, "{'count': 't'}").contains("'n': 2"));
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_behind() {
    let mut postgres = Postgres::start().await;
    let clickhouse = ClickHouse::start().await;
    let mongo = Mongo::start().await;
    let ports = [postgres.port(), clickhouse.port(), mongo.port()];
    let folder = postgres.data();
    postgres.kill().await;
    let segment = shared_memory_of(&folder);
    assert!(shared_memory().contains(&segment));
    let failing = std::thread::spawn(move || {
        let _held = (postgres, clickhouse, mongo);
        panic!("as a failing test would");
    });
    assert!(failing.join().is_err());
    for port in ports {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
    assert!(!folder.exists());
    assert!(!shared_memory().contains(&segment));
}

#[tokio::test]
async fn servers_end_with_a_test_process_that_is_killed() {
    if let Ok(note) = std::env::var("HARNESS_NOTE") {
        hold_servers(&note).await;
    }
    let note = tempfile::NamedTempFile::new().expect("create a file");
    let mut other = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "servers_end_with_a_test_process_that_is_killed"])
        .env("HARNESS_NOTE", note.path())
        .spawn()
        .expect("start this program again");
    let noted = wait_for(|| {
        let ended = other.try_wait().expect("look after it");
        assert!(ended.is_none(), "it could not start its servers: {ended:?}");
        let text = std::fs::read_to_string(note.path()).expect("read the note");
        (text.lines().count() == 2).then_some(text)
    });
    other.kill().expect("kill it");
    other.wait().expect("wait for it");
    let (ports, folder) = noted.split_once('\n').expect("two lines");
    for port in ports.split(' ') {
        let port: u16 = port.parse().expect("a port");
        wait_for(|| {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .is_err()
                .then_some(())
        });
    }
    wait_for(|| (!Path::new(folder).exists()).then_some(()));
}

/// The test process to be killed: the program above, started once more.
async fn hold_servers(note: &str) {
    let postgres = Postgres::start().await;
    let clickhouse = ClickHouse::start().await;
    let mongo = Mongo::start().await;
    let ports = format!(
        "{} {} {}\n",
        postgres.port(),
        clickhouse.port(),
        mongo.port()
    );
    std::fs::write(note, ports + &postgres.data().to_string_lossy()).expect("write the note");
    std::future::pending::<()>().await;
}

#[test]
fn the_shared_servers_are_named_in_the_environment() {
    assert!(shared::postgres_url().starts_with("postgres://"));
    assert!(shared::clickhouse_url().starts_with("clickhouse://"));
    assert!(shared::clickhouse_old_url().starts_with("clickhouse://"));
    assert!(shared::mongodb_url().starts_with("mongodb://"));
}

fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "the condition was not met within a minute"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The ids of all shared memory segments of the machine.
fn shared_memory() -> Vec<String> {
    let list = std::fs::read_to_string("/proc/sysvipc/shm").expect("list shared memory");
    let ids = list
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    ids.map(str::to_owned).collect()
}

/// The id that a postmaster wrote into its lock file.
fn shared_memory_of(data: &Path) -> String {
    let lock = std::fs::read_to_string(data.join("postmaster.pid")).expect("read the lock file");
    let line = lock.lines().nth(6).expect("a seventh line");
    line.split_whitespace().nth(1).expect("an id").to_owned()
}

fn ask_mongo(port: u16, command: &str) -> String {
    let script = format!(
        "import sys; sys.path.insert(0, {:?}); import mongo_replica; \
         print(mongo_replica.command({port}, {command}, 'ledger'))",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../servers")
    );
    let output = Command::new(std::env::var("LEDGER_CLICKHOUSE_PYTHON").expect("a Python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-c", &script])
        .output()
        .expect("run Python");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
