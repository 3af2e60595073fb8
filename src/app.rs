//! The application: the guard around the routes, and what every route has in common.
//!
//! Only verified callers reach a route, and only they learn which paths and methods exist. `/healthz` and `/readyz` are
//! open, because probes have no token.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt;
use tokio::time::timeout;
use tower::{Service, ServiceBuilder};
use vercel_oidc_verifier::{Problem, RequireTokenLayer, Verifier};

use crate::gate::{gate, refuse_as_gate};
use crate::server::requests;

/// How much of a request's body a handler may read.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a handler may take until it returns its answer. Change it to what your slowest route needs. A single route
/// can have less with its own `TimeoutLayer`. Streams that have begun and WebSockets are not limited.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The application.
#[derive(Clone)]
pub struct App {
    /// The gate and the open routes.
    own: Router,
    /// The routes of the API, behind the guard.
    protected: Router,
}

/// Puts the guard, the limits and the log around these routes, and adds the gate and the open routes. A route of the
/// same path in `routes` is never reached.
pub fn app(routes: Router, verifier: Arc<Verifier>) -> App {
    let guard = RequireTokenLayer::new(verifier.clone());
    let protected = routes.fallback(not_found).method_not_allowed_fallback(method_not_allowed).layer(
        ServiceBuilder::new()
            .layer(requests::log())
            .layer(guard.clone())
            .map_future(limit)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
    );
    let own = Router::new()
        // Not logged: probes ask often, and the answer is always the same.
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).layer(requests::log()))
        .with_state(verifier)
        .method_not_allowed_fallback(
            method_not_allowed.layer(ServiceBuilder::new().layer(requests::log()).layer(guard.clone())),
        )
        .merge(gate().layer(guard).layer(map_response(refuse_as_gate)).layer(requests::log()));
    // With its state, a router puts the layers around each route now, and not at each request.
    App { own: own.with_state(()), protected: protected.with_state(()) }
}

impl App {
    /// Answers this request.
    pub async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path();
        let is_own = matches!(path, "/healthz" | "/readyz" | "/verify") || path.starts_with("/verify/");
        let router = if is_own { &self.own } else { &self.protected };
        let Ok(mut response) = router.clone().call(request).await;
        hide_methods(&mut response);
        response
    }

    /// An application without the guard.
    #[cfg(test)]
    pub(crate) fn unguarded(routes: Router) -> Self {
        Self { own: Router::new(), protected: routes }
    }
}

/// Only the answer to a verified caller says which methods a path has. The router adds `Allow` outside of its layers.
fn hide_methods(response: &mut Response) {
    let problem = response.extensions().get::<Problem>();
    if problem.is_some_and(|problem| problem.status() != StatusCode::METHOD_NOT_ALLOWED) {
        response.headers_mut().remove(ALLOW);
    }
}

const NO_STORE: [(HeaderName, HeaderValue); 1] = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];

async fn healthz() -> impl IntoResponse {
    NO_STORE
}

/// Ready while usable keys are held. If the keys are not fresh, this starts a fetch, because without traffic no request
/// starts one.
async fn readyz(State(verifier): State<Arc<Verifier>>) -> Result<impl IntoResponse, Problem> {
    let now = SystemTime::now();
    if verifier.keys().ready(now).await {
        return Ok(NO_STORE);
    }
    // Rounded up: an earlier attempt would get the same answer.
    let retry_after = verifier.keys().retry_after(now).as_secs_f64().ceil().max(1.0) as u64;
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "keys_unavailable",
        "No usable keys of the issuer are held. The log says why the last fetch failed.",
    )
    .with_header(RETRY_AFTER, retry_after.into()))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "There is no route for this path.")
}

async fn method_not_allowed() -> Problem {
    let detail = "This path has no route for this method. The `Allow` header lists its methods.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// Ends a handler that panics or takes too long. The panic's message is in the log.
async fn limit(handler: impl Future<Output = Result<Response, Infallible>>) -> Result<Response, Infallible> {
    let (status, code, detail) = match timeout(ANSWER_TIMEOUT, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(answer)) => return answer,
        Ok(Err(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "This API failed. The cause is in its log.")
        }
        Err(_) => {
            let detail = "This API did not answer in time. The request may have been carried out in part.";
            (StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
        }
    };
    Ok(Problem::new(status, code, detail).into_response())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and one panics to be caught")]

    use std::cell::RefCell;
    use std::io;
    use std::sync::Once;

    use axum::body::{Body, Bytes};
    use axum::http::Request;
    use axum::http::header::AUTHORIZATION;
    use axum::routing::post;
    use serde_json::{Value, json};
    use tracing::dispatcher;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::Targets;

    use super::*;
    use crate::server::log::dispatch;
    use crate::settings::LogFormat;
    use crate::testing::{app, authorized, claims, send};

    async fn call(app: &App, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let (status, headers, body) = send(app, authorized(Request::post(path), &claims("production")), body).await;
        assert_eq!(headers.get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), ["no-store"]);
        (status, body)
    }

    thread_local!(static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

    /// The log of this thread, and so of this test.
    struct Log;

    impl Log {
        fn start() -> Self {
            static STARTED: Once = Once::new();
            STARTED.call_once(|| {
                let info = Targets::new().with_default(LevelFilter::INFO);
                dispatcher::set_global_default(dispatch(LogFormat::Json, info, || Self)).unwrap();
            });
            Self
        }

        fn last_line(&self) -> String {
            let log = LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap());
            log.lines().last().unwrap().to_owned()
        }

        fn last_event(&self) -> Value {
            serde_json::from_str(&self.last_line()).unwrap()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LOG.with_borrow_mut(|log| log.write(bytes))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_panic_fails_one_request() {
        async fn fails() -> StatusCode {
            panic!("as a handler may")
        }
        let log = Log::start();
        let app = app(Router::new().route("/fails", post(fails)).route("/", post(|| async {})));
        let (status, problem) = call(&app, "/fails", "").await;
        assert_eq!((status, &problem["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("internal_error")));
        let event = log.last_event();
        let expected =
            json!({ "level": "ERROR", "method": "POST", "route": "/fails", "status": 500, "code": "internal_error" });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&event[field], value, "{field}");
        }
        assert_eq!(call(&app, "/", "").await.0, StatusCode::OK);
    }

    /// A 503 is a refusal only if the issuer's keys are not available.
    #[tokio::test]
    async fn a_handlers_own_failure_is_an_error_in_the_log() {
        let log = Log::start();
        let problem = |code| move || async move { Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, "Later.") };
        let routes = Router::new()
            .route("/502", post(|| async { StatusCode::BAD_GATEWAY }))
            .route("/503", post(|| async { StatusCode::SERVICE_UNAVAILABLE }))
            .route("/database", post(problem("database_unavailable")))
            .route("/keys", post(problem("keys_unavailable")));
        let app = app(routes);
        for (path, level) in [("/502", "ERROR"), ("/503", "ERROR"), ("/database", "ERROR"), ("/keys", "INFO")] {
            call(&app, path, "").await;
            let event = log.last_event();
            assert_eq!((&event["level"], &event["route"]), (&json!(level), &json!(path)));
        }
    }

    #[tokio::test]
    async fn a_handlers_own_504_is_the_answer() {
        let busy = post(|| async { (StatusCode::GATEWAY_TIMEOUT, [(RETRY_AFTER, "7")]) });
        let app = app(Router::new().route("/", busy));
        let (status, headers, body) = send(&app, authorized(Request::post("/"), &claims("production")), "").await;
        assert_eq!((status, body), (StatusCode::GATEWAY_TIMEOUT, Value::Null));
        assert_eq!(headers[RETRY_AFTER], "7");
    }

    #[tokio::test]
    async fn the_log_has_the_operators_reason() {
        let log = Log::start();
        let secret = post(|| async {
            Problem::new(StatusCode::FORBIDDEN, "forbidden", "No.").with_log_detail("only `x` is accepted")
        });
        let (_, problem) = call(&app(Router::new().route("/", secret)), "/", "").await;
        assert_eq!(problem["detail"], "No.");
        assert_eq!(log.last_event()["reason"], "only `x` is accepted");
    }

    /// `\u{9b}` starts a command to a terminal, and `\u{202e}` reverses the text after it.
    #[tokio::test]
    async fn the_log_shows_the_subject_escaped_and_cut() {
        let log = Log::start();
        let app = app(Router::new().route("/", post(|| async { StatusCode::BAD_GATEWAY })));
        for (environment, shown) in
            [("a\nb\u{9b}\u{202e}", "a\\nb\\u{9b}\\u{202e}".to_owned()), (&"é".repeat(500), "é".repeat(358))]
        {
            let request = authorized(Request::post("/"), &claims(environment));
            assert_eq!(send(&app, request, "").await.0, StatusCode::BAD_GATEWAY);
            let expected = format!("owner:acme:project:storefront:environment:{shown}");
            assert_eq!(log.last_event()["sub"], expected);
        }
    }

    /// The line of a handler has the same names as the line with its answer.
    #[tokio::test]
    async fn each_line_of_a_handler_carries_the_fields_of_its_request() {
        let log = Log::start();
        let app = app(Router::new().route("/{id}", post(|| async { tracing::warn!(stock = 0, "sold out") })));
        let request = authorized(Request::post("/secret?secret"), &claims("production"));
        let request = request.header("traceparent", "00-1-2-01").header("x-vercel-id", "fra1::x");
        assert_eq!(send(&app, request, "").await.0, StatusCode::OK);
        let mut event = log.last_event();
        event.as_object_mut().unwrap().remove("timestamp");
        let expected = json!({
            "level": "WARN", "target": "backend::app::tests", "message": "sold out", "stock": 0, "method": "POST",
            "route": "/{id}", "traceparent": "00-1-2-01", "x_vercel_id": "fra1::x",
            "sub": "owner:acme:project:storefront:environment:production",
        });
        assert_eq!(event, expected);
    }

    /// Parsers disagree about a member that occurs twice.
    #[tokio::test]
    async fn a_handlers_fields_repeat_no_member_of_a_line() {
        let log = Log::start();
        let logs = post(|| async {
            let span = tracing::error_span!("own", route = "inner", step = 0);
            span.record("step", 1).in_scope(|| {
                tracing::warn!(method = 7, "level" = 9, "target" = "shop", "timestamp" = true, step = 2, "sold out");
            });
        });
        let request = authorized(Request::post("/"), &claims("production"));
        assert_eq!(send(&app(Router::new().route("/", logs)), request, "").await.0, StatusCode::OK);
        let line = log.last_line();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert!(line.starts_with(r#"{"timestamp":"2"#), "{line}");
        for (name, value) in [
            ("level", json!("WARN")),
            ("target", json!("backend::app::tests")),
            ("method", json!(7)),
            ("route", json!("inner")),
            ("step", json!(2)),
            ("field_level", json!(9)),
            ("field_target", json!("shop")),
            ("field_timestamp", json!(true)),
        ] {
            assert_eq!((&event[name], line.matches(&format!("\"{name}\":")).count()), (&value, 1), "{line}");
        }
    }

    #[tokio::test]
    async fn a_handler_reads_at_most_64_kib() {
        let echo = post(|body: Bytes| async move { body.len().to_string() });
        let app = app(Router::new().route("/", echo));
        assert_eq!(call(&app, "/", vec![b'x'; 64 * 1024]).await, (StatusCode::OK, json!(64 * 1024)));
        assert_eq!(call(&app, "/", vec![b'x'; 64 * 1024 + 1]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn every_added_route_is_protected_and_not_cached() {
        let app = app(Router::new().route("/new", post(|| async { [(CACHE_CONTROL, "public")] })));
        assert_eq!(call(&app, "/new", "").await.0, StatusCode::OK);
        for credential in ["Basic x", "Bearer x"] {
            let (status, ..) = send(&app, Request::post("/new").header(AUTHORIZATION, credential), "").await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
    }
}
