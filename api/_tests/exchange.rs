//! One token per audience: how the exchange is asked, what is cached, and that one answer serves all who wait.

use std::future::ready;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::stage::{Function, TOKEN, jwt, shows, soon, token};
use crate::stub::{Reply, Stub, answer, header, ok};

const AUDIENCE: &str = "https://api.example.com";

async fn start(backend: &Stub, exchange: &str) -> Function {
    let url = backend.url();
    Function::start(&[("BACKEND_URL", &*url), ("BACKEND_AUDIENCE", AUDIENCE), ("OIDC_TOKEN_EXCHANGE_URL", exchange)])
        .await
}

/// A token that shows which exchange gave it.
fn numbered(number: usize) -> String {
    jwt(&format!(r#"{{"number": {number}}}"#))
}

fn expiry(seconds: i64) -> i64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

#[tokio::test]
async fn the_backend_gets_the_exchanged_token_and_never_the_first() {
    let [own, exchanged] = ["own", "exchanged"].map(|name| token(name, 3600));
    let exchange = Stub::always(ok(&json!({ "token": exchanged, "expiry": expiry(3600) }))).await;
    let backend = Stub::good().await;
    let function = start(&backend, &format!("{}/~token", exchange.url())).await;
    let answer = function.call_with(&own).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    let request = &exchange.requests()[0];
    assert!(request.starts_with("POST /~token HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(request, "content-type"), Some("application/json"));
    assert_eq!(header(request, "authorization"), None);
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body, json!({ "token": own, "aud": AUDIENCE }));
    let sent = &backend.requests()[0];
    assert_eq!(header(sent, "authorization"), Some(&*format!("Bearer {exchanged}")));
    assert!(!shows(sent, &own));
    let timing = answer.header("server-timing");
    let steps: Vec<_> = timing.split(", ").map(|step| step.split(';').next().unwrap()).collect();
    assert_eq!(steps, ["token", "exchange", "backend"]);
}

#[tokio::test]
async fn a_result_is_cached_per_token_until_it_expires() {
    let backend = Stub::good().await;
    // Each exchange gives another token, so that it shows which one was handed out.
    let exchange = |seconds: Option<i64>| {
        Stub::start(move |before, _| {
            ready(Reply::Keep(ok(&json!({ "token": numbered(before), "expiry": seconds.map(expiry) }))))
        })
    };
    for (seconds, expected) in [(Some(3600), 2), (Some(60), 2), (Some(0), 4), (Some(-3600), 4), (None, 4)] {
        let exchange = exchange(seconds).await;
        let function = start(&backend, &exchange.url()).await;
        for name in ["one", "one", "two", "one"] {
            assert_eq!(function.call_with(&jwt(&format!(r#"{{"name": "{name}"}}"#))).await.status, 200);
        }
        assert_eq!(exchange.requests().len(), expected, "{seconds:?}");
    }
    let first: Vec<_> =
        backend.requests()[..4].iter().map(|request| header(request, "authorization").unwrap().to_owned()).collect();
    assert_eq!(first, [0, 0, 1, 0].map(|number| format!("Bearer {}", numbered(number))));
}

#[tokio::test]
async fn a_thousand_results_are_cached_and_no_more() {
    let backend = Stub::good().await;
    // Each lasts longer than the one before, so that the first is the one to go.
    let exchange = Stub::start(|before, _| {
        let seconds = 3600 + 10 * i64::try_from(before).unwrap();
        ready(Reply::Keep(ok(&json!({ "token": numbered(0), "expiry": expiry(seconds) }))))
    })
    .await;
    let function = start(&backend, &exchange.url()).await;
    let call = async |number: usize| {
        assert_eq!(function.call_with(&numbered(number)).await.status, 200);
        exchange.requests().len()
    };
    for number in 0..1000 {
        assert_eq!(call(number).await, number + 1);
    }
    assert_eq!(call(0).await, 1000);
    assert_eq!(call(1000).await, 1001);
    assert_eq!(call(1000).await, 1001);
    assert_eq!(call(0).await, 1002);
}

#[tokio::test]
async fn an_answer_without_an_expiry_is_used_and_not_cached() {
    for body in [json!({ "token": numbered(0) }), json!({ "token": numbered(0), "expiry": "tomorrow" })] {
        let exchange = Stub::always(ok(&body)).await;
        let backend = Stub::good().await;
        let function = start(&backend, &exchange.url()).await;
        for _ in 0..2 {
            assert_eq!(function.call_with(TOKEN).await.status, 200);
        }
        assert_eq!(exchange.requests().len(), 2, "{body}");
    }
}

#[tokio::test]
async fn two_hundred_requests_at_once_make_one_exchange() {
    let exchange = Stub::always(ok(&json!({ "token": numbered(0), "expiry": expiry(3600) }))).await;
    let backend = Stub::good().await;
    let function = Arc::new(start(&backend, &exchange.url()).await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let function = Arc::clone(&function);
        calls.spawn(async move { function.call_with(TOKEN).await.status });
    }
    assert_eq!(soon(calls.join_all()).await, [200; 200]);
    assert_eq!(exchange.requests().len(), 1);
    assert_eq!(backend.requests().len(), 200);
}

#[tokio::test]
async fn an_abandoned_request_leaves_the_others_served() {
    let (asked, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&gate));
    let exchange = Stub::start(move |_, _| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            Reply::Keep(ok(&json!({ "token": numbered(0), "expiry": expiry(3600) })))
        }
    })
    .await;
    let backend = Stub::good().await;
    let function = start(&backend, &exchange.url()).await;
    let abandoned = tokio::spawn(function.request("GET", "/api/call").header("x-vercel-oidc-token", TOKEN).send());
    soon(asked.notified()).await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    gate.notify_one();
    assert_eq!(soon(function.call_with(TOKEN)).await.status, 200);
    assert_eq!(exchange.requests().len(), 1);
}

#[tokio::test]
async fn a_failed_exchange_is_an_error_that_shows_no_token() {
    let own = token("own", 3600);
    let echo = format!("{{\"error\": \"{own}\"}}");
    let elsewhere = Stub::good().await;
    let redirect = format!("location: {}/\r\n", elsewhere.url());
    let bad = vec![
        (answer("403 Forbidden", "", echo), "answered 403"),
        (answer("307 Temporary Redirect", &redirect, ""), "answered 307"),
        (answer("201 Created", "", json!({ "token": numbered(0) }).to_string()), "answered 201"),
        (answer("200 OK", "", "not json"), "is not a JSON object with a `token`"),
        (ok(&json!({ "expiry": 1 })), "is not a JSON object with a `token`"),
        (ok(&json!([numbered(0), expiry(3600)])), "is not a JSON object with a `token`"),
        (ok(&json!({ "token": "" })), "not usable: it is empty"),
        (ok(&json!({ "token": "not-a-jwt" })), "not usable: it does not have the form of a JWT"),
        (ok(&json!({ "token": format!("Bearer {}", numbered(0)) })), "not usable: it begins with `Bearer`"),
        (ok(&json!({ "token": format!("\"{}\"", numbered(0)) })), "not usable: it has quotes around it"),
        (ok(&json!({ "token": "x".repeat(1024 * 1024) })), "is larger than 1 MiB"),
        (answer("200 OK", "content-encoding: gzip\r\n", "{}"), "has `Content-Encoding: gzip`"),
    ];
    let replies: Vec<_> = bad.iter().map(|(bytes, _)| bytes.clone()).collect();
    let exchange = Stub::start(move |before, _| {
        let good = || ok(&json!({ "token": numbered(0), "expiry": expiry(3600) }));
        ready(Reply::Keep(replies.get(before).cloned().unwrap_or_else(good)))
    })
    .await;
    let backend = Stub::good().await;
    let function = start(&backend, &exchange.url()).await;
    // A failed exchange is not repeated at once, so each call has another token. The first is in the first answer.
    let others: Vec<_> = (1..bad.len()).map(|number| token(&format!("own {number}"), 3600)).collect();
    for (own, (_, expected)) in [&own].into_iter().chain(&others).zip(&bad) {
        let answer = function.call_with(own).await;
        let detail = answer.is_problem(500, "token_unavailable");
        assert!(detail.contains(expected), "{detail}");
        assert!(!shows(&answer.text, own));
    }
    assert_eq!((backend.requests().len(), elsewhere.requests().len()), (0, 0));
    assert_eq!(function.call_with(&token("another", 3600)).await.status, 200);
    let printed = function.stop().await;
    assert!(!shows(&printed, &own) && !others.iter().any(|other| shows(&printed, other)));
}

#[tokio::test]
async fn an_exchange_that_can_not_be_reached_is_named() {
    let backend = Stub::good().await;
    let closed = Stub::start(|_, _| ready(Reply::Close(Vec::new()))).await;
    let detail = start(&backend, &closed.url()).await.call_with(TOKEN).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("`OIDC_TOKEN_EXCHANGE_URL`"), "{detail}");
}

#[tokio::test]
async fn the_token_is_not_sent_to_an_exchange_in_the_clear() {
    let backend = Stub::good().await;
    for bad in ["http://oidc.example.com/~token", "ftp://127.0.0.1/", "nonsense", "https://user:password@example.com"] {
        let function = start(&backend, bad).await;
        let detail = function.call_with(TOKEN).await.is_problem(500, "misconfigured");
        assert!(detail.contains("`OIDC_TOKEN_EXCHANGE_URL`") && !detail.contains("password@"), "{detail}");
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn an_exchanged_token_that_the_backend_refuses_with_401_is_dropped() {
    for (line, exchanges) in [("401 Unauthorized", 2), ("403 Forbidden", 1), ("500 Oops", 1)] {
        let exchange = Stub::start(|before, _| {
            ready(Reply::Keep(ok(&json!({ "token": numbered(before), "expiry": expiry(3600) }))))
        })
        .await;
        let backend = Stub::start(move |before, _| {
            ready(Reply::Keep(if before == 0 { answer(line, "", "") } else { ok(&json!({})) }))
        })
        .await;
        let function = start(&backend, &exchange.url()).await;
        assert_ne!(function.call_with(TOKEN).await.status, 200);
        assert_eq!(function.call_with(TOKEN).await.status, 200);
        assert_eq!(exchange.requests().len(), exchanges, "{line}");
        let last = format!("Bearer {}", numbered(exchanges - 1));
        assert_eq!(header(&backend.requests()[1], "authorization"), Some(&*last));
    }
}

/// `/api/call` is open, so strangers must not drive the exchange.
#[tokio::test]
async fn a_failed_exchange_is_not_repeated_at_once() {
    let exchange = Stub::always(answer("403 Forbidden", "", "")).await;
    let backend = Stub::good().await;
    let function = start(&backend, &exchange.url()).await;
    let first = function.call_with(TOKEN).await.is_problem(500, "token_unavailable");
    assert!(first.contains("answered 403") && first.contains("`BACKEND_AUDIENCE`"), "{first}");
    for _ in 0..20 {
        assert_eq!(function.call_with(TOKEN).await.is_problem(500, "token_unavailable"), first);
    }
    // At most after 1 s, 2 s, 4 s and 8 s, on a slow machine.
    assert!(exchange.requests().len() < 5, "{}", exchange.requests().len());
    let asked = exchange.requests().len();
    function.call_with(&token("another", 3600)).await.is_problem(500, "token_unavailable");
    assert_eq!(exchange.requests().len(), asked + 1);
}

#[tokio::test]
async fn the_earlier_of_expiry_and_the_tokens_own_exp_counts() {
    let backend = Stub::good().await;
    for (own_exp, expiry_in, exchanges) in [(3600, 3600, 1), (0, 3600, 2), (3600, 0, 2)] {
        let exchanged = token("exchanged", own_exp);
        let exchange = Stub::always(ok(&json!({ "token": exchanged, "expiry": expiry(expiry_in) }))).await;
        let function = start(&backend, &exchange.url()).await;
        for _ in 0..2 {
            assert_eq!(function.call_with(TOKEN).await.status, 200);
        }
        assert_eq!(exchange.requests().len(), exchanges, "{own_exp} {expiry_in}");
    }
}

/// An exchanged token has the team's issuer, also if the project's issuer mode is *Global*.
#[tokio::test]
async fn the_advice_after_an_exchange_names_the_issuer() {
    let backend = Stub::always(answer("401 Unauthorized", "", r#"{"code": "invalid_token"}"#)).await;
    let exchange = Stub::always(ok(&json!({ "token": token("exchanged", 3600) }))).await;
    let detail = start(&backend, &exchange.url()).await.call_with(TOKEN).await.is_problem(502, "backend_refused");
    assert!(detail.contains("An exchanged token has the team's issuer."), "{detail}");
}
