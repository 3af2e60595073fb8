//! Each failure with its status and code, and that no failure shows a token.

use std::future::ready;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::stage::{Answer, Function, SUBJECT, shows, soon, token};
use crate::stub::{Reply, Stub, answer};

/// Makes one call to a backend that always answers so.
async fn call(bytes: Vec<u8>) -> Answer {
    let backend = Stub::always(bytes).await;
    let answer = Function::start(&[("BACKEND_URL", &backend.url())]).await.call_with(&token("a", 3600)).await;
    assert_eq!(backend.requests().len(), 1);
    assert!(answer.header("server-timing").contains("backend;dur="), "{answer:?}");
    answer
}

#[tokio::test]
async fn a_backend_url_that_is_missing_or_not_allowed_is_a_misconfiguration() {
    let missing =
        Function::start(&[("BACKEND_URL", " ")]).await.call_with("a-token").await.is_problem(500, "misconfigured");
    assert!(missing.contains("et `BACKEND_URL`"), "{missing}");
    for url in [
        "http://api.example.com",
        "http://192.168.0.1",
        "http://127.evil.example",
        "http://localhost.example",
        "http://[::2]",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "api.example.com",
        "nonsense",
        "https://",
        "https://user@api.example.com",
        "https://user:password@api.example.com",
        "https://api.example.com/?a=b",
        "https://api.example.com/#a",
    ] {
        let detail =
            Function::start(&[("BACKEND_URL", url)]).await.call_with("a-token").await.is_problem(500, "misconfigured");
        assert!(detail.contains("`BACKEND_URL`") && !detail.contains("password@"), "{url}: {detail}");
    }
    for host in ["https://shop.vercel.app", "shop.vercel.app/path", "user@shop.vercel.app", "a b"] {
        let detail =
            Function::start(&[("VERCEL_URL", host)]).await.call_with("a-token").await.is_problem(500, "misconfigured");
        assert!(detail.contains("`VERCEL_URL`"), "{host}: {detail}");
    }
}

#[tokio::test]
async fn every_misconfiguration_is_told_at_once_and_logged() {
    let function =
        Function::start(&[("BACKEND_URL", "nonsense"), ("OIDC_TOKEN_EXCHANGE_URL", "http://example.com")]).await;
    let detail = function.call_with("a-token").await.is_problem(500, "misconfigured");
    assert!(
        detail.contains("`BACKEND_URL` is not a URL") && detail.contains("`OIDC_TOKEN_EXCHANGE_URL` must be `https`"),
        "{detail}"
    );
    let printed = function.stop().await;
    assert!(printed.starts_with("Error: misconfigured: `BACKEND_URL`") && printed.lines().count() == 1, "{printed}");
}

#[tokio::test]
async fn a_refusal_says_what_the_backend_said_and_what_to_compare() {
    for (line, status, compare) in [
        ("400 Bad Request", 400, "`OIDC_AUDIENCE`"),
        ("401 Unauthorized", 401, "`OIDC_AUDIENCE`"),
        ("403 Forbidden", 403, "`OIDC_SUBJECT`"),
    ] {
        let problem = json!({ "code": "forbidden", "detail": "The subject is\nnot accepted." });
        let answer = call(answer(line, "content-type: application/problem+json\r\n", problem.to_string())).await;
        let detail = answer.is_problem(502, "backend_refused");
        let body = answer.json();
        assert_eq!((&body["backend_status"], &body["backend_code"]), (&json!(status), &json!("forbidden")));
        for words in ["The subject is not accepted.", SUBJECT, compare] {
            assert!(detail.contains(words), "{detail}");
        }
    }
}

#[tokio::test]
async fn a_refusal_without_a_code_has_a_null_for_it() {
    for body in ["", "no", "[]", "{}", r#"{"code": 7}"#, r#"{"code": "two words"}"#, r#"{"code": null}"#] {
        let answer = call(answer("401 Unauthorized", "", body)).await;
        answer.is_problem(502, "backend_refused");
        assert_eq!(answer.json()["backend_status"], 401);
        assert_eq!(answer.json().get("backend_code"), Some(&Value::Null), "{body}");
    }
}

#[tokio::test]
async fn what_a_backend_tells_of_the_token_is_not_passed_on() {
    let secret = token("secret", 3600);
    let signature = secret.rsplit('.').next().unwrap();
    let part = &signature[4..24];
    let long = "long ".repeat(1000);
    for (code, detail) in [
        (&*secret, format!("I got {secret}, and")),
        (signature, format!("signature={signature}")),
        (part, format!("a part: {part}... {long}")),
    ] {
        let body = json!({ "code": code, "detail": detail }).to_string();
        let headers = format!("server-timing: {secret};dur=1\r\n");
        let backend = Stub::always(answer("401 Unauthorized", &headers, body)).await;
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with(&secret).await;
        assert!(answer.is_problem(502, "backend_refused").contains("***"));
        assert_eq!(answer.json()["backend_code"], Value::Null);
        assert!(answer.text.len() < 1500, "{}", answer.text.len());
        for text in [format!("{answer:?}"), function.stop().await] {
            assert!(!text.contains(part) && !shows(&text, &secret), "{text}");
        }
    }
}

#[tokio::test]
async fn any_other_status_is_the_backends_error() {
    for line in [
        "201 Created",
        "204 No Content",
        "304 Not Modified",
        "404 Not Found",
        "407 Proxy",
        "429 Too Many",
        "500 Oops",
        "503 Busy",
    ] {
        let bytes = if line.starts_with("204") || line.starts_with("304") {
            format!("HTTP/1.1 {line}\r\n\r\n").into_bytes()
        } else {
            answer(line, "", "{}")
        };
        let answer = call(bytes).await;
        assert!(answer.is_problem(502, "backend_error").contains(&line[..3]));
        assert_eq!(answer.json()["backend_status"], line[..3].parse::<u16>().unwrap());
    }
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_the_backends_error() {
    for body in [&b""[..], b"<html>", b"{} {}", b"{\"a\": 1", b"\"\xff\""] {
        let answer = call(answer("200 OK", "content-type: application/json\r\n", body)).await;
        assert!(answer.is_problem(502, "backend_error").contains("not JSON"));
        assert_eq!(answer.json()["backend_status"], 200);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_the_backends_error() {
    let backend =
        Stub::start(|_, _| ready(Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}".to_vec()))).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with("a-token").await;
    assert!(answer.is_problem(502, "backend_error").contains("broke off"));
    assert_eq!(answer.json()["backend_status"], 200);
}

#[tokio::test]
async fn a_backend_that_can_not_be_reached_is_told_from_one_that_errs() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let function = Function::start(&[("BACKEND_URL", &format!("http://{nobody}"))]).await;
    let answer = function.call_with("a-token").await;
    assert!(answer.is_problem(502, "backend_unreachable").contains("`BACKEND_URL`"));
    assert_eq!(answer.json().get("backend_status"), None);
    // The cause is for the log alone.
    let printed = function.stop().await;
    assert!(printed.contains("onnection refused") && !answer.text.contains("onnection refused"), "{printed}");

    let rude = Stub::start(|_, _| ready(Reply::Close(Vec::new()))).await;
    let function = Function::start(&[("BACKEND_URL", &rude.url())]).await;
    function.call_with("a-token").await.is_problem(502, "backend_unreachable");
    assert_eq!(rude.requests().len(), 1);
}

#[tokio::test]
async fn a_connection_that_takes_two_seconds_is_given_up_as_unreachable() {
    // A queue of connections that nobody accepts: once it is full, the system answers no more of them.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queue.push(connected.unwrap());
    }
    let function = Function::start(&[("BACKEND_URL", &format!("http://{address}"))]).await;
    let started = std::time::Instant::now();
    soon(function.call_with("a-token")).await.is_problem(502, "backend_unreachable");
    let seconds = started.elapsed().as_secs_f64();
    assert!((1.9..6.0).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn no_answer_in_ten_seconds_is_a_timeout() {
    let silent = Stub::start(|_, _| ready(Reply::Hang(Vec::new()))).await;
    let slow = Stub::start(|_, _| ready(Reply::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_vec()))).await;
    let (first, second) = (
        Function::start(&[("BACKEND_URL", &silent.url())]).await,
        Function::start(&[("BACKEND_URL", &slow.url())]).await,
    );
    let started = std::time::Instant::now();
    let (head, body) = soon(async { tokio::join!(first.call_with("a-token"), second.call_with("a-token")) }).await;
    let seconds = started.elapsed().as_secs_f64();
    assert!((9.9..20.0).contains(&seconds), "{seconds}");
    for answer in [head, body] {
        answer.is_problem(504, "backend_timeout");
        assert_eq!(answer.json().get("backend_status"), None);
    }
    assert_eq!((silent.requests().len(), slow.requests().len()), (1, 1));
}

#[tokio::test]
async fn another_path_is_not_found_and_another_method_not_allowed() {
    let function = Function::start(&[]).await;
    for (method, path) in
        [("GET", "/api"), ("GET", "/api/call/"), ("GET", "/api/caller"), ("POST", "/other"), ("HEAD", "/index.html")]
    {
        let answer = Answer::from(function.request(method, path).send().await.unwrap()).await;
        assert_eq!(answer.status, 404, "{method} {path}");
        if method != "HEAD" {
            answer.is_problem(404, "not_found");
        }
    }
    for path in ["/", "/api/call", "/api/call?a=b"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = Answer::from(function.request(method, path).send().await.unwrap()).await;
            answer.is_problem(405, "method_not_allowed");
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
    }
    assert_eq!(function.stop().await, "");
}

#[tokio::test]
async fn without_certificate_authorities_loopback_works_and_https_says_what_is_missing() {
    let backend = Stub::good().await;
    let url = backend.url();
    let none = [("SSL_CERT_FILE", "/nowhere/ca.pem"), ("SSL_CERT_DIR", "/nowhere")];
    let plain = [&none[..], &[("BACKEND_URL", &*url)]].concat();
    assert_eq!(Function::start(&plain).await.call_with("a-token").await.status, 200);

    let secure = [&none[..], &[("BACKEND_URL", "https://127.0.0.1:1")]].concat();
    let detail = Function::start(&secure).await.call_with("a-token").await.is_problem(502, "backend_unreachable");
    assert!(detail.contains("`ca-certificates`") && detail.contains("`SSL_CERT_FILE`"), "{detail}");

    let exchange =
        [&plain[..], &[("BACKEND_AUDIENCE", "api"), ("OIDC_TOKEN_EXCHANGE_URL", "https://127.0.0.1:1")]].concat();
    let detail = Function::start(&exchange).await.call_with("a-token").await.is_problem(500, "token_unavailable");
    assert!(detail.contains("`ca-certificates`"), "{detail}");
}
