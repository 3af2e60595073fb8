//! The call: what reaches the backend, what comes back, how connections are used, and the page.

use std::future::ready;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::Notify;

use crate::stage::{Answer, BEARER, Function, TOKEN, shows, soon, token};
use crate::stub::{Reply, Stub, answer, header, ok};

const MAX: usize = 1024 * 1024;

#[tokio::test]
async fn the_backends_json_comes_back_with_the_time_of_each_step() {
    let backend =
        Stub::always(answer("200 OK", "server-timing: verify;dur=0.21\r\n", r#"{"b": 1, "a": [null]}"#)).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with(&token("a", 3600)).await;
    assert_eq!((answer.status, &*answer.text), (200, r#"{"b": 1, "a": [null]}"#));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let timing = answer.header("server-timing");
    let [token, backend, verify] = timing.split(", ").collect::<Vec<_>>()[..] else { panic!("{timing}") };
    let number = token.strip_prefix("token;dur=").and_then(|rest| rest.strip_suffix(";desc=x-vercel-oidc-token"));
    for number in [number, backend.strip_prefix("backend;dur=")] {
        let milliseconds: f64 = number.unwrap().parse().unwrap();
        assert!((0.0..10_000.0).contains(&milliseconds), "{timing}");
    }
    assert_eq!(verify, "verify;dur=0.21");
}

#[tokio::test]
async fn of_the_backends_timing_only_verify_and_a_number_is_passed_on() {
    let secret = token("a", 3600);
    let signature = secret.rsplit('.').next().unwrap();
    for (theirs, expected) in [
        ("server-timing: verify;dur=2;desc=\"a\"\r\n".to_owned(), Some("verify;dur=2")),
        (
            "server-timing: token;dur=9, Backend;dur=1, exchange, db;dur=3, verify;dur=4\r\n".to_owned(),
            Some("verify;dur=4"),
        ),
        ("server-timing: db;dur=1\r\nserver-timing: verify;dur=5\r\n".to_owned(), Some("verify;dur=5")),
        ("server-timing: token;dur=9, db;dur=1\r\n".to_owned(), None),
        ("server-timing: verify;dur=soon\r\n".to_owned(), None),
        ("server-timing: verify;dur=inf\r\n".to_owned(), None),
        (format!("server-timing: verify;dur={signature}\r\n"), None),
        (format!("server-timing: {signature};dur=1\r\n"), None),
    ] {
        let backend = Stub::always(answer("200 OK", &theirs, "{}")).await;
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with(&secret).await;
        let timing = answer.header("server-timing");
        let steps: Vec<_> = timing.split(", ").collect();
        assert_eq!((steps.len(), steps.get(2).copied()), (2 + usize::from(expected.is_some()), expected), "{timing}");
        assert!(!shows(timing, &secret));
    }
}

#[tokio::test]
async fn the_base_url_is_called_as_written() {
    let backend = Stub::good().await;
    let host = format!("127.0.0.1:{}", backend.port);
    for (base, expected) in [
        ("", "/"),
        ("/", "/"),
        ("/v1", "/v1"),
        ("/v1/", "/v1/"),
        ("/items/", "/items/"),
        ("/a/b//", "/a/b//"),
        ("/a%20b", "/a%20b"),
    ] {
        let url = format!("http://{host}{base}");
        let function = Function::start(&[("BACKEND_URL", &url), ("VERCEL_URL", "elsewhere.vercel.app")]).await;
        assert_eq!(function.call_with(TOKEN).await.status, 200);
        let request = backend.requests().pop().unwrap();
        assert!(request.starts_with(&format!("GET {expected} HTTP/1.1\r\n")), "{request}");
        assert_eq!(header(&request, "host"), Some(&*host));
        assert_eq!(header(&request, "authorization"), Some(BEARER));
        assert_eq!(header(&request, "x-vercel-trusted-oidc-idp-token"), None);
        assert_eq!(header(&request, "accept"), Some("application/json"));
    }
}

#[tokio::test]
async fn the_call_and_the_exchange_name_their_program_and_ask_for_no_compression() {
    let (backend, exchange) = (Stub::good().await, Stub::always(ok(&json!({ "token": TOKEN }))).await);
    let variables =
        [("BACKEND_URL", &*backend.url()), ("BACKEND_AUDIENCE", "api"), ("OIDC_TOKEN_EXCHANGE_URL", &*exchange.url())];
    assert_eq!(Function::start(&variables).await.call_with(TOKEN).await.status, 200);
    for request in [&backend.requests()[0], &exchange.requests()[0]] {
        assert!(header(request, "user-agent").unwrap().starts_with("vercel-oidc-client/"), "{request}");
        assert_eq!(header(request, "accept-encoding"), Some("identity"));
    }
}

#[tokio::test]
async fn without_a_backend_url_the_backend_is_in_the_same_deployment() {
    let backend = Stub::good().await;
    for host in ["127.0.0.1", "localhost"] {
        let host = format!("{host}:{}", backend.port);
        let function = Function::start(&[("VERCEL_URL", &host), ("BACKEND_URL", " ")]).await;
        assert_eq!(function.call_with(TOKEN).await.status, 200);
        let request = backend.requests().pop().unwrap();
        assert!(request.starts_with("GET /backend HTTP/1.1\r\n"), "{request}");
        // Deployment Protection reads the same token from its own header.
        assert_eq!(header(&request, "x-vercel-trusted-oidc-idp-token"), Some(TOKEN));
        assert_eq!(header(&request, "authorization"), Some(BEARER));
    }
}

#[tokio::test]
async fn trace_headers_are_passed_on_and_nothing_else() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("x-vercel-oidc-token", TOKEN),
        ("traceparent", trace),
        ("tracestate", "vendor=a"),
        ("x-vercel-id", "fra1::abc"),
        ("cookie", "session=1"),
        ("authorization", "Bearer other"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    assert_eq!(function.call(&headers).await.status, 200);
    let request = backend.requests().pop().unwrap();
    assert_eq!(header(&request, "traceparent"), Some(trace));
    assert_eq!(header(&request, "tracestate"), Some("vendor=a"));
    assert_eq!(header(&request, "x-vercel-id"), Some("fra1::abc"));
    assert_eq!(header(&request, "authorization"), Some(BEARER));
    for name in ["cookie", "x-forwarded-for", "x-vercel-oidc-token"] {
        assert_eq!(header(&request, name), None, "{name}");
    }
    assert_eq!(request.to_lowercase().matches("authorization:").count(), 1);
    // A state belongs to a trace.
    assert_eq!(function.call(&[("x-vercel-oidc-token", TOKEN), ("tracestate", "vendor=a")]).await.status, 200);
    assert_eq!(header(&backend.requests().pop().unwrap(), "tracestate"), None);
}

#[tokio::test]
async fn one_connection_serves_many_calls() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    for _ in 0..5 {
        assert_eq!(function.call_with(TOKEN).await.status, 200);
    }
    assert_eq!((backend.connections(), backend.requests().len()), (1, 5));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    // The first answer promises to keep the connection, and then closes it.
    let backend = Stub::start(|before, _| {
        let bytes = ok(&json!({ "number": before }));
        ready(if before == 0 { Reply::Close(bytes) } else { Reply::Keep(bytes) })
    })
    .await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    for number in 0..3 {
        let answer = function.call_with(TOKEN).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "number": number })));
    }
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_not_sent_again() {
    // The second request, on the kept connection, is read and not answered.
    let backend = Stub::start(|before, _| {
        ready(if before == 1 { Reply::Close(Vec::new()) } else { Reply::Keep(ok(&json!({}))) })
    })
    .await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    assert_eq!(function.call_with(TOKEN).await.status, 200);
    function.call_with(TOKEN).await.is_problem(502, "backend_unreachable");
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn the_token_goes_to_no_other_origin() {
    let elsewhere = Stub::good().await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let backend = Stub::always(answer(status, &format!("location: {}/\r\n", elsewhere.url()), "")).await;
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with(TOKEN).await;
        answer.is_problem(502, "backend_error");
        assert_eq!(answer.json()["backend_status"], status[..3].parse::<u16>().unwrap());
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn loopback_never_goes_through_a_proxy() {
    let (backend, proxy) = (Stub::good().await, Stub::good().await);
    let (url, through) = (backend.url(), proxy.url());
    let mut variables = vec![("BACKEND_URL", &*url)];
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
    variables.extend(names.map(|name| (name, &*through)));
    assert_eq!(Function::start(&variables).await.call_with(TOKEN).await.status, 200);
    assert_eq!((backend.requests().len(), proxy.requests().len()), (1, 0));
}

#[tokio::test]
async fn https_goes_through_the_proxy_that_the_environment_names() {
    let proxy = Stub::always(answer("502 Bad Gateway", "", "")).await;
    let through = proxy.url();
    let url = ("BACKEND_URL", "https://api.example.com:8443/v1");
    let detail = Function::start(&[url, ("HTTPS_PROXY", &through)]).await.call_with(TOKEN).await;
    assert!(detail.is_problem(502, "backend_unreachable").contains("the proxy did not connect"), "{detail:?}");
    let request = &proxy.requests()[0];
    assert!(request.starts_with("CONNECT api.example.com:8443 HTTP/1.1\r\n"), "{request}");
    assert!(!shows(request, TOKEN));
    // Nothing listens on port 1, so that no request leaves this machine.
    let direct = [("BACKEND_URL", "https://127.0.0.1:1"), ("HTTPS_PROXY", &*through)];
    Function::start(&direct).await.call_with(TOKEN).await.is_problem(502, "backend_unreachable");
    let exempt = [url, ("HTTPS_PROXY", &*through), ("NO_PROXY", "api.example.com")];
    // Whether the name resolves or not: the proxy is not asked.
    Function::start(&exempt).await.call_with(TOKEN).await;
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_may_have_a_mebibyte_and_no_more() {
    let chunked = |body: String| {
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    for (length, good) in [(MAX, true), (MAX + 1, false)] {
        let body = format!("\"{}\"", "x".repeat(length - 2));
        for bytes in [answer("200 OK", "", &body), chunked(body.clone()).into_bytes()] {
            let backend = Stub::always(bytes).await;
            let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
            let answer = function.call_with(TOKEN).await;
            if good {
                assert_eq!((answer.status, answer.text.len()), (200, length));
            } else {
                assert!(answer.is_problem(502, "backend_error").contains("larger than 1048576 bytes"));
                assert_eq!(answer.json()["backend_status"], 200);
            }
        }
    }
}

#[tokio::test]
async fn calls_do_not_wait_for_each_other() {
    let (asked, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&gate));
    let backend = Stub::start(move |before, _| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            if before == 0 {
                tell.notify_one();
                wait.notified().await;
            }
            Reply::Keep(ok(&json!({ "number": before })))
        }
    })
    .await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let first = tokio::spawn(function.request("GET", "/api/call").header("x-vercel-oidc-token", TOKEN).send());
    soon(asked.notified()).await;
    assert_eq!(soon(function.call_with(TOKEN)).await.status, 200);
    gate.notify_one();
    assert_eq!(soon(first).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn the_page_needs_no_settings() {
    let function = Function::start(&[]).await;
    for path in ["/", "/?a=b"] {
        let page = Answer::from(function.request("GET", path).send().await.unwrap()).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert_eq!(page.text, include_str!("../_app/page.html"));
    }
}

#[tokio::test]
async fn head_gets_the_head_of_what_get_gets_and_a_query_changes_nothing() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    for path in ["/", "/api/call", "/api/call?a=b"] {
        let [get, head] =
            ["GET", "HEAD"].map(|method| function.request(method, path).header("x-vercel-oidc-token", TOKEN).send());
        let (get, head) = (Answer::from(get.await.unwrap()).await, Answer::from(head.await.unwrap()).await);
        assert_eq!((get.status, head.status, &*head.text), (200, 200, ""));
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(get.header(name), head.header(name), "{path} {name}");
        }
    }
}
