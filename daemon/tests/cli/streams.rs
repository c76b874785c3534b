//! Every verb of `ledger stream`: what it prints, and how it ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::daemon::Home;
use crate::program::SECRET;

/// A verb's arguments, its output, and how its error, if any, begins.
fn check(home: &Home, line: &[&str], code: i32, out: &str, error: &str) {
    let ran = home.ran(line);
    assert_eq!(ran.code, Some(code), "{line:?}: {ran:#?}");
    assert_eq!(ran.out, out, "{line:?}");
    if error.is_empty() {
        assert_eq!(ran.err, "", "{line:?}");
    } else {
        let said = ran.err.strip_prefix("Error: ").unwrap_or_default();
        assert!(said.contains(error), "{line:?}: {ran:#?}");
        assert_eq!(ran.err.lines().count(), 1, "{line:?}: {ran:#?}");
    }
}

#[test]
fn every_verb_prints_what_scripts_expect() {
    let home = Home::started("");
    let ok = |line: &[&str], out: &str| check(&home, &[&["stream"], line].concat(), 0, out, "");
    // What does not exist reads as empty, and is not made by that.
    ok(&["read"], "");
    ok(&["count"], "0\n");
    ok(&["list"], "");
    ok(&["stat"], "Stream:  default\nCount:   0\n");
    ok(&["search", "x"], "");
    ok(&["trim", "--before", "1"], "trimmed 0 entries\n");
    ok(&["read", "--after", "no-id"], "");
    assert!(
        !home.path(".ledger/ledger.db").exists(),
        "reading makes nothing"
    );

    ok(&["append", "hello"], "1\n");
    ok(
        &[
            "append",
            "--json",
            "{\"a\": 1}",
            "--tag",
            "x,y",
            "--meta",
            "k=v=w,z",
        ],
        "2\n",
    );
    ok(
        &["append", "again", "--dedup-key", "d", "--order-key", "o"],
        "3\n",
    );
    ok(&["append", "again", "--dedup-key", "d"], "");
    // The duplicate was given an id before it was seen to be one.
    ok(&["append", "a\nb\u{e9}"], "5\n");
    ok(
        &["read"],
        "1\thello\n2\t{\"a\": 1}\n3\tagain\n5\ta\nb\u{e9}\n",
    );
    ok(&["read", "--limit", "1", "--desc"], "5\ta\nb\u{e9}\n");
    ok(&["read", "--after", "2", "--limit", "1"], "3\tagain\n");
    ok(&["read", "--order-key", "o"], "3\tagain\n");
    ok(&["read", "--tag", "x,y"], "2\t{\"a\": 1}\n");
    ok(&["search", "AGA"], "3\tagain\n");
    ok(&["search", "%"], "");
    ok(&["count"], "4\n");
    ok(&["list"], "default\n");
    ok(
        &["stat"],
        "Stream:  default\nCount:   4\nFirstID: 1\nLastID:  5\n",
    );
    ok(&["tag", "--id", "1", "-t", "b", "--tag", "a"], "");
    ok(
        &[
            "annotate", "--id", "1", "--set", "k=v,w", "--set", "e", "--set", "gone=",
        ],
        "",
    );
    let line = home.out(&["stream", "read", "--json", "--limit", "1"]);
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert!(line.starts_with("{\"id\":\"1\",\"stream\":\"default\",\"payload\":\"ImhlbGxvIg==\",\"schema_version\":1,\"tags\":[\"a\",\"b\"],\"annotations\":{\"e\":\"\",\"k\":\"v,w\"},\"created_at\":{\"seconds\":"), "{line}");
    assert!(entry["updated_at"]["nanos"].is_number());
    let line = home.out(&["stream", "read", "--json", "--after", "1", "--limit", "1"]);
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["metadata"]["k"], "v=w,z");
    assert_eq!(entry["tags"][0], "x,y", "a comma splits nothing");
    ok(&["tag", "--id", "1"], "");
    ok(&["read", "--tag", "a"], "");
    ok(&["append", "b", "-S", "b", "-s", "ledger_entries"], "6\n");
    ok(&["list", "--after", "b"], "default\n");
    ok(&["list", "--limit", "1"], "b\n");
    ok(&["search", "b", "-S", "b"], "6\tb\n");
    ok(
        &["rename", "--to", "d2"],
        "stream \"default\" renamed to \"d2\"\n",
    );
    ok(
        &["trim", "-S", "d2", "--before", "2"],
        "trimmed 2 entries\n",
    );
    ok(&["count", "-S", "d2"], "2\n");
    // Version: four entries were ever appended.
    ok(&["append", "v", "-S", "d2", "--expect-version", "4"], "7\n");
    ok(
        &["append", "v", "-S", "new", "--expect-version", "none"],
        "8\n",
    );

    // Other forms, where they are asked for.
    ok(&["count", "-S", "d2", "-o", "json"], "{\"count\":3}\n");
    ok(&["list", "-o", "json"], "[\"b\",\"d2\",\"new\"]\n");
    ok(&["list", "-o", "jsonl"], "\"b\"\n\"d2\"\n\"new\"\n");
    let list: Value =
        serde_json::from_str(&home.out(&["stream", "read", "-S", "d2", "-o", "json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 3);
}

#[test]
fn wrong_input_is_one_line_with_an_exit_code_of_its_kind() {
    let home = Home::started("allowed_stores: [ledger_entries, other]");
    home.out(&["stream", "append", "x"]);
    home.out(&["stream", "append", "x", "-S", "taken"]);
    for (line, code, error) in [
        (&["append", "--json", "{"][..], 2, "not valid JSON"),
        (&["append", "x", "--meta", "kv"], 2, "expected key=value"),
        (
            &["append", "x", "--expect-version", "-"],
            2,
            "--expect-version",
        ),
        (
            &["append", "x", "--expect-version", "7"],
            3,
            "expected exactly 7",
        ),
        (&["append", "x", "-S", ""], 2, "stream"),
        (&["append", "x", "-s", "9"], 2, "must match"),
        (&["append", "x", "-s", "others"], 4, "others"),
        (&["append", "--order-key", "x"], 2, "--order-key-field"),
        (&["search"], 2, "QUERY"),
        (&["search", ""], 2, "query"),
        (&["tag"], 2, "--id is required"),
        (&["tag", "--id", "x"], 2, "id"),
        (&["tag", "--id", "99"], 5, "99"),
        (&["tag", "--id", "1", "-S", "none"], 5, "none"),
        (&["annotate", "--set", "a=b"], 2, "--id is required"),
        (&["annotate", "--id", "1"], 2, "--set is required"),
        (&["annotate", "--id", "99", "--set", "a=b"], 5, "99"),
        (&["rename"], 2, "--to is required"),
        (&["rename", "--to", "taken"], 3, "taken"),
        (&["rename", "-S", "none", "--to", "z"], 5, "none"),
        (&["trim"], 2, "--before is required"),
        (&["trim", "--before", "x"], 2, "before_id"),
        (&["read", "--after", "x"], 2, "after"),
        (&["read", "--limit", "x"], 2, "--limit"),
        (&["tail", "--interval", "5"], 2, "--interval"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        check(&home, &[&["stream"], line].concat(), code, "", error);
    }
    let gone = home.ran(&["stream", "count", "--addr", "localhost:1"]);
    assert_eq!(gone.code, Some(6));
    assert!(
        gone.err.contains("localhost:1") && gone.err.contains("ledger start"),
        "{gone:#?}"
    );
    let missing = home.ran(&["stream", "count", "-c", "/no/such.yaml"]);
    assert_eq!(missing.code, Some(2));
    assert!(
        missing.err.contains("/no/such.yaml does not exist"),
        "{missing:#?}"
    );
    let nowhere = home.ran(&["stream", "count", "--addr", "nowhere"]);
    assert_eq!(nowhere.code, Some(2));
    assert!(nowhere.err.contains("--addr"), "{nowhere:#?}");
}

#[test]
fn a_value_may_begin_with_a_hyphen_and_the_last_of_an_option_counts() {
    let home = Home::started("");
    let ok = |line: &[&str], out: &str| check(&home, &[&["stream"], line].concat(), 0, out, "");
    ok(
        &[
            "append",
            "x",
            "-S",
            "-s1",
            "--tag",
            "-a",
            "--tag",
            "--b",
            "--meta",
            "-k=-v",
            "--order-key",
            "-5",
            "--dedup-key",
            "-d",
        ],
        "1\n",
    );
    ok(&["append", "x", "-S", "-s1", "--dedup-key", "-d"], "");
    ok(&["annotate", "-S", "-s1", "--id", "1", "--set", "-n=1"], "");
    ok(
        &["read", "-S", "-s1", "--order-key", "-5", "--tag", "-a"],
        "1\tx\n",
    );
    ok(
        &["read", "-S", "-s1", "--tag", "--b", "--limit", "-1"],
        "1\tx\n",
    );
    ok(&["list", "--limit", "-1"], "-s1\n");
    ok(
        &[
            "read", "-S", "none", "-S", "-s1", "--limit", "5", "--limit", "1",
        ],
        "1\tx\n",
    );
    let all: Value =
        serde_json::from_str(&home.out(&["stream", "read", "-S", "-s1", "--json"])).unwrap();
    assert_eq!(
        all["tags"],
        serde_json::json!(["--b", "-a"]),
        "both stand there"
    );
}

#[test]
fn a_key_is_asked_for_and_never_shown() {
    let home = Home::new("");
    let mut start = home.ledger(&["start"]);
    crate::program::done(start.env("LEDGER_API_KEY", SECRET));
    let without = home.ran(&["stream", "count"]);
    assert_eq!(without.code, Some(4));
    assert!(
        without.err.contains("x-api-key") && without.err.contains("LEDGER_API_KEY"),
        "{without:#?}"
    );
    let wrong = home.ran(&["stream", "count", "--api-key", "hunter3"]);
    assert_eq!(wrong.code, Some(4));
    assert!(!wrong.err.contains("hunter"), "{wrong:#?}");
    assert_eq!(home.out(&["stream", "count", "--api-key", SECRET]), "0\n");
    let mut by_environment = home.ledger(&["stream", "count"]);
    assert_eq!(
        crate::program::done(by_environment.env("LEDGER_API_KEY", SECRET)).out,
        "0\n"
    );

    let pid = home.pid().unwrap();
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        !String::from_utf8_lossy(&arguments).contains(SECRET),
        "everybody can see arguments"
    );
    let mut help = home.ledger(&["stream", "count", "--help"]);
    let help = crate::program::done(help.env("LEDGER_API_KEY", SECRET));
    assert!(!help.out.contains(SECRET));
    assert!(!home.log().contains(SECRET));
}

/// A tail that does not outlive its test.
struct Tail(Child, std::io::Lines<BufReader<std::process::ChildStdout>>);

impl Tail {
    fn of(home: &Home, more: &[&str]) -> Self {
        let mut command = home.ledger(&[&["stream", "tail", "--interval", "20ms"], more].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    fn next(&mut self) -> String {
        self.1.next().unwrap().unwrap()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tail_begins_at_the_beginning_and_outlives_its_daemon() {
    let home = Home::started("");
    // Before there is anything to follow.
    let mut early = Tail::of(&home, &[]);
    home.out(&["stream", "append", "a"]);
    assert_eq!(early.next(), "1\ta");
    home.out(&["stream", "append", "b"]);
    let mut tail = Tail::of(&home, &["--limit", "1"]);
    let mut json = Tail::of(&home, &["--json", "--last", "1"]);
    assert_eq!(
        (tail.next(), tail.next()),
        ("1\ta".to_owned(), "2\tb".to_owned())
    );
    assert_eq!(early.next(), "2\tb");
    let entry: Value = serde_json::from_str(&json.next()).unwrap();
    assert_eq!(entry["id"], "2");
    home.out(&["stream", "append", "elsewhere", "-S", "other"]);
    home.out(&["stream", "append", "c"]);
    assert_eq!(tail.next(), "4\tc");

    home.signal("KILL");
    crate::daemon::wait("the end of the daemon", || {
        home.out(&["status"]) == "ledger daemon is not running\n"
    });
    home.out(&["start"]);
    home.out(&["stream", "append", "d"]);
    assert_eq!(tail.next(), "5\td", "nothing is skipped or doubled");
    assert_eq!(early.next(), "4\tc");
    assert_eq!(early.next(), "5\td");

    home.out(&["stop"]);
    home.out(&["start"]);
    home.out(&["stream", "append", "e"]);
    assert_eq!(tail.next(), "6\te");
}
