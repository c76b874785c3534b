//! The HTTP table, and the JSON mapping.

use std::sync::Arc;

use http::{Method, StatusCode};
use ledger_server::{ApiKeyGuard, ServiceOptions};
use serde_json::{Value, json};

use crate::harness::{Server, append};

/// `x` in base64.
const X: &str = "eA==";

async fn entries(server: &Server, path: &str) -> Vec<Value> {
    let (status, body) = server.http(Method::GET, path, "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_row_of_the_table_works() {
    let server = Server::start().await;
    let (status, body) = server
        .http(
            Method::POST,
            "/v1/streams/a%2Fb/entries",
            json!({"entries": [
                {"payload": X, "orderKey": "o", "dedup_key": "d", "schemaVersion": "2",
                 "metadata": {"m": "1"}, "tags": ["t"], "unknown": 1},
                {"payload": X, "dedupKey": "d"},
                {"payload": "_-8", "schema_version": 3},
            ], "stream": "the path wins", "alien": {}})
            .to_string(),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(
        body["ids"].as_array().unwrap().len(),
        2,
        "a duplicate has no id: {body}"
    );
    assert_eq!(body["ids"][0], "1");
    let last = body["ids"][1].clone();

    let read = entries(&server, "/v1/streams/a%2Fb/entries?alien=1").await;
    assert_eq!(read.len(), 2);
    let first = &read[0];
    assert_eq!(first["id"], "1");
    assert_eq!(first["stream"], "a/b");
    assert_eq!(first["payload"], X);
    assert_eq!(first["orderKey"], "o");
    assert_eq!(first["dedupKey"], "d");
    assert_eq!(first["schemaVersion"], "2");
    assert_eq!(first["metadata"], json!({"m": "1"}));
    assert_eq!(first["tags"], json!(["t"]));
    assert_eq!(first["annotations"], json!({}));
    assert_eq!(first["updatedAt"], Value::Null);
    assert!(first.as_object().unwrap().contains_key("updatedAt"));
    let created = first["createdAt"].as_str().unwrap();
    assert!(
        created.starts_with("20") && created.ends_with('Z'),
        "{created}"
    );
    assert_eq!(read[1]["orderKey"], "", "unpopulated fields are there");
    assert_eq!(
        read[1]["payload"], "/+8=",
        "base64 is taken in both alphabets"
    );

    let ok = async |method, path: &str, body: Value| {
        let (status, answer) = server.http(method, path, body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    };
    let none = json!({});
    assert_eq!(
        ok(Method::GET, "/v1/streams/a%2Fb/entries:count", Value::Null).await,
        json!({"count": "2"})
    );
    let tags = json!({"tags": ["u", "v"], "id": "9"});
    assert_eq!(
        ok(Method::PUT, "/v1/streams/a%2Fb/entries/1/tags", tags).await,
        none
    );
    let set = json!({"set": {"k": "v", "l": "w"}, "delete": ["l"]});
    let path = "/v1/streams/a%2Fb/entries/1/annotations";
    assert_eq!(ok(Method::PATCH, path, set).await, none);
    let first = entries(&server, "/v1/streams/a%2Fb/entries?options.limit=1")
        .await
        .remove(0);
    assert_eq!(first["tags"], json!(["u", "v"]));
    assert_eq!(first["annotations"], json!({"k": "v"}));
    assert!(first["updatedAt"].is_string());
    let found = ok(
        Method::POST,
        "/v1/streams//entries:search",
        json!({"query": "X"}),
    )
    .await;
    assert_eq!(found["entries"].as_array().unwrap().len(), 1);
    let path = "/v1/streams/a%2Fb/entries:search";
    let desc = json!({"query": "x", "options": {"desc": true, "allTags": ["u", "v"]}});
    assert_eq!(
        ok(Method::POST, path, desc).await["entries"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let renamed = ok(
        Method::POST,
        "/v1/streams/a%2Fb:rename",
        json!({"newName": "c:d"}),
    )
    .await;
    assert_eq!(renamed, none);
    let stat = ok(Method::GET, "/v1/streams/c:d:stat", Value::Null).await;
    assert_eq!(
        stat,
        json!({"stream": "c:d", "count": "2", "firstId": "1", "lastId": last, "version": "2"})
    );
    let list = ok(Method::GET, "/v1/streams?limit=5&after=a", Value::Null).await;
    assert_eq!(list, json!({"streamIds": ["c:d"], "nextPageToken": ""}));
    let path = "/v1/streams/c%3Ad/entries:trim";
    let trimmed = ok(Method::POST, path, json!({"beforeId": "1"})).await;
    assert_eq!(trimmed, json!({"deleted": "1"}));
    let (status, _, body) = server
        .raw(Method::GET, "/v1/health", &[], String::new())
        .await;
    assert_eq!(
        (status, &*body),
        (StatusCode::OK, &br#"{"status":"ok"}"#[..])
    );
}

#[tokio::test]
async fn a_query_sets_every_filter() {
    let server = Server::start().await;
    let body = json!({"entries": (0..6).map(|n| json!({
        "payload": X, "orderKey": if n % 2 == 0 { "a" } else { "b" },
        "metadata": {"a.b": n.to_string()}, "tags": ["t", format!("t{n}")],
    })).collect::<Vec<_>>()});
    server
        .http(Method::POST, "/v1/streams/s/entries", body.to_string())
        .await;
    let note = json!({"set": {"k": "v"}}).to_string();
    server
        .http(Method::PATCH, "/v1/streams/s/entries/3/annotations", note)
        .await;
    for (query, expected) in [
        ("options.after=2&options.limit=2", vec!["3", "4"]),
        ("options.desc=true&options.limit=2", vec!["6", "5"]),
        ("options.desc=T&options.after=3", vec!["2", "1"]),
        ("options.order_key=a", vec!["1", "3", "5"]),
        ("options.orderKey=a&options.tag=t2", vec!["3"]),
        ("options.all_tags=t&options.all_tags=t4", vec!["5"]),
        ("options.metadata_filters[a.b]=4", vec!["5"]),
        ("options.metadata_filters%5Ba.b%5D=4", vec!["5"]),
        (
            "options.annotation_filters[k]=v&options.order_key=a",
            vec!["3"],
        ),
        ("options.since=2200-01-01T00:00:00Z", vec![]),
        (
            "nonsense=1&options.nonsense=2&options.a.b=3&options[x]=y",
            vec!["1", "2", "3", "4", "5", "6"],
        ),
    ] {
        let found = entries(&server, &format!("/v1/streams/s/entries?{query}")).await;
        let ids: Vec<_> = found.iter().map(|e| e["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
    for query in [
        "options.limit=many",
        "options.limit=1.5",
        "options.desc=maybe",
        "options.since=yesterday",
        "options.limit=1&options.limit=2",
        "options.metadata_filters=x",
    ] {
        let path = format!("/v1/streams/s/entries?{query}");
        let (status, body) = server.http(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {body}");
        assert_eq!(body["code"], 3, "{query}");
        assert!(
            body["message"].as_str().unwrap().starts_with("options."),
            "{body}"
        );
    }
}

#[tokio::test]
async fn errors_have_a_code_a_message_and_details() {
    let server = Server::start().await;
    let cases = [
        (Method::GET, "/v1/nothing", "", StatusCode::NOT_FOUND, 5),
        (Method::GET, "/", "", StatusCode::NOT_FOUND, 5),
        (
            Method::DELETE,
            "/v1/streams/s/entries",
            "",
            StatusCode::NOT_IMPLEMENTED,
            12,
        ),
        (
            Method::GET,
            "/v1/streams/s:rename",
            "",
            StatusCode::NOT_IMPLEMENTED,
            12,
        ),
        (
            Method::POST,
            "/v1/streams/s/entries",
            "{",
            StatusCode::BAD_REQUEST,
            3,
        ),
        (
            Method::POST,
            "/v1/streams/s/entries",
            "[]",
            StatusCode::BAD_REQUEST,
            3,
        ),
        (
            Method::POST,
            "/v1/streams/s/entries",
            "{} {}",
            StatusCode::BAD_REQUEST,
            3,
        ),
        (
            Method::POST,
            "/v1/streams/s/entries",
            r#"{"entries":[{"payload":"?"}]}"#,
            StatusCode::BAD_REQUEST,
            3,
        ),
        (
            Method::POST,
            "/v1/streams//entries",
            "{}",
            StatusCode::BAD_REQUEST,
            3,
        ),
        (
            Method::GET,
            "/v1/streams/%FF/entries",
            "",
            StatusCode::BAD_REQUEST,
            3,
        ),
        (
            Method::POST,
            "/v1/streams/s:rename",
            r#"{"newName":"t"}"#,
            StatusCode::NOT_FOUND,
            5,
        ),
        (
            Method::PUT,
            "/v1/streams/s/entries/1/tags",
            "{}",
            StatusCode::NOT_FOUND,
            5,
        ),
    ];
    for (method, path, body, status, code) in cases {
        let (got, answer) = server.http(method.clone(), path, body).await;
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        assert_eq!(answer["code"], code, "{method} {path}");
        assert_ne!(answer["message"], "");
        let detail = &answer["details"][0];
        assert_eq!(
            detail["@type"], "type.googleapis.com/google.rpc.ErrorInfo",
            "{answer}"
        );
        assert_eq!(detail["domain"], "ledger");
        assert!(!detail["reason"].as_str().unwrap().is_empty());
    }
    let conflict = json!({"entries": [{"payload": X}], "expectedVersion": {"exactly": "5"}});
    let (status, body) = server
        .http(Method::POST, "/v1/streams/s/entries", conflict.to_string())
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        body["details"][0]["metadata"],
        json!({"expected": "5", "actual": "0"})
    );
    let null = r#"{"entries": null, "expectedVersion": null}"#;
    let (status, body) = server
        .http(Method::POST, "/v1/streams/s/entries", null)
        .await;
    assert_eq!(
        status,
        StatusCode::OK,
        "null is the same as nothing: {body}"
    );
    let (status, body) = server.http(Method::POST, "/v1/streams/s/entries", "").await;
    assert_eq!(status, StatusCode::OK, "so is no body: {body}");
}

#[tokio::test]
async fn a_key_may_come_as_metadata() {
    let server = Server::with(ServiceOptions {
        guard: Arc::new(ApiKeyGuard::new("secret")),
        ..ServiceOptions::default()
    })
    .await;
    let path = "/v1/streams/s/entries";
    let store = ("x-ledger-store", "orders");
    let (status, headers, body) = server.raw(Method::GET, path, &[store], String::new()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(headers.contains_key("www-authenticate"));
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["code"], 16);
    for headers in [
        [store, ("x-api-key", "secret")],
        [
            ("grpc-metadata-x-ledger-store", "orders"),
            ("Grpc-Metadata-X-Api-Key", "secret"),
        ],
    ] {
        let (status, _, _) = server.raw(Method::GET, path, &headers, String::new()).await;
        assert_eq!(status, StatusCode::OK, "{headers:?}");
    }
    let (status, _, _) = server
        .raw(Method::GET, "/v1/health", &[], String::new())
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _, _) = server.raw(Method::GET, "/livez", &[], String::new()).await;
    assert_eq!(status, StatusCode::OK, "probes have no key");
    let (status, _, _) = server
        .raw(Method::GET, path, &[("x-api-key", "secret")], String::new())
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "the store is missing");
}

#[tokio::test]
async fn the_openapi_document_is_of_the_routes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    append(&mut client, "s", &["x"]).await;
    let (status, document) = server.http(Method::GET, "/openapi.json", "").await;
    assert_eq!(status, StatusCode::OK);
    let paths = document["paths"].as_object().unwrap();
    let mut operations = 0;
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in paths {
        let path = path.replace("{stream}", "s").replace("{id}", "1");
        let path = path.replace("{name}", "s").replace("{bridge}", "s");
        let path = path.replace("{hook}", "s");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            // The name of a bridge may hold a colon: this is the bridge of the name `s:pause`. So may
            // that of a hook.
            let named = ["/v1/bridges/s:", "/v1/hooks/s:"];
            if ["GET", "DELETE"].contains(&method)
                && named.iter().any(|start| path.starts_with(start))
            {
                continue;
            }
            let described = methods.get(method.to_ascii_lowercase());
            let headers = [("x-ledger-store", "orders")];
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let response = server
                .response(method.clone(), &path, &headers, String::new())
                .await;
            let code = response.status();
            let served =
                code != StatusCode::NOT_IMPLEMENTED && code != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(described.is_some(), served, "{method} {path}: {code}");
            if let Some(operation) = described {
                operations += 1;
                if let Some(id) = operation["operationId"].as_str() {
                    assert!(ids.insert(id.to_owned()), "{id} stands twice");
                }
            }
        }
    }
    assert_eq!(operations, 42);
    let text = document.to_string();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas[name].is_object(), "{name}");
    }
    let read = &paths["/v1/streams/{stream}/entries"]["get"]["parameters"];
    let names: Vec<_> = read
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    for name in [
        "x-ledger-store",
        "stream",
        "options.after",
        "options.metadata_filters[key]",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}
