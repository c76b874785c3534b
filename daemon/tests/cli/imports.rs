//! `ledger import go`: databases as the Go implementation makes them, copied.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use ledger::connect::DatabaseUrl;
use ledger::{
    Entry, EntryId, ExpectedVersion, NewEntry, Pairs, ReadOptions, Store, StoreName, StreamName,
};
use ledger_harness::shared::{clickhouse_url, postgres_url};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::daemon::wait;
use crate::program::{Ran, program, ran, refused};

/// The tables as today's Go version makes them, and the names of its daemon.
const SQLITE: &str = "
CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL,
  payload BLOB NOT NULL, order_key TEXT NOT NULL DEFAULT '', dedup_key TEXT NOT NULL DEFAULT '',
  schema_version INTEGER NOT NULL DEFAULT 1, metadata TEXT, tags TEXT NOT NULL DEFAULT '[]',
  annotations TEXT, source_id TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f','now')), updated_at TEXT);
CREATE INDEX idx_orders_stream_id ON orders(stream, id);
CREATE TABLE orders_cursors (name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL);
CREATE TABLE ledger_stream_metadata (store_name TEXT NOT NULL, name TEXT NOT NULL,
  stream_id TEXT NOT NULL, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (store_name, name), UNIQUE (store_name, stream_id));
";

const POSTGRES: &str = "
CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, stream TEXT NOT NULL,
  payload BYTEA NOT NULL, order_key TEXT NOT NULL DEFAULT '', dedup_key TEXT NOT NULL DEFAULT '',
  schema_version INTEGER NOT NULL DEFAULT 1, metadata JSONB, tags JSONB NOT NULL DEFAULT '[]',
  annotations JSONB, source_id TEXT NOT NULL DEFAULT '',
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ);
CREATE INDEX idx_orders_stream_id ON orders(stream, id);
CREATE TABLE orders_cursors (name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL);
CREATE TABLE ledger_stream_metadata (store_name TEXT NOT NULL, name TEXT NOT NULL,
  stream_id TEXT NOT NULL, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (store_name, name), UNIQUE (store_name, stream_id));
";

/// Two named streams in turns, one that was appended to by the library under the name of another,
/// and one that was emptied behind them. `{x}` begins and ends bytes in hexadecimal.
const CONTENT: &str = "
INSERT INTO ledger_stream_metadata (store_name, name, stream_id) VALUES
  ('orders', 'ada', '11111111-1111-4111-8111-111111111111'),
  ('orders', 'Zoë', '22222222-2222-4222-8222-222222222222'),
  ('orders', 'emptied', '33333333-3333-4333-8333-333333333333'),
  ('other', 'ada', '44444444-4444-4444-8444-444444444444');
INSERT INTO orders (id, stream, payload, order_key, dedup_key, schema_version, metadata, tags,
  annotations, source_id, created_at, updated_at) VALUES
  (3, '11111111-1111-4111-8111-111111111111', {x}7b2261223a20317d{/x}, 'o1', 'd1', 2,
   '{\"who\": \"me\", \"ü\": \"\"}', '[\"web\", \"a\"]', '{\"seen\": \"yes\"}', '',
   '2023-11-14T22:13:20.123', '2024-01-02T03:04:05.678'),
  (4, '22222222-2222-4222-8222-222222222222', {x}00ff0a{/x}, '', 'd1', 0, NULL, '[]', NULL, 'src-9',
   '2023-11-14T22:13:21.000', NULL),
  (7, '11111111-1111-4111-8111-111111111111', {x}{/x}, '', '', 1, NULL, '[]', NULL, '',
   '2023-11-14T22:13:19.999', NULL),
  (8, 'ada', {x}22737472616e676572{/x}, '', '', 1, NULL, '[]', NULL, '',
   '2023-11-14T22:13:22.500', NULL),
  (9, '33333333-3333-4333-8333-333333333333', {x}31{/x}, '', 'gone', 1, NULL, '[]', NULL, '',
   '2023-11-14T22:13:23.000', NULL);
DELETE FROM orders WHERE id = 9;
";

enum Kind {
    Sqlite,
    Postgres,
}

/// Two databases: that of the Go implementation, and one to copy into.
struct Pair {
    folder: TempDir,
    from: String,
    to: String,
    /// Databases to drop.
    made: Vec<String>,
}

impl Pair {
    async fn new(from: &Kind, to: &Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut made = Vec::new();
        let mut url = async |kind: &Kind, name: &str| match kind {
            Kind::Sqlite => format!("sqlite:{}", folder.path().join(name).display()),
            Kind::Postgres => {
                let database = format!("import_{}", uuid::Uuid::new_v4().simple());
                server(&format!("CREATE DATABASE {database}")).await;
                made.push(database.clone());
                let (server, _) = postgres_url().rsplit_once('/').map(own).unwrap();
                format!("{server}/{database}")
            }
        };
        let from = url(from, "old.db").await;
        let to = url(to, "new.db").await;
        Self {
            folder,
            from,
            to,
            made,
        }
    }

    /// The Go database, with some content.
    async fn filled(from: &Kind, to: &Kind) -> Self {
        let pair = Self::new(from, to).await;
        let (tables, open, close) = match from {
            Kind::Sqlite => (SQLITE, "x'", "'"),
            Kind::Postgres => (POSTGRES, "'\\x", "'"),
        };
        pair.sql(tables).await;
        pair.sql(&CONTENT.replace("{x}", open).replace("{/x}", close))
            .await;
        if matches!(from, Kind::Postgres) {
            pair.sql("SELECT setval('orders_id_seq', 9)").await;
        }
        pair
    }

    /// A Go database in SQLite with this content.
    async fn sqlite(content: &str) -> Self {
        let pair = Self::new(&Kind::Sqlite, &Kind::Sqlite).await;
        pair.sql(SQLITE).await;
        pair.sql(content).await;
        pair
    }

    /// Runs statements in the Go database.
    async fn sql(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        if let Some(path) = self.from.strip_prefix("sqlite:") {
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true);
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sql.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        } else {
            let mut connection = PgConnection::connect(&self.from).await.unwrap();
            sql.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }

    fn import(&self, more: &[&str]) -> Ran {
        let mut command = program(&["import", "go", "--from", &self.from, "--to", &self.to]);
        ran(command.args(more))
    }

    /// Runs to the end, and returns what it tells of its only store.
    fn imported(&self, code: i32, more: &[&str]) -> Value {
        let ran = self.import(&[more, &["-o", "jsonl"]].concat());
        assert_eq!(ran.code, Some(code), "{ran:#?}");
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:#?}"))
    }

    async fn store(&self) -> Arc<dyn Store> {
        let store = StoreName::new("orders").unwrap();
        let url = DatabaseUrl::parse(&self.to).unwrap();
        url.open_store(&store).await.unwrap()
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("new.db")
    }

    fn source_bytes(&self) -> Option<Vec<u8>> {
        let path = self.from.strip_prefix("sqlite:")?;
        Some(std::fs::read(path).unwrap())
    }

    async fn end(self) {
        for database in &self.made {
            server(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
        }
    }
}

fn own((server, database): (&str, &str)) -> (String, String) {
    (server.to_owned(), database.to_owned())
}

async fn server(sql: &str) {
    let mut connection = PgConnection::connect(&postgres_url()).await.unwrap();
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    sql.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

async fn read(store: &Arc<dyn Store>, name: &str) -> Vec<Entry> {
    let page = store.page(&stream(name), &ReadOptions::all()).await;
    page.unwrap().entries
}

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

/// What `CONTENT` must become.
fn expected() -> BTreeMap<&'static str, Vec<Entry>> {
    let entry = |id, name, payload: &'static [u8], created_at: &str| Entry {
        id: EntryId(id),
        stream: stream(name),
        payload: payload.into(),
        order_key: String::new(),
        dedup_key: String::new(),
        schema_version: 1,
        metadata: Pairs::new(),
        tags: vec![],
        annotations: Pairs::new(),
        label_version: 0,
        created_at: created_at.parse().unwrap(),
        updated_at: None,
    };
    let first = Entry {
        order_key: "o1".to_owned(),
        dedup_key: "d1".to_owned(),
        schema_version: 2,
        metadata: pairs(&[("who", "me"), ("ü", "")]),
        tags: vec!["a".to_owned(), "web".to_owned()],
        annotations: pairs(&[("seen", "yes")]),
        label_version: 1,
        updated_at: Some("2024-01-02T03:04:05.678Z".parse().unwrap()),
        ..entry(3, "ada", br#"{"a": 1}"#, "2023-11-14T22:13:20.123Z")
    };
    let second = Entry {
        dedup_key: "d1".to_owned(),
        metadata: pairs(&[("go-source", "src-9")]),
        ..entry(4, "Zoë", b"\x00\xff\n", "2023-11-14T22:13:21Z")
    };
    let third = entry(7, "ada", b"", "2023-11-14T22:13:19.999Z");
    let fourth = entry(8, "ada (go:8)", b"\"stranger", "2023-11-14T22:13:22.5Z");
    [
        ("ada", vec![first, third]),
        ("Zoë", vec![second]),
        ("ada (go:8)", vec![fourth]),
        ("emptied", vec![]),
    ]
    .into()
}

async fn everything_is_kept(from: Kind, to: Kind) {
    let pair = Pair::filled(&from, &to).await;
    let before = pair.source_bytes();
    let arguments = ["--source-id-key", "go-source"];
    let told = pair.imported(0, &arguments);
    assert_eq!(
        (
            &told["state"],
            &told["copied"],
            &told["streams"],
            &told["not_kept"]
        ),
        (&"imported".into(), &4.into(), &3.into(), &0.into()),
        "{told}"
    );
    let store = pair.store().await;
    for (name, entries) in expected() {
        assert_eq!(read(&store, name).await, entries, "{name}");
    }
    let names = store.streams(None, 10).await.unwrap();
    assert_eq!(names, ["Zoë", "ada", "ada (go:8)"].map(stream));

    // Again: nothing is added, and nothing is changed.
    let told = pair.imported(0, &arguments);
    assert_eq!(
        (&told["state"], &told["copied"]),
        (&"imported before".into(), &0.into()),
        "{told}"
    );

    // It is a store like any other: keys are held, and no id is given again.
    let any = ExpectedVersion::Any;
    let again = vec![NewEntry::new("x").dedup_key("d1")];
    let again = store.append(&stream("ada"), again, any).await.unwrap()[0];
    assert!(again.duplicate && again.id == EntryId(3), "{again:?}");
    let taken = store.rename(&stream("ada"), &stream("emptied")).await;
    assert_eq!(taken.unwrap_err().kind(), ledger::ErrorKind::AlreadyExists);
    let two = ExpectedVersion::Exactly(2);
    let next = vec![NewEntry::new("next")];
    let next = store.append(&stream("ada"), next, two).await.unwrap()[0];
    assert!(next.id > EntryId(9), "{next:?}");
    let gone = vec![NewEntry::new("x").dedup_key("gone")];
    let gone = store.append(&stream("emptied"), gone, any).await.unwrap()[0];
    assert!(!gone.duplicate, "{gone:?}");
    store.close().await;
    assert_eq!(pair.source_bytes(), before);
    pair.end().await;
}

#[tokio::test]
async fn everything_is_kept_from_sqlite_to_sqlite() {
    everything_is_kept(Kind::Sqlite, Kind::Sqlite).await;
}

#[tokio::test]
async fn everything_is_kept_from_sqlite_to_postgres() {
    everything_is_kept(Kind::Sqlite, Kind::Postgres).await;
}

#[tokio::test]
async fn everything_is_kept_from_postgres_to_sqlite() {
    everything_is_kept(Kind::Postgres, Kind::Sqlite).await;
}

#[tokio::test]
async fn everything_is_kept_from_postgres_to_postgres() {
    everything_is_kept(Kind::Postgres, Kind::Postgres).await;
}

/// Rows that break a rule, each another one, between rows that do not.
const BROKEN: &str = "
INSERT INTO orders (id, stream, payload) VALUES (1, 'a', x'31');
INSERT INTO orders (id, stream, payload, dedup_key) VALUES (2, 'a', x'31', printf('%.2000c', 'k'));
INSERT INTO orders (id, stream, payload) VALUES (3, '', x'31');
INSERT INTO orders (id, stream, payload, metadata) VALUES (4, 'a', x'31', '{\"n\": 1}');
INSERT INTO orders (id, stream, payload, created_at) VALUES (5, 'a', x'31', 'yesterday');
INSERT INTO orders (id, stream, payload, order_key) VALUES (6, 'a', x'31', CAST(x'ff' AS TEXT));
INSERT INTO orders (id, stream, payload, tags) VALUES (7, 'a', x'31', '[\"a\\u0000b\"]');
INSERT INTO orders (id, stream, payload, schema_version) VALUES (8, 'a', x'31', -1);
INSERT INTO orders (id, stream, payload) VALUES (9, 'a', x'32');
";

#[tokio::test]
async fn rows_that_cannot_be_kept_are_named_and_the_others_are_copied() {
    let pair = Pair::sqlite(BROKEN).await;
    let rules = [
        (2, "dedup_key is longer than 1024 bytes"),
        (3, "stream must not be empty"),
        (4, "metadata is not a JSON object of strings"),
        (5, "created_at \"yesterday\" is not a time"),
        (6, "order_key is not UTF-8"),
        (7, "tags must not hold a NUL character"),
        (8, "schema_version -1 is out of range"),
    ];
    for dry in [true, false] {
        let more: &[&str] = if dry { &["--dry-run"] } else { &[] };
        let ran = pair.import(&[more, &["-o", "json"]].concat());
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        for (id, rule) in rules {
            let name = if id == 3 { "" } else { "a" };
            let line = format!("not kept: table orders, stream {name:?}, id {id}: {rule}");
            assert!(ran.err.lines().any(|said| said == line), "{line}: {ran:#?}");
        }
        let told: Value = serde_json::from_str(&ran.out).unwrap();
        let refused = told[0]["refused"].as_array().unwrap();
        assert_eq!(
            (refused.len(), &told[0]["copied"]),
            (7, &2.into()),
            "{told}"
        );
        assert_eq!(pair.target().exists(), !dry);
    }
    let store = pair.store().await;
    let ids: Vec<_> = read(&store, "a").await.iter().map(|e| e.id.0).collect();
    assert_eq!(ids, [1, 9]);
    store.close().await;
    // What was left behind is not forgotten.
    let told = pair.imported(1, &[]);
    assert_eq!(
        (&told["state"], &told["not_kept"]),
        (&"imported before".into(), &7.into())
    );
}

/// Many entries in 100 streams.
const MANY: &str = "
INSERT INTO orders (stream, payload, dedup_key)
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
  SELECT 's' || (i % 100), printf('{\"n\":%d}', i), 'k' || i FROM n;
";

impl Pair {
    /// Begins an import, and kills it once a part is durable.
    fn killed(&self) {
        let mut command = program(&["import", "go", "--from", &self.from, "--to", &self.to]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let path = self.target();
        wait("a part to be durable", || {
            copied(&path).is_some_and(|entries| entries > 0)
        });
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "it was done too soon");
        let entries = copied(&path).unwrap();
        assert!(entries > 0 && entries < 60_000, "{entries}");
    }
}

/// How many entries an unfinished copy holds.
fn copied(path: &std::path::Path) -> Option<i64> {
    let path = path.to_owned();
    let count = async move {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = SqliteConnection::connect_with(&options).await.ok()?;
        let sql = "SELECT count(*) FROM orders_entries";
        let count = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .ok();
        connection.close().await.ok()?;
        count
    };
    std::thread::spawn(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(count)
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn a_killed_import_goes_on_where_it_was() {
    let pair = Pair::sqlite(MANY).await;
    pair.killed();
    // Until it is done, nobody takes it for a store.
    let store = pair.store().await;
    let entry = vec![NewEntry::new("x")];
    let appended = store
        .append(&stream("s1"), entry, ExpectedVersion::Any)
        .await;
    assert_eq!(appended.unwrap_err().kind(), ledger::ErrorKind::ReadOnly);
    store.close().await;

    let told = pair.imported(0, &[]);
    let (resumed, now) = (&told["resumed_behind"], &told["copied"]);
    let (resumed, now) = (resumed.as_u64().unwrap(), now.as_u64().unwrap());
    assert!(resumed > 0 && resumed + now == 60_000, "{told}");
    assert_eq!(
        (&told["entries"], &told["streams"]),
        (&60_000.into(), &100.into())
    );
    let store = pair.store().await;
    let entries = read(&store, "s7").await;
    assert_eq!(entries.len(), 600);
    assert!(entries.iter().all(|entry| {
        let number = entry.id.0;
        number % 100 == 7
            && entry.payload == format!("{{\"n\":{number}}}")
            && entry.dedup_key == format!("k{number}")
    }));
    store.close().await;
}

#[tokio::test]
async fn a_source_that_changed_under_the_copy_is_noticed() {
    let pair = Pair::sqlite(MANY).await;
    pair.killed();
    pair.sql("DELETE FROM orders WHERE id = 205").await;
    let ran = pair.import(&[]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(
        ran.err
            .contains("stream \"s5\": 599 entries in the source, 600 in the copy")
            && ran.err.contains("--restart"),
        "{ran:#?}"
    );
    let told = pair.imported(0, &["--restart"]);
    assert_eq!(
        (&told["state"], &told["copied"]),
        (&"imported".into(), &59_999.into()),
        "{told}"
    );
    // What comes afterwards is not copied silently, nor left behind silently.
    pair.sql("INSERT INTO orders (stream, payload) VALUES ('s1', 'late')")
        .await;
    let told = pair.imported(1, &[]);
    assert_eq!(
        (&told["state"], &told["since"]),
        (&"imported before".into(), &1.into()),
        "{told}"
    );
}

#[tokio::test]
async fn a_table_of_the_first_version_and_one_by_another_name() {
    let pair = Pair::new(&Kind::Sqlite, &Kind::Sqlite).await;
    pair.sql(
        "CREATE TABLE Old_Name (id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL,
           payload BLOB NOT NULL, order_key TEXT NOT NULL DEFAULT '',
           dedup_key TEXT NOT NULL DEFAULT '', schema_version INTEGER NOT NULL DEFAULT 1,
           metadata TEXT, created_at TEXT NOT NULL);
         INSERT INTO Old_Name (stream, payload, created_at)
           VALUES ('a', 'one', '2023-11-14T22:13:20.123');
         CREATE TABLE other (id INTEGER, stream TEXT)",
    )
    .await;
    let told = pair.imported(0, &["--store", "Old_Name=orders"]);
    assert_eq!(
        (&told["store"], &told["as"]),
        (&"Old_Name".into(), &"orders".into())
    );
    let store = pair.store().await;
    let entries = read(&store, "a").await;
    assert_eq!((entries.len(), &entries[0].payload[..]), (1, &b"one"[..]));
    store.close().await;
}

#[tokio::test]
async fn wrong_input_is_said_on_one_line() {
    let pair = Pair::filled(&Kind::Sqlite, &Kind::Sqlite).await;
    let absent = format!("sqlite:{}", pair.folder.path().join("absent.db").display());
    let text = pair.folder.path().join("text.db");
    std::fs::write(
        &text,
        "no database, but a text that is long enough to be read",
    )
    .unwrap();
    let text = format!("sqlite:{}", text.display());
    let clickhouse = clickhouse_url();
    for (from, to, store, code, words) in [
        (&absent, &pair.to, "orders", 5, "--from: there is no file"),
        (&text, &pair.to, "orders", 1, "not a database"),
        (&pair.from, &pair.to, "nothing", 5, "it has orders"),
        (&pair.from, &pair.from, "orders", 2, "another database"),
        (&pair.from, &clickhouse, "orders", 2, "clickhouse"),
        (&pair.from, &pair.to, "orders=1x", 2, "1x"),
    ] {
        let mut command = program(&["import", "go", "--from", from, "--to", to]);
        command.args(["--store", store]);
        let ran = ran(&mut command);
        assert_eq!(ran.code, Some(code), "{words}: {ran:#?}");
        assert!(ran.err.contains(words), "{words}: {ran:#?}");
        assert!(!pair.target().exists());
    }
    let mut command = program(&["import", "go", "--from", &pair.from]);
    assert!(refused(&mut command).contains("--to"));

    // A store that was not imported is not written.
    let name = StoreName::new("orders").unwrap();
    let config = ledger::sqlite::SqliteConfig::file(pair.target());
    let own = ledger::sqlite::SqliteStore::open(config, name, ledger::StoreOptions::default());
    let own = own.await.unwrap();
    let entry = vec![NewEntry::new("own")];
    let any = ExpectedVersion::Any;
    own.append(&stream("mine"), entry, any).await.unwrap();
    let ran = pair.import(&[]);
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    assert!(ran.err.contains("--store NAME=NEW"), "{ran:#?}");
    assert_eq!(own.stat(&stream("mine")).await.unwrap().count, 1);
    own.close().await;
    assert_eq!(pair.imported(0, &["-s", "orders=copied"])["copied"], 4);
}
