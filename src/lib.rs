//! A protected API that verifies Vercel OIDC tokens before it answers.
//!
//! [`oidc`] decides about tokens and knows no web server. [`auth`] puts it in front of an axum application. [`app`]
//! holds the routes, [`observe`] logs what they answer, [`serve`] bounds what a client can ask for, and [`settings`] are
//! what comes from the environment. [`run`] puts them together.

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
/// Where the system refuses its limits on open files. What goes wrong with single connections ends these alone.
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
