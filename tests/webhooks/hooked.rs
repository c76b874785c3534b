//! A store, a receiver, and a hook between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::bridge::hook::{Hook, HookOptions, HookStats, Schedule};
use ledger::connect::{DatabaseUrl, Stores};
use ledger::hook::{Attempt, AttemptQuery, State};
use ledger::pipeline::{End, Stop};
use ledger::webhook::{Format, Target, WebhookConfig, WebhookEndpoint};
use ledger::{
    EntryId, ExpectedVersion, NewEntry, PipelineId, Result, Store, StoreName, StoreOptions,
    StreamName,
};
use ledger_harness::{Received, Receiver};
use serde_json::Value;
use sqlx::Connection as _;
use tokio::task::JoinHandle;

/// Makes a test of each function for each database that can hold stores and the state of their hooks.
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test(crate::hooked::Source::sqlite().await).await;
                }
            )*
        }

        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test(crate::hooked::Source::postgres().await).await;
                }
            )*
        }

        mod mongodb {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test(crate::hooked::Source::mongodb().await).await;
                }
            )*
        }
    };
}

pub(crate) use on_each_database;

/// A database with a store, and the state of its hooks.
pub(crate) struct Source {
    _folder: Option<tempfile::TempDir>,
    /// The name of the database.
    database: String,
    stores: Stores,
    pub(crate) store: Arc<dyn Store>,
}

impl Source {
    /// In a file of its own.
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let url = format!("sqlite:{}", path.display());
        Self::open(&url, Some(folder)).await
    }

    /// In a database of its own.
    pub(crate) async fn postgres() -> Self {
        let server = ledger_harness::shared::postgres_url();
        let name = format!("hooks_{}", uuid::Uuid::new_v4().simple());
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        let (host, _) = server.rsplit_once('/').unwrap();
        Self::open(&format!("{host}/{name}"), None).await
    }

    /// In a database of its own.
    pub(crate) async fn mongodb() -> Self {
        Self::open(&mongodb_url(), None).await
    }

    /// How many connections to this database are in a transaction, once none has moved for a while.
    pub(crate) async fn transactions_left_open(&self) -> i64 {
        let server = ledger_harness::shared::postgres_url();
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let open: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = $1 AND state LIKE 'idle in transaction%'",
            )
            .bind(&self.database)
            .fetch_one(&mut connection)
            .await
            .unwrap();
            if open == 0 || Instant::now() > end {
                return open;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn open(url: &str, folder: Option<tempfile::TempDir>) -> Self {
        let (_, database) = url.rsplit_once('/').unwrap();
        let url = DatabaseUrl::parse(url).unwrap();
        let stores = Stores::new(url, StoreOptions::default());
        let store = stores
            .open(&StoreName::new("orders").unwrap())
            .await
            .unwrap();
        Self {
            _folder: folder,
            database: database.to_owned(),
            stores,
            store,
        }
    }

    pub(crate) async fn state(&self) -> Arc<dyn State> {
        self.stores.hook_state().await.unwrap()
    }

    pub(crate) async fn append(&self, stream: &str, payloads: &[&str]) -> Vec<EntryId> {
        append(self.store.as_ref(), stream, payloads).await
    }

    /// A hook to a receiver's path that tries again soon, and often.
    pub(crate) async fn hook(
        &self,
        receiver: &Receiver,
        change: impl FnOnce(&mut WebhookConfig, &mut HookOptions),
    ) -> Hook {
        let target = Target::parse(&receiver.url("/hook"), &[]).unwrap();
        let mut config = WebhookConfig::new(target);
        config.format = Format::Standard;
        config.permanent_errors = false;
        let mut options = HookOptions::new(PipelineId::new("hook:test").unwrap());
        options.schedule = Schedule::new(vec![Duration::from_millis(50); 1_000]);
        options.drain = Duration::from_secs(2);
        change(&mut config, &mut options);
        let endpoint = Arc::new(WebhookEndpoint::new(config).unwrap());
        let store = Arc::clone(&self.store);
        Hook::new(store, endpoint, self.state().await, options).unwrap()
    }
}

/// A database of one's own on the MongoDB that all tests share.
pub(crate) fn mongodb_url() -> String {
    let server = ledger_harness::shared::mongodb_url();
    let name = format!("hooks_{}", uuid::Uuid::new_v4().simple());
    let (host, database) = server.rsplit_once('/').unwrap();
    match database.split_once('?') {
        Some((_, options)) => format!("{host}/{name}?{options}"),
        None => format!("{host}/{name}"),
    }
}

pub(crate) async fn append(store: &dyn Store, stream: &str, payloads: &[&str]) -> Vec<EntryId> {
    let stream = StreamName::new(stream).unwrap();
    let entries = payloads
        .iter()
        .map(|payload| NewEntry::new((*payload).to_owned()));
    let appended = store
        .append(&stream, entries.collect(), ExpectedVersion::Any)
        .await;
    appended
        .unwrap()
        .into_iter()
        .map(|appended| appended.id)
        .collect()
}

/// A hook at work.
pub(crate) struct Running {
    pub(crate) hook: Hook,
    stop: Stop,
    task: JoinHandle<Result<End>>,
}

impl Running {
    pub(crate) fn start(hook: &Hook) -> Self {
        let (hook, stop) = (hook.clone(), Stop::new());
        let (running, stopping) = (hook.clone(), stop.clone());
        let task = tokio::spawn(async move { running.run(&stopping).await });
        Self { hook, stop, task }
    }

    /// Ends in order.
    pub(crate) async fn stop(self) {
        self.stop.stop();
        self.task.await.unwrap().unwrap();
    }

    /// Ends as a process does that is killed: nothing more is stored.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn wait(&self, what: &str, holds: impl Fn(&HookStats) -> bool) -> HookStats {
        let end = Instant::now() + Duration::from_mins(2);
        loop {
            let stats = self.hook.stats();
            if holds(&stats) {
                return stats;
            }
            assert!(Instant::now() < end, "waited in vain: {what}: {stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The attempts that are remembered, oldest first; waits until there are so many.
    pub(crate) async fn attempts(&self, count: usize) -> Vec<Attempt> {
        let query = AttemptQuery {
            limit: 100_000,
            ..AttemptQuery::default()
        };
        let end = Instant::now() + Duration::from_mins(2);
        loop {
            let found = self
                .hook
                .state()
                .attempts(self.hook.pipeline(), &query)
                .await;
            let mut found = found.unwrap();
            if found.len() >= count {
                found.reverse();
                return found;
            }
            assert!(Instant::now() < end, "{} attempts of {count}", found.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What a receiver has of each stream, in the order in which it came: the ids of entries. A delivery
/// that came again under its id counts once.
pub(crate) fn streams(received: &[Received]) -> BTreeMap<String, Vec<u64>> {
    let mut streams: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for request in received {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let id = request.header("webhook-id").to_owned();
        assert!(id.starts_with("msg_"), "{id}");
        if let Some(before) = seen.insert(id, request.body.clone()) {
            assert_eq!(before, request.body, "one id, two bodies");
            continue;
        }
        let data = &body["data"];
        let ids = data["entries"].as_array().unwrap().iter();
        let ids = ids.map(|entry| entry["id"].as_str().unwrap().parse::<u64>().unwrap());
        let stream = data["stream"].as_str().unwrap().to_owned();
        streams.entry(stream).or_default().extend(ids);
    }
    streams
}

/// How many entries a receiver has, repeated deliveries counted once.
pub(crate) fn count(received: &[Received]) -> usize {
    streams(received).values().map(Vec::len).sum()
}

/// Asserts that every stream came in order, with nothing twice, and returns how many entries came.
pub(crate) fn in_order(received: &[Received]) -> usize {
    for (stream, ids) in streams(received) {
        let ordered = ids.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(ordered, "{stream}: {ids:?}");
    }
    count(received)
}
