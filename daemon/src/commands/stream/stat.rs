//! `ledger stream stat`

use ledger_server::v1::StatRequest;
use serde_json::json;

use super::On;
use crate::cli::Stat;
use crate::client::Called as _;

/// Prints count, first and last id of a stream.
pub(super) async fn run(options: &Stat, on: &On<'_>) -> anyhow::Result<()> {
    let request = StatRequest {
        stream: options.stream.clone(),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    let stat = client.stat(request).await.answer(on.daemon)?;
    let mut lines = format!("Stream:  {}\nCount:   {}", stat.stream, stat.count);
    if stat.count > 0 {
        lines.push_str(&format!(
            "\nFirstID: {}\nLastID:  {}",
            stat.first_id, stat.last_id
        ));
    }
    let value = json!({
        "stream": stat.stream,
        "count": stat.count,
        "first_id": stat.first_id,
        "last_id": stat.last_id,
        "version": stat.version,
    });
    on.fixed(&lines, &value)
}
