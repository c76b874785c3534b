use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use ledger::hook::{Delivery, Endpoint as _, Outcome};
use ledger::pipeline::{BatchOptions, Lead, PipelineExt as _};
use ledger::webhook::{
    Format, SigningKey, Target, Verifier, Webhook, WebhookConfig, WebhookEndpoint, WebhookSink,
    verify_compat,
};
use ledger::{
    Change, Claim, Cursor, Entry, EntryId, Mutation, Pairs, PipelineId, StoreName, StreamKey,
    StreamName, StreamRef, Timestamp,
};
use ledger_harness::{Receiver, Reply};
use ledger_server::{Limits, Protocol, Shutdown, Tls};
use serde_json::Value;

pub(crate) fn append(id: u64) -> Change {
    let stream = StreamName::new("user-1").unwrap();
    let entry = Entry {
        id: EntryId(id),
        stream: stream.clone(),
        payload: Bytes::from_static(b"{\"n\":1}"),
        order_key: String::new(),
        dedup_key: String::new(),
        schema_version: 1,
        metadata: Pairs::new(),
        tags: Vec::new(),
        annotations: Pairs::new(),
        label_version: 0,
        created_at: Timestamp::now(),
        updated_at: None,
    };
    Change {
        cursor: Cursor::new(b't', &id.to_be_bytes()),
        committed_at: Timestamp::now(),
        stream: StreamRef {
            key: StreamKey(1),
            name: stream,
            name_version: 1,
        },
        mutation: Mutation::Append {
            entry: Box::new(entry),
            version: id,
        },
    }
}

pub(crate) fn delivery() -> Delivery {
    let hook = PipelineId::new("hook:test").unwrap();
    let store = StoreName::new("orders").unwrap();
    Delivery::new(&hook, uuid::Uuid::nil(), &store, vec![append(7)]).unwrap()
}

#[test]
fn an_id_is_made_of_what_is_sent_and_of_nothing_else() {
    let of = |hook: &str, source: u128, ids: &[u64]| {
        let hook = PipelineId::new(hook).unwrap();
        let store = StoreName::new("orders").unwrap();
        let changes = ids.iter().copied().map(append).collect();
        let source = uuid::Uuid::from_u128(source);
        Delivery::new(&hook, source, &store, changes).unwrap().id
    };
    let id = of("hook:a", 1, &[7, 8]);
    assert_eq!(id, of("hook:a", 1, &[7, 8]));
    // Stable over versions of the program: receivers have stored it.
    assert_eq!(id, "msg_bdefaefbbbc217eecf8e5c583132275c");
    for other in [
        of("hook:b", 1, &[7, 8]),
        of("hook:a", 2, &[7, 8]),
        of("hook:a", 1, &[7]),
        of("hook:a", 1, &[8]),
        of("hook:a", 1, &[6, 7, 8]),
    ] {
        assert_ne!(id, other);
    }
}

/// Over TLS with an authority of one's own, by HTTP/2, to the extractor of a receiver.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_the_extractor_takes_what_is_signed_over_http_2_and_nothing_else() {
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let secret = SigningKey::generate_shared().unwrap();
    let taken: Arc<Mutex<Vec<(String, Bytes, axum::http::Version)>>> = Arc::default();
    let takes = Arc::clone(&taken);
    let router = Router::new()
        .route(
            "/hook",
            post(
                move |version: axum::http::Version, webhook: Webhook| async move {
                    takes
                        .lock()
                        .unwrap()
                        .push((webhook.id, webhook.body, version));
                },
            ),
        )
        .with_state(Verifier::new([&secret]).unwrap());
    let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = Tls {
        certificate: authority.cert.pem().into_bytes(),
        key: authority.signing_key.serialize_pem().into_bytes(),
        client_authorities: None,
    };
    let serving = tokio::spawn(async move {
        let (limits, shutdown) = (Limits::default(), Shutdown::new());
        ledger_server::serve(
            listener,
            router,
            Protocol::Http,
            Some(tls),
            &limits,
            shutdown,
        )
        .await
    });

    let url = format!("https://localhost:{port}/hook");
    let config = |secret: Option<&str>, ca: Option<String>| {
        let mut config = WebhookConfig::new(Target::parse(&url, &[]).unwrap());
        config.format = Format::Standard;
        config.keys = secret
            .into_iter()
            .map(|key| SigningKey::parse(key).unwrap())
            .collect();
        config.ca = ca.map(String::into_bytes);
        config
    };
    let ca = authority.cert.pem();
    let endpoint = WebhookEndpoint::new(config(Some(&secret), Some(ca.clone()))).unwrap();
    let sent = delivery();
    let answer = endpoint.post(&sent).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Delivered, "{answer:?}");
    {
        let taken = taken.lock().unwrap();
        assert_eq!(taken[0].0, sent.id);
        assert_eq!(taken[0].2, axum::http::Version::HTTP_2);
        let body: Value = serde_json::from_slice(&taken[0].1).unwrap();
        assert_eq!(body["data"]["entries"][0]["id"], "7");
    }
    // Unsigned, or by another's key.
    let other = SigningKey::generate_shared().unwrap();
    for key in [None, Some(other.as_str())] {
        let endpoint = WebhookEndpoint::new(config(key, Some(ca.clone()))).unwrap();
        let answer = endpoint.post(&sent).await.unwrap();
        assert_eq!(answer.status, Some(401), "{answer:?}");
    }
    assert_eq!(taken.lock().unwrap().len(), 1);
    // Signed by an authority that nobody knows.
    let untrusting = WebhookEndpoint::new(config(Some(&secret), None)).unwrap();
    let answer = untrusting.post(&sent).await.unwrap();
    assert_eq!((answer.outcome, answer.status), (Outcome::Failed, None));
    assert!(answer.error.unwrap().contains("certificate"));
    let mut trusting = config(Some(&secret), None);
    trusting.insecure = true;
    let trusting = WebhookEndpoint::new(trusting).unwrap();
    assert_eq!(
        trusting.post(&sent).await.unwrap().outcome,
        Outcome::Delivered
    );
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compat_form_is_signed_over_its_body_and_judged_by_its_contract() {
    let receiver = Receiver::start(|request| {
        Reply::Status(request.path.trim_start_matches('/').parse().unwrap())
    });
    for (status, outcome) in [
        (200, Outcome::Delivered),
        (204, Outcome::Delivered),
        (302, Outcome::Refused),
        (400, Outcome::Refused),
        (404, Outcome::Refused),
        (408, Outcome::Failed),
        (410, Outcome::Gone),
        (425, Outcome::Failed),
        (429, Outcome::Throttled),
        (500, Outcome::Failed),
        (502, Outcome::Throttled),
        (503, Outcome::Failed),
        (504, Outcome::Throttled),
    ] {
        let url = receiver.url(&format!("/{status}"));
        let mut config = WebhookConfig::new(Target::parse(&url, &[]).unwrap());
        config.keys = vec![SigningKey::shared(b"hunter2")];
        config.header("x-team", "billing").unwrap();
        let endpoint = WebhookEndpoint::new(config).unwrap();
        let answer = endpoint.post(&delivery()).await.unwrap();
        assert_eq!(answer.outcome, outcome, "{status}");
        assert!(!format!("{endpoint:?} {answer:?}").contains("hunter2"));
    }
    for request in receiver.received() {
        let signature = request.header("x-ledger-signature");
        assert!(verify_compat(b"hunter2", signature, &request.body));
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("x-team"), "billing");
        assert_eq!(request.header("webhook-id"), "");
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["stream"], "user-1");
        assert_eq!(body["entries"][0]["payload"]["n"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_nobody_is_a_failed_attempt_and_no_error() {
    let closed = {
        let receiver = Receiver::start(|_| Reply::Status(200));
        receiver.address()
    };
    let url = format!("http://{closed}/");
    let mut config = WebhookConfig::new(Target::parse(&url, &[]).unwrap());
    config.timeout = Duration::from_secs(5);
    let endpoint = WebhookEndpoint::new(config).unwrap();
    // Whoever had the port may still be closing it.
    let answer = loop {
        let answer = endpoint.post(&delivery()).await.unwrap();
        if answer.status.is_none() {
            break answer;
        }
    };
    assert_eq!(answer.outcome, Outcome::Failed);
    assert!(!answer.error.unwrap().is_empty());
}

/// The sink by itself, in a pipeline like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_delivers_into_a_webhook_with_the_ids_of_its_source() {
    use futures::StreamExt as _;
    let receiver = Receiver::start(|_| Reply::Status(200));
    let config = WebhookConfig::new(Target::parse(&receiver.url("/"), &[]).unwrap());
    let sink = WebhookSink::of_replica(config, StoreName::new("orders").unwrap()).unwrap();
    let changes = futures::stream::iter((1..=3).map(|id| Ok(append(id))));
    let lead = Lead::new(
        PipelineId::new("p").unwrap(),
        Claim {
            fence: 1,
            cursor: None,
        },
    );
    let delivered: Vec<_> = changes
        .steps()
        .batch(BatchOptions::default())
        .deliver_to(Arc::new(sink), lead)
        .collect()
        .await;
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
    let ids: Vec<_> = receiver
        .received()
        .iter()
        .flat_map(|request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let entries = body["entries"].as_array().unwrap().clone();
            entries
                .into_iter()
                .map(|entry| entry["source_id"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);
}
