//! `tests/smoke.sh` against a server that answers as a deployment does, with each failure switched on in turn.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const VERCEL_ERROR: HeaderName = HeaderName::from_static("x-vercel-error");

/// What the deployment answers at one path instead of the right answer.
#[derive(Clone)]
struct Failure {
    path: &'static str,
    /// Only to a request whose credential has this text.
    credential: &'static str,
    status: u16,
    headers: Vec<(HeaderName, &'static str)>,
    body: Value,
}

fn at(path: &'static str, status: u16) -> Failure {
    Failure { path, credential: "", status, headers: Vec::new(), body: Value::Null }
}

impl Failure {
    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn body(self, body: Value) -> Self {
        Self { body, ..self }
    }

    fn code(self, code: &str) -> Self {
        self.body(json!({ "code": code }))
    }

    fn backend(self, code: &str, backend_status: u16, backend_code: Option<&str>) -> Self {
        self.body(json!({ "backend_code": backend_code, "backend_status": backend_status, "code": code }))
    }

    fn to(self, credential: &'static str) -> Self {
        Self { credential, ..self }
    }
}

async fn answer(State(failure): State<Option<Failure>>, uri: Uri, headers: HeaderMap) -> Response {
    let credential = headers.get("authorization").map_or("", |value| value.to_str().unwrap());
    let failure = failure.filter(|failure| failure.path == uri.path() && credential.contains(failure.credential));
    if let Some(failure) = failure {
        let status = StatusCode::from_u16(failure.status).unwrap();
        let mut response = (status, failure.body.to_string()).into_response();
        for (name, value) in failure.headers {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        return response;
    }
    let problem = |code: &str| json!({ "code": code }).to_string();
    match uri.path() {
        "/" => ([(CONTENT_TYPE, "text/html")], "<html></html>").into_response(),
        "/api/call" => {
            ([(SERVER_TIMING, "token;desc=\"x-vercel-oidc-token\";dur=0.1, backend;dur=3")], "{}").into_response()
        }
        "/backend/readyz" => StatusCode::OK.into_response(),
        "/backend" if credential.is_empty() => {
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], problem("missing_token")).into_response()
        }
        "/backend" => {
            let headers = [
                (WWW_AUTHENTICATE, r#"Bearer error="invalid_token", error_description="no""#),
                (CACHE_CONTROL, "no-store"),
            ];
            (StatusCode::UNAUTHORIZED, headers, problem("invalid_token")).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn serve(failure: Option<Failure>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer).with_state(failure)).into_future());
    url
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../smoke.sh");

/// Runs the script, and returns its exit code and what it prints.
async fn smoke(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new("bash");
    command.arg(SCRIPT).args(arguments).env_remove("VERCEL_AUTOMATION_BYPASS_SECRET");
    run(command).await
}

async fn run(mut command: Command) -> (i32, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn a_good_deployment_passes_every_check() {
    let url = serve(None).await;
    for arguments in [&[&*url][..], &[&format!("{url}/")], &[&url, "--backend", &format!("{url}/backend")]] {
        let (code, text) = smoke(arguments).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("ok - the function's token comes from: x-vercel-oidc-token\n"), "{text}");
        assert!(text.ends_with("7 passed, 0 failed\n"), "{text}");
        assert_eq!(text.lines().count(), 8, "{text}");
    }
}

/// The result depends on the deployment, and not on the settings of the user's curl and shell.
#[tokio::test]
async fn the_users_settings_change_nothing() {
    let url = serve(None).await;
    let home = tempfile::tempdir().unwrap();
    // With `fail`, a refusal has no body. Nothing listens on port 9.
    for curlrc in ["fail", "proxy = http://127.0.0.1:9", "location", "head", "output = /dev/null", "write-out = x"] {
        std::fs::write(home.path().join(".curlrc"), curlrc).unwrap();
        let mut command = Command::new("bash");
        command.arg(SCRIPT).arg(&url).env("HOME", home.path()).env("CURL_HOME", home.path());
        let (code, text) = run(command).await;
        assert_eq!(code, 0, "{curlrc}\n{text}");
    }
    for name in ["http_proxy", "all_proxy", "ALL_PROXY"] {
        let mut command = Command::new("bash");
        command.arg(SCRIPT).arg(&url).env_remove("no_proxy").env_remove("NO_PROXY").env(name, "http://127.0.0.1:9");
        let (code, text) = run(command).await;
        assert_eq!(code, 0, "{name}\n{text}");
    }
}

/// Each failure, and the start of the advice for it.
#[tokio::test]
async fn each_failure_gets_its_advice() {
    let challenge = r#"Bearer error="invalid_token""#;
    let mut failures = vec![
        (at("/", 404), "This is not the function's page."),
        (at("/", 404).with(VERCEL_ERROR, "DEPLOYMENT_NOT_FOUND"), "Vercel answers DEPLOYMENT_NOT_FOUND."),
        (at("/", 401).with(SET_COOKIE, "_vercel_sso_nonce=x"), "Deployment Protection answers instead."),
        (at("/", 302).with(LOCATION, "https://vercel.com/sso-api?url=x"), "Deployment Protection answers instead."),
        (at("/", 308).with(LOCATION, "https://www.example.com/"), "The URL redirects."),
        (at("/api/call", 500).code("token_unavailable"), "The function has no token. Turn on OIDC federation"),
        (at("/api/call", 500).code("misconfigured"), "A setting of the function is wrong."),
        (at("/api/call", 502).backend("backend_refused", 403, Some("forbidden")), "The backend trusts another project"),
        (at("/api/call", 502).backend("backend_refused", 401, Some("invalid_token")), "The backend does not accept"),
        (at("/api/call", 502).backend("backend_refused", 401, Some("missing_token")), "The token does not arrive."),
        (at("/api/call", 502).backend("backend_refused", 401, None), "Something in front of the backend answers 401."),
        (
            at("/api/call", 503).backend("backend_unavailable", 503, Some("keys_unavailable")),
            "The backend can't answer now",
        ),
        (at("/api/call", 502).code("backend_unreachable"), "The function can't connect"),
        (at("/api/call", 504).code("backend_timeout"), "The backend answers too slowly."),
        (at("/api/call", 502).backend("backend_error", 404, None), "The backend answers 404."),
        (
            at("/api/call", 500).with(VERCEL_ERROR, "FUNCTION_INVOCATION_FAILED"),
            "Vercel answers FUNCTION_INVOCATION_FAILED.",
        ),
        (at("/api/call", 404), "The answer has no error code."),
        (at("/api/call", 200), "The header is missing or has no token;desc=."),
        (at("/backend/readyz", 503).code("keys_unavailable"), "It can't fetch them."),
        (at("/backend/readyz", 404), "The API is not at /backend of this deployment."),
        (at("/backend", 200), "THE API IS OPEN TO EVERYONE."),
        (at("/backend", 401).with(SET_COOKIE, "_vercel_sso_nonce=x"), "Deployment Protection answers instead."),
        (at("/backend", 404), "Expected 401"),
        (
            at("/backend", 401).code("missing_token").with(WWW_AUTHENTICATE, challenge),
            "A proxy or CDN in front of the API changes the header",
        ),
        (at("/backend", 401).code("missing_token"), "A proxy or CDN in front of the API changes the header"),
    ];
    for credential in ["garbage", "eyJ"] {
        let invalid = at("/backend", 401).code("invalid_token").to(credential);
        failures.extend([
            (at("/backend", 200).to(credential), "THE API IS OPEN TO EVERYONE."),
            (at("/backend", 503).code("keys_unavailable").to(credential), "The API can't verify any token"),
            (at("/backend", 401).code("missing_token").to(credential), "Expected 401 invalid_token"),
            (invalid.clone(), "A proxy or CDN in front of the API changes the header"),
            (
                invalid.with(WWW_AUTHENTICATE, challenge),
                "A proxy or CDN in front of the API changes the header. It may cache",
            ),
        ]);
    }
    for (failure, advice) in failures {
        let url = serve(Some(failure.clone())).await;
        let (code, text) = smoke(&[&url]).await;
        let case = format!("{} {} {}\n{text}", failure.status, failure.path, failure.body);
        assert_eq!(code, 1, "{case}");
        assert!(text.lines().any(|line| line.starts_with(&format!("    {advice}"))), "{advice}\n{case}");
        // Each failure has its line of advice, and nothing else fails.
        let red = text.lines().filter(|line| line.starts_with("not ok - ")).count();
        let everywhere = failure.path == "/backend" && failure.credential.is_empty();
        assert_eq!(red, if everywhere { 3 } else { 1 }, "{case}");
    }
}

/// The secret opens Deployment Protection, and is sent nowhere else.
#[tokio::test]
async fn the_bypass_secret_goes_to_the_deployment_alone() {
    let closed = |secret: &'static str| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = move |uri: Uri, headers: HeaderMap| async move {
            let given = headers.get("x-vercel-protection-bypass").map_or("", |value| value.to_str().unwrap());
            if given == secret {
                return answer(State(None), uri, headers).await;
            }
            (StatusCode::UNAUTHORIZED, [(SET_COOKIE, "_vercel_sso_nonce=x")]).into_response()
        };
        tokio::spawn(axum::serve(listener, Router::new().fallback(open)).into_future());
        url
    };
    let (deployment, backend) = (closed("a-secret").await, closed("").await);
    let mut command = Command::new("bash");
    command.arg(SCRIPT).args([&deployment, "--backend", &format!("{backend}/backend")]);
    command.env("VERCEL_AUTOMATION_BYPASS_SECRET", "a-secret");
    let (code, text) = run(command).await;
    assert_eq!(code, 0, "{text}");
    let (code, text) = smoke(&[&deployment]).await;
    assert_eq!((code, text.matches("    Deployment Protection answers instead.").count()), (1, 6), "{text}");
}

#[tokio::test]
async fn says_so_if_nothing_answers() {
    // Port 9 is the discard service's. Nothing listens there.
    let (code, text) = smoke(&["http://127.0.0.1:9"]).await;
    assert_eq!(code, 1, "{text}");
    assert_eq!(text.matches("    Nothing answers: (7) ").count(), 6, "{text}");
}

#[tokio::test]
async fn a_backend_elsewhere_is_named_in_the_advice() {
    let url = serve(None).await;
    let (code, text) = smoke(&[&url, "--backend", &format!("{url}/nowhere")]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("    This is not the API's /readyz. Check the URL after --backend.\n"), "{text}");
}

#[tokio::test]
async fn a_wrong_argument_gets_the_usage() {
    for arguments in [&[][..], &["example.com"], &["http://a", "http://b"], &["http://a", "--backend"], &["--help"]] {
        let (code, text) = smoke(arguments).await;
        assert_eq!((code, &*text), (2, "usage: tests/smoke.sh URL [--backend URL]\n"), "{arguments:?}");
    }
}
