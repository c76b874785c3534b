//! What a call carries beside its message.

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;

use ledger_core::StoreName;

use crate::Identity;
use crate::status::{invalid, status};

const STORE: HeaderName = HeaderName::from_static("x-ledger-store");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const TRACE: HeaderName = HeaderName::from_static("x-ledger-trace");

/// What a call carries beside its message, after the guard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    pub(crate) identity: Identity,
    store: Option<HeaderValue>,
    /// The trace context to be kept in the metadata of appended entries, where that was asked for.
    pub(crate) trace: Vec<(&'static str, String)>,
}

impl Call {
    pub(crate) fn new(identity: Identity, headers: &HeaderMap) -> Self {
        let asked = headers.get(TRACE).is_some_and(|to| to == "metadata");
        let parent = text(headers, &TRACE_PARENT).filter(|parent| asked && is_trace_parent(parent));
        let mut trace = Vec::new();
        if let Some(parent) = parent {
            trace.push(("traceparent", parent));
            let state = text(headers, &TRACE_STATE).filter(|state| state.len() <= 512);
            trace.extend(state.map(|state| ("tracestate", state)));
        }
        Self {
            identity,
            store: headers.get(STORE).cloned(),
            trace,
        }
    }

    /// The store that the call names.
    pub(crate) fn store(&self) -> Result<StoreName, Status> {
        let header = self.store.as_ref().map(HeaderValue::to_str);
        match header {
            None | Some(Ok("")) => {
                Err(invalid("x-ledger-store", "must name the store of the call"))
            }
            Some(Err(_)) => Err(invalid(
                "x-ledger-store",
                "must match ^[a-zA-Z_][a-zA-Z0-9_]*$",
            )),
            Some(Ok(name)) => {
                StoreName::new(name).map_err(|error| status(&error.within("x-ledger-store")))
            }
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Whether this is a W3C trace context: version, trace id, parent id and flags, in hex.
fn is_trace_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    lengths == [2, 32, 16, 2]
        && parts.iter().all(|part| part.bytes().all(hex))
        && parts.first() != Some(&"ff")
        && parts
            .iter()
            .skip(1)
            .take(2)
            .all(|id| id.bytes().any(|c| c != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_kept_only_where_it_is_one_and_was_asked_for() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", good.parse().unwrap());
        assert!(Call::new(Identity::default(), &headers).trace.is_empty());
        headers.insert("x-ledger-trace", "metadata".parse().unwrap());
        let kept = Call::new(Identity::default(), &headers).trace;
        assert_eq!(kept, [("traceparent", good.to_owned())]);
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            headers.insert("traceparent", bad.parse().unwrap());
            assert!(
                Call::new(Identity::default(), &headers).trace.is_empty(),
                "{bad}"
            );
        }
    }
}
