//! What a client may not do.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use ledger_server::Limits;
use ledger_server::v1::{CountRequest, ListStreamIDsRequest, ReadOptions, ReadRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::{LONG, Server, append, appending, input, refusal, soon};

#[tokio::test]
async fn messages_are_bounded_both_ways() {
    let server = Server::limited(Limits {
        message_bytes: 10_000,
        ..Limits::default()
    })
    .await;
    let mut client = server.client().await;
    let large = vec![input("x".repeat(20_000))];
    let (code, reason, status) = refusal(client.append(appending("s", large)).await);
    assert_eq!(
        (code, &*reason),
        (Code::ResourceExhausted, "REQUEST_TOO_LARGE")
    );
    assert!(status.message().contains("10000 bytes"), "{status}");

    let entry = "y".repeat(3_000);
    for _ in 0..5 {
        append(&mut client, "s", &[&entry]).await;
    }
    let read = |limit| ReadRequest {
        stream: "s".into(),
        options: Some(ReadOptions {
            limit,
            ..ReadOptions::default()
        }),
    };
    assert_eq!(
        client.read(read(3)).await.unwrap().get_ref().entries.len(),
        3
    );
    let (code, reason, status) = refusal(client.read(read(5)).await);
    assert_eq!(
        (code, &*reason),
        (Code::ResourceExhausted, "RESPONSE_TOO_LARGE")
    );
    assert!(status.message().contains("10000 bytes"), "{status}");
    let path = "/v1/streams/s/entries";
    let (status, body) = server.http(Method::GET, path, "").await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &8.into())
    );
    for size in [14_000, 100_000] {
        let payload = "eHh4".repeat(size / 4);
        let body = format!(r#"{{"entries":[{{"payload":"{payload}"}}]}}"#);
        let (status, body) = server.http(Method::POST, path, body).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{body}");
    }
    for number in 0..20 {
        append(
            &mut client,
            &format!("{number:02}{}", "n".repeat(900)),
            &["x"],
        )
        .await;
    }
    let list = ListStreamIDsRequest::default();
    assert_eq!(
        refusal(client.list_stream_i_ds(list).await).0,
        Code::ResourceExhausted
    );
}

#[tokio::test]
async fn entries_and_headers_are_counted() {
    let limits = Limits {
        entries: 3,
        header_bytes: 2_000,
        headers: 20,
        ..Limits::default()
    };
    let server = Server::limited(limits).await;
    let mut client = server.client().await;
    let four = vec![input("x"), input("x"), input("x"), input("x")];
    let (code, reason, _) = refusal(client.append(appending("s", four)).await);
    assert_eq!(
        (code, &*reason),
        (Code::InvalidArgument, "TOO_MANY_ENTRIES")
    );

    let long = "v".repeat(2_000);
    let headers = [("x-ledger-store", "orders"), ("x-more", long.as_str())];
    let mut client = server.client_with(&headers).await;
    let (code, reason, _) = refusal(client.count(CountRequest { stream: "s".into() }).await);
    assert_eq!(
        (code, &*reason),
        (Code::ResourceExhausted, "HEADERS_TOO_LARGE")
    );
    let names: Vec<_> = (0..25).map(|n| format!("x-{n}")).collect();
    let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let (status, _, _) = server
        .raw(Method::GET, "/v1/health", &headers, String::new())
        .await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_request_that_does_not_arrive_is_given_up() {
    let limits = Limits {
        request_time: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::limited(limits).await;
    let body =
        axum::body::Body::from_stream(futures::stream::pending::<Result<String, std::io::Error>>());
    let request = http::Request::post("/v1/streams/s/entries")
        .header("x-ledger-store", "orders")
        .body(body)
        .unwrap();
    let response = tower::ServiceExt::oneshot(server.http.clone(), request);
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);

    // The same over gRPC: a bulk load may take its time, a single append may not.
    let mut follower = server.follower().await;
    let mut answers = follower.append_stream(futures::stream::pending()).await;
    assert!(answers.is_ok());
    let waited = tokio::time::timeout(
        Duration::from_millis(600),
        answers.as_mut().unwrap().get_mut().message(),
    );
    assert!(waited.await.is_err(), "a bulk load ended");
}

/// Whether the other side closes the connection, and after how long.
async fn closed(mut stream: TcpStream) -> Duration {
    let begin = Instant::now();
    let mut buffer = [0; 1_024];
    loop {
        match soon(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return begin.elapsed(),
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn half_open_clients_are_disconnected() {
    let limits = Limits {
        handshake_time: Duration::from_millis(300),
        keepalive_interval: Duration::from_millis(300),
        keepalive_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::limited(limits).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    assert!(closed(silent).await < LONG);
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    assert!(closed(half).await < LONG);
    // A whole beginning, and then silence: pings stay unanswered.
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    mute.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    assert!(closed(mute).await < LONG);
    // Meanwhile others are served.
    let mut client = server.client().await;
    append(&mut client, "s", &["x"]).await;
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let server = Server::limited(Limits {
        connections: 1,
        ..Limits::default()
    })
    .await;
    let mut first = server.client().await;
    append(&mut first, "s", &["x"]).await;
    let second = async {
        let mut client = server.client().await;
        append(&mut client, "s", &["y"]).await;
    };
    tokio::pin!(second);
    let waits = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(waits.is_err(), "the second connection did not wait");
    drop(first);
    soon(second).await;
}

#[tokio::test]
async fn http_has_a_time_for_its_headers_and_one_for_silence() {
    let server = Server::start().await;
    let limits = Limits {
        handshake_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let address = server.listen_http(None, limits).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 1_024];
    let read = soon(client.read(&mut answer)).await.unwrap();
    assert!(
        answer[..read].starts_with(b"HTTP/1.1 200"),
        "{:?}",
        &answer[..read]
    );
    assert!(closed(client).await < LONG, "an idle connection stays");
    for beginning in [
        &b""[..],
        b"GET /livez HTT",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ",
    ] {
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(beginning).await.unwrap();
        assert!(closed(slow).await < LONG);
    }
}
