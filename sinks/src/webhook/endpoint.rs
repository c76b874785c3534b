//! Single attempts.

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use ledger_core::hook::{Answer, Delivery, Endpoint, Outcome};
use ledger_core::{Error, ErrorKind, Result, Timestamp};

use super::client::{HttpClient, Resolve, SystemResolver, client};
use super::sign::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, sign};
use super::{Format, SigningKey, Target, WebhookConfig, tls};

/// How much of a response is kept.
const KEPT: usize = 1_024;
/// How much of a response is read, so that its connection can be used again. Behind it the connection
/// is given up.
const READ: usize = 64 << 10;
/// The longest that a receiver may ask to be left alone.
const LONGEST: Duration = Duration::from_hours(24);

/// An endpoint that deliveries are posted to. It keeps connections, and nothing else.
pub struct WebhookEndpoint {
    target: Target,
    format: Format,
    keys: RwLock<Arc<[SigningKey]>>,
    headers: HeaderMap,
    timeout: Duration,
    permanent_errors: bool,
    entry_id: &'static str,
    client: HttpClient,
}

impl WebhookEndpoint {
    /// The endpoint; nothing is connected to yet.
    pub fn new(config: WebhookConfig) -> Result<Self> {
        Self::resolving(config, Arc::new(SystemResolver))
    }

    /// The endpoint, its name resolved by `resolver`.
    pub fn resolving(config: WebhookConfig, resolver: Arc<dyn Resolve>) -> Result<Self> {
        let tls = tls::config(config.ca.as_deref(), config.insecure)?;
        let client = client(resolver, config.target.policy.clone(), tls);
        let mut headers = config.headers;
        let kind = HeaderValue::from_static(config.format.content_type());
        headers.insert(header::CONTENT_TYPE, kind);
        let agent = HeaderValue::from_static(concat!("ledger/", env!("CARGO_PKG_VERSION")));
        headers.entry(header::USER_AGENT).or_insert(agent);
        if let Some(authorization) = &config.target.authorization {
            let mut value = HeaderValue::try_from(authorization)
                .map_err(|_| Error::invalid("read url", "its user cannot stand in a header"))?;
            value.set_sensitive(true);
            headers.entry(header::AUTHORIZATION).or_insert(value);
        }
        Ok(Self {
            target: config.target,
            format: config.format,
            keys: RwLock::new(config.keys.into()),
            headers,
            timeout: config.timeout,
            permanent_errors: config.permanent_errors,
            entry_id: "id",
            client,
        })
    }

    /// Names entries' ids `source_id`, as a replica of them does.
    #[must_use]
    pub(super) fn of_replica(mut self) -> Self {
        self.entry_id = "source_id";
        self
    }

    /// Signs with these keys from now on.
    pub fn set_keys(&self, keys: Vec<SigningKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }

    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>> {
        let body = self.format.body(delivery, self.entry_id)?;
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let mut headers = self.headers.clone();
        let text = |value: &str| {
            HeaderValue::try_from(value)
                .map_err(|_| Error::new(ErrorKind::Internal, "sign delivery", "a header"))
        };
        if self.format == Format::Compat {
            let signature = keys.iter().find_map(|key| key.sign_hex(&body));
            if let Some(signature) = signature {
                headers.insert("x-ledger-signature", text(&signature)?);
            }
        } else {
            let now = Timestamp::now().as_micros() / 1_000_000;
            headers.insert(HEADER_ID, text(&delivery.id)?);
            headers.insert(HEADER_TIMESTAMP, HeaderValue::from(now));
            if !keys.is_empty() {
                let signature = sign(&keys, &delivery.id, now, &body);
                headers.insert(HEADER_SIGNATURE, text(&signature)?);
            }
        }
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.uri.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Sends, and reads the response's beginning. An error is in words.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Received, String> {
        let response = self.client.request(request).await;
        let response = response.map_err(|error| in_words(&error))?;
        let mut received = Received::of(&response);
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                received.cut = true;
                break;
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            read += data.len();
            let room = KEPT
                .saturating_sub(received.beginning.len())
                .min(data.len());
            received
                .beginning
                .extend_from_slice(data.get(..room).unwrap_or_default());
            if read > READ {
                break;
            }
        }
        Ok(received)
    }

    fn judge(&self, received: &Received) -> (Outcome, Option<String>) {
        let status = received.status;
        if status.is_success() {
            if received.cut {
                let what = format!("the response with status {status} ended in the middle");
                return (Outcome::Failed, Some(what));
            }
            return (Outcome::Delivered, None);
        }
        let said = match status.canonical_reason() {
            Some(reason) => format!("status {} {reason}", status.as_u16()),
            None => format!("status {}", status.as_u16()),
        };
        let error = if status.is_redirection() {
            format!("{said}: redirects are not followed")
        } else {
            said
        };
        let outcome = match status.as_u16() {
            410 => Outcome::Gone,
            429 | 502 | 504 => Outcome::Throttled,
            408 | 425 | 500..=599 => Outcome::Failed,
            _ if self.permanent_errors => Outcome::Refused,
            _ => Outcome::Failed,
        };
        (outcome, Some(error))
    }
}

/// What is kept of a response.
struct Received {
    status: StatusCode,
    retry_after: Option<Duration>,
    beginning: BytesMut,
    cut: bool,
}

impl Received {
    fn of(response: &Response<Incoming>) -> Self {
        let asked = response.headers().get(header::RETRY_AFTER);
        let asked = asked.and_then(|value| value.to_str().ok());
        Self {
            status: response.status(),
            retry_after: asked.and_then(|text| retry_after(text, Timestamp::now())),
            beginning: BytesMut::new(),
            cut: false,
        }
    }
}

/// How long `Retry-After` asks to wait at the time `now`: seconds or a date of HTTP; at most a day.
/// None where it is neither.
pub fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    let at = Timestamp::from_micros(i64::try_from(since.as_micros()).ok()?);
    Some(at.since(now).min(LONGEST))
}

/// A failure and its causes, of which the last ones tell most. No error of the client holds the URL.
fn in_words(error: &hyper_util::client::legacy::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[async_trait]
impl Endpoint for WebhookEndpoint {
    async fn post(&self, delivery: &Delivery) -> Result<Answer> {
        let request = self.request(delivery)?;
        let sent = usize::try_from(http_body::Body::size_hint(request.body()).lower());
        let begun = Instant::now();
        let answered = tokio::time::timeout(self.timeout, self.send(request)).await;
        let took = begun.elapsed();
        let (received, failed) = match answered {
            Ok(Ok(received)) => (Some(received), None),
            Ok(Err(error)) => (None, Some(error)),
            Err(_) => (None, Some(format!("no answer in {:?}", self.timeout))),
        };
        let (outcome, error) = match &received {
            Some(received) => self.judge(received),
            None => (Outcome::Failed, failed),
        };
        Ok(Answer {
            outcome,
            status: received.as_ref().map(|received| received.status.as_u16()),
            retry_after: received.as_ref().and_then(|received| received.retry_after),
            took,
            sent: sent.unwrap_or(0),
            response: received.map_or_else(Bytes::new, |received| received.beginning.freeze()),
            error,
        })
    }
}

impl fmt::Display for WebhookEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhook({})", self.target)
    }
}

impl fmt::Debug for WebhookEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEndpoint")
            .field("target", &self.target)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date_and_bounded() {
        let now = Timestamp::from_micros(784_111_777 * 1_000_000);
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 5 ", Some(5)),
            ("99999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(text, now), expected, "{text:?}");
        }
    }
}
