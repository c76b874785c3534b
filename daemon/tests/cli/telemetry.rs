//! What the daemon sends to a collector: a real receiver of OTLP, in the test's own process.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use ledger_server::v1::{AppendRequest, EntryInput, SetTagsRequest};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric::Data};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::daemon::{Home, wait};

/// What has arrived.
#[derive(Debug, Clone, Default)]
struct Receiver {
    traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.traces.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Receiver {
    /// Listens; the second value is where.
    fn start() -> (Self, String) {
        let receiver = Self::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = incoming.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(serving);
        (receiver, format!("http://{at}"))
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.traces.lock().unwrap();
        requests
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| scope.spans.clone())
            .collect()
    }

    /// The newest numbers of this name.
    fn metric(&self, name: &str) -> Option<Metric> {
        let requests = self.metrics.lock().unwrap();
        requests
            .iter()
            .flat_map(|request| &request.resource_metrics)
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| &scope.metrics)
            .rfind(|metric| metric.name == name)
            .cloned()
    }

    fn points(&self, name: &str) -> Vec<NumberDataPoint> {
        match self.metric(name).and_then(|metric| metric.data) {
            Some(Data::Sum(sum)) => sum.data_points,
            Some(Data::Gauge(gauge)) => gauge.data_points,
            _ => Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.traces.lock().unwrap().is_empty() && self.metrics.lock().unwrap().is_empty()
    }
}

/// The trace of a span, and its parent, as `traceparent` spells them.
fn trace(span: &Span) -> (String, String) {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    (hex(&span.trace_id), hex(&span.parent_span_id))
}

/// Attributes as `key=value`, in order.
fn texts(attributes: &[KeyValue]) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        other => format!("{other:?}"),
    };
    let mut texts: Vec<_> = attributes
        .iter()
        .map(|pair| {
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            format!("{}={}", pair.key, value.map(text).unwrap_or_default())
        })
        .collect();
    texts.sort();
    texts
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn called<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    request
        .metadata_mut()
        .insert("x-ledger-store", "orders".parse().unwrap());
    request
}

async fn append(home: &Home) {
    let at = format!("http://localhost:{}", home.port);
    let mut client = LedgerServiceClient::connect(at).await.unwrap();
    let entry = EntryInput {
        payload: b"\"a secret payload\"".to_vec().into(),
        ..EntryInput::default()
    };
    let message = AppendRequest {
        stream: "user-1".to_owned(),
        entries: vec![entry.clone(), entry],
        ..AppendRequest::default()
    };
    client.append(called(message)).await.unwrap();
    let message = SetTagsRequest {
        stream: "nowhere".to_owned(),
        id: "1".to_owned(),
        tags: Vec::new(),
    };
    client.set_tags(called(message)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_continues_its_trace_and_is_counted_at_the_collector() {
    let (receiver, at) = Receiver::start();
    let home = Home::new("");
    home.configure(&format!(
        "bridges:\n  - {{name: copy, store: orders, to: \"{}\", skip: [set_tags]}}",
        home.url("replica.db")
    ));
    let mut start = home.ledger(&["start"]);
    start
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &at)
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    crate::program::done(&mut start);
    append(&home).await;

    wait("the spans", || {
        let spans = receiver.spans();
        ["ledger.Append", "ledger.SetTags", "ledger.bridge.Poll"]
            .iter()
            .all(|name| spans.iter().any(|span| span.name == *name))
    });
    let spans = receiver.spans();
    let request = spans
        .iter()
        .find(|span| span.name == "ledger.request" && trace(span).1 == PARENT)
        .expect("a span whose parent is the caller's");
    assert_eq!(trace(request).0, TRACE);
    let append = spans
        .iter()
        .find(|span| span.name == "ledger.Append")
        .unwrap();
    assert_eq!(trace(append).0, TRACE);
    let attributes = texts(&append.attributes);
    for expected in [
        "ledger.backend=sqlite",
        "ledger.store_type=orders",
        "ledger.stream=user-1",
    ] {
        assert!(
            attributes.iter().any(|one| one == expected),
            "{attributes:?}"
        );
    }
    let failed = spans.iter().find(|span| span.name == "ledger.SetTags");
    let failed = failed.unwrap();
    assert!(
        texts(&failed.attributes).contains(&"error_type=not_found".to_owned()),
        "{failed:?}"
    );
    assert_eq!(failed.status.as_ref().unwrap().code, 2, "{failed:?}");
    assert!(!format!("{spans:?}").contains("secret payload"));

    let counted = |name: &str, attributes: &[&str]| {
        receiver
            .points(name)
            .iter()
            .any(|point| texts(&point.attributes) == attributes)
    };
    let of = ["ledger.backend=sqlite", "ledger.store_type=orders"];
    let append = [of[0], of[1], "operation=append"];
    wait("the numbers", || {
        counted("ledger.operations.total", &append)
            && counted("ledger.entries.appended", &append)
            && counted(
                "ledger.errors.total",
                &["error_type=not_found", of[0], of[1], "operation=set_tags"],
            )
            && counted(
                "ledger.bridge.polls",
                &["bridge.name=copy", "status=success"],
            )
            && counted(
                "ledger.bridge.mutations.applied",
                &["bridge.name=copy", "mutation.type=append"],
            )
            && counted("ledger.bridge.lag", &["bridge.name=copy"])
    });
    for (name, unit) in [
        ("ledger.operation.duration", "s"),
        ("ledger.bridge.poll.duration", "s"),
        ("ledger.bridge.lag", "s"),
    ] {
        assert_eq!(receiver.metric(name).unwrap().unit, unit, "{name}");
    }
    // The same numbers for who scrapes.
    let (_, scraped) = home.http("/metrics");
    let labels = "ledger_backend=\"sqlite\",ledger_store_type=\"orders\",operation=\"append\"";
    for line in [
        format!("ledger_operations_total{{{labels}}} 1\n"),
        format!("ledger_entries_appended_total{{{labels}}} 2\n"),
        format!("ledger_operation_duration_seconds_count{{{labels}}} 1\n"),
        "ledger_bridge_mutations_applied_total{bridge_name=\"copy\",mutation_type=\"append\"} 2\n"
            .to_owned(),
        "ledger_errors_total{error_type=\"not_found\",".to_owned(),
    ] {
        assert!(scraped.contains(&line), "{line} in {scraped}");
    }
    home.out(&["stop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_last_is_sent_before_the_daemon_ends() {
    let (receiver, at) = Receiver::start();
    let home = Home::new("");
    let mut start = home.ledger(&["start"]);
    start
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &at)
        .env("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    crate::program::done(&mut start);
    append(&home).await;
    home.out(&["stop"]);
    wait("the last spans and numbers", || {
        receiver
            .spans()
            .iter()
            .any(|span| span.name == "ledger.Append")
            && !receiver.points("ledger.operations.total").is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_unless_asked_for() {
    let (receiver, at) = Receiver::start();
    for variables in [
        [("OTEL_SERVICE_NAME", "x"), ("OTEL_SDK_DISABLED", "false")],
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", at.as_str()),
            ("OTEL_SDK_DISABLED", "true"),
        ],
    ] {
        let home = Home::new("");
        let mut start = home.ledger(&["start"]);
        start
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "10")
            .envs(variables);
        crate::program::done(&mut start);
        append(&home).await;
        // A daemon that stops sends everything it has to send.
        home.out(&["stop"]);
        wait("the end", || {
            home.out(&["status"]).contains("is not running")
        });
        assert!(receiver.is_empty(), "{receiver:?}");
    }
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused_by_its_variable() {
    let home = Home::new("");
    let mut start = home.ledger(&["start"]);
    start
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
    let ran = crate::program::ran(&mut start);
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.err.contains("OTEL_EXPORTER_OTLP_PROTOCOL"), "{ran:#?}");
}
