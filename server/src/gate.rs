//! What every request passes before its body is read: the size of its headers, the guard, the time
//! it may take, and its span.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};

use crate::call::Call;
use crate::service::client_deadline;
use crate::status::refusal;
use crate::{PeerCertificates, RESOURCE, Service};

/// Is shown a request's span and headers, so that a tracing system can make the span a child of the
/// trace in the header `traceparent`.
pub type SpanHook = Arc<dyn Fn(&Span, &HeaderMap) + Send + Sync>;

/// The methods that may take longer than [`Limits::request_time`](crate::Limits::request_time).
pub const REQUEST_TIMEOUT_EXEMPT: [&str; 9] = [
    "/ledger.v1.FollowService/Tail",
    "/ledger.v1.FollowService/Changes",
    "/ledger.v1.FollowService/AppendStream",
    "/ledger.v1.AdminService/VerifyBridge",
    "/ledger.v1.AdminService/ReplayDeadLetters",
    "/ledger.v1.AdminService/ResyncBridge",
    "/ledger.v1.AdminService/RemoveBridge",
    "/ledger.v1.HookService/ReplayHook",
    "/ledger.v1.HookService/TestHook",
];

impl Service {
    /// Lets a request in, or says why not.
    pub(crate) async fn admit(
        &self,
        headers: &HeaderMap,
        certificates: Option<&PeerCertificates>,
        action: &str,
    ) -> Result<Call, Status> {
        self.check_headers(headers)?;
        let guard = &self.options.guard;
        let identity = guard.authenticate(headers, certificates).await?;
        guard.authorise(&identity, RESOURCE, action).await?;
        Ok(Call::new(identity, headers))
    }

    fn check_headers(&self, headers: &HeaderMap) -> Result<(), Status> {
        let limits = &self.options.limits;
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let allowed = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
        let (what, found, allowed) = if bytes > allowed {
            ("bytes", bytes, allowed)
        } else if headers.len() > limits.headers {
            ("headers", headers.len(), limits.headers)
        } else {
            return Ok(());
        };
        Err(refusal(
            Code::ResourceExhausted,
            "HEADERS_TOO_LARGE",
            format!("the request's headers have {found} {what}, at most {allowed} are allowed"),
            [("limit", allowed.to_string())],
        ))
    }

    /// The span of a request.
    pub(crate) fn span(&self, action: &str, headers: &HeaderMap) -> Span {
        let (service, method) = action
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or_default();
        let span = tracing::info_span!(
            "ledger.request",
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
        );
        if let Some(hook) = &self.options.span {
            hook(&span, headers);
        }
        span
    }

    /// Does `work`, within the time that a request and its client allow.
    pub(crate) async fn timed<T>(
        &self,
        action: &str,
        headers: &HeaderMap,
        work: impl Future<Output = T>,
    ) -> Result<T, Status> {
        if REQUEST_TIMEOUT_EXEMPT.contains(&action) {
            return Ok(work.await);
        }
        let asked = headers
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok());
        let own = self.options.limits.request_time;
        let allowed = asked
            .and_then(client_deadline)
            .unwrap_or(Duration::MAX)
            .min(own);
        tokio::time::timeout(allowed, work).await.map_err(|_| {
            refusal(
                Code::DeadlineExceeded,
                "REQUEST_TIME",
                format!("the request took longer than {allowed:?}; it may have taken effect"),
                [("limit", format!("{allowed:?}"))],
            )
        })
    }
}

/// The gate of gRPC.
pub(crate) async fn grpc(
    State(service): State<Service>,
    mut request: Request,
    next: Next,
) -> Response {
    let action = request.uri().path().to_owned();
    // Probes have no key.
    if action.starts_with("/grpc.health.v1.") {
        return next.run(request).await;
    }
    let headers = request.headers().clone();
    let span = service.span(&action, &headers);
    let work = async {
        let certificates = request.extensions().get::<PeerCertificates>().cloned();
        let call = service
            .admit(&headers, certificates.as_ref(), &action)
            .await?;
        request.extensions_mut().insert(call.identity.clone());
        request.extensions_mut().insert(call);
        let response = service.timed(&action, &headers, next.run(request)).await?;
        Ok(renamed(response, service.options.limits.message_bytes))
    };
    let response: Result<Response, Status> = work.instrument(span).await;
    response.unwrap_or_else(Status::into_http)
}

/// tonic calls a request over the message limit out of range; its clients expect, as from every
/// other server, that a resource is exhausted.
fn renamed(response: Response, limit: usize) -> Response {
    let too_large = Status::from_header_map(response.headers()).is_some_and(|status| {
        status.code() == Code::OutOfRange && status.message().contains("message length too large")
    });
    if !too_large {
        return response;
    }
    message_too_large(limit).into_http()
}

pub(crate) fn message_too_large(limit: usize) -> Status {
    refusal(
        Code::ResourceExhausted,
        "REQUEST_TOO_LARGE",
        format!(
            "the request is over the message limit of {limit} bytes; send fewer entries a call"
        ),
        [("limit", limit.to_string())],
    )
}
