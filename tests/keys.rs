//! When the backend fetches the issuer's keys, and what it answers meanwhile. The tests move the clock and count each
//! fetch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Backend, FakeIssuer, KEY, NEXT_KEY, Program, advance, claims, fresh_token, request, token, token_of_kid};
use local::base64url;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

async fn status(backend: &Backend, path: &str) -> u16 {
    request(backend.address, "GET", path, &[]).await.status
}

/// A backend whose first fetch waits, because the issuer holds its answer back.
async fn starting() -> (FakeIssuer, Backend) {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.hold();
    let backend = Backend::start(&issuer).await;
    issuer.wait_for_fetches(1).await;
    (issuer, backend)
}

/// A request that is sent now and answered later.
fn later(backend: &Backend, token: String) -> tokio::task::JoinHandle<common::Answer> {
    let address = backend.address;
    tokio::spawn(async move { common::get(address, &token).await })
}

#[tokio::test]
async fn fetches_once_at_the_start_without_delaying_requests() {
    let (issuer, backend) = starting().await;
    assert_eq!(status(&backend, "/healthz").await, 200);
    let waiting = later(&backend, token());
    issuer.release();
    backend.fetches_ended(1).await;
    assert_eq!((status(&backend, "/healthz").await, status(&backend, "/readyz").await), (200, 200));
    assert_eq!(waiting.await.unwrap().status, 200);
    for _ in 0..5 {
        assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 200);
    }
    assert_eq!(issuer.fetches(), 1);
}

/// A waiting readiness probe is answered when the first fetch ends.
#[tokio::test]
async fn readiness_waits_for_the_first_keys() {
    let (issuer, backend) = starting().await;
    let address = backend.address;
    let probe = tokio::spawn(async move { request(address, "GET", "/readyz", &[]).await.status });
    backend.serve_other_requests().await;
    assert!(!probe.is_finished());
    issuer.release();
    assert_eq!((probe.await.unwrap(), issuer.fetches()), (200, 1));
}

#[tokio::test]
async fn is_not_ready_without_usable_keys() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve_jwks(vec![]);
    let backend = Backend::start_ready(&issuer).await;
    let answer = request(backend.address, "GET", "/readyz", &[]).await;
    assert_eq!((answer.status, answer.code()), (503, "keys_unavailable".into()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    // The cooldown applies to probes as to tokens.
    for _ in 0..5 {
        assert_eq!(status(&backend, "/readyz").await, 503);
    }
    assert_eq!(issuer.fetches(), 1);
    issuer.serve_keys(&[&KEY]);
    advance(SECOND).await;
    assert_eq!((status(&backend, "/readyz").await, issuer.fetches()), (200, 2));
    assert_eq!(backend.get(&token()).await.status, 200);
}

/// Otherwise no replica would be ready after an hour without requests.
#[tokio::test]
async fn is_ready_after_an_idle_hour() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    advance(61 * MINUTE).await;
    assert_eq!((status(&backend, "/readyz").await, issuer.fetches()), (200, 2));
}

/// A probe does not wait for a fetch while usable keys are held.
#[tokio::test]
async fn readiness_refreshes_old_keys_in_the_background() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    advance(9 * MINUTE).await;
    issuer.hold();
    advance(MINUTE).await;
    assert_eq!(status(&backend, "/readyz").await, 200);
    issuer.wait_for_fetches(2).await;
    assert_eq!(status(&backend, "/readyz").await, 200);
    issuer.release();
    backend.fetches_ended(2).await;
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn keys_of_9_minutes_are_refreshed_in_the_background() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    advance(9 * MINUTE - SECOND).await;
    assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 200);
    backend.serve_other_requests().await;
    assert_eq!(issuer.fetches(), 1);
    advance(2 * SECOND).await;
    issuer.hold();
    issuer.serve_keys(&[&NEXT_KEY]);
    let cached = token();
    // All requests are answered at once, and there is one fetch.
    let mut requests = JoinSet::new();
    requests.spawn(later(&backend, cached.clone()));
    for _ in 0..20 {
        requests.spawn(later(&backend, fresh_token(&KEY)));
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status, 200);
    }
    issuer.wait_for_fetches(2).await;
    issuer.release();
    backend.fetches_ended(2).await;
    assert_eq!(backend.get(&fresh_token(&NEXT_KEY)).await.status, 200);
    assert_eq!(backend.get(&cached).await.status, 401);
    // The keys are fresh again.
    advance(8 * MINUTE).await;
    assert_eq!(backend.get(&fresh_token(&NEXT_KEY)).await.status, 200);
    backend.serve_other_requests().await;
    // The unknown `kid` of the withdrawn key caused the third fetch.
    assert_eq!(issuer.fetches(), 3);
}

/// A withdrawn key is accepted for at most 10 minutes while the issuer can be reached.
#[tokio::test]
async fn a_request_waits_if_the_keys_are_10_minutes_old() {
    for idle in [10 * MINUTE, 59 * MINUTE] {
        let issuer = FakeIssuer::start(&KEY).await;
        let backend = Backend::start_ready(&issuer).await;
        let cached = token();
        assert_eq!(backend.get(&cached).await.status, 200);
        issuer.serve_keys(&[&NEXT_KEY]);
        advance(idle).await;
        for token in [cached, fresh_token(&KEY)] {
            assert_eq!(backend.get(&token).await.status, 401, "{idle:?}");
        }
    }
}

/// A fetch that failed 50 minutes ago does not let a request use old keys.
#[tokio::test]
async fn a_request_waits_for_fresh_keys_if_a_refresh_failed_long_ago() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.serve(500, "", "");
    advance(9 * MINUTE).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    backend.fetches_ended(2).await;
    issuer.serve_keys(&[&NEXT_KEY]);
    advance(50 * MINUTE).await;
    assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 401);
    assert_eq!(issuer.fetches(), 3);
}

/// An outage delays requests once.
#[tokio::test]
async fn old_keys_answer_at_once_during_an_outage() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.serve(500, "", "");
    advance(10 * MINUTE).await;
    assert_eq!((backend.get(&fresh_token(&KEY)).await.status, issuer.fetches()), (200, 2));
    // The next attempts run in the background, one every 30 s.
    for fetches in 3..5 {
        issuer.hold();
        advance(31 * SECOND).await;
        assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 200);
        issuer.wait_for_fetches(fetches).await;
        issuer.release();
        backend.fetches_ended(fetches).await;
    }
    // 60 s after the last attempt, a request waits again.
    issuer.hold();
    advance(61 * SECOND).await;
    let waiting = later(&backend, fresh_token(&KEY));
    issuer.wait_for_fetches(5).await;
    backend.serve_other_requests().await;
    assert!(!waiting.is_finished());
    issuer.release();
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_failed_background_fetch_is_tried_again_after_30_s() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.serve(500, "", "");
    advance(10 * MINUTE).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    backend.fetches_ended(2).await;
    advance(29 * SECOND).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    backend.serve_other_requests().await;
    assert_eq!(issuer.fetches(), 2);
    advance(SECOND).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    backend.fetches_ended(3).await;
    assert_eq!(issuer.fetches(), 3);
}

#[tokio::test]
async fn keys_serve_for_at_most_an_hour_after_the_last_good_fetch() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    let cached = token();
    assert_eq!(backend.get(&cached).await.status, 200);
    issuer.serve(500, "", "");
    advance(60 * MINUTE - SECOND).await;
    assert_eq!((backend.get(&cached).await.status, status(&backend, "/readyz").await), (200, 200));
    backend.fetches_ended(2).await;
    advance(SECOND).await;
    let answer = backend.get(&cached).await;
    assert_eq!((answer.status, answer.code()), (503, "keys_unavailable".into()));
    assert_eq!(status(&backend, "/readyz").await, 503);
    issuer.serve_keys(&[&KEY]);
    advance(30 * SECOND).await;
    assert_eq!(backend.get(&cached).await.status, 200);
}

/// Without keys, the next attempt is after 1, 2, 4 … up to 30 s. Tokens in between cause no fetch.
#[tokio::test]
async fn a_failed_first_fetch_is_tried_again_at_growing_intervals() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve(500, "", "");
    let backend = Backend::start_ready(&issuer).await;
    for (fetches, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
        for token in [token(), token_of_kid("unknown"), fresh_token(&KEY)] {
            let answer = backend.get(&token).await;
            assert_eq!((answer.status, answer.code()), (503, "keys_unavailable".into()));
            assert_eq!(answer.header("retry-after"), Some(&*seconds.to_string()));
        }
        assert_eq!(status(&backend, "/readyz").await, 503);
        // A token that is refused without a key causes no fetch.
        assert_eq!((backend.get("garbage").await.status, issuer.fetches()), (401, fetches));
        advance(seconds * SECOND).await;
        assert_eq!((backend.get(&token()).await.status, issuer.fetches()), (503, fetches + 1));
    }
    issuer.serve_keys(&[&KEY]);
    advance(30 * SECOND).await;
    assert_eq!((backend.get(&token()).await.status, issuer.fetches()), (200, 9));
    // While no keys were held, no `kid` counted as unknown. So a new `kid` causes a fetch at once.
    issuer.serve_keys(&[&KEY, &NEXT_KEY]);
    assert_eq!((backend.get(&fresh_token(&NEXT_KEY)).await.status, issuer.fetches()), (200, 10));
}

#[tokio::test]
async fn an_unknown_kid_triggers_one_fetch_for_all_waiting_requests() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.hold();
    let mut requests = JoinSet::new();
    for of in 0..50 {
        requests.spawn(later(&backend, token_of_kid(&format!("unknown-{}", of % 5))));
    }
    issuer.wait_for_fetches(2).await;
    // A request whose key is held does not wait for the fetch.
    assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 200);
    issuer.release();
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status, 401);
    }
    assert_eq!(issuer.fetches(), 2);
    // Within the cooldown, another unknown `kid` causes no fetch.
    assert_eq!(backend.get(&token_of_kid("another")).await.status, 401);
    advance(29 * SECOND).await;
    assert_eq!(backend.get(&token_of_kid("another")).await.status, 401);
    assert_eq!(issuer.fetches(), 2);
    advance(SECOND).await;
    assert_eq!(backend.get(&token_of_kid("another")).await.status, 401);
    assert_eq!(issuer.fetches(), 3);
}

#[tokio::test]
async fn a_fetch_for_another_reason_starts_the_cooldown_too() {
    let (issuer, backend) = starting().await;
    let waiting = later(&backend, token_of_kid("unknown"));
    backend.serve_other_requests().await;
    issuer.release();
    assert_eq!(waiting.await.unwrap().status, 401);
    assert_eq!(backend.get(&token_of_kid("another")).await.status, 401);
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_fetch_that_brought_the_key_starts_no_cooldown() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.serve_keys(&[&KEY, &NEXT_KEY]);
    assert_eq!(backend.get(&fresh_token(&NEXT_KEY)).await.status, 200);
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(backend.get(&token_of_kid("unknown")).await.status, 401);
    assert_eq!(issuer.fetches(), 3);
}

/// If the issuer can't be reached, whether it has the key is not known.
#[tokio::test]
async fn an_unknown_kid_is_answered_with_503_while_the_issuer_is_down() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.serve(500, "", "");
    let mut answers = vec![backend.get(&fresh_token(&NEXT_KEY)).await, backend.get(&fresh_token(&NEXT_KEY)).await];
    advance(29 * SECOND).await;
    answers.push(backend.get(&fresh_token(&NEXT_KEY)).await);
    for answer in &answers {
        assert_eq!((answer.status, answer.code()), (503, "keys_unavailable".into()));
    }
    assert_eq!(issuer.fetches(), 2);
    let retry_after = answers.iter().map(|answer| answer.header("retry-after").unwrap()).collect::<Vec<_>>();
    assert_eq!(retry_after, ["30", "30", "1"]);
    // Held keys still serve.
    assert_eq!(backend.get(&token()).await.status, 200);
    issuer.serve_keys(&[&KEY, &NEXT_KEY]);
    advance(SECOND).await;
    assert_eq!(backend.get(&fresh_token(&NEXT_KEY)).await.status, 200);
    assert_eq!(issuer.fetches(), 3);
}

#[tokio::test]
async fn a_fetch_continues_if_its_client_disconnects() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.hold();
    issuer.serve_keys(&[&KEY, &NEXT_KEY]);
    let mut leaves = TcpStream::connect(backend.address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", fresh_token(&NEXT_KEY));
    leaves.write_all(request.as_bytes()).await.unwrap();
    issuer.wait_for_fetches(2).await;
    let stays = later(&backend, fresh_token(&NEXT_KEY));
    drop(leaves);
    // After this answer, the backend has had time to see that the client has disconnected.
    assert_eq!(status(&backend, "/healthz").await, 200);
    issuer.release();
    assert_eq!(stays.await.unwrap().status, 200);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_cooldown_starts_even_if_all_waiting_requests_are_gone() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    issuer.hold();
    let mut leaves = TcpStream::connect(backend.address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", token_of_kid("unknown"));
    leaves.write_all(request.as_bytes()).await.unwrap();
    issuer.wait_for_fetches(2).await;
    drop(leaves);
    assert_eq!(status(&backend, "/healthz").await, 200);
    issuer.release();
    backend.fetches_ended(2).await;
    assert_eq!(backend.get(&token_of_kid("unknown")).await.status, 401);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_withdrawn_key_is_refused_after_the_next_fetch() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    let cached = token();
    assert_eq!(backend.get(&cached).await.status, 200);
    issuer.serve_keys(&[&NEXT_KEY]);
    assert_eq!(backend.get(&cached).await.status, 200);
    assert_eq!(backend.get(&fresh_token(&NEXT_KEY)).await.status, 200);
    for token in [cached, fresh_token(&KEY)] {
        let answer = backend.get(&token).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token".into()));
    }
}

#[tokio::test]
async fn a_key_replaced_under_its_kid_is_another_key() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start_ready(&issuer).await;
    let cached = token();
    assert_eq!(backend.get(&cached).await.status, 200);
    issuer.serve_keys(&[&common::FORGED_KEY]);
    advance(10 * MINUTE).await;
    assert_eq!(backend.get(&cached).await.description(), "the token's signature is wrong");
    assert_eq!(backend.get(&fresh_token(&common::FORGED_KEY)).await.status, 200);
}

#[tokio::test]
async fn a_bad_document_never_replaces_good_keys() {
    let (issuer, other) = (FakeIssuer::start(&KEY).await, FakeIssuer::start(&NEXT_KEY).await);
    let good = json!({ "keys": [NEXT_KEY.jwk()] }).to_string();
    let mut useless = NEXT_KEY.jwk();
    useless["use"] = json!("enc");
    let useless = json!({ "keys": [useless] }).to_string();
    let mut nameless = NEXT_KEY.jwk();
    nameless["kid"] = json!("");
    let nameless = json!({ "keys": [nameless] }).to_string();
    let redirect = format!("location: {}\r\n", other.url());
    let bodies: Vec<Box<dyn Fn()>> = vec![
        Box::new(|| issuer.serve(500, "", &good)),
        Box::new(|| issuer.serve(404, "", &good)),
        Box::new(|| issuer.serve(201, "", &good)),
        Box::new(|| issuer.serve(203, "", &good)),
        Box::new(|| issuer.serve(302, &redirect, &good)),
        Box::new(|| issuer.serve(301, &redirect, "")),
        Box::new(|| issuer.serve(307, &redirect, "")),
        Box::new(|| issuer.serve(200, "", "")),
        Box::new(|| issuer.serve(200, "content-type: text/html\r\n", "<!doctype html><title>Sign in</title>")),
        Box::new(|| issuer.serve(200, "", "[]")),
        Box::new(|| issuer.serve(200, "", format!("[[{}]]", NEXT_KEY.jwk()))),
        Box::new(|| issuer.serve(200, "", "null")),
        Box::new(|| issuer.serve(200, "", "{}")),
        Box::new(|| issuer.serve(200, "", r#"{"keys":{}}"#)),
        Box::new(|| issuer.serve(200, "", r#"{"keys":null}"#)),
        Box::new(|| issuer.serve(200, "", r#"{"keys":[]}"#)),
        Box::new(|| issuer.serve(200, "", &useless)),
        Box::new(|| issuer.serve(200, "", &nameless)),
        Box::new(|| issuer.serve(200, "content-encoding: gzip\r\n", &good)),
        Box::new(|| issuer.serve(200, "", format!("{good}{good}"))),
        Box::new(|| issuer.serve(200, "", &good[..good.len() - 1])),
        Box::new(|| issuer.serve(200, "", padded(&good, 256 * 1024 + 1))),
        Box::new(|| issuer.serve(200, "", padded(&good, 10_000_000))),
        Box::new(|| issuer.serve_bytes(format!("HTTP/1.1 200 OK\r\n\r\n{}", padded(&good, 300_000)).into_bytes())),
        Box::new(|| issuer.serve_bytes(b"".to_vec())),
        Box::new(|| issuer.serve_bytes(b"SSH-2.0-x\r\n".to_vec())),
        Box::new(|| issuer.serve_bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{good}").into_bytes())),
    ];
    let backend = Backend::start_ready(&issuer).await;
    for (index, serve) in bodies.iter().enumerate() {
        serve();
        // More than the cooldown of 30 s, and less than the 60 s after which a request waits again.
        advance(31 * SECOND).await;
        let answer = backend.get(&fresh_token(&NEXT_KEY)).await;
        assert_eq!((answer.status, issuer.fetches()), (503, index + 2), "reply {index}");
        assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 200, "reply {index}");
    }
    assert_eq!(other.fetches(), 0, "the fetch followed a redirect");
}

/// The document, padded with spaces to this many bytes.
fn padded(document: &str, bytes: usize) -> String {
    format!("{document}{}", " ".repeat(bytes - document.len()))
}

#[tokio::test]
async fn accepts_a_document_of_256_kib() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve(200, "", padded(&json!({ "keys": [KEY.jwk()] }).to_string(), 256 * 1024));
    let backend = Backend::start(&issuer).await;
    assert_eq!(backend.get(&token()).await.status, 200);
}

/// A fetch from an issuer that accepts the connection and never answers fails after 5 s.
#[tokio::test]
async fn a_fetch_takes_5_s_at_most() {
    let (issuer, backend) = starting().await;
    let waiting = later(&backend, token());
    // After this answer, the backend has also read the request before.
    assert_eq!(status(&backend, "/healthz").await, 200);
    advance(4 * SECOND).await;
    assert_eq!(status(&backend, "/healthz").await, 200);
    assert!(!waiting.is_finished());
    advance(SECOND).await;
    assert_eq!(common::within_5_s(waiting).await.unwrap().status, 503);
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn an_unusable_key_affects_no_other_key() {
    let issuer = FakeIssuer::start(&KEY).await;
    let but = |name: &str, value: serde_json::Value| {
        let mut jwk = KEY.jwk();
        jwk[name] = value;
        jwk
    };
    let unusable = vec![
        json!(null),
        json!("key"),
        json!([]),
        json!({}),
        json!({ "kty": "EC", "crv": "P-256", "kid": "key-1", "x": "AQ", "y": "AQ" }),
        json!({ "kty": "oct", "kid": "key-1", "k": base64url("secret") }),
        but("kid", json!(1)),
        but("kid", json!("")),
        but("key_ops", json!("verify")),
        but("key_ops", json!(["sign"])),
        but("use", json!("enc")),
        but("alg", json!("RS512")),
        but("alg", json!(1)),
        but("n", json!("!")),
        but("n", json!("AQAB")),
    ];
    issuer.serve_jwks(unusable.into_iter().chain([KEY.jwk()]).collect());
    let backend = Backend::start(&issuer).await;
    assert_eq!(backend.get(&KEY.mint(&claims())).await.status, 200);
}

/// The proxy variables of the environment don't apply to loopback.
#[tokio::test]
async fn fetches_from_loopback_without_the_proxy() {
    let (issuer, proxy) = (FakeIssuer::start(&KEY).await, FakeIssuer::start(&NEXT_KEY).await);
    let proxy_url = format!("http://{}", proxy.address);
    let variables = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, proxy_url.as_str()));
    let backend = Program::start(&issuer, &variables).await;
    assert_eq!(common::verdict(backend.address, &token()).await, 200);
    assert_eq!((issuer.fetches(), proxy.fetches()), (1, 0));
}
