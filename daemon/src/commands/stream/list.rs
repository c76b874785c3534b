//! `ledger stream list`

use ledger_server::v1::ListStreamIDsRequest;
use serde_json::json;

use super::On;
use crate::cli::{List, Output};
use crate::client::Called as _;

/// Prints the names of streams, one a line.
pub(super) async fn run(options: &List, on: &On<'_>) -> anyhow::Result<()> {
    let request = ListStreamIDsRequest {
        after: options.after.clone(),
        limit: options.limit,
        page_token: String::new(),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    let names = client.list_stream_i_ds(request).await.answer(on.daemon)?;
    if on.output == Some(Output::Json) {
        on.printer.result(&json!(names.stream_ids).to_string())?;
        return Ok(());
    }
    let mut lines = String::new();
    for name in &names.stream_ids {
        if on.output == Some(Output::Jsonl) {
            lines.push_str(&json!(name).to_string());
        } else {
            lines.push_str(name);
        }
        lines.push('\n');
    }
    on.printer.lines(lines.as_bytes())?;
    Ok(())
}
