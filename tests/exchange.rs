//! A token that was exchanged, between the client's crate and the backend, with the stand-in for Vercel's exchange.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::pending;
use std::time::{Duration, SystemTime};

use backend::settings::Settings;
use local::{Deployment, Issuer};
use tokio::net::TcpListener;
use vercel_oidc_client::{Api, ApiError, Tokens};

const AUDIENCE: &str = "https://api.example.com";

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Starts a backend that trusts this issuer, and returns its URL.
async fn backend(issuer: &str) -> String {
    let variables = [
        ("OIDC_TEAM_SLUG", "acme"),
        ("OIDC_PROJECT_NAME", "storefront"),
        ("OIDC_ISSUER", issuer),
        ("OIDC_AUDIENCE", AUDIENCE),
    ];
    let find = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
    let listener = listener().await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(backend::run(listener, Settings::read(find).unwrap(), pending()));
    url
}

/// The exchange gives the team's `iss` also if the project's issuer mode is *Global*. So a backend that accepts exchanged
/// tokens trusts the team's issuer.
#[tokio::test]
async fn in_global_issuer_mode_an_exchanged_token_has_the_teams_issuer() {
    let issuer = Issuer::start(listener().await).unwrap();
    let claims = Deployment::default().claims(issuer.url(), SystemTime::now(), Duration::from_secs(3600));
    let own = issuer.key().mint(&claims);
    let tokens = Tokens::builder().token(own).exchange_url(issuer.exchange_url()).build().unwrap();
    let call = async |trusted: &str| {
        let api = Api::new(&backend(trusted).await, tokens.clone()).unwrap().with_audience(AUDIENCE);
        // The gate answers every verified caller, also if the routes are other than the template's.
        api.get(None, "/verify").send().await?.error_for_status().await
    };
    call(&issuer.team_url("acme")).await.unwrap();
    let error = call(issuer.url()).await.unwrap_err();
    let ApiError::Status { status, code, .. } = &error else { panic!("{error:?}") };
    assert_eq!((status.as_u16(), code.as_deref()), (401, Some("invalid_token")));
    assert!(error.to_string().contains("An exchanged token has the team's issuer."), "{error}");
    assert!(error.log_detail().contains(&format!("iss=`{}`", issuer.team_url("acme"))), "{}", error.log_detail());
}
