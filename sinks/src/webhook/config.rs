use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use ledger_core::{Error, Result};

use super::sign::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP};
use super::{Format, SigningKey, Target};

/// How an endpoint is spoken to. No part of it that is secret is printed.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where deliveries go.
    pub target: Target,
    /// The form of bodies.
    pub format: Format,
    /// What deliveries are signed with, by each key; nothing for no signature. The form `compat` is
    /// signed with the first shared secret only.
    pub keys: Vec<SigningKey>,
    /// Headers beside those that the form has; see [`header`](Self::header).
    pub headers: HeaderMap,
    /// How long an attempt may take, from connecting to the end of the response; 15 s by default.
    pub timeout: Duration,
    /// The authorities that may have signed the endpoint's certificate, in PEM; none for those of
    /// the web.
    pub ca: Option<Vec<u8>>,
    /// Whether anybody's certificate is taken.
    pub insecure: bool,
    /// Whether answers are judged as the `compat` contract has it: 408, 425, 429, 5xx and what is no
    /// answer are tried again, others are not. Otherwise everything is, as Standard Webhooks has it.
    pub permanent_errors: bool,
}

impl WebhookConfig {
    /// The defaults: the form `compat`, unsigned.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            format: Format::default(),
            keys: Vec::new(),
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(15),
            ca: None,
            insecure: false,
            permanent_errors: true,
        }
    }

    /// Adds a header. Refused are those that a delivery sets itself. Its value is never printed.
    pub fn header(&mut self, name: &str, value: &str) -> Result<()> {
        const OPERATION: &str = "read header";
        const OWN: [&str; 12] = [
            HEADER_ID,
            HEADER_TIMESTAMP,
            HEADER_SIGNATURE,
            "x-ledger-signature",
            "content-type",
            "content-length",
            "transfer-encoding",
            "host",
            "connection",
            "upgrade",
            "te",
            "trailer",
        ];
        let key = HeaderName::try_from(name)
            .map_err(|_| Error::invalid(OPERATION, format!("{name:?} is not a header's name")))?;
        if OWN.contains(&key.as_str()) {
            let what = format!("{key} is set by the delivery itself");
            return Err(Error::invalid(OPERATION, what));
        }
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            let what = format!("the value of {key} holds characters that no header can");
            Error::invalid(OPERATION, what)
        })?;
        value.set_sensitive(true);
        self.headers.append(key, value);
        Ok(())
    }
}
