//! Relays in MongoDB: what they need of the server, and what becomes of their logs.

use ledger::mongodb::{MongoConfig, MongoSink, MongoStore};
use ledger::{
    Batch, Cursor, ErrorKind, PipelineId, Relay, ReplicaOptions, Sink as _, SourceId, Store as _,
    StoreName, StoreOptions,
};
use ledger_harness::Mongo;
use mongodb::bson::doc;
use uuid::Uuid;

fn with(relay: Relay) -> ReplicaOptions {
    ReplicaOptions {
        relay,
        ..ReplicaOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_server_that_is_no_replica_set_any_more_is_refused() {
    let mut server = Mongo::start().await;
    let config = MongoConfig::from_url(&server.url()).unwrap();
    let name = StoreName::new("carried_on").unwrap();
    let sink = MongoSink::open_with(config.clone(), name.clone(), with(Relay::On)).await;
    sink.unwrap().close().await;
    let store = StoreName::new("with_a_log").unwrap();
    let opened = MongoStore::open(config.clone(), store.clone(), StoreOptions::default()).await;
    opened.unwrap().close().await;
    server.restart_standalone().await;
    let opened = MongoStore::open(config.clone(), store, StoreOptions::default()).await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    for relay in [Relay::AsIs, Relay::On, Relay::Off] {
        let opened = MongoSink::open_with(config.clone(), name.clone(), with(relay)).await;
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("--replSet"), "{error}");
    }

    // Nor by a handle that was opened before the replica was made a relay.
    let plain = StoreName::new("plain").unwrap();
    let sink = MongoSink::open(config, plain.clone()).await.unwrap();
    let pipeline = PipelineId::new("p").unwrap();
    let source = SourceId {
        store: Uuid::new_v4(),
        system: "sqlite".to_owned(),
        timeline: 1,
        origins: Vec::new(),
    };
    let cursors = sink.cursors().unwrap();
    let claim = cursors.claim(&pipeline, &source).await.unwrap();
    let nothing = Batch {
        after: None,
        ack: None,
        items: Vec::new(),
        through: Cursor::from_bytes(vec![1]).unwrap(),
        pipeline,
        fence: claim.fence,
    };
    sink.deliver(&nothing).await.unwrap();
    let stores = sink.database().collection("ledger_stores");
    let relay = doc! {"$set": {"schema_version": 2_i64}};
    let own = doc! {"_id": plain.as_str()};
    stores.update_one(own, relay).await.unwrap();
    let error = sink.deliver(&nothing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    sink.close().await;
}
