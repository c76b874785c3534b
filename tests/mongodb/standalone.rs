//! A replica on a standalone server, which has no transactions: data by the source's ids, the cursor
//! behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger::bridge::{Bridge, BridgeOptions, VerifyOptions, verify};
use ledger::connect::DatabaseUrl;
use ledger::pipeline::Stop;
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{
    EntryId, ExpectedVersion, NewEntry, Pairs, PipelineId, Store, StoreName, StoreOptions,
    StreamName,
};
use ledger_harness::Mongo;

use crate::replication::run::until;

async fn everything(store: &Arc<dyn Store>, round: usize) {
    let stream = StreamName::new(format!("s{}", round % 7)).unwrap();
    let entries = (0..1 + round % 20).map(|n| {
        NewEntry::new(format!("{{\"round\": {round}, \"n\": {n}}}"))
            .dedup_key(format!("{round}-{n}"))
    });
    let appended = store
        .append(&stream, entries.collect(), ExpectedVersion::Any)
        .await
        .unwrap();
    let id: EntryId = appended[0].id;
    let labels = store.labels().unwrap();
    let tags = vec![format!("t{round}")];
    labels.set_tags(&stream, id, tags).await.unwrap();
    let set = Pairs::from([("round".to_owned(), round.to_string())]);
    labels
        .set_annotations(&stream, id, set, Vec::new())
        .await
        .unwrap();
    if round.is_multiple_of(11) {
        store.trim(&stream, id).await.unwrap();
    }
    if round.is_multiple_of(13) {
        let name = StreamName::new(format!("renamed{round}")).unwrap();
        store.rename(&stream, &name).await.unwrap();
    }
}

/// The server is killed while the bridge delivers: what is sent again changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_standalone_server_holds_an_equal_replica_in_the_end() {
    let mut server = Mongo::start_standalone().await;
    let folder = tempfile::tempdir().unwrap();
    let name = StoreName::new("orders").unwrap();
    let config = format!("sqlite:{}/a.db", folder.path().display());
    let config: SqliteConfig = config.parse().unwrap();
    let source = SqliteStore::open(config, name.clone(), StoreOptions::default()).await;
    let source: Arc<dyn Store> = Arc::new(source.unwrap());
    let to = DatabaseUrl::parse(&server.url()).unwrap();
    let sink = Box::pin(to.open_sink(&name)).await.unwrap().sink();
    let pipeline = PipelineId::new("standalone").unwrap();
    everything(&source, 0).await;

    let stop = Arc::new(AtomicBool::new(false));
    let (writes, ended) = (Arc::clone(&source), Arc::clone(&stop));
    let writer = tokio::spawn(async move {
        let mut round = 1;
        while !ended.load(Ordering::Relaxed) {
            everything(&writes, round).await;
            round += 1;
        }
    });
    let options = BridgeOptions::new(pipeline.clone());
    let bridge = Bridge::new(Arc::clone(&source), Arc::clone(&sink), options).unwrap();
    let handle = Stop::new();
    let stopped = handle.clone();
    let running = tokio::spawn(async move { bridge.run(&stopped).await });
    for _ in 0..3 {
        let last = sink.cursors().unwrap().stored(&pipeline).await.unwrap();
        until("the bridge gets on", async || {
            let stored = sink.cursors().unwrap().stored(&pipeline).await;
            stored.is_ok_and(|stored| stored > last)
        })
        .await;
        server.kill().await;
        server.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    handle.stop();
    running.await.unwrap().unwrap();

    let options = BridgeOptions {
        once: true,
        ..BridgeOptions::new(pipeline.clone())
    };
    let bridge = Bridge::new(Arc::clone(&source), Arc::clone(&sink), options).unwrap();
    bridge.run(&Stop::new()).await.unwrap();
    let options = VerifyOptions::new(pipeline);
    let report = verify(source.as_ref(), sink.as_ref(), &options, |_| {});
    let report = report.await.unwrap();
    assert!(report.is_equal(), "{report:?}");
    source.close().await;
}
