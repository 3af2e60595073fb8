//! What the load test compares the backend with, and the tokens that it sends.
//!
//! `bare FOLDER` writes tokens of four sorts into the folder, one a line, and serves, until it is stopped:
//!
//! - their issuer,
//! - the backend without verification: the same server, with a guard that lets everyone in as the same caller. At `/rsa`
//!   it makes one RSA-2048 verification for each request, with a key that was parsed at the start: the least that a new
//!   token costs,
//! - a plain axum server that gives the same answer, with no limits, no log and no guard.
//!
//! The URLs of these three are its output.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::{env, fs};

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use backend::app::{App, MAX_BODY_BYTES, hello};
use backend::auth::VerifiedCaller;
use backend::observe::observe;
use backend::oidc::{KeySet, Trust, Trusted, Verifier};
use backend::serve::serve;
use bench::{forged, parsed, token};
use local::{Deployment, Issuer, SigningKey};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

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

    let (bare, plain) = (listen().await?, listen().await?);
    println!("{url}\nhttp://{}\nhttp://{}", bare.local_addr()?, plain.local_addr()?);
    let key = parsed(issuer.key())?;
    let message = vec![b'x'; thousand[0].rfind('.').unwrap_or_default()];
    let signature = issuer.key().signature(&message);
    let rsa = get(async move |caller: VerifiedCaller| match key.verify_sig(&message, &signature) {
        Ok(()) => Ok(hello(caller).await),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    });
    let keys = KeySet::new(format!("{url}/.well-known/jwks").parse()?);
    let mut trust = Trust::project(&deployment.team, &deployment.project, &deployment.environment);
    if let Trusted::Subjects { issuer, .. } = &mut trust.who {
        issuer.clone_from(&url);
    }
    let verifier = Arc::new(Verifier::new(trust, keys, 1));
    let caller = VerifiedCaller(verifier.verify(thousand[0].as_bytes(), SystemTime::now()).await?);
    // As in `backend::app`, but for the verification and its `Server-Timing`.
    let seen = caller.clone();
    let layers = ServiceBuilder::new()
        .layer(observe())
        .map_response(move |mut response: Response| {
            response.extensions_mut().insert(seen.clone());
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        })
        .layer(Extension(caller.clone()))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let guarded = Router::new().route("/", get(hello)).route("/rsa", rsa).layer(layers).with_state(verifier);
    let open = Router::new().route("/", get(async move || hello(caller.clone()).await));
    tokio::try_join!(
        serve(bare, App::new(guarded, std::convert::identity), std::future::pending()),
        axum::serve(plain, open),
    )?;
    Ok(())
}

async fn listen() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}
