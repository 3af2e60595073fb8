//! No token is in any answer or log line, at any log level.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{
    FORGED_KEY, FakeIssuer, KEY, NEXT_KEY, Program, claims, claims_with, exchange, fresh_token, settings, token_of_kid,
};
use common::{token, verifier};
use serde_json::json;

/// Valid tokens and every kind of invalid token.
fn tokens() -> Vec<String> {
    vec![
        fresh_token(&KEY),
        FORGED_KEY.mint(&claims()),
        KEY.mint(&claims_with("exp", json!(1))),
        KEY.mint(&claims_with("iss", json!("https://other.test"))),
        KEY.mint(&claims_with("aud", json!(["https://other.test"]))),
        KEY.mint(&claims_with("sub", json!("owner:other"))),
        KEY.mint(&claims_with("sub", json!(1))),
        KEY.mint(&claims_with("x", json!("x".repeat(8000)))),
        KEY.sign(br#"{"alg":"none","kid":"key-1"}"#, claims().to_string().as_bytes()),
        KEY.sign(br#"{"typ":"JWT","kid":"key-1"}"#, claims().to_string().as_bytes()),
        token_of_kid("unknown"),
    ]
}

/// Demands that the text holds none of the token's three parts.
fn assert_holds_no_part_of(token: &str, text: &str, where_it_is: &str) {
    // The first or last 40 characters would be a leak too.
    for part in token.split('.') {
        assert!(part.len() >= 36, "a shorter part could be found by chance: {part}");
        for piece in [&part[..part.len().min(40)], &part[part.len().saturating_sub(40)..]] {
            assert!(!text.contains(piece), "{where_it_is} holds `{piece}` of {token}:\n{text}");
        }
    }
}

/// Requests with the token in every right and wrong place.
fn requests(token: &str) -> Vec<String> {
    let head = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    let good = self::token();
    let body = |media_type: &str, body: &str| {
        let length = body.len();
        let headers =
            format!("authorization: Bearer {good}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n");
        head("POST /orders", &headers) + body
    };
    vec![
        head("GET /", &format!("authorization: Bearer {token}\r\n")),
        head("HEAD /", &format!("authorization: Bearer {token}\r\n")),
        head("POST /", &format!("authorization: Bearer {token}\r\n")),
        head("GET /nope", &format!("authorization: bearer {token}\r\n")),
        head("GET /readyz", &format!("authorization: Bearer {token}\r\n")),
        head("GET /", &format!("authorization: Bearer {token} {token}\r\n")),
        head("GET /", &format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n")),
        head("GET /", &format!("authorization: Basic {token}\r\n")),
        head("GET /", &format!("authorization: {token}\r\n")),
        head("GET /", &format!("cookie: token={token}\r\nx-vercel-oidc-token: {token}\r\n")),
        head(&format!("GET /?access_token={token}"), ""),
        head(&format!("GET /{token}"), &format!("authorization: Bearer {token}\r\n")),
        head(&format!("GET /verify/{token}"), &format!("authorization: Bearer {token}\r\n")),
        // A route may quote the body in an error.
        body("application/json", &format!("{{\"item\":{{\"{token}\":1}},\"quantity\":\"{token}\"}}")),
        body("application/json", &format!("{{\"quantity\":\"{token}\"}}")),
        body("application/json", &format!("\"{token}\"")),
        body("application/json", token),
        body(token, "{}"),
        // These parts of every request are logged.
        head(&format!("{token} /"), ""),
        head("GET /", &format!("traceparent: {token}\r\nx-vercel-id: {token}\r\n")),
        // Not valid HTTP, so hyper's error is logged.
        head("GET /", &format!("authorization: Bearer {token}\0\r\n")),
        head("GET /", &format!("authorization {token}\r\n")),
        format!("{token}\r\n\r\n"),
    ]
}

#[tokio::test]
async fn no_log_line_and_no_answer_holds_a_token() {
    for format in ["text", "json"] {
        let (issuer, down) = (FakeIssuer::start(&KEY).await, FakeIssuer::start(&KEY).await);
        down.serve(500, "", "");
        let variables = [("LOG_FORMAT", format), ("RUST_LOG", "trace")];
        for issuer in [issuer, down] {
            let backend = Program::start(&issuer, &variables).await;
            let tokens = tokens();
            for token in &tokens {
                for request in requests(token) {
                    let answer = exchange(backend.address, request.as_bytes()).await;
                    assert_holds_no_part_of(token, &String::from_utf8(answer).unwrap(), "an answer");
                }
            }
            backend.signal("TERM");
            let (code, output) = backend.end().await;
            assert_eq!(code, Some(0));
            // All levels were logged.
            assert!(output.matches("a request").count() > 100 && output.contains("TRACE"), "{output}");
            for token in &tokens {
                assert_holds_no_part_of(token, &output, "the log");
            }
        }
    }
}

#[tokio::test]
async fn no_debug_output_holds_a_token() {
    let issuer = FakeIssuer::start(&KEY).await;
    let settings = settings(&issuer.url(), &[]);
    let shown = format!("{settings:?} {:#?}", settings.clone());
    let verifier = verifier(settings);
    let soon = SystemTime::now() + Duration::from_secs(1);
    for token in tokens() {
        let result = verifier.verify(token.as_bytes(), soon).await;
        let text = format!("{shown} {result:?} {result:#?} {verifier:?} {:?}", verifier.keys());
        assert_holds_no_part_of(&token, &text, "Debug");
        let json = payload_text(&token);
        assert!(!text.contains(&json), "{text}");
        // A list of bytes would show the token too.
        assert!(!text.contains(&format!("{:?}", json.as_bytes()).trim_matches(['[', ']'])[..40]), "{text}");
        if let Err(error) = result {
            assert_holds_no_part_of(&token, &error.to_string(), "Display");
            let problem = vercel_oidc_verifier::Problem::from(error);
            assert_holds_no_part_of(&token, &format!("{problem:?}"), "the problem");
        }
    }
}

/// The backend as a program, that is, without what only its tests depend on.
#[test]
fn the_program_holds_no_test_key() {
    let moduli = [&*KEY, &*NEXT_KEY, &*FORGED_KEY].map(|key| key.rsa_public_key()[16..48].to_vec());
    let holds = |program: &Path| {
        let bytes = std::fs::read(program).unwrap();
        bytes.windows(32).any(|bytes| moduli.iter().any(|modulus| bytes[0] == modulus[0] && bytes == modulus))
    };
    assert!(!holds(Path::new(env!("CARGO_BIN_EXE_backend"))));
    assert!(holds(&std::env::current_exe().unwrap()), "the test itself holds them");
}

/// The payload's JSON text.
fn payload_text(token: &str) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).unwrap();
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}
