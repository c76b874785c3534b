//! Appending to PostgreSQL and SQLite, beside the same rows inserted by hand-written SQL of many
//! rows into an equal table with equal indexes and equal durability.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{ExpectedVersion, NewEntry, Store, StoreName, StoreOptions, StreamName};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, SqliteConnection};

use measure::arguments::Arguments;
use measure::compare::in_turns;
use measure::database::Postgres;
use measure::table::{Table, against};
use measure::{Outcome, entry};

const STREAMS: u64 = 100;

const ON_CONFLICT: &str = " ON CONFLICT (stream_key, dedup_key) WHERE dedup_key <> '' DO NOTHING";

struct Plan {
    batches: Vec<usize>,
    rows: u64,
    rounds: u64,
    bytes: usize,
    dedup: bool,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "append",
        &[
            ("backends", "postgres,sqlite", "which stores"),
            ("batches", "1,100,1000", "entries an append"),
            ("rows", "20000", "most rows a round; at most 300 appends"),
            ("rounds", "7", "how often each is measured"),
            ("bytes", "280", "bytes of a payload"),
            ("dedup", "false", "give each entry a dedup key"),
        ],
    )?;
    let plan = Plan {
        batches: arguments.list("batches")?,
        rows: arguments.get("rows")?,
        rounds: arguments.get("rounds")?,
        bytes: arguments.get("bytes")?,
        dedup: arguments.get("dedup")?,
    };
    let mut table = Table::new(&["store", "log", "batch", "rows/s", "floor", "ratio", "aim"]);
    for backend in arguments.list::<String>("backends")? {
        match backend.as_str() {
            "postgres" => {
                let database = Postgres::create().await?;
                let done = postgres(&database, &plan, &mut table).await;
                database.remove().await?;
                done?;
            }
            "sqlite" => sqlite(&plan, &mut table).await?,
            other => return Err(format!("--backends: {other:?} is no store").into()),
        }
    }
    table.print(&arguments.command())
}

/// Where the store's mutations are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    Table,
    Wal,
    Off,
}

impl Log {
    fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Wal => "wal",
            Self::Off => "off",
        }
    }

    fn store(self) -> Outcome<StoreName> {
        Ok(StoreName::new(format!("in_{}", self.name()))?)
    }

    fn options(self) -> StoreOptions {
        StoreOptions {
            log: self != Self::Off,
            write_ahead_log: self == Self::Wal,
            ..StoreOptions::default()
        }
    }
}

async fn postgres(database: &Postgres, plan: &Plan, table: &mut Table) -> Outcome {
    for log in [Log::Table, Log::Wal, Log::Off] {
        let config = PostgresConfig::from_url(&database.url)?;
        let name = log.store()?;
        let store = PostgresStore::open(config, name.clone(), log.options()).await?;
        let create = format!(
            "CREATE TABLE floor_{name} (LIKE {name}_entries INCLUDING ALL);
             CREATE SEQUENCE floor_{name}_ids;
             ALTER TABLE floor_{name} ALTER id SET DEFAULT nextval('floor_{name}_ids')"
        );
        database.run(create).await?;
        let mut connection = database.connect().await?;
        for &batch in &plan.batches {
            let sql: Arc<str> = postgres_insert(&format!("floor_{name}"), batch, plan.dedup).into();
            let work = Work::new(plan, batch);
            let compared = in_turns(
                plan.rounds,
                work.rows(),
                async |round| append(&store, work.batches(round)).await,
                async |round| {
                    let batches = work.batches(round);
                    postgres_floor(&mut connection, &sql, batches).await
                },
            );
            row(table, "postgres", log, batch, &compared.await?);
        }
        if log == Log::Wal {
            // Its slot goes with it: the database could not be dropped.
            store.close().await;
            let config = PostgresConfig::from_url(&database.url)?;
            PostgresStore::keep_log_in_wal(config, &name, false).await?;
            continue;
        }
        store.close().await;
    }
    Ok(())
}

async fn sqlite(plan: &Plan, table: &mut Table) -> Outcome {
    for log in [Log::Table, Log::Off] {
        let folder = tempfile::tempdir()?;
        let name = log.store()?;
        let file = folder.path().join("ours.db");
        let config = SqliteConfig::file(&file);
        let store = SqliteStore::open(config, name.clone(), log.options()).await?;
        let mut connection =
            sqlite_floor_file(&file, &folder.path().join("floor.db"), &name).await?;
        for &batch in &plan.batches {
            let sql: Arc<str> = sqlite_insert(&format!("{name}_entries"), batch, plan.dedup).into();
            let work = Work::new(plan, batch);
            let compared = in_turns(
                plan.rounds,
                work.rows(),
                async |round| append(&store, work.batches(round)).await,
                async |round| {
                    let batches = work.batches(round);
                    sqlite_floor(&mut connection, &sql, batches).await
                },
            );
            row(table, "sqlite", log, batch, &compared.await?);
        }
        store.close().await;
    }
    Ok(())
}

fn row(
    table: &mut Table,
    store: &str,
    log: Log,
    batch: usize,
    compared: &measure::compare::Compared,
) {
    let aim = if log == Log::Table { 0.5 } else { 0.9 };
    table.row([
        store.to_owned(),
        log.name().to_owned(),
        batch.to_string(),
        format!("{:.0}", compared.ours),
        format!("{:.0}", compared.floor),
        format!("{:.2}", compared.ratio),
        against(compared.ratio, aim),
    ]);
}

/// What each round writes: the same number of appends, each to another stream.
struct Work {
    batch: usize,
    count: u64,
    bytes: usize,
    dedup: bool,
}

impl Work {
    fn new(plan: &Plan, batch: usize) -> Self {
        Self {
            batch,
            count: (plan.rows / batch as u64).clamp(1, 300),
            bytes: plan.bytes,
            dedup: plan.dedup,
        }
    }

    fn rows(&self) -> u64 {
        self.count * self.batch as u64
    }

    /// The entries, made before time is taken; each with the number of its stream.
    fn batches(&self, round: u64) -> Vec<(u64, Vec<NewEntry>)> {
        let batch = self.batch as u64;
        let numbers = (0..self.count).map(|number| round * self.count + number);
        numbers
            .map(|number| {
                let entries = (0..batch).map(|index| {
                    let number = number * batch + index;
                    let entry = entry(number, self.bytes);
                    if self.dedup {
                        entry.dedup_key(format!("{batch}/{number}"))
                    } else {
                        entry
                    }
                });
                (number % STREAMS + 1, entries.collect())
            })
            .collect()
    }
}

async fn append(store: &dyn Store, batches: Vec<(u64, Vec<NewEntry>)>) -> Outcome<Duration> {
    let mut named = Vec::with_capacity(batches.len());
    for (stream, entries) in batches {
        named.push((StreamName::new(format!("user-{stream}"))?, entries));
    }
    let begun = Instant::now();
    for (stream, entries) in named {
        store.append(&stream, entries, ExpectedVersion::Any).await?;
    }
    Ok(begun.elapsed())
}

/// A row as the floor binds it. Whoever has such entries has to make these texts.
struct Row<'a> {
    payload: &'a str,
    entry: &'a NewEntry,
    metadata: String,
    tags: String,
}

fn rows(entries: &[NewEntry]) -> Outcome<Vec<Row<'_>>> {
    entries.iter().map(Row::of).collect()
}

impl<'a> Row<'a> {
    fn of(entry: &'a NewEntry) -> Outcome<Self> {
        Ok(Self {
            payload: std::str::from_utf8(&entry.payload)?,
            metadata: serde_json::to_string(&entry.metadata)?,
            tags: serde_json::to_string(&entry.tags)?,
            entry,
        })
    }
}

fn postgres_insert(table: &str, rows: usize, dedup: bool) -> String {
    let mut sql = format!(
        "INSERT INTO {table} (stream_key, payload, order_key, dedup_key, schema_version, metadata, \
         tags, created_at) VALUES "
    );
    for row in 0..rows {
        let (separator, last) = (if row == 0 { "" } else { "," }, 7 * row);
        // Writing into a String cannot fail.
        let _ = write!(
            sql,
            "{separator}(${},${}::json,${},${},${},${}::jsonb,${},now())",
            last + 1,
            last + 2,
            last + 3,
            last + 4,
            last + 5,
            last + 6,
            last + 7
        );
    }
    if dedup {
        sql.push_str(ON_CONFLICT);
    }
    sql
}

async fn postgres_floor(
    connection: &mut PgConnection,
    sql: &Arc<str>,
    batches: Vec<(u64, Vec<NewEntry>)>,
) -> Outcome<Duration> {
    let mut spent = Duration::ZERO;
    for (stream, entries) in &batches {
        let stream = i64::try_from(*stream)?;
        let begun = Instant::now();
        let rows = rows(entries)?;
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(sql)));
        for row in &rows {
            query = query
                .bind(stream)
                .bind(row.payload)
                .bind(&row.entry.order_key)
                .bind(&row.entry.dedup_key)
                .bind(1_i32)
                .bind(&row.metadata)
                .bind(&row.entry.tags);
        }
        query.execute(&mut *connection).await?;
        spent += begun.elapsed();
    }
    Ok(spent)
}

/// A file with the store's table of entries and its indexes, as the store itself declares them.
async fn sqlite_floor_file(
    ours: &std::path::Path,
    file: &std::path::Path,
    name: &StoreName,
) -> Outcome<SqliteConnection> {
    let open = |path| SqliteConnectOptions::new().filename(path);
    let mut store = open(ours).connect().await?;
    let declared: Vec<String> = sqlx::query_scalar(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC",
    )
    .bind(format!("{name}_entries"))
    .fetch_all(&mut store)
    .await?;
    let mut connection = open(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-16000")
        .connect()
        .await?;
    for sql in declared {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
    }
    Ok(connection)
}

fn sqlite_insert(table: &str, rows: usize, dedup: bool) -> String {
    let mut sql = format!(
        "INSERT INTO {table} (stream_key, created_at, payload, order_key, dedup_key, \
         schema_version, metadata, tags) VALUES "
    );
    sql.push_str(&vec!["(?,?,?,?,?,?,?,?)"; rows].join(","));
    if dedup {
        sql.push_str(ON_CONFLICT);
    }
    sql
}

async fn sqlite_floor(
    connection: &mut SqliteConnection,
    sql: &Arc<str>,
    batches: Vec<(u64, Vec<NewEntry>)>,
) -> Outcome<Duration> {
    let mut spent = Duration::ZERO;
    for (stream, entries) in &batches {
        let stream = i64::try_from(*stream)?;
        let begun = Instant::now();
        let rows = rows(entries)?;
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(sql)));
        for row in &rows {
            query = query
                .bind(stream)
                .bind(1_700_000_000_000_000_i64)
                .bind(row.payload)
                .bind(&row.entry.order_key)
                .bind(&row.entry.dedup_key)
                .bind(1_i64)
                .bind(&row.metadata)
                .bind(&row.tags);
        }
        query.execute(&mut *connection).await?;
        spent += begun.elapsed();
    }
    Ok(spent)
}
