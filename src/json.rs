//! Reads a JSON object from a request's body, and answers `application/problem+json` if there is none.
//!
//! axum's own `Json` answers `text/plain`, and it takes `["book", 2]` for `{"item": "book", "quantity": 2}`: serde
//! fills a struct from an array, too.

use std::fmt;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use serde::de::{DeserializeOwned, IgnoredAny};
use vercel_oidc_verifier::Problem;

use crate::app::MAX_BODY_BYTES;

/// A request's body: a JSON object with the members of `T`. Other members are ignored.
///
/// ```
/// use backend::json::JsonObject;
///
/// #[derive(serde::Deserialize)]
/// struct NewOrder {
///     item: String,
/// }
///
/// async fn create_order(JsonObject(order): JsonObject<NewOrder>) -> String {
///     order.item
/// }
/// # let _: axum::routing::MethodRouter = axum::routing::post(create_order);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct JsonObject<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonObject<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "The body is not declared as JSON. Send it with `Content-Type: application/json`.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        // If the length is declared, there is no need to wait for the body.
        if declared_length(request.headers()).is_some_and(|length| length > MAX_BODY_BYTES as u64) {
            return Err(payload_too_large());
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => payload_too_large(),
            _ => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "incomplete_body",
                "The body did not arrive in full. Send it again, without pauses of 10 s or more.",
            ),
        })?;
        parse(&body).map(Self)
    }
}

/// The media type in `Content-Type`: `application/json`, or one that ends in `+json` (RFC 6839, section 3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.starts_with("application/") && media_type.ends_with("+json")
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn payload_too_large() -> Problem {
    let detail = "The body is too large. Send at most 64 KiB.";
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // Checks the whole syntax first, because a member of the wrong type must not hide that the rest is not JSON.
    let text = str::from_utf8(body).map_err(|error| invalid_json(&error))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| invalid_json(&error))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(invalid_body("The body is not a JSON object."));
    }
    // The syntax is valid, so every error is about the shape, even if a number is too large.
    serde_json::from_str(text).map_err(|error| invalid_body(&describe(&error)))
}

/// What is wrong with a member. serde's errors quote unexpected values, and the body may hold a secret. So only errors
/// that name a member of the expected type are repeated.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field `") || text.starts_with("duplicate field `") {
        return format!("The body has the wrong shape: {text}.");
    }
    format!("The body has the wrong shape: see line {}, column {}.", error.line(), error.column())
}

fn invalid_json(error: &dyn fmt::Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_json", format!("The body is not valid JSON: {error}."))
}

fn invalid_body(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", detail)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::Router;
    use axum::http::Request;
    use axum::routing::post;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{app, authorized, claims, send};

    #[derive(Deserialize)]
    struct Named {
        name: String,
        #[serde(default)]
        count: u8,
    }

    async fn answer(content_type: Option<&str>, body: impl Into<axum::body::Body>) -> (StatusCode, Value) {
        let name = post(|JsonObject(Named { name, count }): JsonObject<Named>| async move {
            assert_eq!(count, 0);
            axum::Json(name)
        });
        let mut request = authorized(Request::post("/"), &claims("production"));
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let (status, headers, body) = send(&app(Router::new().route("/", name)), request, body).await;
        if !status.is_success() {
            assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        }
        (status, body)
    }

    #[tokio::test]
    async fn takes_json_media_types_alone() {
        for good in ["application/json", "Application/JSON ; charset=utf-8", "application/vnd.acme+json"] {
            assert_eq!(answer(Some(good), r#"{"name":"a"}"#).await, (StatusCode::OK, json!("a")), "{good}");
        }
        for bad in [None, Some(""), Some("text/plain"), Some("text/json"), Some("application/jsonx"), Some("json")] {
            let (status, problem) = answer(bad, r#"{"name":"a"}"#).await;
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{bad:?}");
            assert_eq!(problem["code"], "unsupported_media_type");
        }
    }

    #[tokio::test]
    async fn tells_invalid_json_from_a_wrong_shape() {
        let invalid: [&[u8]; 12] = [
            b"",
            b"{",
            b"{\"name\":\"a\"",
            b"{\"name\":\"a\",}",
            b"{\"name\":\"a\"} {}",
            b"{'name':'a'}",
            b"\xef\xbb\xbf{\"name\":\"a\"}",
            b"{\"name\":\"\xff\"}",
            b"{\"name\":\"a\",\"x\":\"\xff\"}",
            b"{\"name\":1,",
            b"[1,",
            b"NaN",
        ];
        for body in invalid {
            let (status, problem) = answer(Some("application/json"), body).await;
            let shown = String::from_utf8_lossy(body);
            assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_json")), "{shown}");
        }
        for body in [
            "[]",
            "[\"a\"]",
            " [\"a\"]",
            "1",
            "null",
            "{}",
            "{\"name\":1}",
            "{\"Name\":\"a\"}",
            "{\"name\":\"\\ud800\"}",
            "{\"name\":1e999}",
            "{\"name\":\"a\",\"count\":1e999}",
        ] {
            let (status, problem) = answer(Some("application/json"), body).await;
            assert_eq!(
                (status, &problem["code"]),
                (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_body")),
                "{body}"
            );
        }
    }

    #[tokio::test]
    async fn takes_64_kib_and_no_more() {
        let body = |bytes: usize| format!("{{\"name\":\"a\"{}}}", " ".repeat(bytes - 12));
        assert_eq!(answer(Some("application/json"), body(64 * 1024)).await, (StatusCode::OK, json!("a")));
        let (status, problem) = answer(Some("application/json"), body(64 * 1024 + 1)).await;
        assert_eq!((status, &problem["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("payload_too_large")));
    }

    #[tokio::test]
    async fn refuses_a_declared_length_without_waiting_for_the_body() {
        let route = post(|_: JsonObject<Named>| async {});
        let request = authorized(Request::post("/"), &claims("production"))
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, "65537");
        let (status, _, problem) = send(&app(Router::new().route("/", route)), request, "").await;
        assert_eq!((status, &problem["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("payload_too_large")));
    }

    /// A client may send its token in the wrong place.
    #[tokio::test]
    async fn quotes_nothing_of_the_body() {
        for body in [
            r#"{"name":"","count":"secret"}"#,
            r#"{"name":["secret"]}"#,
            r#"{"secret":1}"#,
            r#"{"name":{"secret":1}}"#,
            "\"secret\"",
            "secret",
        ] {
            let (status, problem) = answer(Some("application/json"), body).await;
            assert!(status.is_client_error() && !problem.to_string().contains("secret"), "{body}: {problem}");
        }
        let (_, problem) = answer(Some("application/json"), "{}").await;
        assert!(problem["detail"].as_str().unwrap().contains("missing field `name`"), "{problem}");
    }
}
