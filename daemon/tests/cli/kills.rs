//! A daemon that is killed again and again: what it has acknowledged is there, once.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use ledger_server::v1::{AppendRequest, EntryInput};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::daemon::{Home, wait};

const CLIENTS: usize = 200;
const KILLS: usize = 5;
/// How many entries all clients have appended before the next kill.
const BETWEEN: usize = 2_000;

/// Appends entries with dedup keys until it is told to end, each again until it is acknowledged;
/// returns how many were.
async fn client(
    number: usize,
    channel: Channel,
    acknowledged: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
) -> usize {
    let mut client = LedgerServiceClient::new(channel);
    let mut done = 0;
    while !enough.load(Ordering::Relaxed) {
        let key = format!("{number}-{done}");
        let mut request = Request::new(AppendRequest {
            stream: format!("s{}", number % 20),
            entries: vec![EntryInput {
                payload: format!("\"{key}\"").into(),
                dedup_key: key,
                ..EntryInput::default()
            }],
            expected_version: None,
        });
        request
            .metadata_mut()
            .insert("x-ledger-store", "orders".parse().unwrap());
        match client.append(request).await {
            Ok(_) => {
                done += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // Not here now: asked again, as a real client would.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_to_200_clients_is_there_once() {
    let home = Home::started("");
    let endpoint = Endpoint::from_shared(format!("http://localhost:{}", home.port)).unwrap();
    let (acknowledged, enough) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (acknowledged, enough) = (Arc::clone(&acknowledged), Arc::clone(&enough));
            tokio::spawn(client(
                number,
                endpoint.connect_lazy(),
                acknowledged,
                enough,
            ))
        })
        .collect();
    tokio::task::block_in_place(|| {
        for _ in 0..KILLS {
            let until = acknowledged.load(Ordering::Relaxed) + BETWEEN;
            wait("more entries", || {
                acknowledged.load(Ordering::Relaxed) >= until
            });
            home.signal("KILL");
            wait("the end", || {
                home.out(&["status"]) == "ledger daemon is not running\n"
            });
            home.out(&["start"]);
        }
        let until = acknowledged.load(Ordering::Relaxed) + BETWEEN;
        wait("more entries", || {
            acknowledged.load(Ordering::Relaxed) >= until
        });
    });
    enough.store(true, Ordering::Relaxed);
    let mut expected = BTreeMap::new();
    for (number, client) in clients.into_iter().enumerate() {
        expected.insert(number, client.await.unwrap());
    }

    let mut found = BTreeMap::<String, usize>::new();
    for stream in 0..20 {
        let stream = format!("s{stream}");
        let text = home.out(&[
            "stream", "read", "-s", "orders", "-S", &stream, "--limit", "1000000",
        ]);
        for line in text.lines() {
            let (_, key) = line.split_once('\t').unwrap();
            *found.entry(key.to_owned()).or_default() += 1;
        }
    }
    assert!(
        found.values().all(|count| *count == 1),
        "something is doubled"
    );
    for (number, done) in &expected {
        for index in 0..*done {
            assert!(
                found.contains_key(&format!("{number}-{index}")),
                "{number}-{index} is lost"
            );
        }
    }
    // Beyond it only what was sent and not acknowledged: at most one a client.
    let acknowledged: usize = expected.values().sum();
    assert!(
        found.len() <= acknowledged + CLIENTS,
        "{} of {acknowledged}",
        found.len()
    );
    assert!(acknowledged >= BETWEEN * (KILLS + 1));
}

#[test]
fn a_load_that_its_daemon_died_under_goes_on_without_loss_or_doubles() {
    const LINES: usize = 200_000;
    let home = Home::started("");
    let path = home.path("lines.jsonl");
    let lines: Vec<_> = (0..LINES)
        .map(|number| format!("{{\"k\":{number}}}"))
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let file = path.display().to_string();
    let load = [
        "stream",
        "append",
        "--file",
        &file,
        "--dedup-key-field",
        "k",
    ];
    let mut command = home.ledger(&load);
    let running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let count = || {
        home.out(&["stream", "count"])
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let noted = home.path(".ledger/loads");
    wait("the first acknowledgement", || {
        std::fs::read_dir(&noted).is_ok_and(|mut files| files.next().is_some())
    });
    home.signal("KILL");
    let broken: crate::program::Ran = running.wait_with_output().unwrap().into();
    assert_eq!(broken.code, Some(6), "{broken:#?}");
    assert!(
        broken.err.contains("run it again with --resume"),
        "{broken:#?}"
    );
    home.out(&["start"]);
    let before = count();
    assert!(before < LINES, "it was interrupted");
    let again = home.ran(&[&load[..], &["--resume", "-o", "table"]].concat());
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert!(again.err.starts_with("going on behind line "), "{again:#?}");
    assert_eq!(count(), LINES);
}
