//! What operators and their tools look at.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::RenderMetrics;
use crate::{Component, PeerCertificates, Service};

const LIST_STORES: &str = "/ledger.v1.AdminService/ListStores";

/// Alive is who answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// The states are for everybody. Errors may tell of hosts and users, and so are for those whom the
/// guard lets look after the stores.
pub(super) async fn ready(State(service): State<Service>, request: Request) -> Response {
    let headers = super::plain(request.headers().clone());
    let certificates = request.extensions().get::<PeerCertificates>();
    let admitted = service.admit(&headers, certificates, LIST_STORES).await;
    let readiness = service.readiness().await;
    let of = |part| component(part, admitted.is_ok());
    let components: Vec<Value> = readiness.components.iter().map(of).collect();
    let ready = readiness.is_ready();
    let status = if readiness.shutting_down {
        "shutting down"
    } else if ready {
        "ready"
    } else {
        "not ready"
    };
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"status": status, "components": components});
    (code, Json(body)).into_response()
}

fn component(component: &Component, told: bool) -> Value {
    let mut value = match component {
        Component::Store(store) => json!({
            "kind": "store",
            "name": store.name.as_str(),
            "ready": component.is_ready(),
            "state": store.state.as_str(),
            "error": store.error,
        }),
        Component::Bridge(bridge) => json!({
            "kind": "bridge",
            "name": bridge.name.as_str(),
            "ready": component.is_ready(),
            "state": bridge.state.as_str(),
            "lag_entries": bridge.lag_entries,
            "lag_seconds": bridge.lag.as_secs_f64(),
            "error": bridge.last_error,
        }),
        Component::Hook(hook) => json!({
            "kind": "hook",
            "name": hook.name,
            "ready": component.is_ready(),
            "state": hook.state.as_str(),
            "breaker": hook.breaker,
            "lag_entries": hook.lag_entries,
            "lag_seconds": hook.lag.as_secs_f64(),
            "error": hook.disabled.as_ref().or(hook.last_error.as_ref()),
        }),
    };
    if let (false, Some(fields)) = (told, value.as_object_mut()) {
        fields.remove("error");
    }
    value
}

pub(super) fn metrics(render: &RenderMetrics) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, render()).into_response()
}

pub(super) async fn openapi() -> Response {
    Json(super::openapi()).into_response()
}
