//! What every request gets: a span, and one event with its answer.
//!
//! Each line that a handler logs carries the span's fields: the method, the route, the two headers that trace a request,
//! and `sub` once the token is verified. Accepted requests are logged at `debug` with the target `access`, refused
//! requests at `info`, failed requests at `error`. No path, query or other header is logged. A method or header that is
//! long enough for a token is left out.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use tower_http::trace::{HttpMakeClassifier, TraceLayer};
use tracing::Span;
use tracing::field::Empty;
use vercel_oidc_verifier::{Problem, Refusal};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_VERCEL_ID: HeaderName = HeaderName::from_static("x-vercel-id");
/// A `traceparent` has 55 characters (W3C Trace Context), an `x-vercel-id` less than 100. The signature of a token
/// alone has 342.
const MAX_HEADER_BYTES: usize = 128;

pub(crate) type RequestLog<B> =
    TraceLayer<HttpMakeClassifier, fn(&Request) -> Span, (), fn(&Response<B>, Duration, &Span), (), (), ()>;

/// The layer that opens the span and logs the answer.
pub(crate) fn log<B>() -> RequestLog<B> {
    let layer = TraceLayer::new_for_http().on_request(()).on_body_chunk(()).on_eos(()).on_failure(());
    layer.make_span_with(span as fn(&_) -> _).on_response(log_answer as fn(&Response<B>, _, &_))
}

fn span(request: &Request) -> Span {
    let method = request.method().as_str();
    // At `error`, so that lines of every level carry the fields.
    tracing::error_span!(
        "request",
        // A client can send any word as the method.
        method = (method.len() <= MAX_HEADER_BYTES).then(|| tracing::field::display(method)),
        route = request.extensions().get::<MatchedPath>().map(|route| tracing::field::display(route.as_str())),
        traceparent = short_header(request.headers(), TRACEPARENT),
        x_vercel_id = short_header(request.headers(), X_VERCEL_ID),
        // The guard records the verified caller.
        sub = Empty,
    )
}

/// Logs the answer, unless the guard has logged its refusal.
fn log_answer<B>(response: &Response<B>, duration: Duration, _: &Span) {
    if response.extensions().get::<Refusal>().is_some() {
        return;
    }
    let problem = response.extensions().get::<Problem>();
    let code = problem.map(Problem::code);
    let reason = problem.map(Problem::log_detail);
    let (status, duration_ms) = (response.status(), duration.as_micros() as f64 / 1000.0);
    // A 503 with this code is the issuer's failure. Any other 503 is a handler's.
    if status.is_client_error() || code == Some("keys_unavailable") {
        tracing::info!(status = status.as_u16(), duration_ms, code, reason, "refused a request");
    } else if status.is_server_error() {
        tracing::error!(status = status.as_u16(), duration_ms, code, reason, "failed to answer a request");
    } else {
        tracing::debug!(target: "access", status = status.as_u16(), duration_ms, "answered a request");
    }
}

/// A header's value, unless it is long enough to hold a token or to fill the log.
fn short_header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().filter(|value| value.len() <= MAX_HEADER_BYTES)
}
