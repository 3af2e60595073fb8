//! The guard of an axum application, which turns the `Authorization` header into a verified caller.
//!
//! [`require_token`] guards every route inside the layer, and every path without a route. [`VerifiedCaller`] tells a
//! handler who calls. The token comes from the `Authorization` header alone (RFC 6750, section 2.1): queries and
//! cookies end up in logs and caches.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::claims::Claims;
use crate::error::VerifyError;
use crate::problem::Problem;
use crate::verifier::Verifier;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The caller that sent this request, from its verified token.
///
/// A handler takes it as an argument. Without [`require_token`] around the route, the request is answered with 500.
///
/// ```
/// use axum::http::StatusCode;
/// use vercel_oidc_verifier::{Problem, VerifiedCaller};
///
/// async fn publish(caller: VerifiedCaller) -> Result<String, Problem> {
///     if caller.claims().environment() != Some("production") {
///         return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Only production may publish."));
///     }
///     Ok(format!("Published by {}", caller.claims().project().unwrap_or("an unnamed project")))
/// }
/// # let app: axum::Router = axum::Router::new().route("/publish", axum::routing::post(publish));
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedCaller {
    claims: Arc<Claims>,
}

impl VerifiedCaller {
    /// The claims of the caller's token.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
}

impl<S: Sync> FromRequestParts<S> for VerifiedCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "This route is not set up correctly.")
                .with_log_detail("a handler takes a VerifiedCaller, and its route has no `require_token` around it")
        })
    }
}

/// Lets verified callers through, and answers all others with a [`Problem`] (RFC 6750, section 3).
///
/// The response to a verified caller carries the [`VerifiedCaller`] in its extensions, and `Cache-Control: no-store`.
/// If the status is 2xx, the header `Server-Timing` says how long the verification took.
///
/// ```
/// use std::sync::Arc;
/// use axum::body::Body;
/// use axum::http::{Request, StatusCode};
/// use axum::{Router, middleware, routing::get};
/// use tower::ServiceExt;
/// use vercel_oidc_verifier::{KeySet, Trust, VerifiedCaller, Verifier, require_token};
///
/// async fn orders(caller: VerifiedCaller) -> String {
///     format!("Orders of {}", caller.claims().project().unwrap_or("an unnamed project"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
/// let trust = Trust::project("acme", "storefront", "production").with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"]);
/// let verifier = Arc::new(Verifier::new(trust, keys));
/// let app = Router::new()
///     .route("/orders", get(orders))
///     .layer(middleware::from_fn_with_state(verifier, require_token));
///
/// // A request without a token is refused, and nothing is fetched for it.
/// let response = app.oneshot(Request::get("/orders").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// assert_eq!(response.headers()["www-authenticate"], "Bearer");
/// # Ok(())
/// # }
/// ```
pub async fn require_token(State(verifier): State<Arc<Verifier>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let caller = match verified_caller(&verifier, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(caller);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Only on success, because the time of a refusal could help an attacker.
    if response.status().is_success()
        && let Ok(timing) = HeaderValue::try_from(format!("verify;dur={milliseconds:.3}"))
    {
        response.headers_mut().append(SERVER_TIMING, timing);
    }
    response
}

async fn verified_caller(verifier: &Verifier, headers: &HeaderMap) -> Result<VerifiedCaller, Problem> {
    let claims = verifier.verify(bearer_token(headers)?, SystemTime::now()).await?;
    Ok(VerifiedCaller { claims })
}

/// Reads the token (RFC 6750, section 2.1). The scheme may be in any case (RFC 9110, section 11.1).
fn bearer_token(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().map(HeaderValue::as_bytes).unwrap_or_default();
    if values.next().is_some() {
        return Err(invalid_request("The request has several `Authorization` headers. Send exactly one."));
    }
    // Field values may hold spaces and tabs (RFC 9110, section 5.5).
    let value = value.trim_ascii();
    let end_of_scheme = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, token) = value.split_at(end_of_scheme);
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        let detail = "This API needs a Vercel OIDC token. Send it as `Authorization: Bearer <token>`.";
        // RFC 6750, section 3.1: no error code for a request without a token.
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "missing_token", detail)
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }
    let token = token.trim_ascii_start();
    if token.is_empty() {
        return Err(invalid_request("`Bearer` has no token. Send `Authorization: Bearer <token>`."));
    }
    // Of the bytes up to the space, a field value can hold only the space and the tab (RFC 9110, section 5.5).
    if token.iter().copied().min() <= Some(b' ') {
        return Err(invalid_request("`Bearer` has several tokens. Send exactly one."));
    }
    Ok(token)
}

fn invalid_request(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_request\""))
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        let problem = match &error {
            VerifyError::Invalid(reason) => {
                let reason = reason.to_string();
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{}\"", quotable(&reason));
                let challenge = HeaderValue::try_from(challenge)
                    .unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\""));
                Self::new(StatusCode::UNAUTHORIZED, "invalid_token", format!("The token was refused: {reason}."))
                    .with_header(WWW_AUTHENTICATE, challenge)
            }
            VerifyError::Forbidden(reason) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", format!("The token is valid, but {reason}."))
                    .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"insufficient_scope\""))
            }
            VerifyError::KeysUnavailable { retry_after } => {
                let detail = "The issuer's keys are not available, so the token can't be verified. Try again later.";
                // Rounded up, because an earlier attempt can't succeed.
                let seconds = (retry_after.as_secs_f64().ceil() as u64).max(1);
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail)
                    .with_header(RETRY_AFTER, seconds.into())
            }
        };
        match error.accepted() {
            Some(accepted) => problem.with_log_detail(format!("{error}; accepted: `{accepted}`")),
            None => problem,
        }
    }
}

/// Makes a text fit for the quotes of an `error_description`: printable ASCII without `"` and `\` (RFC 6750, section
/// 3), at most 200 characters.
fn quotable(text: &str) -> String {
    let allowed = |character| match character {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => character,
        _ => '?',
    };
    text.chars().take(200).map(allowed).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::body::Body;
    use axum::routing::get;
    use axum::{Router, middleware};
    use tower::ServiceExt;

    use super::*;
    use crate::error::{Forbidden, Invalid};
    use crate::verifier::tests::{key_set, token, trust};

    /// Returns the token, or the code of the refusal.
    fn read(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let token = bearer_token(&headers).map_err(|problem| problem.code())?;
        Ok(String::from_utf8(token.to_vec()).unwrap())
    }

    #[test]
    fn takes_one_token_of_the_bearer_scheme() {
        for value in
            ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "Bearer   a.b.c ", " Bearer a.b.c", "Bearer\ta.b.c"]
        {
            assert_eq!(read(&[value]).as_deref(), Ok("a.b.c"), "{value}");
        }
        for values in [&[][..], &[""], &["Basic a"], &["Bearera"], &["a.b.c"], &["Bearer,a"]] {
            assert_eq!(read(values), Err("missing_token"), "{values:?}");
        }
        for values in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a\tb"],
            &["Bearer a", "Bearer a"],
            &["Basic a", "Basic b"],
            &["", ""],
        ] {
            assert_eq!(read(values), Err("invalid_request"), "{values:?}");
        }
    }

    async fn answer(authorization: &str) -> Response {
        let handler = async |caller: VerifiedCaller| {
            ([(CACHE_CONTROL, "public")], caller.claims().project().unwrap_or_default().to_owned())
        };
        let verifier = Arc::new(Verifier::new(trust(), key_set()));
        let app = Router::new().route("/", get(handler)).layer(middleware::from_fn_with_state(verifier, require_token));
        let request = Request::get("/").header(AUTHORIZATION, authorization);
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_verified_caller_reaches_the_handler_and_no_cache() {
        let response = answer(&format!("Bearer {}", token(&[]))).await;
        assert_eq!(
            (response.status(), &response.headers()[CACHE_CONTROL]),
            (StatusCode::OK, &"no-store".parse().unwrap())
        );
        assert!(response.headers()[SERVER_TIMING].to_str().unwrap().starts_with("verify;dur="));
        assert!(response.extensions().get::<VerifiedCaller>().is_some());
        assert_eq!(axum::body::to_bytes(response.into_body(), 100).await.unwrap(), "storefront");
    }

    #[tokio::test]
    async fn a_handlers_own_refusal_has_no_timing() {
        let handler = async |_: VerifiedCaller| Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not this caller.");
        let verifier = Arc::new(Verifier::new(trust(), key_set()));
        let app = Router::new().route("/", get(handler)).layer(middleware::from_fn_with_state(verifier, require_token));
        let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {}", token(&[])));
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(response.headers().get(SERVER_TIMING).is_none());
    }

    #[tokio::test]
    async fn an_unverified_caller_does_not_reach_the_handler() {
        for authorization in ["", "Bearer a.b.c", "Basic a"] {
            let response = answer(authorization).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorization}");
            assert!(response.headers().get(SERVER_TIMING).is_none());
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        }
    }

    #[tokio::test]
    async fn without_the_guard_a_handler_that_takes_a_caller_fails_closed() {
        let app = Router::new().route("/", get(async |_: VerifiedCaller| "open"));
        let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {}", token(&[])));
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn the_client_does_not_learn_what_would_be_accepted() {
        let (found, accepted) = (Some("mine".to_owned()), "secret".to_owned());
        for (error, status) in [
            (Invalid::Issuer { found: found.clone(), accepted: accepted.clone() }.into(), 401),
            (Invalid::Audience { found: "mine".into(), accepted: accepted.clone() }.into(), 401),
            (VerifyError::from(Forbidden { claim: "sub", found, accepted }), 403),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.status().as_u16(), status);
            assert!(problem.log_detail().contains("secret") && problem.log_detail().contains("mine"));
            let response = problem.into_response();
            assert!(!format!("{:?}", response.headers()).contains("secret"));
        }
    }

    #[test]
    fn a_client_waits_until_the_next_attempt_can_succeed() {
        for (milliseconds, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let retry_after = std::time::Duration::from_millis(milliseconds);
            let response = Problem::from(VerifyError::KeysUnavailable { retry_after }).into_response();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn a_description_fits_between_quotes() {
        assert_eq!(quotable("a \"b\" c\\d\r\n\u{7f}é"), "a 'b' c/d????");
        assert_eq!(quotable(&"x".repeat(300)), "x".repeat(200));
    }
}
