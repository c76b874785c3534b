//! The configuration in effect, as a file would say it, secrets hidden.

use std::path::Path;
use std::time::Duration;

use ledger::connect::DatabaseUrl;

use super::{BridgeConfig, Carried, Config, Db, Tls, duration};

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
    match &config.db {
        Db::Stores { url, .. } if url.scheme() == "sqlite" => {
            line(format!("  sqlite: {{path: {}}}", quoted(&url.target())));
        }
        Db::Stores { url, .. } => line(format!(
            "  {}: {{dsn: {}}}",
            url.scheme(),
            quoted(&url.to_string())
        )),
        Db::NotYet { reason, .. } => line(format!("  # {reason}")),
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
        let secret = hook.secret.as_ref().map_or("", |_| HIDDEN);
        // A URL may hold a token anywhere behind its host.
        let url = url::Url::parse(hook.url.expose());
        let origin = url.map_or(HIDDEN.to_owned(), |url| url.origin().ascii_serialization());
        line(format!(
            "  - {{name: {}, store: {}, stream: {}, url: {}, secret: {}, max_retries: {}, \
             interval: {}, ca: {}, insecure_skip_verify: {}}}",
            quoted(&hook.name),
            hook.store,
            quoted(&hook.stream),
            quoted(&format!("{origin}/{HIDDEN}")),
            quoted(secret),
            hook.max_retries,
            hook.interval.map_or_else(|| quoted(""), time),
            path(hook.ca.as_deref()),
            hook.insecure_skip_verify
        ));
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
            from: url, options, ..
        } => {
            let tables = quoted(&options.tables.to_string());
            format!("tables: {tables}{}", from(url))
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
