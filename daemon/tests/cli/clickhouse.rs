//! A daemon that keeps its stores in ClickHouse.

use std::collections::BTreeSet;

use ledger_harness::ClickHouse;

use crate::daemon::{Home, wait};

/// What a daemon's configuration says of a server.
fn config(server: &ClickHouse) -> String {
    format!(
        "db:\n  type: clickhouse\n  clickhouse: {{dsn: \"{}\"}}",
        server.url()
    )
}

fn server() -> ClickHouse {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(ClickHouse::start())
}

#[test]
fn a_new_user_gets_by() {
    let server = server();
    let home = Home::started(&config(&server));
    let ok = |line: &[&str], out: &str| {
        assert_eq!(home.out(&[&["stream"], line].concat()), out, "{line:?}");
    };
    ok(&["read"], "");
    ok(&["stat"], "Stream:  default\nCount:   0\n");
    ok(&["append", "hello", "--tag", "new"], "1\n");
    ok(
        &["append", "--json", "{\"a\": 1}", "--dedup-key", "d"],
        "2\n",
    );
    ok(&["append", "again", "--dedup-key", "d"], "");
    ok(&["append", "bye"], "3\n");
    ok(&["read"], "1\thello\n2\t{\"a\": 1}\n3\tbye\n");
    ok(&["read", "--desc", "--limit", "1"], "3\tbye\n");
    ok(&["search", "HELL"], "1\thello\n");
    ok(&["tag", "--id", "2", "-t", "x", "-t", "y"], "");
    ok(&["read", "--tag", "x"], "2\t{\"a\": 1}\n");
    ok(&["tag", "--id", "1"], "");
    ok(&["read", "--tag", "new"], "");
    ok(&["annotate", "--id", "2", "--set", "k=v"], "");
    let told = home.out(&["stream", "read", "--json", "--tag", "y"]);
    assert!(told.contains("\"annotations\":{\"k\":\"v\"}"), "{told}");
    ok(&["trim", "--before", "1"], "trimmed 1 entries\n");
    ok(&["count"], "2\n");
    ok(
        &["rename", "--to", "other"],
        "stream \"default\" renamed to \"other\"\n",
    );
    ok(&["list"], "other\n");
    ok(
        &["stat", "-S", "other"],
        "Stream:  other\nCount:   2\nFirstID: 2\nLastID:  3\n",
    );
    // What it holds outlives the daemon.
    home.out(&["stop"]);
    wait("the end", || {
        home.out(&["status"]) == "ledger daemon is not running\n"
    });
    home.out(&["start"]);
    ok(&["read", "-S", "other"], "2\t{\"a\": 1}\n3\tbye\n");
    ok(&["append", "-S", "other", "more"], "4\n");
}

/// Two daemons on one store: what one is told is done, is done once, also when it is killed.
#[test]
fn two_daemons_write_one_store_and_one_is_killed() {
    const EACH: usize = 30;
    let server = server();
    let homes = [
        Home::started(&config(&server)),
        Home::started(&config(&server)),
    ];
    let acknowledged: Vec<BTreeSet<String>> = std::thread::scope(|scope| {
        let writers = homes.iter().enumerate().map(|(number, home)| {
            scope.spawn(move || {
                let mut done = BTreeSet::new();
                for step in 0..EACH {
                    let text = format!("{number}-{step}");
                    if number == 0 && step == EACH / 2 {
                        home.signal("KILL");
                        wait("the end", || {
                            home.out(&["status"]) == "ledger daemon is not running\n"
                        });
                        home.out(&["start"]);
                    }
                    let ran = home.ran(&["stream", "append", &text, "--dedup-key", &text]);
                    if ran.code == Some(0) {
                        done.insert(text);
                    }
                }
                done
            })
        });
        let writers: Vec<_> = writers.collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    for home in &homes {
        let read = home.out(&["stream", "read", "--limit", "1000"]);
        let lines: Vec<(u64, &str)> = read
            .lines()
            .map(|line| {
                let (id, text) = line.split_once('\t').unwrap();
                (id.parse().unwrap(), text)
            })
            .collect();
        assert!(lines.is_sorted_by(|a, b| a.0 < b.0), "{lines:?}");
        let texts: BTreeSet<&str> = lines.iter().map(|line| line.1).collect();
        assert_eq!(texts.len(), lines.len(), "nothing is there twice");
        for text in acknowledged.iter().flatten() {
            assert!(texts.contains(text.as_str()), "{text} was acknowledged");
        }
    }
    assert_eq!(acknowledged[1].len(), EACH, "the other daemon never failed");
}
