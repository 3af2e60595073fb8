//! A stand-in for an OpenTelemetry collector.

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use tokio::sync::mpsc;

use crate::stage::{Function, serve};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_span_of_each_request_is_exported_after_its_answer_and_continues_its_trace() {
    let (exported, mut spans) = mpsc::unbounded_channel();
    let collect = async move |headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let exports = ExportTraceServiceRequest::decode(body).unwrap().resource_spans;
        for export in exports {
            let service = export.resource.unwrap().attributes.into_iter().find(|known| known.key == "service.name");
            let spans = export.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.for_each(|span| exported.send((service.clone().unwrap().value.unwrap(), span)).unwrap());
        }
    };
    let collector = serve(Router::new().route("/v1/traces", post(collect))).await;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str()), ("OTEL_SERVICE_NAME", "storefront")];
    let (function, mut platform) = Function::start_on_vercel(&variables).await;

    let request = function.invocation(1, "/none?secret").header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(request.send().await.unwrap().status(), 502);
    assert_eq!(platform.ended().await, 1);

    // The invocation stays open until the collector has the span.
    let (service, span): (AnyValue, Span) = spans.try_recv().unwrap();
    assert_eq!(service.value, Some(Value::StringValue("storefront".to_owned())));
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((span.name.as_str(), span.kind()), ("GET /none", SpanKind::Server));
    let [status] = &span.attributes[..] else { panic!("{:?}", span.attributes) };
    assert_eq!(status.key, "http.response.status_code");
    assert_eq!(status.value.as_ref().unwrap().value, Some(Value::IntValue(502)));

    assert_eq!(function.request("/none").send().await.unwrap().status(), 502);
    let (_, span) = spans.recv().await.unwrap();
    assert_ne!(hex(&span.trace_id), TRACE);
    assert!(span.parent_span_id.is_empty());
}
