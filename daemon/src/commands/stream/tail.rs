//! `ledger stream tail`

use ledger_server::v1::tail_request::{From, Scope};
use ledger_server::v1::{TailRequest, TailResponse};
use tonic::{Status, Streaming};

use super::On;
use crate::cli::Tail;
use crate::client::{Form, call_failed, is_passing};

/// Prints entries as they are appended, for ever. Where the daemon cannot be reached, or ends the
/// tail since it stops, it goes on behind the last entry that was printed once that is possible.
pub(super) async fn run(options: &Tail, on: &On<'_>) -> anyhow::Result<()> {
    let form = on.entries(options.json).unwrap_or(Form::Objects);
    let mut cursor = String::new();
    let mut told = false;
    loop {
        let status = match open(options, &cursor, on).await? {
            Ok(mut tail) => loop {
                match tail.message().await {
                    Ok(Some(response)) => {
                        told = false;
                        on.printer.lines(&form.lines(&response.entries)?)?;
                        if !response.cursor.is_empty() {
                            cursor = response.cursor;
                        }
                    }
                    Ok(None) => break Status::unavailable("the daemon ended the tail"),
                    Err(status) => break status,
                }
            },
            Err(status) => status,
        };
        let error = call_failed(&status, on.daemon);
        if !is_passing(&status) {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            on.printer.notice(&format!("{error}; trying again"));
        }
        tokio::time::sleep(options.interval).await;
    }
}

async fn open(
    options: &Tail,
    cursor: &str,
    on: &On<'_>,
) -> anyhow::Result<Result<Streaming<TailResponse>, Status>> {
    let request = TailRequest {
        scope: Some(match &options.pattern {
            Some(pattern) => Scope::Pattern(pattern.clone()),
            None => Scope::Stream(options.stream.clone()),
        }),
        from: Some(match (options.last, options.now) {
            (Some(last), _) => From::Last(last),
            (None, true) => From::Now(()),
            (None, false) => From::Beginning(()),
        }),
        cursor: cursor.to_owned(),
        limit: options.limit,
        ..TailRequest::default()
    };
    let mut client = on.daemon.follow(&options.scope.store)?;
    Ok(client.tail(request).await.map(tonic::Response::into_inner))
}
