//! The guard, as a layer for every HTTP service of tower: axum, tonic, hyper, lambda_http.
//!
//! Guarantees: an unverified request does not reach the service; the service sees neither the token nor its header.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use tower_layer::Layer;
use tower_service::Service;
use tracing::field::display;

use crate::bearer::quotable;
use crate::error::for_log;
use crate::problem::Problem;
use crate::verifier::Verifier;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// A function sends its token in this header, too, to pass Vercel's Deployment Protection.
const TRUSTED_SOURCE: HeaderName = HeaderName::from_static("x-vercel-trusted-oidc-idp-token");

/// Lets verified callers through to a service, and answers all others with a [`Problem`] (RFC 6750, section 3).
///
/// A request that is let through has the [`VerifiedCaller`](crate::VerifiedCaller) in its extensions, and no
/// `Authorization` header. If the current span of `tracing` has a field `sub`, it gets the caller's subject. The
/// response has `Cache-Control: no-store`, and if its status is 2xx, the header `Server-Timing` says how long the
/// verification took. The response to a refused request carries the [`Refusal`](crate::Refusal) in its extensions.
///
/// A route needs one guard. A second guard behind the first finds no header, and refuses every request with 401.
///
/// A gRPC client gets `UNAUTHENTICATED`, `PERMISSION_DENIED` or `UNAVAILABLE`, with the reason as the message. The HTTP
/// status is not 200 as in other gRPC answers, because a proxy that asks whether to pass a request on reads it.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response, StatusCode};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use vercel_oidc_verifier::{KeySet, RequireTokenLayer, Trust, VerifiedCaller, Verifier};
///
/// async fn orders(request: Request<String>) -> Result<Response<String>, Infallible> {
///     let caller = request.extensions().get::<VerifiedCaller>();
///     Ok(Response::new(format!("Orders of {:?}", caller.and_then(|caller| caller.claims().project()))))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
/// let trust = Trust::project("acme", "storefront", "production")?.with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"])?;
/// let guard = RequireTokenLayer::new(Verifier::new(trust, keys));
/// let service = ServiceBuilder::new().layer(guard).service_fn(orders);
///
/// // A request without a token is refused, and nothing is fetched for it.
/// let response = service.oneshot(Request::new(String::new())).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// assert_eq!(response.headers()["www-authenticate"], "Bearer");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RequireTokenLayer {
    verifier: Arc<Verifier>,
    allows_anonymous: bool,
}

impl RequireTokenLayer {
    /// A layer with this verifier.
    pub fn new(verifier: impl Into<Arc<Verifier>>) -> Self {
        Self { verifier: verifier.into(), allows_anonymous: false }
    }

    /// Also lets requests without a token through, for routes that are open to all. A token that is sent must be valid.
    #[must_use]
    pub fn allow_anonymous(self) -> Self {
        Self { allows_anonymous: true, ..self }
    }
}

impl<S> Layer<S> for RequireTokenLayer {
    type Service = RequireToken<S>;

    fn layer(&self, inner: S) -> RequireToken<S> {
        RequireToken { layer: self.clone(), inner }
    }
}

/// The service that [`RequireTokenLayer`] makes.
#[derive(Clone, Debug)]
pub struct RequireToken<S> {
    layer: RequireTokenLayer,
    inner: S,
}

/// In the extensions of a request without a token that [`RequireTokenLayer::allow_anonymous`] let through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anonymous;

impl<S, B, R> Service<Request<B>> for RequireToken<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Either<Full<Bytes>, R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The service that is ready is used, and its clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let RequireTokenLayer { verifier, allows_anonymous } = self.layer.clone();
        request.headers_mut().remove(TRUSTED_SOURCE);
        Box::pin(async move {
            if allows_anonymous && !request.headers().contains_key(AUTHORIZATION) {
                request.extensions_mut().insert(Anonymous);
                return Ok(inner.call(request).await?.map(Either::Right));
            }
            let began = Instant::now();
            let caller = match verifier.authenticate_or_refuse(request.headers(), SystemTime::now()).await {
                Ok(caller) => caller,
                Err((refusal, problem)) => {
                    let mut response = refused(problem, request.headers());
                    response.extensions_mut().insert(refusal);
                    return Ok(response.map(Either::Left));
                }
            };
            let microseconds = began.elapsed().as_micros();
            let span = tracing::Span::current();
            if span.has_field("sub")
                && let Some(sub) = caller.claims().sub()
            {
                span.record("sub", display(for_log(sub)));
            }
            request.headers_mut().remove(AUTHORIZATION);
            request.extensions_mut().insert(caller);
            let mut response = inner.call(request).await?;
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            // Only on success, because the time of a refusal could help an attacker.
            if response.status().is_success()
                && let Ok(timing) =
                    HeaderValue::try_from(format!("verify;dur={}.{:03}", microseconds / 1000, microseconds % 1000))
            {
                response.headers_mut().append(SERVER_TIMING, timing);
            }
            Ok(response.map(Either::Right))
        })
    }
}

/// The answer to a refused request. A gRPC client finds the reason in headers; it would take a body for a message of the
/// service (gRPC over HTTP/2, "Trailers-Only").
fn refused(problem: Problem, request: &HeaderMap) -> Response<Full<Bytes>> {
    if !request.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return problem.into_response();
    }
    let mut response = problem.clone().into_response::<Full<Bytes>>().map(|_| Full::default());
    let status = match problem.status() {
        StatusCode::FORBIDDEN => "7",
        StatusCode::SERVICE_UNAVAILABLE => "14",
        _ => "16",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    // Percent-encoded.
    if let Ok(message) = HeaderValue::try_from(quotable(problem.detail()).replace('%', "%25")) {
        headers.insert("grpc-message", message);
    }
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::convert::Infallible;
    use std::time::Duration;

    use http_body_util::BodyExt;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::bearer::{Refusal, VerifiedCaller};
    use crate::error::VerifyError;
    use crate::verifier::tests::{key_set, token, trust};

    type Body = Full<Bytes>;

    /// What the service behind the guard sees of a request.
    async fn shown(request: Request<()>) -> Result<Response<Body>, Infallible> {
        let caller = request.extensions().get::<VerifiedCaller>().and_then(|caller| caller.claims().project());
        let text = format!("{caller:?} {} {:?}", request.extensions().get::<Anonymous>().is_some(), request.headers());
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        Ok(response)
    }

    async fn answer(guard: RequireTokenLayer, headers: &[(HeaderName, &str)]) -> (Response<()>, String) {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let service = ServiceBuilder::new().layer(guard).service(service_fn(shown));
        let (head, body) = service.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
    }

    fn guard() -> RequireTokenLayer {
        RequireTokenLayer::new(Verifier::new(trust(), key_set()))
    }

    #[tokio::test]
    async fn a_verified_caller_reaches_the_service_and_no_cache() {
        let (response, body) = answer(guard(), &[(AUTHORIZATION, &format!("Bearer {}", token(&[])))]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert!(response.headers()[SERVER_TIMING].to_str().unwrap().starts_with("verify;dur="));
        assert!(body.starts_with(r#"Some("storefront") false"#), "{body}");
    }

    #[tokio::test]
    async fn the_service_sees_neither_the_token_nor_its_header() {
        let token = token(&[]);
        let headers =
            [(AUTHORIZATION, &*format!("Bearer {token}")), (TRUSTED_SOURCE, &*token), (CACHE_CONTROL, "no-cache")];
        let (_, body) = answer(guard(), &headers).await;
        assert!(body.ends_with(r#"{"cache-control": "no-cache"}"#), "{body}");
        let (_, body) = answer(guard().allow_anonymous(), &headers[1..]).await;
        assert!(body.ends_with(r#"{"cache-control": "no-cache"}"#), "{body}");
    }

    #[tokio::test]
    async fn an_unverified_caller_does_not_reach_the_service() {
        for guard in [guard(), guard().allow_anonymous()] {
            for authorization in ["", "Bearer a.b.c", "Basic a", "Bearer"] {
                let (response, body) = answer(guard.clone(), &[(AUTHORIZATION, authorization)]).await;
                assert!(response.status().is_client_error(), "{authorization}");
                assert!(response.headers().get(SERVER_TIMING).is_none());
                assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
                assert!(response.extensions().get::<Problem>().is_some());
                assert!(response.extensions().get::<Refusal>().is_some());
                assert!(body.starts_with(r#"{"type":"about:blank""#), "{body}");
            }
        }
    }

    #[tokio::test]
    async fn only_if_it_is_asked_to_a_guard_lets_a_request_without_a_token_through() {
        assert_eq!(answer(guard(), &[]).await.0.status(), StatusCode::UNAUTHORIZED);
        let (response, body) = answer(guard().allow_anonymous(), &[]).await;
        assert_eq!((response.status(), body.as_str()), (StatusCode::OK, "None true {}"));
        assert!(response.headers().get(SERVER_TIMING).is_none());
    }

    #[tokio::test]
    async fn a_grpc_client_finds_the_reason_in_headers() {
        let (preview, good) = (token(&[("sub", "of another % project".into())]), token(&[]));
        for (authorization, status, grpc_status, message) in [
            (
                format!("Bearer {preview}"),
                403,
                "7",
                "The token is valid, but the token's `sub` is `of another %25 project`",
            ),
            ("Bearer a".to_owned(), 401, "16", "The token was refused: the token is not a compact JWS"),
            (format!("Bearer {good} {good}"), 400, "16", "`Bearer` has several tokens."),
        ] {
            let headers = [(AUTHORIZATION, &*authorization), (CONTENT_TYPE, "application/grpc+proto")];
            let (response, body) = answer(guard(), &headers).await;
            assert_eq!((response.status().as_u16(), body.as_str()), (status, ""));
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert_eq!(response.headers()["grpc-status"], grpc_status);
            let reason = response.headers()["grpc-message"].to_str().unwrap();
            assert!(reason.starts_with(message), "{reason}");
        }
        let problem = VerifyError::KeysUnavailable { retry_after: Duration::from_secs(1) }.into();
        let request = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))]);
        assert_eq!(refused(problem, &request).headers()["grpc-status"], "14");
    }
}
