//! `ledger stream count`

use ledger_server::v1::CountRequest;
use serde_json::json;

use super::On;
use crate::cli::Count;
use crate::client::Called as _;

/// Prints how many entries a stream has.
pub(super) async fn run(options: &Count, on: &On<'_>) -> anyhow::Result<()> {
    let request = CountRequest {
        stream: options.stream.clone(),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    let count = client.count(request).await.answer(on.daemon)?.count;
    on.fixed(&count.to_string(), &json!({ "count": count }))
}
