//! What the backend answers: status, headers and body of every sort of request, one by one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Answer, Backend, FORGED_KEY, FakeIssuer, KEY, claims, claims_but, exchange, request, token};
use serde_json::{Value, json};

async fn ready() -> Backend {
    Backend::start_ready(&FakeIssuer::start(&KEY).await).await
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
async fn tells_the_caller_who_it_is() {
    let answer = ready().await.get(&token()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("www-authenticate"), None);
    let body = answer.json();
    assert!(!body["message"].as_str().unwrap().is_empty());
    assert_eq!(
        body["caller"],
        json!({
            "subject": "owner:acme:project:storefront:environment:production",
            "owner": "acme",
            "project": "storefront",
            "environment": "production",
        })
    );
    assert_eq!(body.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn says_null_where_the_token_says_nothing() {
    let backend = ready().await;
    for odd in [None, Some(Value::Null), Some(json!(1)), Some(json!(["acme"]))] {
        let mut claims = claims();
        for name in ["owner", "project", "environment"] {
            match &odd {
                None => drop(claims.as_object_mut().unwrap().remove(name)),
                Some(value) => claims[name] = value.clone(),
            }
        }
        let caller = backend.get(&KEY.mint(&claims)).await.json()["caller"].clone();
        let subject = "owner:acme:project:storefront:environment:production";
        assert_eq!(caller, json!({ "subject": subject, "owner": null, "project": null, "environment": null }));
    }
}

#[tokio::test]
async fn says_how_long_the_verification_took() {
    let backend = ready().await;
    for (token, status) in [(token(), 200), (FORGED_KEY.mint(&claims()), 401)] {
        let answer = backend.get(&token).await;
        assert_eq!(answer.status, status);
        let milliseconds = answer.header("server-timing").unwrap().strip_prefix("verify;dur=").unwrap();
        assert!((0.0..10_000.0).contains(&milliseconds.parse::<f64>().unwrap()), "{milliseconds}");
    }
}

#[tokio::test]
async fn asks_for_a_token_where_there_is_none() {
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
    // Never from elsewhere, however good it is.
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
async fn takes_the_scheme_in_any_case() {
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
async fn refuses_those_not_allowed_here() {
    let answer = ready().await.get(&KEY.mint(&claims_but("sub", json!("owner:x:project:y:environment:z")))).await;
    assert_problem(&answer, 403, "forbidden");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn gives_no_verdict_without_keys() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve(500, "", "");
    let backend = Backend::start(&issuer).await;
    let answer = backend.get(&token()).await;
    assert_problem(&answer, 503, "keys_unavailable");
    assert!((1..=30).contains(&answer.header("retry-after").unwrap().parse().unwrap()), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("www-authenticate"), None);
    // What needs no key is decided all the same.
    assert_problem(&backend.get("garbage").await, 401, "invalid_token");
    assert_problem(&request(backend.address, "GET", "/", &[]).await, 401, "missing_token");
}

/// Whoever has no token learns nothing of which routes and methods there are.
#[tokio::test]
async fn unknown_routes_and_methods_ask_for_a_token_first() {
    let (backend, good) = (ready().await, format!("Bearer {}", token()));
    let down = FakeIssuer::start(&KEY).await;
    down.serve(500, "", "");
    let outage = Backend::start(&down).await;
    let forged = format!("Bearer {}", FORGED_KEY.mint(&claims()));
    let other = format!("Bearer {}", KEY.mint(&claims_but("sub", json!("owner:x"))));
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
        assert_eq!(allow.as_deref(), (status == 405).then_some("GET,HEAD"), "{method} {path}");
    }
}

#[tokio::test]
async fn health_is_open() {
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

/// Claims of a signed token are shown to its holder, and their maker may be hostile to whatever reads the header.
#[tokio::test]
async fn describes_in_printable_ascii_whatever_the_claims_hold() {
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
        tokens.extend(["iss", "aud"].map(|name| KEY.mint(&claims_but(name, json!(text)))));
        tokens.push(KEY.mint(&claims_but("aud", json!([text, text]))));
        let header = json!({ "alg": text, "kid": text, "typ": text }).to_string();
        tokens.push(KEY.sign(header.as_bytes(), claims().to_string().as_bytes()));
        tokens.push(common::token_of_kid(text));
    }
    tokens.extend(
        ["exp", "nbf", "iat"]
            .map(|name| KEY.mint(&claims_but(name, json!(if name == "exp" { -1e300 } else { 1e300 })))),
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
    // A subject comes back in the body alone.
    for text in &hostile[..5] {
        assert_problem(&backend.get(&KEY.mint(&claims_but("sub", json!(text)))).await, 403, "forbidden");
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
    // A character that no header may hold ends the matter before anyone reads it.
    let answer = request(backend.address, "GET", "/", &[("authorization", b"Bearer a\0b")]).await;
    assert_eq!(answer.status, 400);
}
