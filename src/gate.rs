//! The gate: `/verify` and every path below it, for a proxy that asks before it passes a request on.
//!
//! A verified caller gets 204 and its claims as headers, on any method and without its body being read. `docs/gate.md`
//! shows how a proxy uses them in front of an API in any language.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use vercel_oidc_verifier::{Problem, Refusal, VerifiedCaller};

/// Everything but visible ASCII, and `%` itself, so that decoding always gives the claim.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The gate's routes. The guard goes around them.
pub(crate) fn gate() -> Router {
    // Some proxies append the path of the request that they ask about.
    Router::new().route("/verify", any(verify)).route("/verify/", any(verify)).route("/verify/{*path}", any(verify))
}

/// Who calls, according to the verified token. An absent claim is an empty header: a proxy that copies the header then
/// overwrites what a client sent under this name.
async fn verify(caller: VerifiedCaller) -> impl IntoResponse {
    let claims = caller.claims();
    let headers = [
        ("x-vercel-oidc-subject", claims.sub()),
        ("x-vercel-oidc-owner", claims.owner()),
        ("x-vercel-oidc-owner-id", claims.owner_id()),
        ("x-vercel-oidc-project", claims.project()),
        ("x-vercel-oidc-project-id", claims.project_id()),
        ("x-vercel-oidc-environment", claims.environment()),
    ];
    let headers =
        headers.map(|(name, claim)| (name, utf8_percent_encode(claim.unwrap_or_default(), ESCAPED).to_string()));
    (StatusCode::NO_CONTENT, headers)
}

/// Turns 400 into 401, with the same code: nginx's `auth_request` passes 401 and 403 on, and answers 500 instead of any
/// other refusal. The response keeps its [`Refusal`], because the guard has logged it.
pub(crate) async fn refuse_as_gate(response: Response) -> Response {
    match (response.extensions().get::<Refusal>(), response.extensions().get::<Problem>()) {
        (Some(refusal), Some(problem)) if problem.status() == StatusCode::BAD_REQUEST => {
            let problem = problem.clone().with_status(StatusCode::UNAUTHORIZED);
            (Extension(refusal.clone()), problem).into_response()
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::http::{HeaderMap, Request};
    use axum::routing::get;
    use percent_encoding::percent_decode_str;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{app, authorized, claims, send};

    const NAMES: [(&str, &str); 6] = [
        ("x-vercel-oidc-subject", "sub"),
        ("x-vercel-oidc-owner", "owner"),
        ("x-vercel-oidc-owner-id", "owner_id"),
        ("x-vercel-oidc-project", "project"),
        ("x-vercel-oidc-project-id", "project_id"),
        ("x-vercel-oidc-environment", "environment"),
    ];

    async fn ask(claims: &Value) -> HeaderMap {
        let (status, headers, body) = send(&app(Router::new()), authorized(Request::get("/verify"), claims), "").await;
        assert_eq!((status, body), (StatusCode::NO_CONTENT, Value::Null));
        headers
    }

    #[tokio::test]
    async fn tells_the_proxy_who_calls() {
        let claims = claims("production");
        let headers = ask(&claims).await;
        for (header, claim) in NAMES {
            assert_eq!(
                headers.get_all(header).iter().collect::<Vec<_>>(),
                [claims[claim].as_str().unwrap()],
                "{header}"
            );
        }
        assert_eq!(headers["cache-control"], "no-store");
        assert!(headers["server-timing"].to_str().unwrap().starts_with("verify;dur="));
    }

    /// Without the header, a proxy that copies it would pass on what the client sent.
    #[tokio::test]
    async fn an_absent_claim_is_an_empty_header() {
        for (header, claim) in &NAMES[1..] {
            for absent in [None, Some(json!(null)), Some(json!(["acme"])), Some(json!(""))] {
                let mut claims = claims("production");
                match absent {
                    None => drop(claims.as_object_mut().unwrap().remove(*claim)),
                    Some(value) => claims[claim] = value,
                }
                assert_eq!(ask(&claims).await.get_all(*header).iter().collect::<Vec<_>>(), [""], "{claims}");
            }
        }
    }

    #[tokio::test]
    async fn a_claim_is_escaped_so_that_decoding_gives_it_back() {
        for (claim, header) in [
            ("!#$&'()*+,-./09;<=>?@AZ[]^_`az{|}~\"\\", "!#$&'()*+,-./09;<=>?@AZ[]^_`az{|}~\"\\"),
            ("a b", "a%20b"),
            (" ", "%20"),
            ("100%", "100%25"),
            ("%41", "%2541"),
            ("a\r\nx-vercel-oidc-owner: evil", "a%0D%0Ax-vercel-oidc-owner:%20evil"),
            ("\0\t\u{7f}\u{80}", "%00%09%7F%C2%80"),
            ("é🦀", "%C3%A9%F0%9F%A6%80"),
        ] {
            let mut claims = claims("production");
            claims["owner"] = json!(claim);
            let headers = ask(&claims).await;
            let value = headers["x-vercel-oidc-owner"].to_str().unwrap();
            assert_eq!(value, header);
            assert_eq!(percent_decode_str(value).decode_utf8().unwrap(), claim);
        }
    }

    #[tokio::test]
    async fn any_method_and_any_path_below() {
        let app = app(Router::new().route("/", get(|| async {})));
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
            for path in [
                "/verify",
                "/verify?x=/",
                "/verify/",
                "/verify//",
                "/verify/orders/1?x=y",
                "/verify/verify",
                "/verify/../healthz",
                "/verify/%2e%2e/%2F/%ff/%00",
                "/verify/{*path}",
                "http://gate.test/verify/x",
            ] {
                let request = || Request::builder().method(method).uri(path.replace(['{', '}'], "%7b"));
                let (status, headers, _) = send(&app, authorized(request(), &claims("production")), "").await;
                assert_eq!((status, headers.get("allow")), (StatusCode::NO_CONTENT, None), "{method} {path}");
                let (status, headers, _) = send(&app, request(), "").await;
                assert_eq!((status, headers.get("allow")), (StatusCode::UNAUTHORIZED, None), "{method} {path}");
                assert!(!headers.contains_key("x-vercel-oidc-subject"));
            }
        }
        for path in ["/verifyx", "/Verify", "//verify", "/x/verify", "/verif%79", "/verify%2fx"] {
            let (status, ..) = send(&app, authorized(Request::get(path), &claims("production")), "").await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
    }

    /// The user's routes can neither replace the gate nor stop the program.
    #[tokio::test]
    async fn a_route_of_the_same_path_is_never_reached() {
        let handler = || get(|| async { "mine" });
        for routes in [
            Router::new().route("/verify", handler()).route("/healthz", handler()).route("/readyz", handler()),
            Router::new().route("/verify/{id}", handler()).route("/verify/", handler()),
            Router::new().route("/{*path}", handler()),
            Router::new().route("/{a}/{b}", handler()).route("/{a}", handler()),
            Router::new().nest("/verify", Router::new().route("/x", handler()).fallback(|| async { "mine" })),
            Router::new().route("/verify/{*path}", handler()).fallback(|| async { "mine" }),
        ] {
            let app = app(routes);
            for path in ["/verify", "/verify/", "/verify/x"] {
                let (status, ..) = send(&app, Request::get(path), "").await;
                assert_eq!(status, StatusCode::UNAUTHORIZED);
                let (status, headers, _) = send(&app, authorized(Request::get(path), &claims("production")), "").await;
                assert_eq!((status, headers.contains_key("x-vercel-oidc-subject")), (StatusCode::NO_CONTENT, true));
            }
            let (status, _, body) = send(&app, Request::get("/healthz"), "").await;
            assert_eq!((status, body), (StatusCode::OK, Value::Null));
        }
    }
}
