//! Answers that say what is wrong: `application/problem+json` (RFC 9457).
//!
//! A problem has a stable `code` for programs and a sentence for people. It holds nothing of a request but what its
//! maker puts into the sentence. To be copied: it needs axum and serde, and nothing of the rest of this
//! repository.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::Serialize;

/// An error as its client sees it. The response carries it among its extensions, less the header, for those who log
/// it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The status code.
    pub status: StatusCode,
    /// The sort of problem. Clients compare it, so it doesn't change.
    pub code: &'static str,
    /// What is wrong and what to do about it, in full sentences.
    pub detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of this status and sort.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), header: None }
    }

    /// The problem, answered with this header too.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
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

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let body = Body {
            // RFC 9457, section 4.2.1: the title is then the status code's phrase.
            kind: "about:blank",
            title: self.status.canonical_reason(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
        };
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            // Caches may keep some errors unasked (RFC 9111, section 4.2.2); this one may be over with the next request.
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (self.status, AppendHeaders(self.header.take()), headers, Json(body)).into_response();
        response.extensions_mut().insert(self);
        response
    }
}
