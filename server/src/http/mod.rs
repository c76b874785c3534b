//! The service behind HTTP: the proto3 JSON mapping of its methods, server-sent events for those
//! that go on, and what operators look at.

mod error;
mod events;
mod json;
mod methods;
mod openapi;
mod path;
mod probes;
mod query;
mod routes;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost_reflect::DynamicMessage;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::gate::message_too_large;
use crate::status::{invalid, refusal};
use crate::{PeerCertificates, Service};

pub use openapi::openapi;
use path::Found;
use routes::{Input, Route};

/// Renders the metrics of the program in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The gateway, `/livez`, `/readyz`, `/openapi.json`, and `/metrics` where a renderer is given, to
/// be [served](crate::serve) or merged into a router of one's own. Only the gateway asks the guard.
pub fn http_router(service: &Service, metrics: Option<RenderMetrics>) -> Router {
    let mut router = Router::new()
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/openapi.json", get(probes::openapi));
    if let Some(render) = metrics {
        router = router.route("/metrics", get(async move || probes::metrics(&render)));
    }
    router.fallback(gateway).with_state(service.clone())
}

async fn gateway(State(service): State<Service>, request: Request) -> Response {
    let (route, parameters) = match path::find(request.uri().path(), request.method()) {
        Ok(Found::Route(route, parameters)) => (route, parameters),
        Ok(Found::OtherMethod) => {
            let message = format!("{} is not for this path", request.method());
            let status = refusal(Code::Unimplemented, "METHOD_UNKNOWN", message, []);
            return error::response(&status);
        }
        Ok(Found::Nothing) => {
            let message = format!("there is nothing at {}", request.uri().path());
            return error::response(&refusal(Code::NotFound, "PATH_UNKNOWN", message, []));
        }
        Err(status) => return error::response(&status),
    };
    let mut request = request;
    let headers = plain(std::mem::take(request.headers_mut()));
    let span = service.span(route.action, &headers);
    let work = answer(&service, route, &parameters, &headers, request);
    let answer = work.instrument(span).await;
    answer.unwrap_or_else(|status| error::response(&status))
}

/// The headers of the call: what gRPC clients of a gateway name `Grpc-Metadata-*` stands without
/// this beginning, where no such header stands already.
fn plain(mut headers: HeaderMap) -> HeaderMap {
    let renamed: Vec<_> = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("grpc-metadata-")?;
            Some((HeaderName::try_from(name).ok()?, value.clone()))
        })
        .collect();
    for (name, value) in renamed {
        headers.entry(name).or_insert(value);
    }
    headers
}

async fn answer(
    service: &Service,
    route: &'static Route,
    parameters: &[(&'static str, String)],
    headers: &HeaderMap,
    request: Request,
) -> Result<Response, Status> {
    let certificates = request.extensions().get::<PeerCertificates>();
    let call = service.admit(headers, certificates, route.action).await?;
    // In the contract's order: the fields, which body and query hold, come last.
    if route.names_store() {
        service.named(&call)?;
    }
    let work = async {
        let method = methods::descriptor(route.action)?;
        let mut message = match route.input {
            Input::Body => body(service, &method.input(), request.into_body()).await?,
            Input::Query => {
                let query = request.uri().query().unwrap_or_default();
                query::message(&method.input(), query)?
            }
        };
        for (name, value) in parameters {
            query::set(&mut message, name, value)?;
        }
        if method.is_server_streaming() {
            return events::answer(service, route, &call, headers, message).await;
        }
        let response = methods::call(service, route.action, &call, &message).await?;
        let json = json::to_vec(&response)?;
        Ok(([(http::header::CONTENT_TYPE, "application/json")], json).into_response())
    };
    service.timed(route.action, headers, work).await?
}

/// Reads the message in a body; an empty body is an empty message.
async fn body(
    service: &Service,
    descriptor: &prost_reflect::MessageDescriptor,
    body: Body,
) -> Result<DynamicMessage, Status> {
    let limit = service.options().limits.message_bytes;
    // Base64 and the names of fields need room; what counts is the message's own size, below.
    let body = Limited::new(body, limit.saturating_mul(2)).collect().await;
    let bytes = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            message_too_large(limit)
        } else {
            invalid("body", "was not sent to its end")
        }
    })?;
    let bytes = bytes.to_bytes();
    let message = if bytes.iter().all(u8::is_ascii_whitespace) {
        DynamicMessage::new(descriptor.clone())
    } else {
        json::from_slice(descriptor, &bytes)?
    };
    if !service
        .options()
        .limits
        .allows(prost::Message::encoded_len(&message))
    {
        return Err(message_too_large(limit));
    }
    Ok(message)
}
