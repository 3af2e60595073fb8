//! A span for each request, exported with OTLP.

use opentelemetry::trace::{Span, SpanKind, Tracer, TracerProvider};
use opentelemetry::{KeyValue, propagation::TextMapPropagator};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use vercel_runtime::{AppState, Error, Request, Response, ResponseBody};

/// Make it once, before the first request.
pub fn provider() -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build()?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).build())
}

/// Answers in a span that continues the trace of the request.
pub async fn answer(
    traces: &SdkTracerProvider,
    request: &Request,
    state: &AppState,
    answer: impl Future<Output = Response<ResponseBody>>,
) -> Response<ResponseBody> {
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    let (tracer, name) = (traces.tracer("function"), format!("{} {}", request.method(), request.uri().path()));
    let mut span = tracer.span_builder(name).with_kind(SpanKind::Server).start_with_context(&tracer, &parent);
    let response = answer.await;
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(response.status().as_u16())));
    span.end();
    let traces = traces.clone(); // A failed export costs the span, and not the answer.
    state.wait_until(async move { drop(tokio::task::spawn_blocking(move || traces.force_flush()).await) });
    response
}
