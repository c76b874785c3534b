//! Errors over HTTP.

use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode, header};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::pb;

/// The type of `google.rpc.ErrorInfo` within an `Any`.
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// The response of a failed call: the usual status of its code, and a body with code, message and
/// details.
pub(super) fn response(status: &Status) -> Response {
    let body = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (
        http_status(status.code()),
        body,
        body_of(status).to_string(),
    )
        .into_response();
    if status.code() == Code::Unauthenticated {
        let challenge = HeaderValue::from_static("ApiKey realm=\"ledger\", header=\"x-api-key\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The body of a failed call.
pub(super) fn body_of(status: &Status) -> Value {
    let details = pb::Status::decode(status.details()).map(|status| status.details);
    let details: Vec<Value> = details.unwrap_or_default().iter().map(detail).collect();
    json!({
        "code": i32::from(status.code()),
        "message": status.message(),
        "details": details,
    })
}

fn detail(any: &prost_types::Any) -> Value {
    let info = Some(any).filter(|any| any.type_url == ERROR_INFO);
    match info.and_then(|any| pb::ErrorInfo::decode(any.value.as_slice()).ok()) {
        Some(info) => json!({
            "@type": ERROR_INFO,
            "reason": info.reason,
            "domain": info.domain,
            "metadata": info.metadata,
        }),
        // A guard's own; who sent it knows what is in it.
        None => json!({"@type": any.type_url, "value": BASE64_STANDARD.encode(&any.value)}),
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // The client went away; nobody reads this.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
