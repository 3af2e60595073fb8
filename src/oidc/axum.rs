//! axum: the verified caller as an argument of a handler, and problems as answers.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::bearer::{Refusal, VerifiedCaller};
use crate::layer::Anonymous;
use crate::problem::Problem;

/// A handler takes the caller as an argument. Without a [`RequireTokenLayer`](crate::RequireTokenLayer) around the route,
/// the request is answered with 500.
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
impl<S: Sync> FromRequestParts<S> for VerifiedCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "This route is not set up correctly.")
                .with_log_detail("a handler takes a VerifiedCaller, and its route has no `RequireTokenLayer` around it")
        })
    }
}

/// On a route that is open to all, a handler takes an `Option<VerifiedCaller>`. It needs a layer with
/// [`allow_anonymous`](crate::RequireTokenLayer::allow_anonymous) around it.
impl<S: Sync> OptionalFromRequestParts<S> for VerifiedCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Problem> {
        let caller = <Self as FromRequestParts<S>>::from_request_parts(parts, state).await;
        match parts.extensions.get::<Anonymous>() {
            Some(Anonymous) => Ok(caller.ok()),
            None => caller.map(Some),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Self::into_response(self)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::routing::get;
    use http::header::AUTHORIZATION;
    use tower::ServiceExt;

    use super::*;
    use crate::verifier::tests::{key_set, token, trust};
    use crate::{RequireTokenLayer, Verifier};

    /// `/` needs a caller, `/open` does not.
    fn app() -> Router {
        let project = |caller: &VerifiedCaller| caller.claims().project().unwrap_or_default().to_owned();
        let open = async move |caller: Option<VerifiedCaller>| caller.as_ref().map_or("anonymous".to_owned(), project);
        Router::new().route("/", get(async move |caller: VerifiedCaller| project(&caller))).route("/open", get(open))
    }

    fn guard() -> RequireTokenLayer {
        RequireTokenLayer::new(Verifier::new(trust(), key_set()))
    }

    async fn call(app: Router, path: &str, token: Option<&str>) -> (StatusCode, String) {
        let request = token
            .iter()
            .fold(Request::get(path), |request, token| request.header(AUTHORIZATION, format!("Bearer {token}")));
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(to_bytes(response.into_body(), 1000).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_handler_takes_the_caller_as_an_argument() {
        for path in ["/", "/open"] {
            let answer = call(app().layer(guard()), path, Some(&token(&[]))).await;
            assert_eq!(answer, (StatusCode::OK, "storefront".to_owned()));
            assert_eq!(call(app().layer(guard()), path, None).await.0, StatusCode::UNAUTHORIZED);
        }
    }

    #[tokio::test]
    async fn a_route_that_is_open_to_all_takes_an_optional_caller() {
        let app = || app().layer(guard().allow_anonymous());
        assert_eq!(call(app(), "/open", None).await, (StatusCode::OK, "anonymous".to_owned()));
        assert_eq!(call(app(), "/open", Some(&token(&[]))).await, (StatusCode::OK, "storefront".to_owned()));
        assert_eq!(call(app(), "/open", Some("a.b.c")).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(call(app(), "/", None).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn behind_a_guard_an_open_route_has_its_caller() {
        let app = app().layer(guard().allow_anonymous()).layer(guard());
        assert_eq!(call(app, "/open", Some(&token(&[]))).await, (StatusCode::OK, "storefront".to_owned()));
    }

    #[tokio::test]
    async fn without_the_guard_a_handler_that_takes_a_caller_fails_closed() {
        for path in ["/", "/open"] {
            assert_eq!(call(app(), path, Some(&token(&[]))).await.0, StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}
