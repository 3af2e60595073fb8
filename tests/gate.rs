//! The gate over real sockets: what it refuses, what it reads, what it sends. `src/gate.rs` tests its headers, methods
//! and paths, and `tests/gate/run` puts it behind real proxies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "gate/proxies.rs"]
mod proxies;
#[path = "gate/stand.rs"]
mod stand;

use common::{
    Answer, Backend, FORGED_KEY, FakeIssuer, KEY, Program, claims, claims_with, exchange, request, token, within_5_s,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn ready() -> Backend {
    Backend::start_ready(&FakeIssuer::start(&KEY).await).await
}

fn assert_refused(answer: &Answer, status: u16, code: &str, challenge: Option<&str>) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert_eq!(answer.json()["status"], status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    match challenge {
        Some(challenge) => assert!(answer.header("www-authenticate").unwrap().starts_with(challenge), "{answer:?}"),
        None => assert_eq!(answer.header("www-authenticate"), None),
    }
    assert!(!format!("{answer:?}").contains("x-vercel-oidc"), "{answer:?}");
}

#[tokio::test]
async fn refuses_as_the_api_does_except_that_no_refusal_is_400() {
    let backend = ready().await;
    let bearer = |token: &str| format!("Bearer {token}");
    let invalid = "Bearer error=\"invalid_token\", error_description=\"";
    let request_error = "Bearer error=\"invalid_request\"";
    for path in ["/verify", "/verify/", "/verify/orders/1"] {
        let ask = async |authorization: &[&str]| {
            let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_bytes())).collect();
            request(backend.address, "GET", path, &headers).await
        };
        let none = ask(&[]).await;
        assert_refused(&none, 401, "missing_token", Some("Bearer"));
        assert_eq!(none.header("www-authenticate"), Some("Bearer"));
        assert_refused(&ask(&["Basic YTpi"]).await, 401, "missing_token", Some("Bearer"));
        for malformed in [&["Bearer"][..], &["Bearer a b"], &[&bearer(&token()), &bearer(&token())]] {
            assert_refused(&ask(malformed).await, 401, "invalid_request", Some(request_error));
        }
        assert_refused(&ask(&["Bearer garbage"]).await, 401, "invalid_token", Some(invalid));
        for bad in [
            FORGED_KEY.mint(&claims()),
            KEY.mint(&claims_with("exp", json!(1))),
            KEY.mint(&claims_with("iss", json!("https://oidc.vercel.com/evil"))),
            KEY.mint(&claims_with("aud", json!("https://vercel.com/evil"))),
        ] {
            assert_refused(&ask(&[&bearer(&bad)]).await, 401, "invalid_token", Some(invalid));
        }
        let foreign = KEY.mint(&claims_with("sub", json!("owner:acme:project:other:environment:production")));
        let scope = Some("Bearer error=\"insufficient_scope\"");
        assert_refused(&ask(&[&bearer(&foreign)]).await, 403, "forbidden", scope);
        assert_eq!(ask(&[&bearer(&token())]).await.status, 204);
    }
    // Elsewhere, a malformed request is a 400.
    assert_eq!(request(backend.address, "GET", "/", &[("authorization", b"Bearer")]).await.status, 400);
}

#[tokio::test]
async fn answers_503_without_keys() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve(500, "", "");
    let backend = Backend::start(&issuer).await;
    let authorization = format!("Bearer {}", token());
    let answer = request(backend.address, "GET", "/verify", &[("authorization", authorization.as_bytes())]).await;
    assert_refused(&answer, 503, "keys_unavailable", None);
    assert!((1..=30).contains(&answer.header("retry-after").unwrap().parse().unwrap()), "{answer:?}");
}

/// Sends this head and no body, and returns all that arrives within the connection's life.
async fn send(backend: &Backend, line: &str, headers: &str) -> String {
    let head = format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}\r\n", token());
    String::from_utf8(within_5_s(exchange(backend.address, head.as_bytes())).await).unwrap().to_lowercase()
}

/// A proxy may name the length of a body that it does not send.
#[tokio::test]
async fn never_waits_for_a_body() {
    let backend = ready().await;
    for headers in [
        "content-length: 10485760\r\n",
        "content-length: 10485760\r\nexpect: 100-continue\r\n",
        "transfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-type: application/json\r\n",
    ] {
        for method in ["POST", "GET", "PUT"] {
            let answer = send(&backend, &format!("{method} /verify/upload"), headers).await;
            // Also no `100 Continue`.
            assert!(answer.starts_with("http/1.1 204 "), "{headers}{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{headers}{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }
}

/// RFC 9110, section 8.6: a 204 has no `Content-Length`. A proxy keeps its connection for the next question.
#[tokio::test]
async fn an_answer_has_no_body_and_keeps_the_connection() {
    let backend = ready().await;
    for method in ["GET", "POST", "OPTIONS", "BREW"] {
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        for _ in 0..2 {
            let head = format!("{method} /verify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", token());
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                assert!(within_5_s(stream.read_buf(&mut answer)).await.unwrap() > 0, "{method}: closed");
            }
            let answer = String::from_utf8(answer).unwrap().to_lowercase();
            assert!(answer.starts_with("http/1.1 204 "), "{method}: {answer}");
            for name in ["content-length", "transfer-encoding", "connection", "content-type"] {
                assert!(!answer.contains(&format!("\r\n{name}:")), "{method}: {answer}");
            }
        }
    }
}

/// A proxy may pass on the headers of a WebSocket's handshake. The gate answers the question and switches nothing.
#[tokio::test]
async fn an_upgrade_or_a_tunnel_is_only_a_question() {
    let backend = ready().await;
    let upgrade = "connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert!(send(&backend, "GET /verify", upgrade).await.starts_with("http/1.1 204 "));
    let tunnel = send(&backend, "CONNECT /verify", "").await;
    assert!(tunnel.starts_with("http/1.1 204 "), "{tunnel}");
    assert!(tunnel.ends_with("\r\n\r\n"), "{tunnel}");
    // The form that a tunnel has: no path, so it is not for the gate.
    assert!(send(&backend, "CONNECT verify:443", "connection: close\r\n").await.starts_with("http/1.1 404 "));
}

/// The log has the route's pattern, and neither the path that a proxy appends nor the token.
#[tokio::test]
async fn the_log_has_the_route_and_one_line_for_each_request() {
    let issuer = FakeIssuer::start(&KEY).await;
    let mut backend = Program::start(&issuer, &[("LOG_FORMAT", "json"), ("RUST_LOG", "debug")]).await;
    let (authorization, path) = (format!("Bearer {}", token()), "/verify/private-path?q=private-query");
    for (authorization, status) in [(&*authorization, 204), ("Bearer", 401)] {
        let answer = request(backend.address, "POST", path, &[("authorization", authorization.as_bytes())]).await;
        assert_eq!(answer.status, status);
    }
    within_5_s(backend.prints("\"code\":\"invalid_request\"")).await;
    let log = backend.output();
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {log}"));
    let accepted: serde_json::Value = serde_json::from_str(line("answered a request")).unwrap();
    let refused: serde_json::Value = serde_json::from_str(line("refused a request")).unwrap();
    for (event, level, status) in [(&accepted, "DEBUG", 204), (&refused, "INFO", 400)] {
        assert_eq!((&event["level"], &event["status"]), (&json!(level), &json!(status)));
        assert_eq!((&event["route"], &event["method"]), (&json!("/verify/{*path}"), &json!("POST")));
    }
    assert_eq!(accepted["sub"], claims()["sub"]);
    assert_eq!(log.matches("refused a request").count(), 1, "{log}");
    assert!(!log.contains("private"), "{log}");
}
