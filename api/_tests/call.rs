//! The call: what reaches the backend, what comes back, how connections are used, and the page.

use std::future::ready;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::Notify;

use crate::stage::{Answer, Function, soon, token};
use crate::stub::{Reply, Stub, answer, header, ok};

const MAX: usize = 1024 * 1024;

#[tokio::test]
async fn the_backends_json_comes_back_with_its_timing() {
    let timing = "server-timing: verify;dur=0.21;desc=\"RS256, cached\"\r\n";
    let backend = Stub::always(answer("200 OK", timing, r#"{"b": 1, "a": [null]}"#)).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with(&token("a", 3600)).await;
    assert_eq!((answer.status, &*answer.text), (200, r#"{"b": 1, "a": [null]}"#));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let timing = answer.header("server-timing");
    let (token, rest) = timing.split_once(", ").unwrap();
    let (backend, carried) = rest.split_once(", ").unwrap();
    for (step, name) in [(token, "token;dur="), (backend, "backend;dur=")] {
        let milliseconds: f64 = step.strip_prefix(name).unwrap().parse().unwrap();
        assert!((0.0..10_000.0).contains(&milliseconds), "{timing}");
    }
    assert_eq!(carried, "verify;dur=0.21;desc=\"RS256, cached\"");
}

#[tokio::test]
async fn timing_entries_that_are_broken_or_long_or_hold_the_token_are_dropped() {
    let token = token("a", 3600);
    let signature = token.rsplit('.').next().unwrap();
    let headers = format!(
        "server-timing: open;desc=\"\r\nserver-timing: good;dur=1\r\nserver-timing: leak;desc={signature}\r\nserver-timing: {}\r\n",
        "x".repeat(2000)
    );
    let backend = Stub::always(answer("200 OK", &headers, "{}")).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with(&token).await;
    let timing = answer.header("server-timing");
    assert!(timing.ends_with(", good;dur=1") && timing.split(", ").count() == 3, "{timing}");
}

#[tokio::test]
async fn a_timing_entry_of_the_backends_does_not_pass_for_one_of_the_callers() {
    let headers = "server-timing: token;dur=9, Backend;dur=1,exchange, verify;dur=2;desc=\"a, token\", tokens;dur=3\r\n\
         server-timing: backend\t;dur=7, \"token\";dur=5, =;;;, to ken;dur=6, spaced ;dur=4\r\n";
    let backend = Stub::always(answer("200 OK", headers, "{}")).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with("a-token").await;
    let timing = answer.header("server-timing");
    assert!(timing.ends_with(", verify;dur=2;desc=\"a, token\", tokens;dur=3, spaced ;dur=4"), "{timing}");
    for step in ["token;", "backend;"] {
        assert_eq!(timing.to_lowercase().matches(step).count(), 1, "{timing}");
    }
    assert!(!timing.contains("exchange"), "{timing}");
}

#[tokio::test]
async fn the_base_url_is_called_less_the_slashes_at_its_end() {
    let backend = Stub::good().await;
    let host = format!("127.0.0.1:{}", backend.port);
    for (base, expected) in
        [("", "/"), ("/", "/"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/a/b//", "/a/b"), ("/a%20b", "/a%20b")]
    {
        let url = format!("http://{host}{base}");
        let function = Function::start(&[("BACKEND_URL", &url), ("VERCEL_URL", "elsewhere.vercel.app")]).await;
        assert_eq!(function.call_with("a-token").await.status, 200);
        let request = backend.requests().pop().unwrap();
        assert!(request.starts_with(&format!("GET {expected} HTTP/1.1\r\n")), "{request}");
        assert_eq!(header(&request, "host"), Some(&*host));
        assert_eq!(header(&request, "authorization"), Some("Bearer a-token"));
        assert_eq!(header(&request, "x-vercel-trusted-oidc-idp-token"), None);
        assert_eq!(header(&request, "accept"), Some("application/json"));
    }
}

#[tokio::test]
async fn without_a_backend_url_the_backend_is_in_the_same_deployment() {
    let backend = Stub::good().await;
    for host in ["127.0.0.1", "localhost"] {
        let host = format!("{host}:{}", backend.port);
        let function = Function::start(&[("VERCEL_URL", &host), ("BACKEND_URL", " ")]).await;
        assert_eq!(function.call_with("a-token").await.status, 200);
        let request = backend.requests().pop().unwrap();
        assert!(request.starts_with("GET /backend HTTP/1.1\r\n"), "{request}");
        // The way through Deployment Protection: the very token of the other header.
        assert_eq!(header(&request, "x-vercel-trusted-oidc-idp-token"), Some("a-token"));
        assert_eq!(header(&request, "authorization"), Some("Bearer a-token"));
    }
}

#[tokio::test]
async fn what_ties_traces_together_is_passed_on_and_nothing_else() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("x-vercel-oidc-token", "a-token"),
        ("traceparent", trace),
        ("x-vercel-id", "fra1::abc"),
        ("cookie", "session=1"),
        ("authorization", "Bearer other"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    assert_eq!(function.call(&headers).await.status, 200);
    let request = backend.requests().pop().unwrap();
    assert_eq!(header(&request, "traceparent"), Some(trace));
    assert_eq!(header(&request, "x-vercel-id"), Some("fra1::abc"));
    assert_eq!(header(&request, "authorization"), Some("Bearer a-token"));
    for name in ["cookie", "x-forwarded-for", "x-vercel-oidc-token", "user-agent"] {
        assert_eq!(header(&request, name), None, "{name}");
    }
    assert_eq!(request.to_lowercase().matches("authorization:").count(), 1);
}

#[tokio::test]
async fn one_connection_serves_many_calls() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    for _ in 0..5 {
        assert_eq!(function.call_with("a-token").await.status, 200);
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
        let answer = function.call_with("a-token").await;
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
    assert_eq!(function.call_with("a-token").await.status, 200);
    function.call_with("a-token").await.is_problem(502, "backend_unreachable");
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn the_token_goes_to_no_other_origin() {
    let elsewhere = Stub::good().await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let backend = Stub::always(answer(status, &format!("location: {}/\r\n", elsewhere.url()), "")).await;
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with("a-token").await;
        answer.is_problem(502, "backend_error");
        assert_eq!(answer.json()["backend_status"], status[..3].parse::<u16>().unwrap());
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn no_proxy_gets_to_see_the_token() {
    let (backend, proxy) = (Stub::good().await, Stub::good().await);
    let (url, through) = (backend.url(), proxy.url());
    let mut variables = vec![("BACKEND_URL", &*url)];
    variables.extend(["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"].map(|name| (name, &*through)));
    assert_eq!(Function::start(&variables).await.call_with("a-token").await.status, 200);
    assert_eq!((backend.requests().len(), proxy.requests().len()), (1, 0));
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
            let answer = function.call_with("a-token").await;
            if good {
                assert_eq!((answer.status, answer.text.len()), (200, length));
            } else {
                assert!(answer.is_problem(502, "backend_error").contains("1048576 bytes"));
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
    let first = tokio::spawn(function.request("GET", "/api/call").header("x-vercel-oidc-token", "a-token").send());
    soon(asked.notified()).await;
    assert_eq!(soon(function.call_with("a-token")).await.status, 200);
    gate.notify_one();
    assert_eq!(soon(first).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn the_page_needs_no_settings_and_links_to_the_call() {
    let function = Function::start(&[]).await;
    for path in ["/", "/?a=b"] {
        let page = Answer::from(function.request("GET", path).send().await.unwrap()).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.text.starts_with("<!doctype html>") && page.text.contains("href=\"/api/call\""));
    }
}

#[tokio::test]
async fn head_gets_the_head_of_what_get_gets_and_a_query_changes_nothing() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    for path in ["/", "/api/call", "/api/call?a=b"] {
        let [get, head] = ["GET", "HEAD"]
            .map(|method| function.request(method, path).header("x-vercel-oidc-token", "a-token").send());
        let (get, head) = (Answer::from(get.await.unwrap()).await, Answer::from(head.await.unwrap()).await);
        assert_eq!((get.status, head.status, &*head.text), (200, 200, ""));
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(get.header(name), head.header(name), "{path} {name}");
        }
    }
}
