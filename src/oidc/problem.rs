//! Errors as `application/problem+json` (RFC 9457).
//!
//! A problem has a stable `code` for programs and a `detail` for people. It may have a second detail for the operator's
//! log, which the client never sees.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An error for the client. The response carries it in its extensions, for a layer that logs.
#[derive(Clone, Debug)]
pub struct Problem(
    // Boxed, so that a handler's `Result` stays small.
    Box<Parts>,
);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    log_detail: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: Option<&'static str>,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    /// Makes a problem. Clients compare the code, so it should stay stable; the detail says what is wrong and what to
    /// do.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { status, code, detail: detail.into(), log_detail: None, header: None }))
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// Sets what the operator's log says instead of the detail.
    #[must_use]
    pub fn with_log_detail(mut self, log_detail: impl Into<String>) -> Self {
        self.0.log_detail = Some(log_detail.into());
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The kind of problem, for programs.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What is wrong and what to do, for the client.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What is wrong, for the operator.
    pub fn log_detail(&self) -> &str {
        self.0.log_detail.as_deref().unwrap_or(&self.0.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            // RFC 9457, section 4.2.1: the title is then the phrase of the status code.
            kind: "about:blank",
            title: self.0.status.canonical_reason(),
            status: self.0.status.as_u16(),
            detail: &self.0.detail,
            code: self.0.code,
        };
        let mut response = (self.0.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.extend(self.0.header.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // A cache may store some errors by default (RFC 9111, section 4.2.2).
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_problem_is_cached() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing.");
        let response = problem.with_header(CACHE_CONTROL, HeaderValue::from_static("public")).into_response();
        assert_eq!(response.headers().get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), ["no-store"]);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
