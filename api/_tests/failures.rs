//! Each failure with its status and code. The advice is tested in `advice.rs`, the time limits in `limits.rs`.

use std::future::ready;

use tokio::net::TcpListener;

use crate::stage::{Answer, Folder, Function, TOKEN, token};
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
        Function::start(&[("BACKEND_URL", " ")]).await.call_with(TOKEN).await.is_problem(500, "misconfigured");
    assert!(missing.contains("Set `BACKEND_URL`"), "{missing}");
    for (url, mistake) in [
        ("localhost:3001", "has no scheme"),
        ("api.example.com", "has no scheme"),
        ("//api.example.com", "has no scheme"),
        ("nonsense", "has no scheme"),
        ("http://api.example.com", "must be `https`"),
        ("http://192.168.0.1", "must be `https`"),
        ("http://127.evil.example", "must be `https`"),
        ("http://localhost.example", "must be `https`"),
        ("http://[::2]", "must be `https`"),
        ("ftp://127.0.0.1", "scheme that is not supported"),
        ("file:///etc/passwd", "scheme that is not supported"),
        ("http://127.0.0.1:3001\\n", "has a backslash"),
        ("\"https://api.example.com\"", "has quotes"),
        ("https://api.example.com /v1", "has white space"),
        ("https://", "is not a valid URL"),
        ("https://user@api.example.com", "has a user name or password"),
        ("https://user:password@api.example.com", "has a user name or password"),
        ("https://api.example.com/?a=b", "has a query"),
        ("https://api.example.com/#a", "has a fragment"),
    ] {
        let detail =
            Function::start(&[("BACKEND_URL", url)]).await.call_with(TOKEN).await.is_problem(500, "misconfigured");
        assert!(detail.starts_with("`BACKEND_URL` ") && detail.contains(mistake), "{url}: {detail}");
        assert!(!detail.contains("password@") && !detail.contains("example.com/"), "{url}: {detail}");
    }
    for host in ["https://shop.vercel.app", "shop.vercel.app/path", "user@shop.vercel.app", "a b"] {
        let detail =
            Function::start(&[("VERCEL_URL", host)]).await.call_with(TOKEN).await.is_problem(500, "misconfigured");
        assert!(detail.contains("`VERCEL_URL`"), "{host}: {detail}");
    }
}

#[tokio::test]
async fn every_misconfiguration_is_told_at_once_and_logged() {
    let function =
        Function::start(&[("BACKEND_URL", "nonsense"), ("OIDC_TOKEN_EXCHANGE_URL", "http://example.com")]).await;
    let detail = function.call_with(TOKEN).await.is_problem(500, "misconfigured");
    assert!(
        detail.contains("`BACKEND_URL` has no scheme") && detail.contains("`OIDC_TOKEN_EXCHANGE_URL` must be `https`"),
        "{detail}"
    );
    let printed = function.stop().await;
    assert!(printed.starts_with("Error: misconfigured: `BACKEND_URL`") && printed.lines().count() == 1, "{printed}");
}

#[tokio::test]
async fn any_other_status_is_the_backends_error() {
    for line in ["201 Created", "204 No Content", "304 Not Modified", "404 Not Found", "407 Proxy", "500 Oops"] {
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
        assert!(answer.is_problem(502, "backend_error").contains("is not the expected JSON"));
        assert_eq!(answer.json()["backend_status"], 200);
    }
}

#[tokio::test]
async fn an_incomplete_answer_is_the_backends_error() {
    let backend =
        Stub::start(|_, _| ready(Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}".to_vec()))).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with(TOKEN).await;
    assert!(answer.is_problem(502, "backend_error").contains("is incomplete ("));
    assert_eq!(answer.json()["backend_status"], 200);
}

#[tokio::test]
async fn a_backend_that_can_not_be_reached_is_told_from_one_that_errs() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let function = Function::start(&[("BACKEND_URL", &format!("http://{unused}/v1"))]).await;
    let answer = function.call_with(TOKEN).await;
    let detail = answer.is_problem(502, "backend_unreachable");
    assert!(detail.contains("connection refused") && detail.contains("`BACKEND_URL`"), "{detail}");
    assert_eq!(answer.json().get("backend_status"), None);
    // The address is in the log only.
    let printed = function.stop().await;
    let address = unused.to_string();
    assert!(printed.contains(&format!("url=`http://{address}/v1`")) && !answer.text.contains(&address), "{printed}");

    let rude = Stub::start(|_, _| ready(Reply::Close(Vec::new()))).await;
    let function = Function::start(&[("BACKEND_URL", &rude.url())]).await;
    let detail = function.call_with(TOKEN).await.is_problem(502, "backend_unreachable");
    assert!(detail.contains("it closed the connection"), "{detail}");
    assert_eq!(rude.requests().len(), 1);

    let other = Stub::always(b"220 mail.example ESMTP\r\n\r\n".to_vec()).await;
    let function = Function::start(&[("BACKEND_URL", &other.url())]).await;
    let answer = function.call_with(TOKEN).await;
    let detail = answer.is_problem(502, "backend_unreachable");
    assert!(detail.contains("not valid HTTP") && detail.contains("scheme and port"), "{detail}");
    assert!(!answer.text.contains("ESMTP") && !function.stop().await.contains("ESMTP"), "{detail}");
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
    assert_eq!(Function::start(&plain).await.call_with(TOKEN).await.status, 200);

    let secure = [&none[..], &[("BACKEND_URL", "https://127.0.0.1:1")]].concat();
    let detail = Function::start(&secure).await.call_with(TOKEN).await.is_problem(502, "backend_unreachable");
    assert!(detail.contains("`ca-certificates`") && detail.contains("`SSL_CERT_FILE`"), "{detail}");

    let exchange =
        [&plain[..], &[("BACKEND_AUDIENCE", "api"), ("OIDC_TOKEN_EXCHANGE_URL", "https://127.0.0.1:1")]].concat();
    let detail = Function::start(&exchange).await.call_with(TOKEN).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("`ca-certificates`"), "{detail}");
}

#[tokio::test]
async fn certificate_authorities_that_come_later_are_used() {
    let folder = Folder::new();
    let path = folder.path("ca.pem").to_str().unwrap().to_owned();
    let variables = [("SSL_CERT_FILE", &*path), ("SSL_CERT_DIR", "/nowhere"), ("BACKEND_URL", "https://127.0.0.1:1")];
    let function = Function::start(&variables).await;
    let detail = function.call_with(TOKEN).await.is_problem(502, "backend_unreachable");
    assert!(detail.contains("no certificate authorities"), "{detail}");
    folder.write("ca.pem", CERTIFICATE);
    let detail = function.call_with(TOKEN).await.is_problem(502, "backend_unreachable");
    assert!(detail.contains("connection refused"), "{detail}");
}

/// An authority without a key, made for this test.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIULdRqIreLgUXdQwdZTIcF25Lb3P8wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjkxMTI5NTdaGA8yMTI2MTEwNTExMjk1
N1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGMa
Hz84krcNhdtbuVwJnqmzaSprEhz8Z9FtkpmtwIwgc+o8I74KMLHQYbCmvKF7sa39
75T7DKRWU/ZjXYtOkpKjUzBRMB0GA1UdDgQWBBQLFvBPOu8PtmtuxYBe0n+TzV2o
kDAfBgNVHSMEGDAWgBQLFvBPOu8PtmtuxYBe0n+TzV2okDAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCIHS5d6hmLG3vfDOSTYLk7Mid/4TcWesAzyV7
8a5aYDTkAiBRBqEHpriNlq1wiGU4cIyB2dMCqY6YoVQznDXEP10oEQ==
-----END CERTIFICATE-----
";
