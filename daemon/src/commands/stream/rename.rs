//! `ledger stream rename`

use ledger_server::v1::RenameStreamRequest;
use serde_json::json;

use super::On;
use crate::cli::Rename;
use crate::client::Called as _;
use crate::exit::Failure;

/// Gives a stream another name.
pub(super) async fn run(options: &Rename, on: &On<'_>) -> anyhow::Result<()> {
    if options.to.is_empty() {
        return Err(Failure::usage("--to is required"));
    }
    let (from, to) = (&options.stream, &options.to);
    let request = RenameStreamRequest {
        name: from.clone(),
        new_name: to.clone(),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    client.rename_stream(request).await.answer(on.daemon)?;
    let line = format!("stream \"{from}\" renamed to \"{to}\"");
    on.fixed(&line, &json!({ "stream": from, "renamed_to": to }))
}
