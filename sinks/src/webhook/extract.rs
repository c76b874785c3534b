//! Taking a verified delivery out of a request, in axum.

use axum::extract::{FromRef, FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use ledger_core::Timestamp;

use super::{Unverified, Verifier};

/// A delivery that was verified with the [`Verifier`] of the router's state. Its body is as it came.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The delivery's id: two deliveries of one id carry the same, and the second needs no work.
    pub id: String,
    /// When it was sent.
    pub timestamp: Timestamp,
    /// What it carries.
    pub body: Bytes,
}

/// Why a request is answered in the handler's place.
#[derive(Debug)]
pub enum WebhookRejection {
    /// The body could not be read: it is too large, or was not sent to its end.
    Body(axum::extract::rejection::BytesRejection),
    /// It is not from who has the key; 401.
    Unverified(Unverified),
}

impl IntoResponse for WebhookRejection {
    fn into_response(self) -> Response {
        match self {
            Self::Body(rejection) => rejection.into_response(),
            Self::Unverified(why) => (StatusCode::UNAUTHORIZED, why.to_string()).into_response(),
        }
    }
}

impl<S> FromRequest<S> for Webhook
where
    S: Send + Sync,
    Verifier: FromRef<S>,
{
    type Rejection = WebhookRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(WebhookRejection::Body)?;
        let verified = Verifier::from_ref(state).verify(&headers, &body);
        let verified = verified.map_err(WebhookRejection::Unverified)?;
        Ok(Self {
            id: verified.id,
            timestamp: verified.timestamp,
            body,
        })
    }
}
