//! A protected API that verifies Vercel OIDC tokens before it answers.
//!
//! [`oidc`] decides about tokens and knows no web server. [`auth`] puts it in front of an axum application. [`app`]
//! holds the routes, [`observe`] logs what they answer, [`serve`] bounds what a client can ask for, and [`settings`] are
//! what comes from the environment. [`run`] puts them together.
//!
//! # As a library
//!
//! An application of your own takes what it needs of these. Here are the rules in code instead of the environment, a
//! guard around all routes, the verified caller as an argument, a claim of your own, and a rule for a single route:
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::body::Body;
//! use axum::http::{Request, StatusCode};
//! use axum::routing::{get, post};
//! use axum::Router;
//! use backend::auth::{self, VerifiedCaller};
//! use backend::oidc::{KeySet, Subject, Trust, Trusted, Verifier};
//! use backend::problem::Problem;
//! use tower::ServiceExt;
//!
//! #[derive(serde::Deserialize)]
//! struct Plan {
//!     plan: String,
//! }
//!
//! async fn orders(VerifiedCaller(claims): VerifiedCaller) -> String {
//!     let plan = claims.custom::<Plan>().map_or("no".into(), |custom| custom.plan);
//!     format!("Orders for {}, on the {plan} plan", claims.project.as_deref().unwrap_or("nobody"))
//! }
//!
//! async fn publish(VerifiedCaller(claims): VerifiedCaller) -> Result<&'static str, Problem> {
//!     if claims.environment.as_deref() != Some("production") {
//!         return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Only production may publish."));
//!     }
//!     Ok("Published")
//! }
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let mut trust = Trust::project("acme", "shop", "production");
//! if let Trusted::Subjects { subjects, .. } = &mut trust.who {
//!     subjects.push(Subject::of("acme", "shop", "preview"));
//! }
//! let keys = KeySet::new("https://oidc.vercel.com/acme/.well-known/jwks".parse()?);
//! let verifier = Arc::new(Verifier::new(trust, keys, 10_000));
//! let app = Router::new()
//!     .route("/orders", get(orders))
//!     .route("/publish", post(publish))
//!     .layer(auth::require(verifier.clone()))
//!     .with_state(verifier);
//!
//! // Nobody is let in without a token, and nothing is fetched for that.
//! let answer = app.oneshot(Request::get("/orders").body(Body::empty())?).await?;
//! assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
//! assert_eq!(answer.headers()["www-authenticate"], "Bearer");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub mod app;
pub mod auth;
pub mod observe;
pub mod oidc;
pub mod problem;
pub mod serve;
pub mod settings;
mod variables;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::oidc::{KeySet, Trusted, Verifier};
use crate::settings::Settings;

/// Serves the API at this listener until `shutdown` ends and what is in flight is finished.
///
/// # Errors
///
/// Where the system refuses its limits on open files, or to listen. What goes wrong with single connections ends these
/// alone.
pub async fn run(listener: TcpListener, settings: Settings, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let Settings { trust, jwks_url, remembered_tokens, .. } = settings;
    tracing::info!("trusting {trust}");
    if let Trusted::Subjects { subjects, .. } = &trust.who {
        for subject in subjects.iter().filter(|subject| subject.is_wildcard()) {
            let subject = subject.as_str();
            tracing::warn!(subject, "this subject holds a `*`, so it lets in more than one caller");
        }
    }
    let verifier = Arc::new(Verifier::new(trust, KeySet::new(jwks_url), remembered_tokens));
    verifier.keys().prefetch();
    serve::serve(listener, app::app(verifier), shutdown).await
}
