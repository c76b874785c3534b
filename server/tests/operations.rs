//! What operators use: probes, health, reflection, administration, shutdown.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use ledger_core::{Cursor, DeadLetter, Error, ErrorKind, PipelineId, Result, StreamKey, Timestamp};
use ledger_server::v1::{
    DiscardDeadLettersRequest, GetBridgeRequest, ListBridgesRequest, ListDeadLettersRequest,
    ListStoresRequest, PauseBridgeRequest, RemoveBridgeRequest, ReplayDeadLettersRequest,
    ResumeBridgeRequest, ResyncBridgeRequest, VerifyBridgeRequest, bridge, store_status,
};
use ledger_server::{BridgeState, BridgeStatus, Bridges, Letters, ServiceOptions, Verification};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::{LONG, Server, append, refusal, soon};

/// One bridge that notes what it is asked.
#[derive(Default)]
struct Noted {
    asked: Mutex<Vec<String>>,
    failing: bool,
}

impl Noted {
    fn note(&self, name: &PipelineId, what: impl Into<String>) -> Result<()> {
        if name.as_str() != "b" {
            return Err(Error::new(
                ErrorKind::NotFound,
                "find bridge",
                format!("bridge {name:?}"),
            ));
        }
        self.asked.lock().unwrap().push(what.into());
        Ok(())
    }
}

#[async_trait]
impl Bridges for Noted {
    async fn list(&self) -> Vec<BridgeStatus> {
        vec![BridgeStatus {
            name: PipelineId::new("b").unwrap(),
            store: "orders".into(),
            to: "sqlite".into(),
            state: BridgeState::Following,
            ready: !self.failing,
            lag_entries: 7,
            lag_bytes: Some(70),
            lag: Duration::from_millis(1_500),
            last_error: self.failing.then(|| "no answer".into()),
            delivered: 1,
            bytes: 2,
            skipped: 3,
            parked: 4,
            refused: 5,
            to_copy: 6,
            rate: 0.5,
            position: Some("4c01".parse().unwrap()),
            dead_letters: 1,
        }]
    }

    async fn pause(&self, name: &PipelineId) -> Result<()> {
        self.note(name, "pause")
    }

    async fn resume(&self, name: &PipelineId) -> Result<()> {
        self.note(name, "resume")
    }

    async fn resync(&self, name: &PipelineId, table: Option<&str>) -> Result<()> {
        self.note(name, format!("resync {table:?}"))
    }

    async fn remove(&self, name: &PipelineId) -> Result<()> {
        self.note(name, "remove")
    }

    async fn verify(&self, name: &PipelineId, repair: bool) -> Result<Verification> {
        self.note(name, format!("verify {repair}"))?;
        Ok(Verification {
            compared: 9,
            equal: true,
            ..Verification::default()
        })
    }

    async fn dead_letters(
        &self,
        name: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Letters> {
        self.note(name, format!("letters {after:?} {limit}"))?;
        let letter = DeadLetter {
            pipeline: name.clone(),
            cursor: "4c02".parse().unwrap(),
            key: StreamKey(3),
            description: "append s#1".into(),
            reason: "too long".into(),
            item: bytes::Bytes::new(),
            parked_at: Timestamp::from_micros(1),
        };
        Ok(Letters {
            letters: vec![letter],
            total: 1,
        })
    }

    async fn discard(&self, name: &PipelineId, cursors: Option<&[Cursor]>) -> Result<u64> {
        self.note(name, format!("discard {cursors:?}"))?;
        Ok(1)
    }

    async fn replay(&self, name: &PipelineId) -> Result<(u64, u64)> {
        self.note(name, "replay")?;
        Ok((1, 2))
    }
}

#[tokio::test]
async fn bridges_are_looked_after() {
    let bridges = Arc::new(Noted::default());
    let server = Server::with(ServiceOptions {
        bridges: Arc::<Noted>::clone(&bridges),
        ..ServiceOptions::default()
    })
    .await;
    let mut admin = server.admin().await;
    let name = || "b".to_owned();
    let stores = admin
        .list_stores(ListStoresRequest {})
        .await
        .unwrap()
        .into_inner()
        .stores;
    assert_eq!(stores[0].name, "orders");
    assert_eq!(stores[0].state(), store_status::State::Ready);
    let listed = admin
        .list_bridges(ListBridgesRequest {
            store: "orders".into(),
        })
        .await
        .unwrap();
    let listed = &listed.get_ref().bridges[0];
    assert_eq!(
        (listed.state(), listed.lag_entries),
        (bridge::State::Following, 7)
    );
    assert_eq!(listed.lag.unwrap().nanos, 500_000_000);
    assert_eq!(listed.position, "4c01");
    let none = admin
        .list_bridges(ListBridgesRequest { store: "x".into() })
        .await
        .unwrap();
    assert!(none.get_ref().bridges.is_empty());
    assert_eq!(
        admin
            .get_bridge(GetBridgeRequest { name: name() })
            .await
            .unwrap()
            .get_ref()
            .name,
        "b"
    );
    admin
        .pause_bridge(PauseBridgeRequest { name: name() })
        .await
        .unwrap();
    admin
        .resume_bridge(ResumeBridgeRequest { name: name() })
        .await
        .unwrap();
    admin
        .resync_bridge(ResyncBridgeRequest {
            name: name(),
            table: String::new(),
        })
        .await
        .unwrap();
    admin
        .resync_bridge(ResyncBridgeRequest {
            name: name(),
            table: "public.t".into(),
        })
        .await
        .unwrap();
    let verify = VerifyBridgeRequest {
        name: name(),
        repair: true,
    };
    assert!(admin.verify_bridge(verify).await.unwrap().get_ref().equal);
    let list = ListDeadLettersRequest {
        bridge: name(),
        after: "4c00".into(),
        limit: 0,
    };
    let letters = admin.list_dead_letters(list).await.unwrap().into_inner();
    assert_eq!((letters.total, &*letters.letters[0].cursor), (1, "4c02"));
    let discard = |cursors: &[&str], all| DiscardDeadLettersRequest {
        bridge: name(),
        cursors: cursors.iter().map(|c| (*c).to_owned()).collect(),
        all,
    };
    admin
        .discard_dead_letters(discard(&["4c02"], false))
        .await
        .unwrap();
    admin
        .discard_dead_letters(discard(&[], true))
        .await
        .unwrap();
    for wrong in [
        discard(&[], false),
        discard(&["4c02"], true),
        discard(&["x"], false),
    ] {
        assert_eq!(
            refusal(admin.discard_dead_letters(wrong).await).0,
            Code::InvalidArgument
        );
    }
    let replay = ReplayDeadLettersRequest { bridge: name() };
    assert_eq!(
        admin
            .replay_dead_letters(replay)
            .await
            .unwrap()
            .get_ref()
            .left,
        2
    );
    let remove = RemoveBridgeRequest { name: name() };
    admin.remove_bridge(remove).await.unwrap();
    let unknown = RemoveBridgeRequest { name: "x".into() };
    assert_eq!(
        refusal(admin.remove_bridge(unknown).await).0,
        Code::NotFound
    );
    let unknown = PauseBridgeRequest { name: "x".into() };
    assert_eq!(refusal(admin.pause_bridge(unknown).await).0, Code::NotFound);
    let empty = GetBridgeRequest::default();
    assert_eq!(
        refusal(admin.get_bridge(empty).await).0,
        Code::InvalidArgument
    );
    assert_eq!(
        *bridges.asked.lock().unwrap(),
        [
            "pause",
            "resume",
            "resync None",
            "resync Some(\"public.t\")",
            "verify true",
            "letters Some(Cursor(4c00)) 100",
            "discard Some([Cursor(4c02)])",
            "discard None",
            "replay",
            "remove",
        ]
    );
    let (status, body) = server.http(Method::POST, "/v1/bridges/b:pause", "").await;
    assert_eq!((status, body), (StatusCode::OK, json!({})));
    let (_, body) = server.http(Method::GET, "/v1/bridges/b", "").await;
    assert_eq!(body["state"], "STATE_FOLLOWING");
    assert_eq!(body["lag"], "1.500s");
    assert_eq!(body["rate"], 0.5);
}

#[tokio::test]
async fn readiness_names_each_part() {
    for failing in [false, true] {
        let server = Server::with(ServiceOptions {
            bridges: Arc::new(Noted {
                failing,
                ..Noted::default()
            }),
            ..ServiceOptions::default()
        })
        .await;
        let (status, body) = server.http(Method::GET, "/readyz", "").await;
        assert_eq!(status == StatusCode::OK, !failing, "{body}");
        let components = body["components"].as_array().unwrap();
        assert_eq!(components[0]["kind"], "store");
        assert_eq!(components[0]["name"], "orders");
        assert_eq!(components[1]["lag_entries"], 7);
        assert_eq!(components[1]["lag_seconds"], 1.5);
        assert_eq!(components[1]["ready"], !failing);
        let mut health = HealthClient::new(server.channel().await);
        let check = HealthCheckRequest {
            service: "ledger.v1.LedgerService".into(),
        };
        let answer = health.check(check).await.unwrap().into_inner().status;
        assert_eq!(answer, if failing { 2 } else { 1 });
    }
    let server = Server::start().await;
    let (status, _, body) = server
        .raw(Method::GET, "/metrics", &[], String::new())
        .await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"ledger_up 1\n"[..]));
}

#[tokio::test]
async fn why_a_part_is_not_ready_is_told_to_who_has_the_key() {
    let server = Server::with(ServiceOptions {
        guard: Arc::new(ledger_server::ApiKeyGuard::new("secret")),
        bridges: Arc::new(Noted {
            failing: true,
            ..Noted::default()
        }),
        ..ServiceOptions::default()
    })
    .await;
    for (key, told) in [("secret", true), ("wrong", false), ("", false)] {
        let headers = [("x-api-key", key)];
        let (status, _, body) = server
            .raw(Method::GET, "/readyz", &headers, String::new())
            .await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert_eq!(body.contains("no answer"), told, "{key}: {body}");
    }
}

#[tokio::test]
async fn health_is_watched_and_unknown_services_are_told() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel().await);
    let unknown = HealthCheckRequest {
        service: "x".into(),
    };
    assert_eq!(
        health.check(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
    let all = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = health.watch(all).await.unwrap().into_inner();
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status, 1);
    server.shutdown.begin(LONG);
    assert_eq!(
        soon(watch.message()).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap();
    let answer: ServerReflectionResponse = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in ["LedgerService", "FollowService", "AdminService"] {
        assert!(
            names.contains(&format!("ledger.v1.{name}").as_str()),
            "{names:?}"
        );
    }
    assert!(names.contains(&"grpc.health.v1.Health"));
}

#[tokio::test]
async fn a_shutdown_finishes_what_has_begun() {
    let server = Server::start().await;
    let mut client = server.client().await;
    append(&mut client, "s", &["x"]).await;
    // A bulk load that is under way ends with a clear status; what was acknowledged is there.
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let requests = futures::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|request| (request, receive))
    });
    let mut follower = server.follower().await;
    let mut answers = follower.append_stream(requests).await.unwrap().into_inner();
    send.send(ledger_server::v1::AppendStreamRequest {
        stream: "bulk".into(),
        entries: vec![crate::harness::input("x")],
        sequence: 5,
    })
    .unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().sequence, 5);
    server.shutdown.begin(LONG);
    let (code, reason, _) = refusal(soon(answers.message()).await);
    assert_eq!((code, &*reason), (Code::Unavailable, "SHUTTING_DOWN"));
    let (status, body) = server.http(Method::GET, "/readyz", "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["status"], "shutting down");
    soon(server.serving).await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(server.address)
            .await
            .is_err(),
        "it still accepts"
    );
}

#[tokio::test]
async fn a_shutdown_cuts_off_what_does_not_end() {
    let server = Server::start().await;
    let mut half = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"PRI * ")
        .await
        .unwrap();
    let mut client = server.client().await;
    append(&mut client, "s", &["x"]).await;
    server.shutdown.begin(Duration::from_millis(100));
    soon(server.serving).await.unwrap().unwrap();
}
