//! A table: what the backend, or something in front of it, answers, and the advice that a person gets.

use serde_json::{Value, json};

use crate::stage::{Function, SUBJECT, shows, token};
use crate::stub::{Stub, answer};

const PROBLEM: &str = "content-type: application/problem+json\r\n";
const HTML: &str = "content-type: text/html\r\n";

#[tokio::test]
async fn the_advice_fits_the_situation() {
    let code = |code: &str| json!({ "code": code, "detail": "Foreign words." }).to_string();
    let text = |text: &str| text.to_owned();
    for (situation, status_line, headers, body, expected) in [
        (
            "a CDN strips `Authorization`",
            "401 Unauthorized",
            PROBLEM,
            code("missing_token"),
            (502, "backend_refused", "removed the `Authorization` header"),
        ),
        (
            "a proxy adds a second `Authorization`",
            "400 Bad Request",
            PROBLEM,
            code("invalid_request"),
            (502, "backend_refused", "a proxy that adds or changes the header"),
        ),
        (
            "another issuer, another audience, or an expired token",
            "401 Unauthorized",
            PROBLEM,
            code("invalid_token"),
            (502, "backend_refused", "Compare the token's issuer, audience and expiry"),
        ),
        (
            "another project or environment",
            "403 Forbidden",
            PROBLEM,
            code("forbidden"),
            (502, "backend_refused", "Compare the token's subject (project and environment)"),
        ),
        (
            "a code of the backend's own",
            "403 Forbidden",
            PROBLEM,
            code("quota:used-up"),
            (502, "backend_refused", "`quota:used-up`. Look up this code"),
        ),
        (
            "a framework that answers without JSON",
            "401 Unauthorized",
            "www-authenticate: Bearer error=\"invalid_token\", error_description=\"Foreign\"\r\n",
            text(""),
            (502, "backend_refused", "401 `invalid_token`. Compare the token's issuer, audience and expiry"),
        ),
        (
            "a framework that answers without JSON, to another project",
            "403 Forbidden",
            "www-authenticate: Bearer realm=\"a, b\", error=insufficient_scope\r\n",
            text("<html>"),
            (502, "backend_refused", "Compare the token's subject"),
        ),
        (
            "a framework that saw no token",
            "401 Unauthorized",
            "www-authenticate: Basic realm=\"a\"\r\nwww-authenticate: bearer\r\n",
            text("<html>"),
            (502, "backend_refused", "maybe no token arrived. Check that nothing removes `Authorization`"),
        ),
        (
            "Deployment Protection without a sign-in page",
            "401 Unauthorized",
            HTML,
            text("<html>"),
            (502, "backend_refused", "Deployment Protection"),
        ),
        ("a firewall", "403 Forbidden", HTML, text("<html>"), (502, "backend_refused", "firewalls and proxies")),
        (
            "a proxy's 400",
            "400 Bad Request",
            HTML,
            text("<html>"),
            (502, "backend_refused", "proxy in front of the API"),
        ),
        (
            "a refusal that a proxy compressed",
            "401 Unauthorized",
            "content-type: application/problem+json\r\ncontent-encoding: gzip\r\n",
            text("\u{1f}"),
            (502, "backend_refused", "`Content-Encoding: gzip`"),
        ),
        (
            "Deployment Protection with a sign-in page",
            "302 Found",
            "location: https://vercel.com/sso-api?url=https%3A%2F%2Fshop.vercel.app\r\n",
            text(""),
            (502, "backend_error", "Deployment Protection"),
        ),
        (
            "a sign-in on the same host",
            "307 Temporary Redirect",
            "location: /login?next=/\r\n",
            text(""),
            (502, "backend_error", "Deployment Protection"),
        ),
        (
            "a missing slash",
            "308 Permanent Redirect",
            "location: /v1/\r\n",
            text(""),
            (502, "backend_error", "trailing slash"),
        ),
        (
            "a wrong path",
            "404 Not Found",
            HTML,
            text("<html>"),
            (502, "backend_error", "Check the base URL and the path. The base URL is `BACKEND_URL`."),
        ),
        ("a crash", "500 Oops", HTML, text("<html>"), (502, "backend_error", "Check the API's log")),
        (
            "a handler of the backend that takes too long",
            "504 Gateway Timeout",
            PROBLEM,
            code("timeout"),
            (502, "backend_error", "answered 504 `timeout`. Check the API's log."),
        ),
        (
            "a gateway without its backend",
            "502 Bad Gateway",
            HTML,
            text(""),
            (502, "backend_error", "A gateway in front"),
        ),
        (
            "keys that can't be fetched",
            "503 Busy",
            PROBLEM,
            code("keys_unavailable"),
            (503, "backend_unavailable", "can't fetch the keys that verify tokens"),
        ),
        ("an overload", "503 Busy", HTML, text(""), (503, "backend_unavailable", "temporarily unavailable")),
        ("a rate limit", "429 Too Many", HTML, text(""), (503, "backend_unavailable", "limits the rate of requests")),
        (
            "an answer that a proxy compressed",
            "200 OK",
            "content-encoding: BR\r\n",
            text("{}"),
            (502, "backend_error", "`Content-Encoding: br`"),
        ),
        (
            "an encoding that is not known",
            "200 OK",
            "content-encoding: foreign\r\n",
            text("{}"),
            (502, "backend_error", "`Content-Encoding: (unknown)`"),
        ),
        (
            "a page in place of the API",
            "200 OK",
            HTML,
            text("<html>"),
            (502, "backend_error", "Check the base URL and the path. The base URL is `BACKEND_URL`."),
        ),
    ] {
        let backend = Stub::always(answer(status_line, headers, body)).await;
        let token = token("secret", 3600);
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with(&token).await;
        let (status, code, advice) = expected;
        let detail = answer.is_problem(status, code);
        assert!(detail.contains(advice), "{situation}: {detail}");
        assert_eq!(answer.json()["backend_status"], status_line[..3].parse::<u16>().unwrap(), "{situation}");
        // The operator's log has the same advice, and the other end's text is shown nowhere.
        let printed = function.stop().await;
        assert!(printed.starts_with(&format!("Error: {code}: {detail}")), "{situation}: {printed}");
        for shown in [&answer.text, &printed] {
            assert!(!shown.contains("Foreign") && !shown.contains("foreign") && !shows(shown, &token), "{shown}");
            assert!(!shown.contains("sso-api") && !shown.contains("next="), "{shown}");
        }
        // What the operator compares is in the log only.
        assert!(!answer.text.contains(SUBJECT), "{situation}");
        assert_eq!(printed.contains(SUBJECT), code == "backend_refused", "{situation}: {printed}");
    }
}

/// The caller opens Deployment Protection at Vercel's hosts only.
#[tokio::test]
async fn the_advice_for_deployment_protection_works_at_that_host() {
    let backend = Stub::always(answer("401 Unauthorized", HTML, "<html>")).await;
    let host = format!("127.0.0.1:{}", backend.port);
    for (variables, advice) in [
        (
            &[("BACKEND_URL", &*backend.url())][..],
            "at its `.vercel.app` URL. Else check firewalls and proxies. The base",
        ),
        (&[("VERCEL_URL", &*host)], "this project must be a trusted source"),
    ] {
        let answer = Function::start(variables).await.call_with(&token("a", 3600)).await;
        let detail = answer.is_problem(502, "backend_refused");
        assert!(detail.contains("Deployment Protection") && detail.contains(advice), "{detail}");
        assert!(detail.ends_with(" The base URL is `BACKEND_URL`."), "{detail}");
    }
}

#[tokio::test]
async fn the_error_of_a_bearer_challenge_is_the_code_if_the_body_has_none() {
    let challenge = "www-authenticate: Bearer error=\"invalid_token\"\r\n";
    for (line, headers, body, expected) in [
        ("401 Unauthorized", challenge, "", Some(json!("invalid_token"))),
        ("403 Forbidden", challenge, "{}", Some(json!("invalid_token"))),
        ("401 Unauthorized", challenge, r#"{"code": "mine"}"#, Some(json!("mine"))),
        ("401 Unauthorized", challenge, r#"{"code": 7}"#, Some(json!("invalid_token"))),
        ("401 Unauthorized", "www-authenticate: Bearer error=\"two words\"\r\n", "", Some(Value::Null)),
        ("401 Unauthorized", "www-authenticate: DPoP error=\"x\"\r\n", "", Some(Value::Null)),
        ("500 Oops", challenge, "", None),
    ] {
        let backend = Stub::always(answer(line, headers, body)).await;
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with(&token("a", 3600)).await;
        assert_eq!(answer.json().get("backend_code").cloned(), expected, "{line} {headers} {body}");
    }
    // A challenge that repeats the token is not shown.
    let secret = token("secret", 3600);
    let signature = secret.rsplit('.').next().unwrap();
    let headers = format!("www-authenticate: Bearer error=\"{}\"\r\n", &signature[..40]);
    let backend = Stub::always(answer("401 Unauthorized", &headers, "")).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let answer = function.call_with(&secret).await;
    assert!(answer.json()["backend_code"].is_null() && !answer.text.contains(&signature[..40]), "{answer:?}");
    assert!(!function.stop().await.contains(&signature[..40]));
}

#[tokio::test]
async fn retry_after_is_passed_on_if_it_is_a_number_or_an_http_date() {
    for (value, expected) in [
        ("30", "30"),
        ("0", "0"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("soon", ""),
        ("-1", ""),
        ("+1", ""),
        ("1.5", ""),
        ("30, 60", ""),
        ("99999999999999999999999", ""),
        ("2026-11-27T00:00:00Z", ""),
        ("Sun, 06 Nov 1994 08:49:37 GMT; secret", ""),
    ] {
        for line in ["503 Busy", "429 Too Many"] {
            let backend = Stub::always(answer(line, &format!("retry-after: {value}\r\n"), "")).await;
            let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
            let answer = function.call_with(&token("a", 3600)).await;
            answer.is_problem(503, "backend_unavailable");
            assert_eq!(answer.header("retry-after"), expected, "{value}");
            assert_eq!(answer.json().get("backend_code"), Some(&Value::Null));
        }
    }
    let backend = Stub::always(answer("500 Oops", "retry-after: 30\r\n", "")).await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    assert_eq!(function.call_with(&token("a", 3600)).await.header("retry-after"), "");
}

#[tokio::test]
async fn a_backend_code_is_passed_on_if_it_is_short_and_plain_and_no_part_of_the_token() {
    let secret = token("secret", 3600);
    let signature = secret.rsplit('.').next().unwrap();
    let (longest, longer) = ("x".repeat(64), "x".repeat(65));
    for (code, shown) in [
        ("forbidden", true),
        ("a-Z_0.9:x", true),
        (&*longest, true),
        (&*longer, false),
        ("", false),
        ("two words", false),
        ("a/b", false),
        ("<b>", false),
        ("é", false),
        (&*secret, false),
        (signature, false),
        (&signature[4..24], false),
    ] {
        for line in ["400 Bad", "401 Unauthorized", "403 Forbidden", "503 Busy", "429 Too Many", "500 Oops", "404 None"]
        {
            let backend = Stub::always(answer(line, PROBLEM, json!({ "code": code }).to_string())).await;
            let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
            let answer = function.call_with(&secret).await;
            let expected = if shown { json!(code) } else { Value::Null };
            assert_eq!(answer.json()["backend_code"], expected, "{line}");
            for text in [format!("{answer:?}"), function.stop().await] {
                assert!(!text.contains(&signature[4..24]) && !shows(&text, &secret), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_code_is_read_from_json_objects_only_and_for_other_errors_from_problem_json_only() {
    for (line, headers, body, expected) in [
        ("401 Unauthorized", "", r#"{"code": "x"}"#, Some(json!("x"))),
        ("401 Unauthorized", "", r#"["x", "y"]"#, Some(Value::Null)),
        ("401 Unauthorized", "", r#"{"code": 7}"#, Some(Value::Null)),
        ("401 Unauthorized", "", r#"{"code": {"$serde_json::private::RawValue": "\"x\""}}"#, Some(Value::Null)),
        ("401 Unauthorized", "", "", Some(Value::Null)),
        ("401 Unauthorized", "", "no", Some(Value::Null)),
        ("503 Busy", "", r#"{"code": "x"}"#, Some(json!("x"))),
        ("503 Busy", "", "", Some(Value::Null)),
        ("500 Oops", "content-type: application/problem+json; charset=utf-8\r\n", r#"{"code": "x"}"#, Some(json!("x"))),
        ("500 Oops", "content-type: application/json\r\n", r#"{"code": "x"}"#, None),
        ("500 Oops", PROBLEM, "{}", None),
        ("500 Oops", PROBLEM, r#"["x"]"#, None),
    ] {
        let backend = Stub::always(answer(line, headers, body)).await;
        let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
        let answer = function.call_with(&token("a", 3600)).await;
        assert_eq!(answer.json().get("backend_code").cloned(), expected, "{line} {body}");
    }
}
