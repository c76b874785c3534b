//! Running the program, and databases for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{ExpectedVersion, NewEntry, Store as _, StoreName, StoreOptions, StreamName};
use tempfile::TempDir;

/// What stands in every password of the tests, and must be printed by none.
pub(crate) const SECRET: &str = "hunter2";

/// A folder with a source that holds entries.
pub(crate) struct Databases {
    folder: TempDir,
}

impl Databases {
    pub(crate) async fn new() -> Self {
        let databases = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        databases.fill("orders").await;
        databases
    }

    /// Makes a store in the source's file, with 30 entries in 3 streams.
    pub(crate) async fn fill(&self, store: &str) {
        let store = open(&self.path("source.db"), store).await;
        for number in 0..30 {
            append(&store, number).await;
        }
        store.close().await;
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// The URL of a file in the folder.
    pub(crate) fn url(&self, file: &str) -> String {
        format!("sqlite:{}", self.path(file).display())
    }

    /// The source, opened.
    pub(crate) async fn source(&self) -> SqliteStore {
        open(&self.path("source.db"), "orders").await
    }

    /// Runs statements of the test's own in a file.
    pub(crate) async fn sql(&self, file: &str, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.path(file))
            .create_if_missing(true);
        let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
    }

    /// `bridge VERB` from the source to a file.
    pub(crate) fn bridge(&self, verb: &str, to: &str) -> Command {
        let mut command = program(&["bridge", verb, "--store", "orders"]);
        command.args(["--from", &self.url("source.db"), "--to", &self.url(to)]);
        // As on a terminal.
        command.args(["-o", "table"]);
        command
    }
}

async fn open(path: &Path, name: &str) -> SqliteStore {
    let name = StoreName::new(name).unwrap();
    SqliteStore::open(SqliteConfig::file(path), name, StoreOptions::default())
        .await
        .unwrap()
}

pub(crate) async fn append(store: &SqliteStore, number: u32) {
    let stream = StreamName::new(format!("user-{}", number % 3)).unwrap();
    let entry = NewEntry::new(number.to_string());
    store
        .append(&stream, vec![entry], ExpectedVersion::Any)
        .await
        .unwrap();
}

/// The program with these arguments, and nothing of the environment that it would take arguments
/// from.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ledger"));
    command
        .args(arguments)
        .env_remove("LEDGER_FROM")
        .env_remove("LEDGER_TO")
        .env_remove("LEDGER_API_KEY")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    command
}

/// What a run printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs to the end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    command.output().unwrap().into()
}

/// Runs to the end, which must be good.
pub(crate) fn done(command: &mut Command) -> Ran {
    let ran = ran(command);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    ran
}

/// Runs to a failure, and returns its one line.
pub(crate) fn refused(command: &mut Command) -> String {
    let ran = ran(command);
    assert!(matches!(ran.code, Some(1..=6)), "{ran:#?}");
    assert_eq!(ran.out, "", "{ran:#?}");
    for text in ["panicked", "backtrace", SECRET] {
        assert!(!ran.err.contains(text), "{text} in {ran:#?}");
    }
    // Beside it only log lines, in JSON since this is no terminal.
    let (errors, other): (Vec<_>, Vec<_>) = ran
        .err
        .lines()
        .partition(|line| line.starts_with("Error: "));
    assert_eq!(errors.len(), 1, "{ran:#?}");
    for line in other {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_ne!(line["level"], "ERROR", "an error said twice: {line}");
    }
    errors.concat()
}
