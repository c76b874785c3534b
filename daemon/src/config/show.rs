//! The configuration in effect, as a file would say it, secrets hidden.

use std::path::Path;
use std::time::Duration;

use ledger::connect::DatabaseUrl;

use super::{BridgeConfig, Carried, Config, Db, HookConfig, Tls, duration};
use crate::tables;

/// What stands in a secret's place.
const HIDDEN: &str = "***";

/// The configuration in effect as YAML.
pub(crate) fn show(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("listen: {}", quoted(&config.listen)));
    if let Some(address) = &config.http_listen {
        line(format!("http_listen: {}", quoted(address)));
    }
    line(format!("log_file: {}", path(config.log_file.as_deref())));
    let key = config.api_key.as_ref().map_or("", |_| HIDDEN);
    line(format!("api_key: {}", quoted(key)));
    let stores: Vec<_> = config
        .allowed_stores
        .iter()
        .map(ledger::StoreName::as_str)
        .collect();
    line(format!("allowed_stores: [{}]", stores.join(", ")));
    line(format!("start_timeout: {}", time(config.start_timeout())));
    line(format!("drain_timeout: {}", time(config.drain_timeout)));
    line(format!("tls: {}", tls(&config.tls)));
    line(format!("http_tls: {}", tls(&config.http_tls)));
    line("db:".to_owned());
    line(format!("  type: {}", config.db.kind()));
    let Db { url, options, .. } = &config.db;
    let place = quoted(&if url.scheme() == "sqlite" {
        url.target()
    } else {
        url.to_string()
    });
    let log = if options.write_ahead_log {
        "wal"
    } else {
        "table"
    };
    line(match url.scheme() {
        "sqlite" => format!("  sqlite: {{path: {place}}}"),
        "postgres" => format!("  postgres: {{dsn: {place}, log: {log}}}"),
        "mongodb" => format!("  mongodb: {{uri: {place}}}"),
        kind => format!("  {kind}: {{dsn: {place}}}"),
    });
    line(format!("  retention: {}", time(options.retention.min)));
    if let Some(max) = options.retention.max {
        line(format!("  retention_max: {}", time(max)));
    }
    let limits = &config.limits;
    let numbers = [
        ("message_bytes", limits.message_bytes),
        ("entries_per_call", limits.entries_per_call),
        ("concurrent_streams", limits.concurrent_streams),
        ("header_bytes", limits.header_bytes),
    ];
    let mut given: Vec<_> = numbers
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}: {}", value?)))
        .collect();
    given.extend(
        limits
            .request_timeout
            .map(|t| format!("request_timeout: {}", time(t))),
    );
    line(format!("limits: {{{}}}", given.join(", ")));
    if !config.hooks.is_empty() {
        line("hooks:".to_owned());
    }
    for hook in &config.hooks {
        line(format!("  - {}", self::hook(hook)));
    }
    if !config.bridges.is_empty() {
        line("bridges:".to_owned());
    }
    for bridge in &config.bridges {
        line(shown(bridge));
    }
    text
}

/// A bridge on one line.
fn shown(bridge: &BridgeConfig) -> String {
    let skip: Vec<_> = bridge.skip.iter().map(|kind| kind.as_str()).collect();
    let from = |url: &DatabaseUrl| format!(", from: {}", quoted(&url.to_string()));
    let carried = match &bridge.carried {
        Carried::Store { store, from: url } => {
            let from = url.as_ref().map_or_else(String::new, from);
            format!("store: {store}{from}")
        }
        Carried::Tables {
            from: url,
            options,
            documents,
            ..
        } => {
            let selected = quoted(&options.tables.to_string());
            let key = if tables::has_collections(url) {
                "collections"
            } else {
                "tables"
            };
            let form = documents.map_or_else(String::new, |form| format!(", documents: {form}"));
            format!("{key}: {selected}{form}{}", from(url))
        }
    };
    format!(
        "  - {{name: {}, {carried}, to: {}, skip: [{}], on_failure: {}}}",
        quoted(bridge.name.as_str()),
        quoted(&bridge.to.to_string()),
        skip.join(", "),
        bridge.on_failure
    )
}

/// A hook, with what differs from the defaults.
fn hook(hook: &HookConfig) -> String {
    let texts = |texts: Vec<String>| format!("[{}]", texts.join(", "));
    // A URL may hold a token anywhere behind its host.
    let url = format!("{}/{HIDDEN}", hook.target.origin());
    let mut keys = vec![
        format!("name: {}", quoted(&hook.name)),
        format!("store: {}", hook.store),
        format!("stream: {}", quoted(&hook.stream)),
        format!("url: {}", quoted(&url)),
        format!("format: {}", hook.format),
    ];
    match hook.secrets.len() {
        0 => keys.push(format!("secret: {}", quoted(""))),
        1 => keys.push(format!("secret: {}", quoted(HIDDEN))),
        several => keys.push(format!("secrets: {}", texts(vec![quoted(HIDDEN); several]))),
    }
    let kinds = hook.kinds.iter().map(|kind| kind.as_str().to_owned());
    keys.push(format!("kinds: {}", texts(kinds.collect())));
    let filter = &hook.filter;
    let mut conditions = Vec::new();
    if !filter.all_tags.is_empty() {
        let tags = filter.all_tags.iter().map(|tag| quoted(tag));
        conditions.push(format!("tags: {}", texts(tags.collect())));
    }
    if !filter.metadata.is_empty() {
        let pairs = filter.metadata.iter();
        let pairs: Vec<_> = pairs
            .map(|(k, v)| format!("{}: {}", quoted(k), quoted(v)))
            .collect();
        conditions.push(format!("metadata: {{{}}}", pairs.join(", ")));
    }
    if let Some(key) = &filter.order_key {
        conditions.push(format!("order_key: {}", quoted(key)));
    }
    if !conditions.is_empty() {
        keys.push(format!("filter: {{{}}}", conditions.join(", ")));
    }
    if !hook.headers.is_empty() {
        let headers = hook.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, _)| format!("{}: {}", quoted(name), quoted(HIDDEN)))
            .collect();
        keys.push(format!("headers: {{{}}}", headers.join(", ")));
    }
    let mut batch = format!("batch: {{max: {}", hook.batch);
    if !hook.wait.is_zero() {
        batch.push_str(&format!(", wait: {}", time(hook.wait)));
    }
    keys.push(format!("{batch}}}"));
    keys.push(format!("timeout: {}", time(hook.timeout)));
    keys.push(format!("concurrency: {}", hook.concurrency));
    keys.extend(hook.rate_limit.map(|rate| format!("rate_limit: {rate}")));
    let waits = hook.schedule();
    let waits = waits.waits().iter().map(|wait| time(*wait));
    keys.push(format!("retry_schedule: {}", texts(waits.collect())));
    keys.push(format!("max_retries: {}", hook.max_retries));
    keys.push(format!("on_failure: {}", hook.on_failure));
    let networks = hook.allow_networks.iter();
    let networks = networks.map(|network| quoted(&network.to_string()));
    keys.push(format!("allow_networks: {}", texts(networks.collect())));
    keys.push(format!(
        "interval: {}",
        hook.interval.map_or_else(|| quoted(""), time)
    ));
    keys.push(format!("ca: {}", path(hook.ca.as_deref())));
    keys.push(format!(
        "insecure_skip_verify: {}",
        hook.insecure_skip_verify
    ));
    format!("{{{}}}", keys.join(", "))
}

/// A text as YAML reads it back; JSON's way to quote is YAML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn path(path: Option<&Path>) -> String {
    quoted(
        &path
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    )
}

fn time(time: Duration) -> String {
    quoted(&duration::write(time))
}

fn tls(tls: &Tls) -> String {
    format!(
        "{{cert: {}, key: {}, ca: {}}}",
        path(tls.cert.as_deref()),
        path(tls.key.as_deref()),
        path(tls.ca.as_deref())
    )
}
