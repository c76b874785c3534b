//! Starting, stopping, and what is said about configurations.

use std::os::unix::fs::MetadataExt as _;

use ledger_harness::Postgres;

use crate::daemon::{Home, free_ports, mode, wait};
use crate::program::{SECRET, done, program};

#[test]
fn a_first_run_needs_nothing() {
    let home = tempfile::tempdir().unwrap();
    let [port] = free_ports::<1>();
    let addr = format!("localhost:{port}");
    let ledger = |arguments: &[&str]| {
        let mut command = program(&[arguments, &["--addr", &addr]].concat());
        command.env("HOME", home.path());
        done(&mut command).out
    };
    let begun = std::time::Instant::now();
    let started = ledger(&["start"]);
    assert!(
        started.starts_with("ledger daemon started (pid "),
        "{started}"
    );
    assert_eq!(ledger(&["stream", "append", "hello"]), "1\n");
    assert_eq!(ledger(&["stream", "read"]), "1\thello\n");
    assert!(begun.elapsed().as_secs() < 5);
    let folder = home.path().join(".ledger");
    assert_eq!(mode(&folder.join("config.yaml")), 0o600);
    assert_eq!(mode(&folder), 0o700);
    assert!(folder.join("ledger.db").exists());
    let pid = std::fs::read_to_string(folder.join("ledger.pid")).unwrap();
    let pid = pid.trim();
    assert_eq!(
        ledger(&["start"]),
        format!("ledger daemon already running (pid {pid})\n")
    );
    assert_eq!(
        ledger(&["status"]),
        format!("ledger daemon is running (pid {pid}, addr {addr})\n")
    );
    let mut second = program(&["start", "--foreground", "--addr", "localhost:0"]);
    let second = crate::program::ran(second.env("HOME", home.path()));
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(second.err.contains("already running"), "{second:#?}");
    assert_eq!(
        ledger(&["stop"]),
        format!("sent SIGTERM to ledger daemon (pid {pid})\n")
    );
    assert_eq!(ledger(&["status"]), "ledger daemon is not running\n");
    assert_eq!(ledger(&["stop"]), "ledger daemon is not running\n");
    assert!(!folder.join("ledger.pid").exists());
    assert!(!folder.join("ledger.db-wal").exists(), "checkpointed");
    let log = std::fs::read_to_string(folder.join("ledger.log")).unwrap();
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert!(log.contains("\"stopped\""), "{log}");
}

#[test]
fn a_killed_daemon_leaves_nothing_in_the_way() {
    let home = Home::started("");
    home.out(&["stream", "append", "kept"]);
    let before = home.pid().unwrap();
    home.signal("KILL");
    wait("the end", || {
        home.out(&["status"]) == "ledger daemon is not running\n"
    });
    assert_eq!(
        home.pid().as_deref(),
        Some(&*before),
        "its file is left, and stale"
    );
    home.out(&["start"]);
    assert_ne!(home.pid().unwrap(), before);
    assert_eq!(home.out(&["stream", "read"]), "1\tkept\n");
}

#[test]
fn two_starts_at_once_make_one_daemon() {
    let home = Home::new("");
    let mut starts: Vec<_> = (0..4)
        .map(|_| {
            let mut start = home.ledger(&["start"]);
            start.stdout(std::process::Stdio::piped());
            start.spawn().unwrap()
        })
        .collect();
    let mut started = 0;
    for start in starts.drain(..) {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success());
        let out = String::from_utf8(output.stdout).unwrap();
        started += usize::from(out.starts_with("ledger daemon started"));
        assert!(
            out.contains(&format!("(pid {})", home.pid().unwrap())),
            "{out}"
        );
    }
    assert_eq!(started, 1);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let taken = std::net::TcpListener::bind("localhost:0").unwrap();
    let address = taken.local_addr().unwrap();
    let home = Home::new("");
    let ran = home.ran(&["start", "--addr", &address.to_string()]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(
        ran.err.contains("listen") && ran.err.contains("in use"),
        "{ran:#?}"
    );
    assert_eq!(home.out(&["status"]), "ledger daemon is not running\n");
    for (lines, words) in [
        ("tls: {cert: /no.pem, key: /no.key}", "tls.cert"),
        ("frob: 1", "line 3: frob"),
        ("db: {type: mongodb}", "db.mongodb.uri"),
        ("db: {type: clickhouse}", "db.clickhouse.dsn"),
        ("api_key: \"${LEDGER_TEST_UNSET}\"", "LEDGER_TEST_UNSET"),
    ] {
        home.configure(lines);
        let ran = home.ran(&["start"]);
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        assert!(ran.err.contains(words), "{words}: {ran:#?}");
        assert_eq!(home.out(&["status"]), "ledger daemon is not running\n");
    }
}

#[tokio::test]
async fn a_database_of_the_go_implementation_is_left_untouched() {
    let home = Home::new("allowed_stores: [orders]");
    let path = home.path(".ledger/ledger.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let sql = "CREATE TABLE orders (id integer); CREATE TABLE orders_cursors (x integer);
               CREATE TABLE ledger_stream_metadata (store_name text, name text, stream_id text)";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let (before, time) = (
        std::fs::read(&path).unwrap(),
        std::fs::metadata(&path).unwrap().mtime(),
    );
    let ran = home.ran(&["start"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.err.contains("ledger import go"), "{ran:#?}");
    let tables = |bytes: &[u8]| {
        bytes
            .windows(13)
            .filter(|at| at == b"ledger_stores")
            .count()
    };
    assert_eq!(tables(&std::fs::read(&path).unwrap()), tables(&before));
    assert!(std::fs::metadata(&path).unwrap().mtime() >= time);
}

#[test]
fn the_configuration_is_checked_and_shown_without_secrets() {
    let home = Home::new(&format!(
        "api_key: {SECRET}\nhooks:\n  - {{name: audit, store: orders, url: \"https://h/{SECRET}\", secret: {SECRET}}}\n\
         bridges:\n  - {{name: b, store: orders, to: \"clickhouse://u:{SECRET}@h:8123/d\"}}"
    ));
    let check = done(&mut home.ledger(&["config", "check"]));
    assert!(check.out.ends_with("config.yaml is good\n"), "{check:#?}");
    assert!(!check.err.contains(SECRET), "{check:#?}");
    let shown = home.out(&["config", "show"]);
    assert!(!shown.contains(SECRET) && shown.contains("***"), "{shown}");
    let home = Home::new("listem: x\nstart_timeout: 5\ntls: {cert: a}");
    let check = home.ran(&["config", "check"]);
    assert_eq!(check.code, Some(1), "{check:#?}");
    for words in ["line 3: listem", "line 4: start_timeout", "line 5: tls.key"] {
        assert!(check.err.contains(words), "{words}: {check:#?}");
    }
}

#[tokio::test]
async fn a_database_that_is_down_is_waited_for() {
    let mut server = Postgres::start().await;
    let url = server.url();
    server.kill().await;
    let home = Home::new(&format!(
        "start_timeout: 1s\nallowed_stores: [orders]\ndb: {{type: postgres, postgres: {{dsn: \"{url}\"}}}}"
    ));
    let ran = home.ran(&["start"]);
    assert_eq!(ran.code, Some(6), "{ran:#?}");
    assert!(
        ran.err.contains("is not ready after 1s") && ran.err.contains("store orders"),
        "{ran:#?}"
    );
    assert!(
        home.out(&["status"]).contains("is running"),
        "it keeps trying"
    );
    assert_eq!(home.http("/livez").0, 200);
    let (status, body) = home.http("/readyz");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("orders"), "{body}");
    let call = home.ran(&["stream", "append", "x", "-s", "orders"]);
    assert_eq!(call.code, Some(6), "{call:#?}");

    server.restart().await;
    wait("readiness", || home.http("/readyz").0 == 200);
    assert_eq!(home.out(&["stream", "append", "x", "-s", "orders"]), "1\n");
    // One that goes away later is seen too, and comes back by itself.
    server.kill().await;
    wait("unreadiness", || home.http("/readyz").0 == 503);
    let call = home.ran(&["stream", "append", "x", "-s", "orders"]);
    assert_eq!(call.code, Some(6), "{call:#?}");
    server.restart().await;
    wait("readiness", || home.http("/readyz").0 == 200);
    assert_eq!(home.out(&["stream", "count", "-s", "orders"]), "1\n");
    home.out(&["stop"]);
}

#[test]
fn a_database_that_is_down_shows_before_the_first_call() {
    let home = Home::new(
        "start_timeout: 1s\ndb: {type: postgres, postgres: {dsn: \"host=127.0.0.1 port=1 user=u password=hunter2 dbname=d\"}}",
    );
    let ran = home.ran(&["start"]);
    assert_eq!(ran.code, Some(6), "{ran:#?}");
    assert!(ran.err.contains("127.0.0.1:1"), "{ran:#?}");
    assert_eq!(home.http("/readyz").0, 503);
    assert!(!ran.err.contains(SECRET) && !home.log().contains(SECRET));
    home.out(&["stop"]);
    assert_eq!(home.out(&["status"]), "ledger daemon is not running\n");
}

#[test]
fn a_folder_that_is_missing_is_no_empty_store() {
    let home = Home::new("");
    let disk = home.path("disk");
    std::fs::create_dir(&disk).unwrap();
    home.configure(&format!(
        "start_timeout: 1s\ndb: {{type: sqlite, sqlite: {{path: \"{}\"}}}}",
        disk.join("ledger.db").display()
    ));
    std::fs::remove_dir(&disk).unwrap();
    let ran = home.ran(&["start"]);
    assert_eq!(ran.code, Some(6), "{ran:#?}");
    assert!(ran.err.contains("does not exist"), "{ran:#?}");
    let count = home.ran(&["stream", "count", "-s", "orders"]);
    assert_eq!(count.code, Some(6), "{count:#?}");
    // As where a disk is mounted.
    std::fs::create_dir(&disk).unwrap();
    wait("readiness", || home.http("/readyz").0 == 200);
    assert_eq!(home.out(&["stream", "append", "x", "-s", "orders"]), "1\n");
    home.out(&["stop"]);
}

#[test]
fn completions_and_pages_are_made_and_top_needs_a_terminal() {
    let home = Home::new("");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            home.out(&["completions", shell]).contains("dead-letters"),
            "{shell}"
        );
    }
    let title = format!(".TH ledger 1  \"ledger {}", env!("CARGO_PKG_VERSION"));
    let page = home.out(&["man"]);
    assert!(page.contains(&title), "{page}");
    let dir = home.path("man").display().to_string();
    home.out(&["man", "--dir", &dir]);
    let page = std::fs::read_to_string(home.path("man/ledger-stream-append.1")).unwrap();
    assert!(page.contains("\\-\\-dedup\\-key"), "{page}");
    let top = home.ran(&["top"]);
    assert_eq!(top.code, Some(2), "{top:#?}");
    assert!(top.err.contains("needs a terminal"), "{top:#?}");
}

#[test]
fn the_doctor_says_what_is_bad() {
    let home = Home::started("");
    let good = home.out(&["doctor", "-o", "table"]);
    assert!(
        good.contains("answers: ok") && !good.contains("bad"),
        "{good}"
    );
    let sick =
        Home::new("db: {type: postgres, postgres: {dsn: \"postgres://u:hunter2@127.0.0.1:1/d\"}}");
    let ran = sick.ran(&["doctor"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let bad: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|finding: &serde_json::Value| finding["verdict"] == "bad")
        .collect();
    assert_eq!(bad.len(), 1, "{ran:#?}");
    assert!(
        bad[0]["text"].as_str().unwrap().contains("127.0.0.1:1"),
        "{bad:?}"
    );
    assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET));
}
