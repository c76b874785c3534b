//! What `/metrics` tells of stores and bridges, in Prometheus' text format.

use std::sync::Arc;

use ledger_server::{BridgeStatus, HookRunState, HookStatus, RenderMetrics, StoreState};
use ledger_telemetry::PrometheusRecorder;

use super::bridges::Running;
use super::hooks::Hooked;
use super::stores::Served;

/// Renders the numbers of this moment, each time it is asked.
pub(super) fn renderer(
    stores: &Arc<Served>,
    bridges: &Arc<Running>,
    hooks: &Arc<Hooked>,
    scraped: &PrometheusRecorder,
) -> RenderMetrics {
    let (stores, bridges, scraped) = (Arc::clone(stores), Arc::clone(bridges), scraped.clone());
    let hooks = Arc::clone(hooks);
    Arc::new(move || {
        let mut text = String::new();
        let up = stores.statuses().into_iter().map(|store| {
            let reachable = store.state != StoreState::Unavailable;
            (store.name.to_string(), f64::from(u8::from(reachable)))
        });
        family(
            &mut text,
            (
                "ledger_store_up",
                "gauge",
                "Whether the backend of a store answers.",
            ),
            "store",
            up,
        );
        let statuses = bridges.statuses();
        for (head, value) in BRIDGE {
            let values = statuses
                .iter()
                .map(|bridge| (bridge.name.to_string(), value(bridge)));
            family(&mut text, head, "bridge_name", values);
        }
        let statuses = hooks.statuses();
        for (head, value) in HOOK {
            let values = statuses.iter().map(|hook| (hook.name.clone(), value(hook)));
            family(&mut text, head, "hook_name", values);
        }
        match scraped.render() {
            Ok(counted) => text.push_str(&counted),
            Err(error) => tracing::error!(error = error.chain(), "metrics are missing"),
        }
        text
    })
}

/// Name, kind and meaning.
type Head = (&'static str, &'static str, &'static str);

/// A number of a bridge.
type Number = fn(&BridgeStatus) -> f64;

/// What is told of each bridge.
#[allow(
    clippy::cast_precision_loss,
    reason = "the format knows floating point numbers only"
)]
const BRIDGE: [(Head, Number); 8] = [
    (
        (
            "ledger_bridge_up",
            "gauge",
            "Whether a bridge makes progress.",
        ),
        |bridge| f64::from(u8::from(bridge.ready)),
    ),
    (
        (
            "ledger_bridge_lag_seconds",
            "gauge",
            "The age of the oldest mutation not delivered.",
        ),
        |bridge| bridge.lag.as_secs_f64(),
    ),
    (
        (
            "ledger_bridge_lag_entries",
            "gauge",
            "How many mutations are not delivered.",
        ),
        |bridge| bridge.lag_entries as f64,
    ),
    (
        (
            "ledger_bridge_lag_bytes",
            "gauge",
            "How many bytes of the source's log are not delivered, where the source can tell.",
        ),
        |bridge| bridge.lag_bytes.unwrap_or_default() as f64,
    ),
    (
        (
            "ledger_bridge_mutations_refused_total",
            "counter",
            "Mutations refused and left out.",
        ),
        |bridge| bridge.refused as f64,
    ),
    (
        (
            "ledger_bridge_mutations_parked_total",
            "counter",
            "Mutations set aside.",
        ),
        |bridge| bridge.parked as f64,
    ),
    (
        (
            "ledger_bridge_dead_letters",
            "gauge",
            "Dead letters that wait.",
        ),
        |bridge| bridge.dead_letters as f64,
    ),
    (
        (
            "ledger_bridge_bytes_total",
            "counter",
            "Bytes delivered, roughly.",
        ),
        |bridge| bridge.bytes as f64,
    ),
];

/// A number of a hook.
type HookNumber = fn(&HookStatus) -> f64;

/// What is told of each hook.
#[allow(
    clippy::cast_precision_loss,
    reason = "the format knows floating point numbers only"
)]
const HOOK: [(Head, HookNumber); 11] = [
    (
        ("ledger_hook_up", "gauge", "Whether a hook is sent by."),
        |hook| {
            let sends = matches!(hook.state, HookRunState::Copying | HookRunState::Following);
            f64::from(u8::from(hook.ready && sends))
        },
    ),
    (
        (
            "ledger_hook_breaker_open",
            "gauge",
            "Whether a hook's endpoint is left alone for a while.",
        ),
        |hook| f64::from(u8::from(hook.breaker != "closed")),
    ),
    (
        (
            "ledger_hook_lag_seconds",
            "gauge",
            "The age of the oldest change behind the cursor.",
        ),
        |hook| hook.lag.as_secs_f64(),
    ),
    (
        (
            "ledger_hook_lag_entries",
            "gauge",
            "How many changes are behind the cursor.",
        ),
        |hook| hook.lag_entries as f64,
    ),
    (
        (
            "ledger_hook_items_delivered_total",
            "counter",
            "Items that were taken.",
        ),
        |hook| hook.delivered as f64,
    ),
    (
        (
            "ledger_hook_requests_total",
            "counter",
            "Requests that were taken.",
        ),
        |hook| hook.requests as f64,
    ),
    (
        (
            "ledger_hook_failures_total",
            "counter",
            "Attempts that failed.",
        ),
        |hook| hook.failures as f64,
    ),
    (
        (
            "ledger_hook_streams_waiting",
            "gauge",
            "Streams that wait for another attempt.",
        ),
        |hook| hook.counts.waiting as f64,
    ),
    (
        (
            "ledger_hook_streams_parked",
            "gauge",
            "Streams that are parked.",
        ),
        |hook| hook.counts.parked as f64,
    ),
    (
        (
            "ledger_hook_dead_letters",
            "gauge",
            "Dead letters that wait.",
        ),
        |hook| hook.counts.letters as f64,
    ),
    (
        (
            "ledger_hook_bytes_total",
            "counter",
            "Bytes that were taken.",
        ),
        |hook| hook.bytes as f64,
    ),
];

/// Writes one family. Names of stores and bridges hold no character that needs an escape.
fn family(
    text: &mut String,
    (name, kind, help): Head,
    label: &str,
    values: impl Iterator<Item = (String, f64)>,
) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    for (of, value) in values {
        text.push_str(&format!("{name}{{{label}=\"{of}\"}} {value}\n"));
    }
}
