//! `Authorization` header in, verified caller out: who may call, and what RFC 6750 says to those who may not.
//!
//! [`require`] is the layer that guards every route under it, the unknown ones included; [`VerifiedCaller`] is the
//! extractor by which a handler learns who calls, and which guards a single handler by itself. The token is taken from
//! the `Authorization` header alone: query and cookies end up in logs and caches. To be copied, with `oidc/` and
//! `problem.rs`: it needs axum, tower (feature `util`) and what those need.

use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

use axum::extract::{FromRef, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use memchr::memchr2;
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::oidc::{Claims, Invalid, Verifier, VerifyError};
use crate::problem::Problem;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Whoever has sent this request, as its verified token says.
///
/// As an argument of a handler it refuses all others, with or without [`require`] around the route:
///
/// ```
/// use axum::{Router, routing::get};
/// use backend::{auth::VerifiedCaller, oidc::Verifier};
/// use std::sync::Arc;
///
/// async fn hello(VerifiedCaller(claims): VerifiedCaller) -> String {
///     format!("Hello, {}", claims.project.as_deref().unwrap_or("whoever you are"))
/// }
///
/// fn app(verifier: Arc<Verifier>) -> Router {
///     Router::new().route("/", get(hello)).with_state(verifier)
/// }
/// ```
///
/// A rule for a single route is a look at the claims:
///
/// ```
/// use axum::http::StatusCode;
/// use backend::{auth::VerifiedCaller, problem::Problem};
///
/// async fn publish(VerifiedCaller(claims): VerifiedCaller) -> Result<&'static str, Problem> {
///     if claims.environment.as_deref() != Some("production") {
///         return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Only production may publish."));
///     }
///     Ok("published")
/// }
/// # fn app() -> axum::Router<std::sync::Arc<backend::oidc::Verifier>> {
/// #     axum::Router::new().route("/", axum::routing::post(publish))
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedCaller(pub Arc<Claims>);

impl<S: Send + Sync> FromRequestParts<S> for VerifiedCaller
where
    Arc<Verifier>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if let Some(caller) = parts.extensions.get::<Self>() {
            return Ok(caller.clone());
        }
        Self::from_headers(&parts.headers, &Arc::from_ref(state)).await
    }
}

impl VerifiedCaller {
    async fn from_headers(headers: &HeaderMap, verifier: &Verifier) -> Result<Self, Problem> {
        Ok(Self(verifier.verify(bearer_token(headers)?, SystemTime::now()).await?))
    }
}

/// A tower layer that lets only verified callers through to whatever is under it. The answer carries the caller among
/// its extensions, and the time that the verification took as `Server-Timing`; no cache keeps it (RFC 9111, section
/// 3.5).
///
/// ```
/// use axum::{Router, routing::get};
/// use backend::{auth, oidc::Verifier};
/// use std::sync::Arc;
///
/// fn app(verifier: Arc<Verifier>) -> Router {
///     Router::new()
///         .route("/", get(|| async { "for verified callers" }))
///         .layer(auth::require(verifier.clone()))
///         .with_state(verifier)
/// }
/// ```
pub fn require<S>(
    verifier: Arc<Verifier>,
) -> impl Layer<S, Service = impl Service<Request, Response = Response, Error = S::Error, Future: Send> + Clone> + Clone
where
    S: Service<Request, Response = Response, Future: Send> + Clone + Send,
{
    layer_fn(move |service: S| {
        let verifier = verifier.clone();
        service_fn(move |mut request: Request| {
            let (service, verifier) = (service.clone(), verifier.clone());
            async move {
                let began = Instant::now();
                let caller = VerifiedCaller::from_headers(request.headers(), &verifier).await;
                let micros = began.elapsed().as_micros();
                let mut response = match caller {
                    Ok(caller) => {
                        request.extensions_mut().insert(caller.clone());
                        let mut response = service.oneshot(request).await?;
                        response.extensions_mut().insert(caller);
                        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                        response
                    }
                    Err(problem) => problem.into_response(),
                };
                // Written by serde_json: for a number, `format!` takes a good part of what a remembered token does.
                let milliseconds = serde_json::to_string(&(micros as f64 / 1000.0)).unwrap_or_default();
                if let Ok(verify) = HeaderValue::try_from(["verify;dur=", &milliseconds].concat()) {
                    response.headers_mut().append(SERVER_TIMING, verify);
                }
                Ok(response)
            }
        })
    })
}

/// RFC 6750, section 2.1, with the scheme in any case (RFC 9110, section 11.1).
fn bearer_token(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().map(HeaderValue::as_bytes).unwrap_or_default();
    if values.next().is_some() {
        return Err(invalid_request("The request has several `Authorization` headers. Send exactly one."));
    }
    let value = value.trim_ascii();
    // The white space that a field value may hold (RFC 9110, section 5.5).
    let (scheme, credentials) = value.split_at(memchr2(b' ', b'\t', value).unwrap_or(value.len()));
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "missing_token",
            "This API needs a Vercel OIDC token. Send it as `Authorization: Bearer <token>`.",
        )
        // RFC 6750, section 3.1: no error code for those who have sent no token.
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }
    let token = credentials.trim_ascii_start();
    if token.is_empty() {
        return Err(invalid_request("`Bearer` comes without a token. Send `Authorization: Bearer <token>`."));
    }
    if memchr2(b' ', b'\t', token).is_some() {
        return Err(invalid_request("`Bearer` comes with several tokens. Send exactly one."));
    }
    Ok(token)
}

fn invalid_request(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_request\""))
}

fn invalid_token(reason: &Invalid) -> Problem {
    let reason = description(&reason.to_string());
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{reason}\"");
    let challenge =
        HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\""));
    let stop = if reason.ends_with('?') { "" } else { "." };
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", format!("The token was refused: {reason}{stop}"))
        .with_header(WWW_AUTHENTICATE, challenge)
}

/// Made once: anyone can cause this refusal, with no more than a token's header, and it says the same to everybody.
static UNKNOWN_KEY: LazyLock<Problem> = LazyLock::new(|| invalid_token(&Invalid::UnknownKey));

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Invalid(Invalid::UnknownKey) => UNKNOWN_KEY.clone(),
            VerifyError::Invalid(reason) => invalid_token(&reason),
            VerifyError::Forbidden(reason) => {
                let detail = format!("The token is valid, but its holder is not allowed here: {reason}.");
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
                    .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"insufficient_scope\""))
            }
            VerifyError::KeysUnavailable { retry_after } => {
                let detail = format!("There is no verdict: {error}. Try again later.");
                // Rounded up: asking earlier would be in vain.
                let seconds = retry_after.as_secs_f64().ceil() as u64;
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail)
                    .with_header(RETRY_AFTER, seconds.into())
            }
        }
    }
}

/// What may stand between the quotes of an `error_description` (RFC 6750, section 3), whatever the token held:
/// printable ASCII without `"` and `\`, 200 characters at most.
fn description(reason: &str) -> String {
    let allowed = |byte| match byte {
        b'"' => b'\'',
        b'\\' => b'/',
        b' '..=b'~' => byte,
        _ => b'?',
    };
    // ASCII is UTF-8.
    String::from_utf8(reason.bytes().take(200).map(allowed).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// The token, or the code of the refusal.
    fn token(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let token = bearer_token(&headers).map_err(|problem| problem.code())?;
        Ok(String::from_utf8(token.to_vec()).unwrap())
    }

    #[test]
    fn takes_one_token_of_the_bearer_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "Bearer   a.b.c ", " Bearer a.b.c"] {
            assert_eq!(token(&[value]).as_deref(), Ok("a.b.c"), "{value}");
        }
        for values in [&[][..], &[""], &["Basic a"], &["Bearera"], &["a.b.c"], &["Bearer,a"]] {
            assert_eq!(token(values), Err("missing_token"), "{values:?}");
        }
        for values in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a", "Bearer a"],
            &["Basic a", "Basic b"],
            &["", ""],
        ] {
            assert_eq!(token(values), Err("invalid_request"), "{values:?}");
        }
    }

    #[test]
    fn a_detail_ends_as_its_sentence_does() {
        for (reason, end) in [(Invalid::Signature, "signature is wrong."), (Invalid::UnknownKey, "been retired?")] {
            let problem = Problem::from(VerifyError::Invalid(reason));
            assert!(problem.detail().ends_with(end), "{}", problem.detail());
        }
    }

    #[test]
    fn a_description_fits_between_quotes() {
        assert_eq!(description("a \"b\" c\\d\r\n\u{7f}é"), "a 'b' c/d?????");
        assert_eq!(description(&"é".repeat(300)), "?".repeat(200));
        assert_eq!(description(&"x".repeat(200)), "x".repeat(200));
    }
}
