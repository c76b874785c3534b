//! Calls that failed, in words and as exit codes.

use std::error::Error as _;

use tonic::{Code, Status};

use super::Daemon;
use crate::exit::{Exit, Failure};

/// A call's answer, or an error that says what to do.
pub(crate) trait Called<T> {
    /// The answer.
    fn answer(self, daemon: &Daemon) -> anyhow::Result<T>;
}

impl<T> Called<T> for Result<tonic::Response<T>, Status> {
    fn answer(self, daemon: &Daemon) -> anyhow::Result<T> {
        match self {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(call_failed(&status, daemon)),
        }
    }
}

/// A failed call as an error that says what to do.
pub(crate) fn call_failed(status: &Status, daemon: &Daemon) -> anyhow::Error {
    let exit = Exit::of_code(status.code());
    let address = daemon.address();
    // Without an answer of the daemon the cause is in the connection.
    if let Some(cause) = connection(status) {
        let text = format!(
            "cannot reach the daemon at {address}: {cause}; `ledger start` starts one, --addr names \
             another address"
        );
        return Failure::new(Exit::Unavailable, text).into();
    }
    let said = match (status.message(), status.code()) {
        ("", code) => code.description().to_owned(),
        (message, _) => message.to_owned(),
    };
    let text = match status.code() {
        Code::Unauthenticated => format!("{said}; give the key by LEDGER_API_KEY or --api-key"),
        _ => said,
    };
    Failure::new(exit, text).into()
}

/// Whether the same call may succeed a little later.
pub(crate) fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted
    ) || connection(status).is_some()
}

/// What went wrong with the connection; none where the daemon answered: what it says has no cause on
/// this side.
fn connection(status: &Status) -> Option<String> {
    let mut cause = status.source()?;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Some(cause.to_string())
}
