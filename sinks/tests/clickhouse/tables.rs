//! Opening: shapes, users, servers that do not answer.

use ledger_core::ErrorKind;
use ledger_layout::clickhouse::{ClickHouseConfig, Secret};
use ledger_sinks::clickhouse::ClickHouseSink;

use crate::database::{Database, append, claim, deliver, orders, stream};

pub(crate) async fn a_table_of_another_shape_is_refused_and_left_alone(database: Database) {
    let name = orders();
    let open = || ClickHouseSink::open(&database.config, &name);
    let entries = "CREATE TABLE orders_entries (stream_key UInt64, id UInt64, \
        label_version UInt64, payload String, order_key String, dedup_key String, \
        schema_version Int64, metadata Map(String, String), tags Array(String), \
        annotations Map(String, String), created_at DateTime64(6, 'UTC'))";
    let engine = "ENGINE = ReplacingMergeTree(label_version)";
    let settings = "SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, \
        fsync_part_directory = 1";
    let other_type = entries.replace("payload String", "payload Array(UInt8)");
    let no_column = entries.replace("dedup_key String, ", "");
    for (create, difference) in [
        (
            format!("{entries} ENGINE = MergeTree ORDER BY (stream_key, id) {settings}"),
            "engine",
        ),
        (
            format!("{entries} {engine} ORDER BY (id, stream_key) {settings}"),
            "sorting key",
        ),
        (
            format!("{other_type} {engine} ORDER BY (stream_key, id) {settings}"),
            "payload",
        ),
        (
            format!("{no_column} {engine} ORDER BY (stream_key, id) {settings}"),
            "dedup_key",
        ),
        (
            format!("{entries} {engine} ORDER BY (stream_key, id)"),
            "non_replicated",
        ),
        (
            format!("{entries} {engine} PARTITION BY id % 2 ORDER BY (stream_key, id) {settings}"),
            "partition",
        ),
    ] {
        database.execute(&create).await;
        let error = open().await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            text.contains("orders_entries") && text.contains(difference),
            "{text}"
        );
        let tables = "SELECT count() FROM system.tables WHERE database = currentDatabase()";
        assert_eq!(
            database.count(tables).await,
            1,
            "nothing is created beside it"
        );
        database.execute("DROP TABLE orders_entries").await;
    }
    database
        .execute("CREATE VIEW orders_current AS SELECT 1 AS one")
        .await;
    assert!(
        open()
            .await
            .unwrap_err()
            .to_string()
            .contains("did not make")
    );
    database.execute("DROP VIEW orders_current").await;
    let absent = ClickHouseSink::open_existing(&database.config, &name).await;
    assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
    // What it made itself it opens again, content and all.
    let sink = open().await.unwrap();
    deliver(&sink, claim(&sink).await, &[append(&stream(1, "a", 1), 1)]).await;
    ClickHouseSink::open_existing(&database.config, &name)
        .await
        .unwrap();
    assert_eq!(database.view().await.len(), 1);
    database.drop().await;
}

pub(crate) async fn a_wrong_password_or_database_is_named_and_no_secret_told(database: Database) {
    let open = |config: ClickHouseConfig| async move {
        ClickHouseSink::open(&config, &orders()).await.unwrap_err()
    };
    let secret = "not-the-password";
    let wrong = ClickHouseConfig {
        password: Secret::new(secret),
        ..database.config.clone()
    };
    let error = open(wrong).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("password"), "{error}");
    assert!(!format!("{error:?}{}", error.chain()).contains(secret));

    let missing = ClickHouseConfig {
        database: "no_such".to_owned(),
        ..database.config.clone()
    };
    let error = open(missing).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.to_string().contains("no_such"), "{error}");

    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let absent = ClickHouseConfig {
        port,
        ..database.config.clone()
    };
    let error = open(absent).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    database.drop().await;
}

pub(crate) async fn a_hanging_server_fails_the_call_in_time(database: Database) {
    // Accepts by the backlog and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ClickHouseConfig {
        port: listener.local_addr().unwrap().port(),
        timeout: std::time::Duration::from_secs(1),
        ..database.config.clone()
    };
    let error = ClickHouseSink::open(&config, &orders()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    database.drop().await;
}
