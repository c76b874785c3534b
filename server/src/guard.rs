//! Who may call what.

use std::fmt;

use async_trait::async_trait;
use http::HeaderMap;
use ledger_core::Pairs;
use subtle::ConstantTimeEq as _;
use tonic::Status;

use crate::PeerCertificates;
use crate::status::refusal;

/// The resource that every call is authorised for.
pub const RESOURCE: &str = "ledger";

/// Decides who calls, and what they may call. Asked before the body of a request is read, for gRPC
/// and for HTTP alike.
///
/// The code of a refusal is the guard's: `UNAUTHENTICATED` and `PERMISSION_DENIED` are meant for
/// it. Its message goes to the caller.
#[async_trait]
pub trait Guard: Send + Sync + 'static {
    /// Who calls, by the request's headers (over HTTP those named `Grpc-Metadata-*` stand there
    /// without this beginning) and the certificates with which the connection was opened.
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificates: Option<&PeerCertificates>,
    ) -> Result<Identity, Status>;

    /// Whether this caller may do `action`, the full name of a gRPC method
    /// (`/ledger.v1.LedgerService/Append`), on `resource`, which is [`RESOURCE`].
    async fn authorise(
        &self,
        identity: &Identity,
        resource: &str,
        action: &str,
    ) -> Result<(), Status>;
}

/// Who calls. Stands in the request's extensions and is given to [`Stores`](crate::Stores).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The caller's name; empty where callers are not told apart.
    pub subject: String,
    /// What else the guard knows of the caller.
    pub claims: Pairs,
}

/// Lets everybody do everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenGuard;

#[async_trait]
impl Guard for OpenGuard {
    async fn authenticate(
        &self,
        _: &HeaderMap,
        _: Option<&PeerCertificates>,
    ) -> Result<Identity, Status> {
        Ok(Identity::default())
    }

    async fn authorise(&self, _: &Identity, _: &str, _: &str) -> Result<(), Status> {
        Ok(())
    }
}

/// Asks for one key in `x-api-key`, and compares it in a time that does not tell how much of it is
/// right. Who has it may do everything.
pub struct ApiKeyGuard(Vec<u8>);

impl ApiKeyGuard {
    /// The header that carries the key.
    pub const HEADER: &'static str = "x-api-key";

    /// Asks for this key; an empty one is never right.
    pub fn new(key: impl Into<Vec<u8>>) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for ApiKeyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyGuard(***)")
    }
}

#[async_trait]
impl Guard for ApiKeyGuard {
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        _: Option<&PeerCertificates>,
    ) -> Result<Identity, Status> {
        let given = headers.get(Self::HEADER);
        let bytes = given.map_or(&b""[..], |value| value.as_bytes());
        // Only the length can be told from the time, and lengths of keys are no secret.
        let right = bool::from(self.0.ct_eq(bytes)) && !self.0.is_empty();
        if right {
            return Ok(Identity::default());
        }
        let (reason, message) = if given.is_none() {
            ("API_KEY_MISSING", "the header x-api-key is missing")
        } else {
            ("API_KEY_WRONG", "the key in the header x-api-key is wrong")
        };
        Err(refusal(tonic::Code::Unauthenticated, reason, message, []))
    }

    async fn authorise(&self, _: &Identity, _: &str, _: &str) -> Result<(), Status> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code(key: &str, given: Option<&str>) -> Option<tonic::Code> {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(ApiKeyGuard::HEADER, given.parse().unwrap());
        }
        let answer = ApiKeyGuard::new(key).authenticate(&headers, None).await;
        answer.err().map(|status| status.code())
    }

    #[tokio::test]
    async fn only_the_whole_key_opens() {
        assert_eq!(code("secret", Some("secret")).await, None);
        for wrong in [
            None,
            Some(""),
            Some("secre"),
            Some("secrets"),
            Some("SECRET"),
        ] {
            let answer = code("secret", wrong).await;
            assert_eq!(answer, Some(tonic::Code::Unauthenticated), "{wrong:?}");
        }
        assert_eq!(code("", Some("")).await, Some(tonic::Code::Unauthenticated));
    }
}
