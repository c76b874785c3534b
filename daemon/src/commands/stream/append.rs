//! `ledger stream append`

use ledger_server::v1;
use serde_json::json;
use serde_json::value::RawValue;

use super::{On, load};
use crate::cli::stream_expected as wire;
use crate::cli::{Append, Global};
use crate::client::Called as _;
use crate::exit::Failure;

/// Appends the payload of the line, or what a file or standard input holds.
pub(super) async fn run(options: &Append, global: &Global, on: &On<'_>) -> anyhow::Result<()> {
    let Some(payload) = &options.payload else {
        return load::run(options, global, on).await;
    };
    let payload = if options.json {
        if serde_json::from_str::<&RawValue>(payload).is_err() {
            return Err(Failure::usage("not valid JSON"));
        }
        payload.clone()
    } else {
        serde_json::to_string(payload)?
    };
    let request = v1::AppendRequest {
        stream: options.stream.clone(),
        entries: vec![v1::EntryInput {
            payload: payload.into(),
            order_key: options.order_key.clone(),
            dedup_key: options.dedup_key.clone(),
            schema_version: 0,
            metadata: options.meta.iter().cloned().collect(),
            tags: options.tag.clone(),
        }],
        expected_version: options.expect_version.map(wire),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    let answer = client.append(request).await.answer(on.daemon)?;
    if let Some(id) = answer.ids.first() {
        on.fixed(id, &json!({ "id": id }))?;
    }
    Ok(())
}
