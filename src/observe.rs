//! One event per request, for the operator; and a panic in a handler is one request's failure.
//!
//! Accepted requests are logged at `debug`, refused ones (and those that can't be judged: 503) at `info`, failed ones at
//! `error`. An event holds the route and never the path or query that was sent, no header but the two that trace a
//! request, and no claim but the `sub` of a verified token. What else it holds of a request is too short for a token.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::auth::VerifiedCaller;
use crate::problem::Problem;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_VERCEL_ID: HeaderName = HeaderName::from_static("x-vercel-id");
/// A `traceparent` has 55 characters (W3C Trace Context), an `x-vercel-id` well under 100, and of a token the signature
/// alone 342.
const MAX_LOGGED_BYTES: usize = 128;

/// A tower layer: logs each answer, and gives one where a handler has panicked.
pub fn observe<S>()
-> impl Layer<S, Service = impl Service<Request, Response = Response, Error = S::Error, Future: Send> + Clone> + Clone
where
    S: Service<Request, Response = Response, Future: Send> + Clone + Send,
{
    layer_fn(|service: S| {
        service_fn(move |request: Request| {
            let asked = Asked::new(&request);
            // Nothing that a panic leaves half-made is used again: it goes with its request.
            let answer = AssertUnwindSafe(service.clone().oneshot(request)).catch_unwind();
            answer.map(move |answer| {
                let response = answer.unwrap_or_else(|_| Ok(panicked().into_response()))?;
                asked.log(&response);
                Ok(response)
            })
        })
    })
}

/// What an event says of its request.
struct Asked {
    began: Instant,
    method: Method,
    route: Option<MatchedPath>,
    traceparent: Option<HeaderValue>,
    x_vercel_id: Option<HeaderValue>,
}

impl Asked {
    fn new(request: &Request) -> Self {
        let headers = request.headers();
        Self {
            began: Instant::now(),
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            traceparent: headers.get(TRACEPARENT).cloned(),
            x_vercel_id: headers.get(X_VERCEL_ID).cloned(),
        }
    }

    fn log(&self, response: &Response) {
        let problem = response.extensions().get::<Problem>();
        macro_rules! log {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    method = short(self.method.as_str()),
                    route = self.route.as_ref().map(MatchedPath::as_str),
                    status = response.status().as_u16(),
                    duration_ms = self.began.elapsed().as_micros() as f64 / 1000.0,
                    code = problem.map(Problem::code),
                    reason = problem.map(Problem::detail),
                    sub = response.extensions().get().and_then(|VerifiedCaller(claims)| claims.sub.as_deref()),
                    traceparent = self.traceparent.as_ref().and_then(|value| short(value.to_str().ok()?)),
                    x_vercel_id = self.x_vercel_id.as_ref().and_then(|value| short(value.to_str().ok()?)),
                    $message
                )
            };
        }
        match response.status() {
            status if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE => {
                log!(info, "refused a request")
            }
            status if status.is_server_error() => log!(error, "failed to answer a request"),
            _ => log!(debug, "answered a request"),
        }
    }
}

/// A method can be any word, and a header anything: neither is a way to get a token into the log, or to fill it.
fn short(text: &str) -> Option<&str> {
    (text.len() <= MAX_LOGGED_BYTES).then_some(text)
}

/// What a client learns of a panic. The panic's own words are on standard error.
fn panicked() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "Something went wrong in this API. Its operator finds the cause in the log.",
    )
}
