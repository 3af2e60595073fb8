//! Fetched keys over sockets, and from a source that the test controls.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::fetches::{FETCH_TIMEOUT, MAX_DOCUMENT_BYTES, read};
use super::*;
use crate::error::{FetchError, chain};
use crate::verifier::tests::jwks;

const MINUTE: u64 = 60;

/// Serves these answers, one a connection, and hands out the head of each request before it answers.
async fn issuer(answers: Vec<String>) -> (String, tokio::sync::mpsc::UnboundedReceiver<(String, TcpStream, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let (requests, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            requests.send((String::from_utf8(head).unwrap(), stream, answer)).unwrap();
        }
    });
    (url, received)
}

fn ok(document: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{document}", document.len())
}

fn now() -> SystemTime {
    SystemTime::now()
}

#[tokio::test]
async fn waiting_requests_share_one_fetch_even_if_the_first_disconnects() {
    let (url, mut requests) = issuer(vec![ok(&jwks(&["key"]))]).await;
    let keys = KeySet::from_url(&url).unwrap();
    let waits = |kid: &'static str| {
        let keys = keys.clone();
        tokio::spawn(async move { keys.key(kid, now()).await.map(|key| key.kid().to_owned()) })
    };
    let first = waits("key");
    let (head, mut stream, answer) = requests.recv().await.unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("get /keys http/1.1\r\n"), "{head}");
    assert!(head.contains("user-agent: vercel-oidc-verifier/") && head.contains("accept-encoding: identity"));
    first.abort();
    let others = [waits("key"), waits("other")];
    tokio::task::yield_now().await;
    stream.write_all(answer.as_bytes()).await.unwrap();
    let [key, other] = others;
    assert_eq!(key.await.unwrap().as_deref(), Ok("key"));
    assert_eq!(other.await.unwrap(), Err(NoKey::Unknown));
    assert!(keys.ready(now()).await);
}

#[tokio::test]
async fn a_bad_document_never_replaces_good_keys() {
    let good = ok(&jwks(&["key"]));
    for (bad, reason) in [
        (ok("{}"), "not a JSON object with an array"),
        (ok(r#"{"keys":[{"kty":"RSA","kid":"","n":"AQ","e":"AQAB"}]}"#), "`kid` is missing"),
        ("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 500"),
        ("HTTP/1.1 302 X\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 302"),
        (good.replace("\r\n\r\n", "\r\ncontent-encoding: gzip\r\n\r\n"), "`Content-Encoding`"),
        (ok(&format!("{}{}", jwks(&["key"]), " ".repeat(256 * 1024))), "larger than 262144 bytes"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_owned(), "no answer"),
    ] {
        let (url, mut requests) = issuer(vec![good.clone(), bad.clone(), bad]).await;
        tokio::spawn(async move {
            while let Some((_, mut stream, answer)) = requests.recv().await {
                // The other end closes early if the document is too large.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let KeySet(Source::Fetched(fetches)) = KeySet::from_url(&url).unwrap() else { unreachable!("not static") };
        assert!(fetches.key("key", Moment::at(now())).await.is_ok());
        let other = fetches.key("other", Moment::at(now())).await;
        assert!(matches!(other, Err(NoKey::Unavailable { .. })), "{other:?}");
        assert!(fetches.key("key", Moment::at(now())).await.is_ok());
        let error = (fetches.fetch)().await.map_err(FetchError::Source).and_then(|document| read(Ok(document)));
        let error = chain(&error.map(drop).unwrap_err());
        assert!(error.contains(reason) && !error.contains(&url), "{error}");
    }
}

#[tokio::test]
async fn after_an_idle_hour_ready_fetches_and_waits() {
    let answer = ok(&jwks(&["key"]));
    let (url, mut requests) = issuer(vec![answer.clone(), answer]).await;
    tokio::spawn(async move {
        while let Some((_, mut stream, answer)) = requests.recv().await {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let keys = KeySet::from_url(&url).unwrap();
    assert!(keys.ready(now()).await);
    assert!(keys.ready(now() + Duration::from_secs(2 * 60 * MINUTE)).await);
}

/// Without the backoff, the second call would start another fetch.
#[tokio::test]
async fn ready_is_false_while_the_backoff_lasts_and_says_how_long() {
    let (fetches, mut counted) = (Arc::new(AtomicUsize::new(0)), 0);
    let count = Arc::clone(&fetches);
    let keys = KeySet::fetched_by(move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err::<Vec<u8>, _>("out of order") }
    });
    let start = now();
    for (seconds, expected) in [(0, 1), (0, 1), (2, 2), (2, 2), (3, 2), (5, 3)] {
        let now = start + Duration::from_secs(seconds);
        assert!(!keys.ready(now).await);
        counted = fetches.load(Ordering::SeqCst);
        assert_eq!(counted, expected, "{seconds} s");
    }
    assert!(matches!(keys.key("key", start + Duration::from_secs(5)).await, Err(NoKey::Unavailable { .. })));
    assert_eq!(fetches.load(Ordering::SeqCst), counted);
    let retry_after = keys.retry_after(start + Duration::from_secs(5));
    assert!(retry_after > Duration::from_secs(3) && retry_after <= Duration::from_secs(4), "{retry_after:?}");
}

/// A source that hands out the answers one by one, each when the test sends it.
fn source() -> (KeySet, mpsc::UnboundedReceiver<oneshot::Sender<String>>) {
    let (requests, received) = mpsc::unbounded_channel();
    let keys = KeySet::fetched_by(move || {
        let (answer, answered) = oneshot::channel();
        requests.send(answer).unwrap();
        answered
    });
    (keys, received)
}

#[tokio::test]
async fn keys_come_from_a_source_of_the_programs_own() {
    let (keys, mut requests) = source();
    let key = tokio::spawn({
        let keys = keys.clone();
        async move { keys.key("key", now()).await.map(|key| key.kid().to_owned()) }
    });
    requests.recv().await.unwrap().send(jwks(&["key"])).unwrap();
    assert_eq!(key.await.unwrap().as_deref(), Ok("key"));
}

#[tokio::test(start_paused = true)]
async fn any_source_has_5_seconds_and_256_kib_and_a_panic_is_a_failure() {
    let large = |bytes: usize| format!("{}{}", jwks(&["key"]), " ".repeat(bytes - jwks(&["key"]).len()));
    let (full, too_large) = (large(MAX_DOCUMENT_BYTES), large(MAX_DOCUMENT_BYTES + 1));
    assert!(KeySet::fetched_by(move || std::future::ready(Ok::<_, FetchError>(full.clone()))).ready(now()).await);
    for keys in [
        KeySet::fetched_by(std::future::pending::<Result<Vec<u8>, FetchError>>),
        KeySet::fetched_by(move || std::future::ready(Ok::<_, FetchError>(too_large.clone()))),
        KeySet::fetched_by(|| async { if true { panic!("on purpose") } else { Ok::<_, FetchError>(Vec::new()) } }),
    ] {
        let began = tokio::time::Instant::now();
        assert!(!keys.ready(now()).await);
        assert!(began.elapsed() <= FETCH_TIMEOUT + Duration::from_millis(10));
        // The failure holds back the next fetch.
        assert!(!keys.retry_after(now()).is_zero());
    }
}

#[tokio::test]
async fn a_source_that_panics_is_asked_again_only_after_the_backoff() {
    let fetches = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetches);
    let keys = KeySet::fetched_by(move || -> std::future::Ready<Result<Vec<u8>, FetchError>> {
        count.fetch_add(1, Ordering::SeqCst);
        panic!("on purpose")
    });
    for _ in 0..2 {
        assert!(!keys.ready(now()).await);
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }
}

/// A frozen function: a fetch begins before minute 10, and ends when the process is thawed.
#[tokio::test(start_paused = true)]
async fn the_age_of_keys_counts_at_the_answer_and_not_when_a_fetch_began() {
    for thawed_with in [Ok("withdrawn"), Err(())] {
        let (keys, mut requests) = source();
        let ask = |kid: &'static str, seconds: u64| {
            let (keys, now) = (keys.clone(), now() + Duration::from_secs(seconds));
            tokio::spawn(async move { keys.key(kid, now).await.map(|key| key.kid().to_owned()) })
        };
        let first = ask("withdrawn", 0);
        requests.recv().await.unwrap().send(jwks(&["withdrawn"])).unwrap();
        first.await.unwrap().unwrap();
        assert!(ask("withdrawn", 10 * MINUTE - 5).await.unwrap().is_ok());
        let begun_before_10 = requests.recv().await.unwrap();
        let waits = ask("withdrawn", 10 * MINUTE);
        tokio::task::yield_now().await;
        match thawed_with {
            Ok(kid) => begun_before_10.send(jwks(&[kid])).unwrap(),
            Err(()) => drop(begun_before_10),
        }
        // The clock moves before anything that waits can go on.
        tokio::time::advance(Duration::from_secs(44 * MINUTE)).await;
        requests.recv().await.unwrap().send(jwks(&["other"])).unwrap();
        assert_eq!(waits.await.unwrap(), Err(NoKey::Unknown), "{thawed_with:?}");
    }
}

#[test]
fn without_a_runtime_a_fetch_fails_instead_of_panicking() {
    let (keys, mut requests) = source();
    keys.prefetch(now());
    assert!(requests.try_recv().is_err());
    let mut key = std::pin::pin!(keys.key("key", now()));
    let polled = key.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(polled, std::task::Poll::Ready(Err(NoKey::Unavailable { .. }))));
}

#[test]
fn debug_output_has_no_query() {
    let shown = format!("{:?}", KeySet::from_url("https://keys.test/a?secret").unwrap());
    assert!(shown.contains("https://keys.test/a") && !shown.contains("secret"), "{shown}");
}
