//! A protected API that verifies Vercel OIDC tokens before it answers.
//!
//! [`routes`] are the part to replace with yours. [`app`] puts the guard of [`vercel_oidc_verifier`] around them, `gate`
//! answers proxies, [`server`] limits what clients can ask for and logs each answer, and [`settings`] come from the
//! environment. [`run`] puts these together.
//!
//! To protect your own API, use the crate [`vercel_oidc_verifier`] instead of this one.

pub mod app;
mod gate;
pub mod json;
pub mod routes;
pub mod server;
pub mod settings;
#[cfg(test)]
mod testing;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use vercel_oidc_verifier::Verifier;

use crate::settings::Settings;

/// Serves the API at this listener until `shutdown` ends and the requests in flight are answered.
///
/// # Errors
///
/// The system refuses to listen. An error of a single connection ends only that connection.
pub async fn run(listener: TcpListener, settings: Settings, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let Settings { trust, keys, cached_tokens, .. } = settings;
    tracing::info!("trusting {trust}");
    for subject in trust.subjects().iter().filter(|subject| subject.is_wildcard()) {
        tracing::warn!(subject = subject.as_str(), "this subject has a `*`, so it accepts more than one caller");
    }
    if trust.rests_on_names() {
        tracing::warn!(
            "trust rests on names alone, and a name that is given up can be taken by someone else: \
             set OIDC_OWNER_ID to your team's id"
        );
    }
    keys.prefetch(SystemTime::now());
    let verifier = Arc::new(Verifier::new(trust, keys).with_cached_tokens(cached_tokens));
    server::serve(listener, app::app(routes::routes(), verifier), shutdown).await
}
