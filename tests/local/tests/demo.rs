//! The demo, run as a newcomer runs it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};

use reqwest::{Client, Response};
use serde_json::Value;

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Whether `src/routes.rs` still answers `GET /`, which the caller calls. If not, this says which test is skipped.
fn has_the_templates_routes(test: &str) -> bool {
    let has = include_str!("../../../src/routes.rs").contains(".route(\"/\", get(hello))");
    if !has {
        // The test harness hides what `eprintln!` prints.
        writeln!(std::io::stderr().lock(), "skipped: {test} needs `GET /` in src/routes.rs").unwrap();
    }
    has
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let everything = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output, String::from_utf8(everything).unwrap())
}

fn assert_holds_no_token(text: &str) {
    // A token's header and payload are JSON objects: `{"` in base64url.
    assert!(!text.contains("eyJ"), "{text}");
}

#[test]
fn once_shows_two_calls_accepted_and_one_refused() {
    if !has_the_templates_routes("once_shows_two_calls_accepted_and_one_refused") {
        return;
    }
    let (output, text) = run(demo().arg("--once"));
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches('✓').count(), 7, "{text}");
    assert_eq!(text.matches('✗').count(), 1, "{text}");
    for part in [
        "owner:acme:project:storefront:environment:production",
        "owner:acme:project:storefront:environment:preview",
        "The function returns the answer: 200 OK",
        "The function answers 200 OK.",
        "The backend refuses: 403 (forbidden). The function answers 502 Bad Gateway (backend_refused).",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let timed =
        ["The function calls the backend", "The backend verifies the token", "The function exchanges the token"];
    for step in timed {
        let line = text.lines().find(|line| line.contains(step)).unwrap();
        assert!(line.ends_with(" ms"), "{line}");
    }
}

/// A default deployment does not exchange its token, so the exchange is the second scene.
#[test]
fn the_first_call_is_that_of_a_default_deployment() {
    if !has_the_templates_routes("the_first_call_is_that_of_a_default_deployment") {
        return;
    }
    let (_, text) = run(demo().arg("--once"));
    let (first, second) = text.split_once("A call with a token for one API only").unwrap();
    assert!(!first.contains("exchange") && first.contains("✓ aud        https://vercel.com/acme"), "{text}");
    assert!(second.contains("✓ aud        https://orders.acme.example"), "{text}");
}

#[test]
fn in_a_pipe_the_output_is_plain_text() {
    if !has_the_templates_routes("in_a_pipe_the_output_is_plain_text") {
        return;
    }
    let (_, text) = run(demo().arg("--once"));
    assert!(!text.contains('\x1b'), "{text}");
    assert!((40..=65).contains(&text.lines().count()), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 105), "{text}");
    assert_holds_no_token(&text);
}

#[test]
fn the_variables_of_the_two_ends_have_no_effect() {
    if !has_the_templates_routes("the_variables_of_the_two_ends_have_no_effect") {
        return;
    }
    let (output, text) = run(demo()
        .arg("--once")
        .env("OIDC_TEAM_SLUG", "someone-else")
        .env("OIDC_ISSUER", "https://issuer.invalid")
        .env("OIDC_AUDIENCE", "https://audience.invalid")
        .env("OIDC_TOKEN_EXCHANGE_URL", "https://exchange.invalid")
        .env("BACKEND_URL", "https://backend.invalid")
        .env("VERCEL_URL", "deployment.invalid")
        .env("VERCEL_OIDC_TOKEN", "not a token")
        .env("VERCEL_OIDC_TOKEN_FILE", "/no/such/file")
        .env("RUST_LOG", "trace"));
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains(".invalid"), "{text}");
    assert_holds_no_token(&text);
}

#[test]
fn loopback_goes_through_no_proxy() {
    if !has_the_templates_routes("loopback_goes_through_no_proxy") {
        return;
    }
    // Port 9 is the discard service's. Nothing listens there.
    let proxy = "http://127.0.0.1:9";
    let (output, text) = run(demo().arg("--once").env("HTTP_PROXY", proxy).env("http_proxy", proxy));
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[test]
fn an_unknown_argument_gets_the_usage() {
    for arguments in [&["--twice"][..], &["--once", "--once"], &["once"]] {
        let output = demo().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(output.stderr.starts_with(b"usage: cargo run"), "{arguments:?}");
    }
}

/// A demo that serves its page.
struct Served {
    child: Child,
    url: String,
    text: String,
}

impl Served {
    fn start() -> Self {
        let mut child = demo().spawn().unwrap();
        let mut text = String::new();
        let mut url = None;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while url.is_none() {
            let line = lines.next().unwrap().unwrap();
            let page = line.split_whitespace().find(|word| word.starts_with("http://localhost:"));
            url = page.map(str::to_owned);
            text += &(line + "\n");
        }
        Self { child, url: url.unwrap(), text }
    }

    fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        // The address, because machines resolve `localhost` differently.
        let url = format!("http://127.0.0.1:{}{path}", self.port());
        let client = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        // A token that the client sends must not reach the function.
        client.get(url).header("x-vercel-oidc-token", "a.stolen.one").send().await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn serves_the_page_and_a_call_with_each_token() {
    if !has_the_templates_routes("serves_the_page_and_a_call_with_each_token") {
        return;
    }
    let demo = Served::start();
    let page = demo.get("/").await;
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    // With this header, the page offers the tokens that are refused.
    assert_eq!(page.headers()["x-local-stand-in"], "1");

    for (token, status, backend_status, backend_code, explanation) in [
        ("", 200, Value::Null, Value::Null, None),
        ("?token=exchanged", 200, Value::Null, Value::Null, None),
        ("?token=other-environment", 502, 403.into(), "forbidden".into(), Some("preview")),
        ("?token=other-audience", 502, 401.into(), "invalid_token".into(), Some("`aud`")),
        ("?token=expired", 500, Value::Null, Value::Null, Some("yesterday")),
        ("?token=forged", 502, 401.into(), "invalid_token".into(), Some("signature")),
    ] {
        let response = demo.get(&format!("/api/call{token}")).await;
        assert_eq!(response.status(), status, "{token}");
        let explained = response.headers().get("x-local-explanation").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(explained.is_some(), explanation.is_some(), "{token}");
        assert!(explained.unwrap_or_default().contains(explanation.unwrap_or_default()), "{token}");
        let exchanged =
            response.headers().get("server-timing").is_some_and(|times| times.to_str().unwrap().contains("exchange;"));
        assert_eq!(exchanged, token == "?token=exchanged", "{token}");
        let text = response.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(body["backend_status"], backend_status, "{text}");
        assert_eq!(body["backend_code"], backend_code, "{text}");
        assert_holds_no_token(&text);
    }
    assert_eq!(demo.get("/api/call?token=golden").await.status(), 400);
}

#[test]
fn uses_the_next_port_if_a_port_is_in_use_and_says_so() {
    let (first, second) = (Served::start(), Served::start());
    // At least one of them did not get port 3000.
    assert_ne!(first.port(), second.port());
    for demo in [first, second] {
        let says_so = demo.text.contains(&format!("Port 3000 is in use, so the page is on port {}.", demo.port()));
        assert_eq!(says_so, demo.port() != 3000, "{}", demo.text);
        assert_holds_no_token(&demo.text);
    }
}

#[cfg(unix)]
#[test]
fn exits_with_0_on_ctrl_c() {
    if !has_the_templates_routes("exits_with_0_on_ctrl_c") {
        return;
    }
    let mut demo = Served::start();
    let interrupt = Command::new("kill").args(["-INT", &demo.child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    assert_eq!(demo.child.wait().unwrap().code(), Some(0));
}
