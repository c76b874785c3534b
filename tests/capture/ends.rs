//! A PostgreSQL database with tables, a ClickHouse database, and a bridge between them.

use std::time::Duration;

use clickhouse::Client;
use ledger::bridge::{AnyBridge, BridgeOptions, OnFailure, Summary, VerifyOptions};
use ledger::clickhouse::ClickHouseConfig;
use ledger::connect::{DatabaseUrl, Flow, Verified, collection_options};
use ledger::mongodb::capture::{CollectionOptions, Documents};
use ledger::pipeline::{Backoff, Stop};
use ledger::postgres::capture::CaptureOptions;
use ledger::{PipelineId, Result, TableRoutes};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::replication::run::until;

/// Which ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Today,
    Oldest,
}

/// The two ends.
pub(crate) struct Ends {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) pipeline: PipelineId,
    pub(crate) options: CaptureOptions,
    /// The form of documents, where the source has collections.
    pub(crate) documents: Option<Documents>,
    pub(crate) routes: TableRoutes,
    pub(crate) on_failure: OnFailure,
}

pub(crate) fn with_database(url: &str, database: &str) -> String {
    let (head, query) = match url.split_once('?') {
        Some((head, query)) => (head, format!("?{query}")),
        None => (url, String::new()),
    };
    let (server, _) = head.rsplit_once('/').unwrap();
    format!("{server}/{database}{query}")
}

impl Ends {
    /// Databases of their own, in which these statements have made tables.
    pub(crate) async fn open(engine: Engine, tables: &str, setup: &str) -> Self {
        let id = Uuid::new_v4().simple();
        let server = ledger_harness::shared::postgres_url();
        postgres(&server, &format!("CREATE DATABASE c_{id}")).await;
        let clickhouse = match engine {
            Engine::Today => ledger_harness::shared::clickhouse_url(),
            Engine::Oldest => ledger_harness::shared::clickhouse_old_url(),
        };
        let create = format!("CREATE DATABASE c_{id}");
        client(&clickhouse)
            .query_raw(&create)
            .execute()
            .await
            .unwrap();
        let ends = Self {
            from: with_database(&server, &format!("c_{id}")),
            to: with_database(&clickhouse, &format!("c_{id}")),
            // A slot's name is the whole cluster's.
            pipeline: PipelineId::new(format!("c_{id}")).unwrap(),
            options: CaptureOptions::new(tables.parse().unwrap()),
            documents: None,
            routes: TableRoutes::default(),
            on_failure: OnFailure::Stop,
        };
        ends.sql(setup).await;
        ends
    }

    /// Runs statements at the source.
    pub(crate) async fn sql(&self, sql: &str) {
        postgres(&self.from, sql).await;
    }

    /// Rows of the source as one text each, sorted.
    pub(crate) async fn source(&self, select: &str) -> Vec<String> {
        let mut conn = sqlx::PgConnection::connect(&self.from).await.unwrap();
        let sql = format!("SELECT r::text FROM ({select}) r");
        let mut rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut conn)
            .await
            .unwrap_or_else(|error| panic!("{select}: {error}"));
        conn.close().await.unwrap();
        rows.sort();
        rows
    }

    /// What the first column of a select is at the sink, in the order asked for; NULL as `NULL`.
    pub(crate) async fn sink(&self, select: &str) -> Vec<String> {
        let query = client(&self.to).query_raw(select);
        let mut answer = query.fetch_bytes("JSONCompactEachRow").unwrap();
        let text = answer.collect().await;
        let text = text.unwrap_or_else(|error| panic!("{select}: {error}"));
        let rows = std::str::from_utf8(&text).unwrap().lines().map(|line| {
            let row: Vec<serde_json::Value> = serde_json::from_str(line).unwrap();
            match &row[0] {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => "NULL".to_owned(),
                other => other.to_string(),
            }
        });
        rows.collect()
    }

    /// What a select of one number gives at the sink.
    pub(crate) async fn number(&self, select: &str) -> u64 {
        let rows = self.sink(select).await;
        rows[0].parse().unwrap()
    }

    /// Whether the sink has a table or a view of this name.
    pub(crate) async fn has(&self, name: &str) -> bool {
        let select = format!(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = '{name}'"
        );
        self.number(&select).await == 1
    }

    pub(crate) async fn flow(&self) -> Result<Flow> {
        let from: DatabaseUrl = self.from.parse().unwrap();
        let to: DatabaseUrl = self.to.parse().unwrap();
        let (options, routes) = (self.options.clone(), self.routes.clone());
        if let Some(documents) = self.documents {
            let options = CollectionOptions {
                documents,
                ..collection_options(options)?
            };
            return Box::pin(Flow::collections(&from, &to, options, routes)).await;
        }
        Box::pin(Flow::tables(&from, &to, options, routes)).await
    }

    pub(crate) fn bridge_options(&self, flow: &Flow) -> BridgeOptions {
        let mut options = BridgeOptions::new(self.pipeline.clone());
        options.batch = flow.batch();
        // A pace for few, large writes would only make the tests slower.
        options.batch.max_wait = Duration::from_millis(20);
        options.lease = Duration::from_secs(2);
        options.on_failure = self.on_failure;
        options.backoff = Backoff {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(200),
        };
        options
    }

    /// Carries what there is.
    pub(crate) async fn once(&self) -> Result<Summary> {
        let flow = self.flow().await?;
        let options = BridgeOptions {
            once: true,
            ..self.bridge_options(&flow)
        };
        Box::pin(flow.bridge(options)?.run(&Stop::new())).await
    }

    /// Starts a bridge that runs until it is stopped.
    pub(crate) async fn start(&self) -> Running {
        let flow = self.flow().await.unwrap();
        let bridge = flow.bridge(self.bridge_options(&flow)).unwrap();
        let (stop, running) = (Stop::new(), bridge.clone());
        let handle = stop.clone();
        let task = tokio::spawn(async move { running.run(&handle).await });
        Running {
            flow,
            bridge,
            stop,
            task,
        }
    }

    /// Compares the two ends; the sink must be able to catch up.
    pub(crate) async fn verify(&self, repair: bool) -> Verified {
        let flow = self.flow().await.unwrap();
        let options = VerifyOptions {
            repair,
            ..VerifyOptions::new(self.pipeline.clone())
        };
        Box::pin(flow.verify(&options, |_| {})).await.unwrap()
    }

    /// Carries what there is, and checks that the two ends are equal then.
    pub(crate) async fn assert_equal(&self) {
        self.once().await.unwrap();
        // What is asked and answered here is in the log as well.
        let running = self.start().await;
        let verified = self.verify(false).await;
        running.stopped().await;
        assert!(verified.equal, "{:#?}", verified.differences);
    }

    /// The same tables on their way to another database.
    pub(crate) fn elsewhere(&self, to: &str) -> Self {
        Self {
            from: self.from.clone(),
            to: to.to_owned(),
            pipeline: self.pipeline.clone(),
            options: self.options.clone(),
            documents: self.documents,
            routes: self.routes.clone(),
            on_failure: self.on_failure,
        }
    }

    /// Gives the databases back; a test that fails leaves them to be looked at.
    pub(crate) async fn close(self) {
        let flow = self.flow().await.unwrap();
        until("the slot is free", async || {
            flow.remove(&self.pipeline).await.is_ok()
        })
        .await;
        drop(flow);
        self.drop_databases().await;
    }

    /// Gives the databases back of which no bridge has read.
    pub(crate) async fn drop_databases(self) {
        let server = ledger_harness::shared::postgres_url();
        let (_, database) = self.from.rsplit_once('/').unwrap();
        postgres(&server, &format!("DROP DATABASE {database} WITH (FORCE)")).await;
        let drop = format!("DROP DATABASE {database}");
        client(&self.to).query_raw(&drop).execute().await.unwrap();
    }
}

/// A bridge in a task of its own.
pub(crate) struct Running {
    pub(crate) flow: Flow,
    pub(crate) bridge: AnyBridge,
    pub(crate) stop: Stop,
    pub(crate) task: JoinHandle<Result<Summary>>,
}

impl Running {
    /// What it ends with by itself.
    pub(crate) async fn ended(self) -> Result<Summary> {
        tokio::time::timeout(Duration::from_mins(3), self.task)
            .await
            .expect("the bridge ends")
            .unwrap()
    }

    /// Lets it deliver what it has read, and end.
    pub(crate) async fn stopped(self) -> Summary {
        self.stop.stop();
        self.ended().await.unwrap()
    }
}

pub(crate) fn client(url: &str) -> Client {
    let config: ClickHouseConfig = url.parse().unwrap();
    Client::default()
        .with_url(format!("http://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose())
        .with_database(&config.database)
}

pub(crate) async fn postgres(url: &str, sql: &str) {
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut conn)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    conn.close().await.unwrap();
}
