//! `ledger stream export`

use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ledger_server::v1::{Entry, ListStreamIDsRequest, ReadOptions, ReadRequest};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::On;
use crate::cli::Export;
use crate::client::Called as _;

/// The most entries or names of one call.
const PAGE: i64 = 500;

/// Prints every entry of one stream or of all, stream by stream.
pub(super) async fn run(options: &Export, on: &On<'_>) -> anyhow::Result<()> {
    let mut file = match &options.file {
        None => None,
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            let file = file.with_context(|| format!("--file: create {}", path.display()))?;
            Some(BufWriter::new(file))
        }
    };
    on.printer.show_bar();
    let mut count = 0_u64;
    let mut write = |entries: &[Entry]| -> anyhow::Result<()> {
        let lines = lines(entries);
        match &mut file {
            Some(file) => file.write_all(&lines).context("--file")?,
            None => on.printer.lines(&lines)?,
        }
        count += entries.len() as u64;
        on.printer
            .bar()
            .set_message(format!("{count} entries exported"));
        Ok(())
    };
    if options.stream.is_empty() {
        let mut client = on.daemon.store(&options.scope.store)?;
        let mut request = ListStreamIDsRequest {
            limit: PAGE,
            ..ListStreamIDsRequest::default()
        };
        loop {
            let page = client
                .list_stream_i_ds(request.clone())
                .await
                .answer(on.daemon)?;
            for stream in &page.stream_ids {
                export(options, stream, on, &mut write).await?;
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
    } else {
        export(options, &options.stream, on, &mut write).await?;
    }
    if let Some(mut file) = file {
        file.flush().context("--file")?;
        file.get_ref().sync_all().context("--file")?;
    }
    on.printer.clear_bar();
    on.printer.notice(&format!("{count} entries exported"));
    Ok(())
}

async fn export(
    options: &Export,
    stream: &str,
    on: &On<'_>,
    write: &mut impl FnMut(&[Entry]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut client = on.daemon.store(&options.scope.store)?;
    let mut token = String::new();
    loop {
        let request = ReadRequest {
            stream: stream.to_owned(),
            options: Some(ReadOptions {
                limit: PAGE,
                page_token: token,
                ..ReadOptions::default()
            }),
        };
        let page = client.read(request).await.answer(on.daemon)?;
        write(&page.entries)?;
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        token = page.next_page_token;
    }
}

/// The entries as lines, which `append --payload-field payload --stream-field stream` reads.
fn lines(entries: &[Entry]) -> Vec<u8> {
    let mut lines = Vec::new();
    for entry in entries {
        let mut rest = Map::new();
        let mut put = |key: &str, value: Value| {
            let empty = match &value {
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !empty {
                rest.insert(key.to_owned(), value);
            }
        };
        put("order_key", json!(entry.order_key));
        put("dedup_key", json!(entry.dedup_key));
        put("schema_version", json!(entry.schema_version));
        put("metadata", json!(entry.metadata));
        put("tags", json!(entry.tags));
        put("annotations", json!(entry.annotations));
        for (key, time) in [
            ("created_at", &entry.created_at),
            ("updated_at", &entry.updated_at),
        ] {
            if let Some(time) = time {
                put(key, json!(time.to_string()));
            }
        }
        let head = json!({ "stream": entry.stream, "id": entry.id }).to_string();
        // The payload's own bytes, where they can stand in a line as they are.
        let inline = serde_json::from_slice::<&RawValue>(&entry.payload)
            .ok()
            .filter(|raw| !raw.get().contains(['\n', '\r']));
        let payload = match inline {
            Some(raw) => format!("\"payload\":{raw}"),
            None => format!("\"payload_base64\":\"{}\"", STANDARD.encode(&entry.payload)),
        };
        let rest = Value::Object(rest).to_string();
        let parts = [
            head.strip_prefix("{")
                .and_then(|head| head.strip_suffix("}"))
                .unwrap_or_default(),
            &payload,
            rest.strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'))
                .unwrap_or_default(),
        ];
        lines.extend_from_slice(format!("{{{}}}\n", parts.join(",")).as_bytes());
    }
    lines
}
