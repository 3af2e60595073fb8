//! The server that the load test compares the backend with, and the load test's tokens.
//!
//! `plain FOLDER` writes four files of tokens into the folder, one token a line: `one`, `thousand`, `forged` and
//! `unknown_kid`. Then it serves their issuer and a plain axum server, until it is stopped. That server gives the
//! backend's answer at `/`, without verification, limits or log. The output is the issuer's URL and the server's.

use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use axum::routing::get;
use axum::{Json, Router};
use bench::{forged, token};
use local::{Deployment, Issuer, SigningKey};
use serde_json::Value;
use tokio::net::TcpListener;
use vercel_oidc_verifier::{KeySet, Trust, Verifier};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("which folder?")?);
    let issuer = Issuer::start(listen().await?)?;
    let deployment = Deployment::default();
    let url = issuer.team_url(&deployment.team);
    let thousand: Vec<_> = (0..1000).map(|number| token(issuer.key(), &url, number)).collect();
    fs::write(folder.join("one"), &thousand[0])?;
    fs::write(folder.join("thousand"), thousand.join("\n"))?;
    fs::write(folder.join("forged"), forged(&thousand[0], &thousand[1]))?;
    fs::write(folder.join("unknown_kid"), token(&SigningKey::generate("unknown")?, &url, 0))?;

    let trust =
        Trust::issuer(&url, [deployment.audience()], [vercel_oidc_verifier::Subject::new(deployment.subject())])?;
    let verifier = Arc::new(Verifier::new(trust, KeySet::of_issuer(&url)?));
    // For the life of the process, so that a request serialises the answer and does not copy it first.
    let answer: &Value = Box::leak(Box::new(answer(verifier, &thousand[0]).await?));
    let plain = Router::new().route("/", get(async move || Json(answer)));

    let listener = listen().await?;
    println!("{url}\nhttp://{}", listener.local_addr()?);
    Ok(axum::serve(listener, plain).await?)
}

/// The answer of the backend's routes at `/`.
async fn answer(verifier: Arc<Verifier>, token: &str) -> Result<Value, Error> {
    let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {token}")).body(Body::empty())?;
    let response = backend::app::app(backend::routes::routes(), verifier).answer(request).await;
    if !response.status().is_success() {
        return Err(format!("the backend answers {}", response.status()).into());
    }
    Ok(serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await?)?)
}

async fn listen() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}
