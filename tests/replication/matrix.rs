//! `docs/matrix.md` is what a run of every pair said: `scripts/matrix.sh` runs them and writes it.

use std::fmt::Write as _;
use std::path::Path;

use super::{CASES, PAIRS};

/// The document of a run in which everything passed.
fn document() -> String {
    let mut sinks: Vec<&str> = Vec::new();
    let mut sources: Vec<&str> = Vec::new();
    for (source, sink) in PAIRS {
        if !sources.contains(source) {
            sources.push(source);
        }
        if !sinks.contains(sink) {
            sinks.push(sink);
        }
    }
    let mut text = String::from(
        "# Every store to every other\n\n\
         Made by `scripts/matrix.sh`, which runs the replication suite (`tests/replication/`) for each \
         pair on real servers and writes this page where everything passed. A cell tells how many \
         cases passed of how many there are. ClickHouse is today's engine; the oldest supported version \
         is run as either end once.\n\n| from \\ to |",
    );
    for sink in &sinks {
        let _ = write!(text, " {sink} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(sinks.len()));
    for source in sources {
        let _ = write!(text, "\n| {source} |");
        for sink in &sinks {
            let run = PAIRS.contains(&(source, sink));
            let cell = if run {
                format!("{0}/{0}", CASES.len())
            } else {
                "not run".to_owned()
            };
            let _ = write!(text, " {cell} |");
        }
    }
    text.push_str("\n\nThe cases:\n\n");
    for case in CASES {
        let (group, case) = case.split_once("::").unwrap();
        let _ = writeln!(text, "- {group}: {}", case.replace('_', " "));
    }
    text
}

/// The page tells of the pairs and cases that there are; a run writes it (`LEDGER_MATRIX` names the
/// list of the tests that passed, one a line).
#[test]
fn the_page_is_what_the_run_said() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/matrix.md");
    let expected = document();
    if let Ok(passed) = std::env::var("LEDGER_MATRIX") {
        let passed = std::fs::read_to_string(passed).unwrap();
        let passed: Vec<&str> = passed.lines().collect();
        let mut missing = Vec::new();
        for (source, sink) in PAIRS {
            for case in CASES {
                let (_, case) = case.split_once("::").unwrap();
                let test = format!("replication::{source}::{sink}::{case}");
                if !passed.contains(&test.as_str()) {
                    missing.push(test);
                }
            }
        }
        assert!(missing.is_empty(), "these did not pass: {missing:#?}");
        std::fs::write(&page, &expected).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert_eq!(
        written, expected,
        "docs/matrix.md is of another run; scripts/matrix.sh writes it"
    );
}
