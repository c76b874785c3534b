//! Responses that go on, as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName};
use prost_reflect::DynamicMessage;
use tonic::Status;

use super::routes::Route;
use super::{error, json, methods};
use crate::call::Call;
use crate::tail::Responses;
use crate::{Service, v1};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long a failure is waited for that can still be told as the response's status.
const FAILS_AT_ONCE: Duration = Duration::from_millis(200);

/// Answers with events: each is one response, its id the cursor behind it. What ends the events is
/// told in a last one, of the type `failure`.
pub(super) async fn answer(
    service: &Service,
    route: &'static Route,
    call: &Call,
    headers: &HeaderMap,
    message: DynamicMessage,
) -> Result<Response, Status> {
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let last = last.filter(|id| !id.is_empty()).map(ToOwned::to_owned);
    match route.action {
        "/ledger.v1.FollowService/Tail" => {
            let mut request: v1::TailRequest = methods::typed(&message)?;
            request.cursor = last.unwrap_or(request.cursor);
            let responses = service.tail(call, request).await?;
            events(service, route, responses, |response| &response.cursor).await
        }
        "/ledger.v1.FollowService/Changes" => {
            let mut request: v1::ChangesRequest = methods::typed(&message)?;
            request.from = last.map(v1::changes_request::From::After).or(request.from);
            let responses = service.changes(call, request).await?;
            events(service, route, responses, |response| &response.cursor).await
        }
        action => Err(Status::unimplemented(format!(
            "{action} is not served over HTTP"
        ))),
    }
}

async fn events<T: prost::Message + 'static>(
    service: &Service,
    route: &'static Route,
    responses: Responses<T>,
    cursor: fn(&T) -> &str,
) -> Result<Response, Status> {
    let mut responses = responses.peekable();
    let first = tokio::time::timeout(FAILS_AT_ONCE, Pin::new(&mut responses).peek()).await;
    if let Ok(Some(Err(status))) = first {
        return Err(status.clone());
    }
    let events = responses.map(move |response| {
        let event = response.and_then(|response| event(route, &response, cursor(&response)));
        Ok::<_, Infallible>(event.unwrap_or_else(|status| {
            Event::default()
                .event("failure")
                .data(error::body_of(&status).to_string())
        }))
    });
    let keep = KeepAlive::new().interval(service.options().limits.keepalive_interval);
    Ok(Sse::new(events).keep_alive(keep).into_response())
}

fn event<T: prost::Message>(
    route: &'static Route,
    response: &T,
    cursor: &str,
) -> Result<Event, Status> {
    let json = json::to_vec(&methods::dynamic(route.action, response)?)?;
    let json = String::from_utf8(json)
        .map_err(|error| Status::internal(format!("write the event: {error}")))?;
    let event = Event::default().data(json);
    Ok(if cursor.is_empty() {
        event
    } else {
        event.id(cursor)
    })
}
