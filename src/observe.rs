//! One event per request, for the operator; and a panic in a handler is one request's failure.
//!
//! Accepted requests are logged at `debug`, refused ones at `info`, failed ones at `error`. An event holds the route
//! and never the path or query that was sent, no header but the two that trace a request, and no claim but the `sub` of
//! a verified token.

use std::any::Any;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::VerifiedCaller;
use crate::problem::Problem;

/// Middleware: logs each answer.
pub async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let trace = ["traceparent", "x-vercel-id"].map(|name| header(request.headers(), name));
    let response = next.run(request).await;

    macro_rules! log {
        ($level:ident, $message:literal) => {{
            let problem = response.extensions().get::<Problem>();
            tracing::$level!(
                method = method.as_str(),
                route = route.as_ref().map(MatchedPath::as_str),
                status = response.status().as_u16(),
                duration_ms = began.elapsed().as_micros() as f64 / 1000.0,
                code = problem.map(|problem| problem.code),
                reason = problem.map(|problem| problem.detail.as_str()),
                sub = response.extensions().get().and_then(|VerifiedCaller(claims)| claims.sub.as_deref()),
                traceparent = trace[0].as_deref(),
                x_vercel_id = trace[1].as_deref(),
                $message
            )
        }};
    }
    match response.status() {
        StatusCode::INTERNAL_SERVER_ERROR => log!(error, "failed to answer a request"),
        status if status.is_client_error() || status.is_server_error() => {
            log!(info, "refused a request")
        }
        _ => log!(debug, "answered a request"),
    }
    response
}

/// What a client learns of a panic. The panic's own words are on standard error.
pub fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "Something went wrong in this API. Its operator finds the cause in the log.",
    )
    .into_response()
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(String::from)
}
