//! One log event per request, with stable field names.
//!
//! Accepted requests are logged at `debug`, refused requests at `info`, failed requests at `error`. An event holds the
//! route, the two headers that trace a request, `sub`, and the claims in the reason for a refusal. It holds no path, query
//! or other header. A method or header that is long enough for a token is left out.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use vercel_oidc_verifier::{Problem, VerifiedCaller};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_VERCEL_ID: HeaderName = HeaderName::from_static("x-vercel-id");
/// A `traceparent` has 55 characters (W3C Trace Context), an `x-vercel-id` less than 100. The signature of a token
/// alone has 342.
const MAX_HEADER_BYTES: usize = 128;
/// Longer than any `sub` of Vercel's: owner, project and environment have at most 100 characters each.
const MAX_CLAIM_CHARS: usize = 400;

/// Answers this request with `answer`, and logs what is answered.
pub(crate) async fn observe<F: Future<Output = Response>>(
    request: Request,
    answer: impl FnOnce(Request) -> F,
) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let traceparent = short_header(request.headers(), TRACEPARENT);
    let x_vercel_id = short_header(request.headers(), X_VERCEL_ID);
    let response = answer(request).await;
    let problem = response.extensions().get::<Problem>();
    let caller = response.extensions().get::<VerifiedCaller>();
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                // A client can send any word as the method.
                method = (method.as_str().len() <= MAX_HEADER_BYTES).then_some(method.as_str()),
                route = route.as_ref().map(MatchedPath::as_str),
                status = response.status().as_u16(),
                duration_ms = began.elapsed().as_micros() as f64 / 1000.0,
                code = problem.map(Problem::code),
                reason = problem.map(Problem::log_detail),
                sub = caller.and_then(|caller| caller.claims().sub()).map(escaped),
                traceparent,
                x_vercel_id,
                $message
            )
        };
    }
    let code = problem.map(Problem::code);
    match response.status() {
        // A 503 with this code is the issuer's failure. Any other 503 is a handler's.
        status if status.is_client_error() || code == Some("keys_unavailable") => log!(info, "refused a request"),
        status if status.is_server_error() => log!(error, "failed to answer a request"),
        _ => log!(debug, "answered a request"),
    }
    response
}

/// A header's value, unless it is long enough to hold a token or to fill the log.
fn short_header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= MAX_HEADER_BYTES).then(|| value.to_owned())
}

/// A claim, escaped and cut, so that it can't forge a line, hide text or fill the log.
fn escaped(claim: &str) -> String {
    claim.chars().take(MAX_CLAIM_CHARS).flat_map(char::escape_debug).collect()
}
