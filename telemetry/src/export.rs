//! Sending spans and numbers to a collector, as the standard `OTEL_*` variables say.

use std::sync::Arc;

use ledger_core::observe::Recorder;
use ledger_core::{Error, ErrorKind, Result};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::OtelRecorder;

/// The export of spans and numbers by OTLP over gRPC.
///
/// Nothing is sent unless asked for: `OTEL_EXPORTER_OTLP_ENDPOINT`, or the same for one signal
/// (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `..._METRICS_ENDPOINT`), or `OTEL_TRACES_EXPORTER=otlp`
/// and `OTEL_METRICS_EXPORTER=otlp`. `none` in one of the latter switches that signal off, and
/// `OTEL_SDK_DISABLED=true` everything. All else is the SDK's: headers, time limits, intervals, the
/// sampler, resource attributes. Without `OTEL_SERVICE_NAME` the service is `ledger`.
#[derive(Debug)]
pub struct Export {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Export {
    /// What the environment asks for; none where it asks for nothing. Needs to be called within a
    /// tokio runtime, which makes the connections and has to live until [`end`](Self::end).
    ///
    /// `InvalidInput` where a variable has a value that cannot be followed. No connection is made
    /// yet: a collector that is away is no error.
    pub fn from_environment() -> Result<Option<Self>> {
        let asked = Asked::read(|name| std::env::var(name).ok())?;
        if !asked.traces && !asked.metrics {
            return Ok(None);
        }
        let mut resource = Resource::builder();
        if !asked.named {
            resource = resource.with_service_name("ledger");
        }
        let resource = resource.build();
        let traces = asked.traces.then(|| {
            let exporter = SpanExporter::builder().with_tonic().build();
            let exporter = exporter.map_err(|error| refused("traces", error))?;
            Ok(SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource.clone())
                .build())
        });
        let metrics = asked.metrics.then(|| {
            let exporter = MetricExporter::builder().with_tonic().build();
            let exporter = exporter.map_err(|error| refused("metrics", error))?;
            Ok(SdkMeterProvider::builder()
                .with_periodic_exporter(exporter)
                .with_resource(resource)
                .build())
        });
        Ok(Some(Self {
            traces: traces.transpose()?,
            metrics: metrics.transpose()?,
        }))
    }

    /// Whether spans are exported.
    pub fn has_traces(&self) -> bool {
        self.traces.is_some()
    }

    /// Takes the spans of Ledger's crates to the collector; none where traces are off. Events, which
    /// are log lines, stay where they are.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let provider = self.traces.as_ref()?;
        let ours = Targets::new().with_target("ledger", LevelFilter::DEBUG);
        #[allow(
            clippy::redundant_closure_for_method_calls,
            reason = "the method is not general enough in its lifetime"
        )]
        let spans = filter_fn(|metadata| metadata.is_span());
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("ledger"))
            .with_location(false)
            .with_threads(false);
        Some(layer.with_filter(ours.and(spans)))
    }

    /// Takes numbers to the collector; none where metrics are off.
    pub fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        let provider = self.metrics.as_ref()?;
        Some(Arc::new(OtelRecorder::new(&provider.meter("ledger"))))
    }

    /// Sends what is left, and ends. It blocks until the collector has answered or the SDK's time is
    /// over; the runtime must be able to go on meanwhile.
    pub fn end(&self) {
        let traces = self.traces.as_ref().map(SdkTracerProvider::shutdown);
        let metrics = self.metrics.as_ref().map(SdkMeterProvider::shutdown);
        for ended in [traces, metrics].into_iter().flatten() {
            if let Err(error) = ended {
                tracing::warn!(%error, "the last telemetry could not be sent");
            }
        }
    }
}

fn refused(signal: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let context = format!("the OTEL_EXPORTER_OTLP_* variables for {signal} cannot be followed");
    Error::new(ErrorKind::InvalidInput, "export telemetry", context).with_source(error)
}

/// What the environment asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    traces: bool,
    metrics: bool,
    /// Whether the service has a name.
    named: bool,
}

impl Asked {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let asked = |signal: &str| -> Result<bool> {
            if off {
                return Ok(false);
            }
            let name = format!("OTEL_{signal}_EXPORTER");
            let wanted = match set(&name).as_deref() {
                None => {
                    set("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
                        || set(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")).is_some()
                }
                Some("otlp") => true,
                Some("none") => false,
                Some(other) => return Err(unknown(&name, other, "otlp or none")),
            };
            if wanted {
                let own = format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL");
                let names = [own.as_str(), "OTEL_EXPORTER_OTLP_PROTOCOL"];
                let found = names
                    .into_iter()
                    .find_map(|name| Some((name, set(name)?)))
                    .filter(|(_, protocol)| protocol != "grpc");
                if let Some((name, protocol)) = found {
                    return Err(unknown(name, &protocol, "grpc, the one that is spoken"));
                }
            }
            Ok(wanted)
        };
        let attributes = set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        Ok(Self {
            traces: asked("TRACES")?,
            metrics: asked("METRICS")?,
            named: set("OTEL_SERVICE_NAME").is_some() || attributes.contains("service.name="),
        })
    }
}

fn unknown(name: &str, value: &str, allowed: &str) -> Error {
    let context = format!("{name}: {value:?} is not {allowed}");
    Error::invalid("export telemetry", context)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a failing step fails the test that called it"
)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Asked> {
        Asked::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unless_asked_for() {
        let off = |variables: &[(&str, &str)]| {
            let asked = read(variables).unwrap();
            assert!(!asked.traces && !asked.metrics, "{variables:?}");
        };
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        off(&[]);
        off(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]);
        off(&[at, ("OTEL_SDK_DISABLED", "TRUE")]);
        let none = |signal| (signal, "none");
        off(&[
            at,
            none("OTEL_TRACES_EXPORTER"),
            none("OTEL_METRICS_EXPORTER"),
        ]);
        let both = read(&[at]).unwrap();
        assert!(both.traces && both.metrics && !both.named);
        let one = read(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", at.1)]).unwrap();
        assert!(!one.traces && one.metrics);
        assert!(read(&[at, ("OTEL_SERVICE_NAME", "x")]).unwrap().named);
    }

    #[test]
    fn a_value_that_cannot_be_followed_is_refused_by_its_name() {
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        for wrong in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_METRICS_EXPORTER", "console"),
        ] {
            let error = read(&[at, wrong]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(wrong.0), "{error}");
        }
    }
}
