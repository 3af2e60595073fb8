//! What the backend answers to each kind of request: status, headers and body.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{any, get, post};
use common::{
    Answer, Backend, FORGED_KEY, FakeIssuer, KEY, advance, claims, claims_with, exchange, request, token, within_5_s,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A backend that has fetched the keys, with the routes of this test. `src/routes.rs` tests the repository's routes.
async fn ready() -> Backend {
    let read = post(|body: axum::body::Bytes| async move { body.len().to_string() });
    let routes = Router::new()
        .route("/", get(|| async { axum::Json("accepted") }))
        .route("/ignore", any(|| async {}))
        .route("/read", read)
        .route("/fail", get(|| async { StatusCode::BAD_GATEWAY }));
    Backend::with_routes(&FakeIssuer::start(&KEY).await, routes).await
}

async fn with(backend: &Backend, authorization: &str) -> Answer {
    request(backend.address, "GET", "/", &[("authorization", authorization.as_bytes())]).await
}

/// Demands the five members that every problem has, and no other.
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!((&body["status"], &body["code"]), (&json!(status), &json!(code)), "{answer:?}");
    let mut members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "detail", "status", "title", "type"]);
    for text in ["type", "title", "detail"] {
        assert!(body[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {answer:?}");
    }
}

#[tokio::test]
async fn answers_an_accepted_caller() {
    let answer = ready().await.get(&token()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(answer.json(), "accepted");
}

#[tokio::test]
async fn only_a_success_says_how_long_the_verification_took() {
    let backend = ready().await;
    for (token, path, has_timing) in [
        (token(), "/", true),
        (token(), "/fail", false),
        (token(), "/nope", false),
        (FORGED_KEY.mint(&claims()), "/", false),
        (KEY.mint(&claims_with("sub", json!("owner:x"))), "/", false),
        ("garbage".into(), "/", false),
        ("".into(), "/", false),
    ] {
        let headers = [("authorization", &*[b"Bearer ", token.as_bytes()].concat())];
        let answer = request(backend.address, "GET", path, &headers).await;
        let timing = answer.header("server-timing");
        assert_eq!(timing.is_some(), has_timing, "{path} {answer:?}");
        if let Some(timing) = timing {
            let milliseconds = timing.strip_prefix("verify;dur=").unwrap();
            assert!((0.0..10_000.0).contains(&milliseconds.parse::<f64>().unwrap()), "{milliseconds}");
        }
    }
}

#[tokio::test]
async fn asks_for_a_token_if_there_is_none() {
    let backend = ready().await;
    let without = request(backend.address, "GET", "/", &[]).await;
    assert_problem(&without, 401, "missing_token");
    assert_eq!(without.header("www-authenticate"), Some("Bearer"));
    let others = ["", " ", "Basic YTpi", "Digest x", "Bearerx", "Bearer=x", "Token bearer", "DPoP x", "\"Bearer\" x"];
    for authorization in others {
        let answer = with(&backend, authorization).await;
        assert_problem(&answer, 401, "missing_token");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{authorization}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{authorization}");
    }
    // A valid token in any other place does not count.
    let (token, cookie) = (token(), format!("token={0}; access_token={0}", token()));
    for header in ["x-vercel-oidc-token", "x-vercel-trusted-oidc-idp-token", "proxy-authorization", "x-authorization"] {
        let value = format!("Bearer {token}");
        for value in [&token, &value] {
            assert_problem(
                &request(backend.address, "GET", "/", &[(header, value.as_bytes())]).await,
                401,
                "missing_token",
            );
        }
    }
    let in_cookie = request(backend.address, "GET", "/", &[("cookie", cookie.as_bytes())]).await;
    assert_problem(&in_cookie, 401, "missing_token");
    let path = format!("/?access_token={token}&token={token}");
    assert_problem(&request(backend.address, "GET", &path, &[]).await, 401, "missing_token");
    let body = format!("access_token={token}");
    let form = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_problem(&Answer::parse(exchange(backend.address, form.as_bytes()).await), 401, "missing_token");
}

#[tokio::test]
async fn accepts_the_scheme_in_any_case() {
    let backend = ready().await;
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert_eq!(with(&backend, &format!("{scheme} {}", token())).await.status, 200, "{scheme}");
    }
}

#[tokio::test]
async fn refuses_a_request_with_none_or_several_tokens() {
    let (backend, good) = (ready().await, format!("Bearer {}", token()));
    let several = format!("{good} {}", token());
    let mut answers = Vec::new();
    for authorization in ["Bearer", "Bearer ", "bearer   ", "Bearer a b", "Bearer a b c", &several] {
        answers.push(with(&backend, authorization).await);
    }
    for (first, second) in
        [(&*good, &*good), (&good, "Basic x"), ("Basic x", &good), ("", &good), ("Basic x", "Basic y")]
    {
        let headers = [("authorization", first.as_bytes()), ("Authorization", second.as_bytes())];
        answers.push(request(backend.address, "GET", "/", &headers).await);
    }
    for answer in answers {
        assert_problem(&answer, 400, "invalid_request");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_request\""));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn refuses_an_invalid_token_and_says_why() {
    let backend = ready().await;
    let answer = backend.get(&FORGED_KEY.mint(&claims())).await;
    assert_problem(&answer, 401, "invalid_token");
    let challenge = "Bearer error=\"invalid_token\", error_description=\"the token's signature is wrong\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.json()["detail"], "The token was refused: the token's signature is wrong.");
}

#[tokio::test]
async fn refuses_a_valid_token_of_another_caller() {
    let answer = ready().await.get(&KEY.mint(&claims_with("sub", json!("owner:x:project:y:environment:z")))).await;
    assert_problem(&answer, 403, "forbidden");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// Only the operator's log says what would be accepted.
#[tokio::test]
async fn a_refusal_does_not_say_what_would_be_accepted() {
    let backend = ready().await;
    for (name, value, shown) in [
        ("iss", "https://oidc.vercel.com/evil", "the issuer is `https://oidc.vercel.com/evil`"),
        ("aud", "https://vercel.com/evil", "the audience is `https://vercel.com/evil`"),
        ("sub", "owner:evil:project:x:environment:y", "`sub` is `owner:evil:project:x:environment:y`"),
    ] {
        let answer = backend.get(&KEY.mint(&claims_with(name, json!(value)))).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(shown), "{detail}");
        let whole = format!("{answer:?}");
        for accepted in ["oidc.vercel.com/acme", "vercel.com/acme", "owner:acme", "storefront"] {
            assert!(!whole.contains(accepted), "{accepted}: {whole}");
        }
    }
}

#[tokio::test]
async fn answers_503_without_keys() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve(500, "", "");
    let backend = Backend::start(&issuer).await;
    let answer = backend.get(&token()).await;
    assert_problem(&answer, 503, "keys_unavailable");
    assert!((1..=30).contains(&answer.header("retry-after").unwrap().parse().unwrap()), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("www-authenticate"), None);
    // A request that needs no key is still refused.
    assert_problem(&backend.get("garbage").await, 401, "invalid_token");
    assert_problem(&request(backend.address, "GET", "/", &[]).await, 401, "missing_token");
}

/// A client without a valid token does not learn which routes and methods exist.
#[tokio::test]
async fn unknown_routes_and_methods_ask_for_a_token_first() {
    let (backend, good) = (ready().await, format!("Bearer {}", token()));
    let down = FakeIssuer::start(&KEY).await;
    down.serve(500, "", "");
    let outage = Backend::start(&down).await;
    let forged = format!("Bearer {}", FORGED_KEY.mint(&claims()));
    let other = format!("Bearer {}", KEY.mint(&claims_with("sub", json!("owner:x"))));
    let routes = [
        ("GET", "/nope", 404),
        ("POST", "/nope", 404),
        ("DELETE", "/a/b/c", 404),
        ("GET", "//", 404),
        ("GET", "/..", 404),
        ("GET", "/healthz/", 404),
        ("GET", "/readyz/x", 404),
        ("GET", "/%2f", 404),
        ("GET", "/Healthz", 404),
        ("POST", "/", 405),
        ("PUT", "/", 405),
        ("DELETE", "/", 405),
        ("OPTIONS", "/", 405),
        ("TRACE", "/", 405),
        ("BREW", "/", 405),
        ("PATCH", "/read", 405),
        ("POST", "/healthz", 405),
        ("OPTIONS", "/healthz", 405),
        ("DELETE", "/readyz", 405),
        ("OPTIONS", "*", 404),
    ];
    for (method, path, status) in routes {
        let code = if status == 404 { "not_found" } else { "method_not_allowed" };
        let without = request(backend.address, method, path, &[]).await;
        assert_problem(&without, 401, "missing_token");
        let refused = request(backend.address, method, path, &[("authorization", forged.as_bytes())]).await;
        assert_problem(&refused, 401, "invalid_token");
        let forbidden = request(backend.address, method, path, &[("authorization", other.as_bytes())]).await;
        assert_problem(&forbidden, 403, "forbidden");
        let malformed = request(backend.address, method, path, &[("authorization", b"Bearer")]).await;
        assert_problem(&malformed, 400, "invalid_request");
        let unknown = request(outage.address, method, path, &[("authorization", good.as_bytes())]).await;
        assert_problem(&unknown, 503, "keys_unavailable");
        for answer in [without, refused, forbidden, malformed, unknown] {
            assert_eq!(answer.header("allow"), None, "{method} {path}");
        }
        let answer = request(backend.address, method, path, &[("authorization", good.as_bytes())]).await;
        assert_problem(&answer, status, code);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let allow = answer.header("allow").map(|allow| allow.replace(' ', ""));
        let allowed = if path == "/read" { "POST" } else { "GET,HEAD" };
        assert_eq!(allow.as_deref(), (status == 405).then_some(allowed), "{method} {path}");
    }
}

#[tokio::test]
async fn health_probes_need_no_token() {
    let backend = ready().await;
    for path in ["/healthz", "/readyz"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(request(backend.address, method, path, &[]).await.status, 200, "{method} {path}");
            let answer = request(backend.address, method, path, &[("authorization", b"Bearer garbage")]).await;
            assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn head_gets_the_headers_of_get() {
    let (backend, good) = (ready().await, format!("Bearer {}", token()));
    for authorization in [&good, "Bearer garbage", "Bearer", "Basic x"] {
        let headers = [("authorization", authorization.as_bytes())];
        let head = request(backend.address, "HEAD", "/", &headers).await;
        let get = request(backend.address, "GET", "/", &headers).await;
        assert_eq!((head.status, head.body.as_str()), (get.status, ""));
        for name in ["www-authenticate", "cache-control", "content-type", "content-length"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
    }
}

/// A claim could attack the program that reads the header.
#[tokio::test]
async fn an_error_description_is_printable_ascii() {
    let backend = ready().await;
    let hostile = [
        "\", realm=\"evil".to_owned(),
        "\\\"\\".to_owned(),
        "a\r\nset-cookie: x=y\r\n\r\n<html>".to_owned(),
        "\0\u{1b}[31m\u{7f}\u{85}".to_owned(),
        "ünïcødé 🦀 \u{202e}".to_owned(),
        "x".repeat(5000),
        "\"".repeat(5000),
        "🦀".repeat(1200),
    ];
    let mut tokens = Vec::new();
    for text in &hostile {
        tokens.extend(["iss", "aud"].map(|name| KEY.mint(&claims_with(name, json!(text)))));
        tokens.push(KEY.mint(&claims_with("aud", json!([text, text]))));
        let header = json!({ "alg": text, "kid": text, "typ": text }).to_string();
        tokens.push(KEY.sign(header.as_bytes(), claims().to_string().as_bytes()));
        tokens.push(common::token_of_kid(text));
    }
    tokens.extend(
        ["exp", "nbf", "iat"]
            .map(|name| KEY.mint(&claims_with(name, json!(if name == "exp" { -1e300 } else { 1e300 })))),
    );
    for token in tokens.into_iter().filter(|token| token.len() <= 8192) {
        let answer = backend.get(&token).await;
        assert_problem(&answer, 401, "invalid_token");
        let description = answer.description();
        let printable = |c: char| (' '..='~').contains(&c) && c != '"' && c != '\\';
        assert!(!description.is_empty() && description.len() <= 200, "{description}");
        assert!(description.chars().all(printable), "{description}");
        assert_eq!(answer.header("set-cookie"), None);
    }
    // The subject is in the body only.
    for text in &hostile[..5] {
        assert_problem(&backend.get(&KEY.mint(&claims_with("sub", json!(text)))).await, 403, "forbidden");
    }
}

#[tokio::test]
async fn any_bytes_as_a_credential_get_an_answer() {
    let backend = ready().await;
    for bytes in [
        &b"Bearer \xff\xfe"[..],
        b"\xff",
        b"Bearer \x80.\x80.\x80",
        b"Bearer\ta.b.c",
        b"Bearer ...",
        b"Bearer \xc3\xa9",
    ] {
        let answer = request(backend.address, "GET", "/", &[("authorization", bytes)]).await;
        assert_eq!(answer.status, 401, "{bytes:?}");
    }
    // hyper refuses a character that no header may hold.
    let answer = request(backend.address, "GET", "/", &[("authorization", b"Bearer a\0b")]).await;
    assert_eq!(answer.status, 400);
}

/// Sends a request's head and this part of its body on a persistent connection. Returns the answer's head, and whether
/// the connection then serves another request.
async fn send_on_a_persistent_connection(
    backend: &Backend,
    path: &str,
    credential: &str,
    headers: &str,
    body: &[u8],
) -> (String, bool) {
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {credential}\r\n{headers}\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        assert!(within_5_s(stream.read_buf(&mut answer)).await.unwrap() > 0, "closed without an answer");
    }
    let head = String::from_utf8(answer).unwrap().split("\r\n\r\n").next().unwrap().to_lowercase();
    // A second request is answered, or the connection is closed.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut rest = Vec::new();
    let _ = within_5_s(stream.read_to_end(&mut rest)).await;
    (head, String::from_utf8_lossy(&rest).contains("HTTP/1.1 200 OK"))
}

#[tokio::test]
async fn a_refusal_that_leaves_the_body_unread_closes_the_connection_and_says_so() {
    let (backend, good) = (ready().await, token());
    let forbidden = KEY.mint(&claims_with("sub", json!("owner:x")));
    let small = ("content-length: 5\r\n", &b"12345"[..]);
    let pending = ("content-length: 50000\r\n", &b"12345"[..]);
    let large = vec![b'x'; 200_000];
    let large = ("content-length: 200000\r\n", &large[..]);
    let chunked = ("transfer-encoding: chunked\r\n", &b"5\r\n12345\r\n"[..]);
    let none = ("", &b""[..]);
    let empty = ("content-length: 0\r\n", &b""[..]);
    for (credential, path, status, (headers, body), closes) in [
        ("garbage", "/read", 401, small, true),
        ("garbage", "/read", 401, pending, true),
        ("garbage", "/read", 401, large, true),
        ("garbage", "/read", 401, chunked, true),
        ("", "/read", 400, small, true),
        (&*forbidden, "/read", 403, small, true),
        (&good, "/nope", 404, small, true),
        (&good, "/fail", 405, small, true),
        (&good, "/read", 413, large, true),
        (&good, "/ignore", 200, small, true),
        ("garbage", "/read", 401, none, false),
        ("garbage", "/read", 401, empty, false),
        (&good, "/nope", 404, none, false),
        (&good, "/read", 200, small, false),
        (&good, "/read", 200, empty, false),
        (&good, "/ignore", 200, none, false),
    ] {
        let (head, goes_on) = send_on_a_persistent_connection(&backend, path, credential, headers, body).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{status}: {head}");
        assert_eq!(head.contains("\r\nconnection: close"), closes, "{path} {headers:?} {head}");
        assert_eq!(goes_on, !closes, "{path} {headers:?} {head}");
    }
}

/// A client that sends its whole body before it reads gets the answer. A reset would lose it.
#[tokio::test]
async fn a_client_that_uploads_256_kib_can_read_its_refusal() {
    let backend = ready().await;
    for bytes in [128 * 1024, 256 * 1024] {
        for (credential, status) in [("garbage", 401), (&token(), 413)] {
            let mut stream = TcpStream::connect(backend.address).await.unwrap();
            let head = format!(
                "POST /read HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {credential}\r\n\
                 content-length: {bytes}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..bytes / (16 * 1024) {
                // The backend has time to answer and to close.
                backend.serve_other_requests().await;
                stream.write_all(&[b'x'; 16 * 1024]).await.unwrap();
            }
            let mut answer = Vec::new();
            within_5_s(stream.read_to_end(&mut answer)).await.unwrap();
            assert_eq!(Answer::parse(answer).status, status);
        }
    }
}

/// A client that waits for `100 Continue` does not send a body for a request that is refused.
#[tokio::test]
async fn a_refusal_sends_no_100_continue() {
    let backend = ready().await;
    let head = |credential: &str| {
        format!(
            "POST /read HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {credential}\r\nexpect: 100-continue\r\n\
             content-length: 5\r\n\r\n"
        )
    };
    for (credential, first_line) in [("garbage", "HTTP/1.1 401 "), (&*token(), "HTTP/1.1 100 ")] {
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        stream.write_all(head(credential).as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let bytes = within_5_s(stream.read(&mut answer)).await.unwrap();
        assert!(answer[..bytes].starts_with(first_line.as_bytes()), "{}", String::from_utf8_lossy(&answer[..bytes]));
    }
}

/// A client that stops sending keeps its connection open for at most a second after the answer.
#[tokio::test]
async fn waits_at_most_a_second_for_the_rest_of_a_body() {
    let backend = ready().await;
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    let head = "POST /read HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within_5_s(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(Answer::parse(answer).status, 401);
    backend.serve_other_requests().await;
    // The backend has sent everything. It still reads, so a write causes no reset.
    stream.write_all(b"1234").await.unwrap();
    backend.serve_other_requests().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    advance(Duration::from_millis(1100)).await;
    backend.serve_other_requests().await;
    let closed = async {
        while stream.write_all(b"5").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within_5_s(closed).await;
}

#[tokio::test]
async fn a_body_that_stalls_for_10_s_ends_its_request() {
    let backend = ready().await;
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    let head = format!(
        "POST /read HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 9\r\n\r\n12345",
        token()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    backend.serve_other_requests().await;
    // Each byte restarts the timer.
    advance(Duration::from_secs(9)).await;
    stream.write_all(b"6").await.unwrap();
    backend.serve_other_requests().await;
    advance(Duration::from_secs(9)).await;
    backend.serve_other_requests().await;
    let is_unanswered = stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(is_unanswered);
    advance(Duration::from_secs(2)).await;
    let mut answer = Vec::new();
    within_5_s(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = Answer::parse(answer);
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
}
