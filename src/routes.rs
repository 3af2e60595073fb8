//! THE ROUTES. Replace these with yours: nothing else in the repository depends on them.
//!
//! [`app`](crate::app) puts the guard around this router, so every route here answers verified callers only. A handler
//! sees neither the token nor its header. It takes the [`VerifiedCaller`] as an argument.
//!
//! The paths `/healthz`, `/readyz`, `/verify` and everything below `/verify` are taken: a route of these paths here is
//! never reached.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use vercel_oidc_verifier::{Problem, VerifiedCaller};

use crate::json::JsonObject;

/// The routes of this API.
pub fn routes() -> Router {
    Router::new().route("/", get(hello)).route("/orders", post(create_order))
}

#[derive(Serialize)]
struct Hello<'a> {
    message: &'a str,
    caller: Caller<'a>,
}

#[derive(Serialize)]
struct Caller<'a> {
    subject: Option<&'a str>,
    owner: Option<&'a str>,
    project: Option<&'a str>,
    environment: Option<&'a str>,
}

/// `GET /`: who calls, according to the verified token.
async fn hello(caller: VerifiedCaller) -> Response {
    let claims = caller.claims();
    let caller = Caller {
        subject: claims.sub(),
        owner: claims.owner(),
        project: claims.project(),
        environment: claims.environment(),
    };
    Json(Hello { message: "Your token is valid. This is the protected API.", caller }).into_response()
}

#[derive(Deserialize)]
struct NewOrder {
    item: String,
    quantity: u16,
}

#[derive(Serialize)]
struct Order {
    item: String,
    quantity: u16,
    ordered_by: Option<String>,
}

/// `POST /orders`: a route with a JSON body, for callers from production only.
async fn create_order(
    ProductionCaller(caller): ProductionCaller,
    JsonObject(order): JsonObject<NewOrder>,
) -> Result<(StatusCode, Json<Order>), Problem> {
    let NewOrder { item, quantity } = order;
    if !(1..=1000).contains(&quantity) {
        let detail = "`quantity` is out of range. Send a number from 1 to 1000.";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", detail));
    }
    let ordered_by = caller.claims().sub().map(String::from);
    Ok((StatusCode::CREATED, Json(Order { item, quantity, ordered_by })))
}

/// A caller from the production environment. As an argument of a handler, it refuses callers from other environments
/// before the body is read.
struct ProductionCaller(VerifiedCaller);

impl<S: Send + Sync> FromRequestParts<S> for ProductionCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = VerifiedCaller::from_request_parts(parts, state).await?;
        if caller.claims().environment() == Some("production") {
            return Ok(Self(caller));
        }
        let detail = "The token is valid, but only the production environment may do this.";
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"insufficient_scope\"")))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::http::{HeaderMap, Request};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{app, authorized, claims, send};

    async fn get_root(claims: &Value) -> (StatusCode, HeaderMap, Value) {
        send(&app(routes()), authorized(Request::get("/"), claims), "").await
    }

    async fn post_order(claims: &Value, body: impl Into<String>) -> (StatusCode, HeaderMap, Value) {
        let request = authorized(Request::post("/orders"), claims).header("content-type", "application/json");
        send(&app(routes()), request, body.into()).await
    }

    #[tokio::test]
    async fn tells_the_caller_who_it_is() {
        let (status, headers, body) = get_root(&claims("production")).await;
        assert_eq!((status, &headers["content-type"]), (StatusCode::OK, &HeaderValue::from_static("application/json")));
        let caller = json!({
            "subject": "owner:acme:project:storefront:environment:production",
            "owner": "acme",
            "project": "storefront",
            "environment": "production",
        });
        assert_eq!(body, json!({ "message": "Your token is valid. This is the protected API.", "caller": caller }));
    }

    #[tokio::test]
    async fn a_claim_that_is_no_string_is_null() {
        let raw = json!({ "$serde_json::private::RawValue": "\"acme\"" });
        for odd in [json!(null), json!(1), json!(["acme"]), raw] {
            for name in ["owner", "project", "environment"] {
                let mut claims = claims("production");
                claims[name] = odd.clone();
                let (status, _, body) = get_root(&claims).await;
                assert_eq!((status, &body["caller"][name]), (StatusCode::OK, &Value::Null), "{name} {odd}");
            }
        }
        let mut claims = claims("production");
        claims.as_object_mut().unwrap().remove("owner");
        let (_, _, body) = get_root(&claims).await;
        assert!(body["caller"].as_object().unwrap()["owner"].is_null());
    }

    #[tokio::test]
    async fn takes_an_order() {
        for quantity in [1, 1000] {
            let order = json!({ "item": "book", "quantity": quantity, "gift": true });
            let (status, _, body) = post_order(&claims("production"), order.to_string()).await;
            let subject = "owner:acme:project:storefront:environment:production";
            let expected = json!({ "item": "book", "quantity": quantity, "ordered_by": subject });
            assert_eq!((status, body), (StatusCode::CREATED, expected));
        }
    }

    #[tokio::test]
    async fn refuses_an_order_of_another_form() {
        let raw = r#"{"$serde_json::private::RawValue":"\"book\""}"#;
        for body in [
            r#"{"item":"book","quantity":0}"#,
            r#"{"item":"book","quantity":1001}"#,
            r#"{"item":"book","quantity":70000}"#,
            r#"{"item":"book","quantity":-1}"#,
            r#"{"item":"book","quantity":1.5}"#,
            r#"{"item":"book","quantity":"1"}"#,
            r#"{"item":"book","quantity":null}"#,
            r#"{"item":"book"}"#,
            r#"{"quantity":1}"#,
            r#"{"item":1,"quantity":1}"#,
            r#"{"item":"book","item":"book","quantity":1}"#,
            &format!(r#"{{"item":{raw},"quantity":1}}"#),
            r#"["book",1]"#,
            r#"[{"item":"book","quantity":1}]"#,
            "{}",
            "[]",
            "null",
            "\"book\"",
        ] {
            let (status, headers, problem) = post_order(&claims("production"), body).await;
            assert_eq!(
                (status, &problem["code"]),
                (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_body")),
                "{body}"
            );
            assert_eq!(headers["content-type"], "application/problem+json");
        }
    }

    /// The environment is checked before the body is read.
    #[tokio::test]
    async fn only_production_may_order() {
        let mut without = claims("production");
        without.as_object_mut().unwrap().remove("environment");
        for claims in [claims("preview"), claims("Production"), without] {
            for body in [r#"{"item":"book","quantity":1}"#, "not JSON"] {
                let (status, headers, problem) = post_order(&claims, body).await;
                assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
                assert_eq!(headers["www-authenticate"], "Bearer error=\"insufficient_scope\"");
            }
        }
    }
}
