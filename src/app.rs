//! The routes: the part to replace with your own.
//!
//! A route that is added in [`app`] answers verified callers only, and so does everything that no route matches. A
//! handler sees neither the token nor its header: it takes the [`VerifiedCaller`] as an argument.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tower::{ServiceBuilder, util::MapResponse};

use crate::auth::{self, VerifiedCaller};
use crate::observe::observe;
use crate::oidc::Verifier;
use crate::problem::Problem;

/// What a handler may read of a request's body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The application: a router, and a last look at what it answers. That is no layer of the router's, for axum adds an
/// `Allow` header outside of all layers.
pub type App = MapResponse<Router, fn(Response) -> Response>;

/// The application, ready to be served. The place for your routes.
pub fn app(verifier: Arc<Verifier>) -> App {
    protect(Router::new().route("/", get(hello)), verifier)
}

/// These routes, for verified callers only, and the open ones beside them.
fn protect(routes: Router<Arc<Verifier>>, verifier: Arc<Verifier>) -> App {
    let protected = routes.fallback(not_found).method_not_allowed_fallback(method_not_allowed).layer(
        ServiceBuilder::new()
            .layer(observe())
            .layer(auth::require(verifier.clone()))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
    );
    let open = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(observe());
    MapResponse::new(protected.merge(open).with_state(verifier), hide_methods)
}

/// A refusal doesn't tell strangers which paths and methods there are.
fn hide_methods(mut response: Response) -> Response {
    let problem = response.extensions().get::<Problem>();
    if problem.is_some_and(|problem| problem.status() != StatusCode::METHOD_NOT_ALLOWED) {
        response.headers_mut().remove(ALLOW);
    }
    response
}

#[derive(Serialize)]
struct Hello<'a> {
    message: &'static str,
    caller: Caller<'a>,
}

#[derive(Serialize)]
struct Caller<'a> {
    subject: Option<&'a str>,
    owner: Option<&'a str>,
    project: Option<&'a str>,
    environment: Option<&'a str>,
}

/// `GET /`: who calls, as the token says.
pub async fn hello(VerifiedCaller(claims): VerifiedCaller) -> Response {
    let caller = Caller {
        subject: claims.sub.as_deref(),
        owner: claims.owner.as_deref(),
        project: claims.project.as_deref(),
        environment: claims.environment.as_deref(),
    };
    Json(Hello { message: "Your token is good. This is the protected API.", caller }).into_response()
}

/// What an open route answers where all is well.
const WELL: ([(HeaderName, HeaderValue); 1], StatusCode) =
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], StatusCode::OK);

async fn healthz() -> impl IntoResponse {
    WELL
}

/// Without traffic no token would ever ask for keys that could not be had at the start, so the question itself does.
async fn readyz(State(verifier): State<Arc<Verifier>>) -> Result<impl IntoResponse, Problem> {
    if verifier.keys().is_ready() {
        return Ok(WELL);
    }
    verifier.keys().prefetch();
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "keys_unavailable",
        "No usable keys of the issuer are held: none have been fetched yet, or not for an hour. The log says why.",
    )
    .with_header(RETRY_AFTER, HeaderValue::from_static("1")))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.")
}

/// Under the open routes too, it takes a verified caller to learn more.
async fn method_not_allowed(_: VerifiedCaller) -> Problem {
    let detail = "This path exists, but not for this method. The `Allow` header lists those it answers.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and one panics to be caught")]

    use axum::body::{Body, Bytes, to_bytes};
    use axum::http::Request;
    use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
    use axum::routing::post;
    use local::{Deployment, Issuer};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;
    use crate::oidc::{KeySet, Subject, Trust, Trusted};

    /// An application with routes of its own, and a credential that it takes.
    async fn with_routes(routes: Router<Arc<Verifier>>) -> (App, String) {
        let issuer = Issuer::start(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
        let deployment = Deployment::default();
        let who = Trusted::Subjects {
            issuer: issuer.team_url(&deployment.team),
            audiences: vec![deployment.audience()],
            subjects: vec![Subject::new(deployment.subject())],
            owner_ids: None,
            project_ids: None,
        };
        let keys = KeySet::new(format!("{}/.well-known/jwks", issuer.url()).parse().unwrap());
        let trust = Trust { who, leeway: std::time::Duration::ZERO };
        let bearer = format!("Bearer {}", issuer.token(&deployment));
        (protect(routes, Arc::new(Verifier::new(trust, keys, 10))), bearer)
    }

    async fn answer(app: &App, path: &str, bearer: &str, body: Body) -> (StatusCode, Option<Value>) {
        let request = Request::post(path).header(AUTHORIZATION, bearer).body(body).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers().get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), ["no-store"]);
        let status = response.status();
        (status, serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).ok())
    }

    #[tokio::test]
    async fn a_panic_is_one_requests_failure() {
        async fn fails() -> StatusCode {
            panic!("as a handler may")
        }
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(log.reopen().unwrap());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let routes = Router::new()
            .route("/fails", post(fails))
            .route("/away", post(|| async { StatusCode::BAD_GATEWAY }))
            .route("/", post(|| async {}));
        let (app, bearer) = with_routes(routes).await;
        let (status, problem) = answer(&app, "/fails", &bearer, Body::empty()).await;
        assert_eq!((status, &problem.unwrap()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("internal_error")));
        let last_event = || -> Value {
            let log = std::fs::read_to_string(log.path()).unwrap();
            serde_json::from_str(log.lines().last().unwrap()).unwrap()
        };
        let event = last_event();
        let expected =
            json!({ "level": "ERROR", "method": "POST", "route": "/fails", "status": 500, "code": "internal_error" });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&event[field], value, "{field}");
        }
        assert_eq!(answer(&app, "/", &bearer, Body::empty()).await.0, StatusCode::OK);
        // Nor does a handler's own failure pass for a refusal.
        assert_eq!(answer(&app, "/away", &bearer, Body::empty()).await.0, StatusCode::BAD_GATEWAY);
        assert_eq!(last_event()["level"], "ERROR");
    }

    #[tokio::test]
    async fn a_handler_reads_64_kib_at_most() {
        let echo = post(|body: Bytes| async move { body.len().to_string() });
        let (app, bearer) = with_routes(Router::new().route("/", echo)).await;
        let (fits, larger) = (vec![b'x'; 64 * 1024], vec![b'x'; 64 * 1024 + 1]);
        let (status, read) = answer(&app, "/", &bearer, Body::from(fits)).await;
        assert_eq!((status, read), (StatusCode::OK, Some(json!(64 * 1024))));
        assert_eq!(answer(&app, "/", &bearer, Body::from(larger)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_route_that_was_added_is_protected() {
        // Whatever it says of caches.
        let new = || async { [(CACHE_CONTROL, "public")] };
        let (app, bearer) = with_routes(Router::new().route("/new", post(new))).await;
        assert_eq!(answer(&app, "/new", &bearer, Body::empty()).await.0, StatusCode::OK);
        assert_eq!(answer(&app, "/new", "Basic x", Body::empty()).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(answer(&app, "/new", "Bearer x", Body::empty()).await.0, StatusCode::UNAUTHORIZED);
    }
}
