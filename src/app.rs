//! The routes: the part to replace with your own.
//!
//! A route added to `protected` in [`app`] answers verified callers only, and so does everything that no route matches.
//! A handler sees neither the token nor its header: it takes the [`VerifiedCaller`] as an argument.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{self, VerifiedCaller};
use crate::observe::{observe, panicked};
use crate::oidc::Verifier;
use crate::problem::Problem;

/// What a handler may read of a request's body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The application, ready to be served.
pub fn app(verifier: Arc<Verifier>) -> Router {
    let protected = Router::new()
        .route("/", get(hello))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(verifier.clone(), auth::require));
    let open = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(method_not_allowed);
    protected
        .merge(open)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(auth::no_store))
        .layer(middleware::from_fn(observe))
        .with_state(verifier)
}

async fn hello(VerifiedCaller(claims): VerifiedCaller) -> Json<Value> {
    Json(json!({
        "message": "Your token is good. This is the protected API.",
        "caller": {
            "subject": claims.sub,
            "owner": claims.owner,
            "project": claims.project,
            "environment": claims.environment,
        },
    }))
}

async fn healthz() -> StatusCode {
    StatusCode::OK
}

/// Without traffic no token would ever ask for keys that could not be had at the start, so the question itself does.
async fn readyz(State(verifier): State<Arc<Verifier>>) -> Result<StatusCode, Problem> {
    if verifier.keys().is_ready() {
        return Ok(StatusCode::OK);
    }
    verifier.keys().prefetch();
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "keys_unavailable",
        "The issuer's keys have not been fetched yet. The log says why.",
    ))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.")
}

/// Under the open routes too, it takes a verified caller to learn more.
async fn method_not_allowed(_: VerifiedCaller) -> Problem {
    let detail = "This path exists, but not for this method. The `Allow` header lists those it answers.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
