//! Answers that say what is wrong: `application/problem+json` (RFC 9457).
//!
//! A problem has a stable `code` for programs and a sentence for people. It holds nothing of a request but what its
//! maker puts into the sentence. To be copied: it needs axum, serde and serde_json, and nothing of the
//! rest of this repository.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An error as its client sees it, written when it is made: clones cost next to nothing. The response carries it among
/// its extensions, for those who log it.
#[derive(Clone, Debug)]
pub struct Problem(Arc<Written>);

#[derive(Clone, Debug)]
struct Written {
    status: StatusCode,
    code: &'static str,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
    json: Bytes,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: Option<&'static str>,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    /// A problem of this status and sort. Clients compare the code, so it should stay as it is; the detail says what is
    /// wrong and what to do about it, in full sentences.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let json = Json {
            // RFC 9457, section 4.2.1: the title is then the status code's phrase.
            kind: "about:blank",
            title: status.canonical_reason(),
            status: status.as_u16(),
            detail: &detail,
            code,
        };
        // Strings and a number: nothing that JSON can't hold.
        let json = serde_json::to_vec(&json).unwrap_or_default().into();
        Self(Arc::new(Written { status, code, detail, header: None, json }))
    }

    /// The problem, answered with this header too.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        Arc::make_mut(&mut self.0).header = Some((name, value));
        self
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The sort of problem.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What is wrong and what to do about it.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.0.json.clone().into());
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.extend(self.0.header.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // Caches may keep some errors unasked (RFC 9111, section 4.2.2); this one may be over with the next request.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_header_of_its_own_makes_a_problem_cacheable() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing.");
        let response = problem.with_header(CACHE_CONTROL, HeaderValue::from_static("public")).into_response();
        assert_eq!(response.headers().get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), ["no-store"]);
    }
}
