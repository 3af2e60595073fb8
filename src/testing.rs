//! Helpers for tests of routes: the application around the routes, and tokens signed with a test key. Nothing is
//! fetched.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Builder;
use axum::http::{HeaderMap, StatusCode};
use local::{Deployment, SigningKey, TestKey};
use serde_json::{Value, json};
use vercel_oidc_verifier::{KeySet, Subject, Trust, VERCEL_ISSUER, Verifier};

use crate::app::App;

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::for_tests("test", TestKey::Issuer));

/// The application with these routes. It trusts every environment of the project.
pub(crate) fn app(routes: Router) -> App {
    let deployment = Deployment::default();
    let subjects = [Subject::new("owner:acme:project:storefront:environment:*")];
    let trust = Trust::issuer(issuer(&deployment), [deployment.audience()], subjects).unwrap();
    let keys = KeySet::from_jwks(json!({ "keys": [KEY.jwk()] }).to_string().as_bytes()).unwrap();
    crate::app::app(routes, Arc::new(Verifier::new(trust, keys)))
}

/// The claims of a token from this environment.
pub(crate) fn claims(environment: &str) -> Value {
    let deployment = Deployment::default().in_environment(environment);
    deployment.claims(&issuer(&deployment), SystemTime::now(), Duration::from_secs(60))
}

fn issuer(deployment: &Deployment) -> String {
    format!("{VERCEL_ISSUER}/{}", deployment.team)
}

/// Adds a token with these claims.
pub(crate) fn authorized(request: Builder, claims: &Value) -> Builder {
    request.header(AUTHORIZATION, format!("Bearer {}", KEY.mint(claims)))
}

/// Sends the request. The last part of the answer is its body, or `null` if that is not JSON.
pub(crate) async fn send(app: &App, request: Builder, body: impl Into<Body>) -> (StatusCode, HeaderMap, Value) {
    let response = app.answer(request.body(body.into()).unwrap()).await;
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    (head.status, head.headers, serde_json::from_slice(&body).unwrap_or_default())
}
