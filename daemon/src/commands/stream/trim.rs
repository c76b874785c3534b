//! `ledger stream trim`

use ledger_server::v1::TrimRequest;
use serde_json::json;

use super::On;
use crate::cli::Trim;
use crate::client::Called as _;
use crate::exit::Failure;

/// Removes the entries up to an id.
pub(super) async fn run(options: &Trim, on: &On<'_>) -> anyhow::Result<()> {
    if options.before.is_empty() {
        return Err(Failure::usage("--before is required"));
    }
    let request = TrimRequest {
        stream: options.stream.clone(),
        before_id: options.before.clone(),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    let trimmed = client.trim(request).await.answer(on.daemon)?.deleted;
    on.fixed(
        &format!("trimmed {trimmed} entries"),
        &json!({ "trimmed": trimmed }),
    )
}
