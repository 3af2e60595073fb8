//! A Vercel Function that calls a protected API with its own OIDC token: the demo on top of `vercel-oidc-client`.
//!
//! [`Caller`] answers requests: `/` with a page, `/api/call` with what the API answers. `index.rs` connects it to
//! Vercel's runtime. The crate does everything about tokens and calls.

mod page;
mod problem;
mod settings;
mod timing;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::value::RawValue;
use vercel_oidc_client::{ApiError, Token};

use crate::problem::Failure;
pub use crate::settings::Settings;
use crate::settings::Target;
use crate::timing::Timing;

/// The function: what its requests share, and the answers to them.
pub struct Caller {
    settings: Settings,
}

impl Caller {
    /// A caller with these settings. A process needs one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Answers a request. `log` gets one line for each failure that an operator must act on.
    pub async fn handle<B>(&self, request: &Request<B>, log: impl Fn(&str)) -> Response<String> {
        let mut timing = Timing::start();
        let is_get_or_head = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match request.uri().path() {
            "/" | "/api/call" if !is_get_or_head => Err(Failure::MethodNotAllowed),
            "/" => Ok(page::page()),
            "/api/call" => self.call(request.headers(), &mut timing).await,
            _ => Err(Failure::NotFound),
        };
        let mut response = answer.unwrap_or_else(|failure| {
            if let Some(line) = failure.log_line() {
                log(&line);
            }
            failure.into_response()
        });
        timing.write_to(response.headers_mut());
        response
    }

    /// Gets a token, exchanges it if an audience is set, and calls the backend. Each step is timed.
    async fn call(&self, headers: &HeaderMap, timing: &mut Timing) -> Result<Response<String>, Failure> {
        let target = self.settings.target()?;
        let mut token = target.tokens.get(headers).await.map_err(ApiError::Token)?;
        timing.add("token", format_args!(";desc={}", token.source()));
        if let Some(audience) = &target.audience {
            token = target.tokens.exchange(&token, audience).await.map_err(ApiError::Token)?;
            timing.add("exchange", "");
        }
        let answer = call_backend(target, headers, token).await;
        timing.add("backend", "");
        let (json, verify) = answer?;
        timing.add_verify(verify);
        let mut response = Response::new(json);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// The backend's JSON as it came, and how many milliseconds the verification took, if the backend reported it.
async fn call_backend(target: &Target, headers: &HeaderMap, token: Token) -> Result<(String, Option<f64>), Failure> {
    let response = target.api.request_base(Method::GET, headers).token(token).send().await?;
    let response = response.error_for_status().await?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(Failure::NotOk(status));
    }
    let verify = timing::verify_of(response.headers());
    let json: Box<RawValue> = response.json().await?;
    Ok((String::from(Box::<str>::from(json)), verify))
}
