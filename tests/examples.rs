//! The examples, run as a reader runs them. `cargo test` builds them before; with `--test main`
//! alone, those of an earlier build are run.

use std::path::PathBuf;
use std::process::Command;

use ledger_harness::shared::{clickhouse_url, postgres_url};

/// An example's program, beside the tests'.
fn example(name: &str) -> Command {
    let mut folder: PathBuf = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    assert!(folder.pop() && folder.pop());
    let path = folder.join("examples").join(name);
    assert!(path.exists(), "{} is not built", path.display());
    let mut command = Command::new(path);
    command.env_remove("LEDGER_TEST_POSTGRES");
    command.env_remove("LEDGER_TEST_CLICKHOUSE");
    command
}

/// Runs to a good end, and returns what was printed.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:#?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_second_version_of_a_program_reads_what_the_first_wrote() {
    let out = done(&mut example("typed_streams"));
    assert!(
        out.contains("#1 of schema 1") && out.contains("#2 of schema 2"),
        "{out}"
    );
}

#[test]
fn a_row_and_its_entry_are_committed_together() {
    let out = done(&mut example("transaction"));
    assert!(
        out.contains("SQLite") && out.contains("1 row, 1 entry"),
        "{out}"
    );
    let url = postgres_url();
    let out = done(example("transaction").args(["--postgres", &url]));
    assert!(
        out.contains("PostgreSQL") && out.contains("1 row, 1 entry"),
        "{out}"
    );
}

#[test]
fn a_consumer_goes_on_behind_what_it_has_handled() {
    let out = done(&mut example("consume_changes"));
    assert!(out.contains("no gap, nothing twice"), "{out}");
}

#[test]
fn a_third_partys_store_is_a_source_like_any_other() {
    let out = done(&mut example("third_party_store"));
    assert!(
        out.contains("999 entries in 7 streams compared, 0 differences"),
        "{out}"
    );
}

#[test]
fn a_receiver_takes_what_is_signed_and_each_id_once() {
    let out = done(&mut example("webhook_receiver"));
    assert!(out.contains("{\"item\":\"book\"}"), "{out}");
    assert!(out.contains("handled before"), "{out}");
    assert!(out.ends_with("a stranger was answered 401\n"), "{out}");
}

#[test]
fn a_hook_without_a_daemon_goes_on_where_it_was() {
    let out = done(&mut example("webhook_sink"));
    for item in ["book", "pen", "ink"] {
        let payload = format!("{{\"item\":\"{item}\"}}");
        assert_eq!(out.matches(&payload).count(), 1, "{item}: {out}");
    }
}

#[test]
fn the_flights_arrive_in_clickhouse() {
    // Kept between runs, so that the data set is downloaded once.
    let folder = std::env::temp_dir().join("ledger-flights");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/flights.sh");
    let csv = done(Command::new(script).arg(folder));
    let store = format!("flights_{}", std::process::id());
    let out = done(
        example("flights")
            .args(["--csv", csv.trim(), "--store", &store])
            .args(["--postgres", &postgres_url()])
            .args(["--clickhouse", &clickhouse_url()]),
    );
    assert!(out.contains("336776 entries appended"), "{out}");
    assert!(out.contains("shows exactly the flights"), "{out}");
}

#[test]
fn a_server_that_is_not_given_is_asked_for_by_name() {
    let output = example("flights").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("--postgres URL") && said.contains("LEDGER_TEST_POSTGRES"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
