//! oauth-resource-server, as in its quickstart, with the subject as a required claim.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use oauth_resource_server::axum::AuthLayer;
use oauth_resource_server::{KeyNaming, OAuthConfig, OAuthValidator, static_token_policy};

fn variable(name: &str) -> String {
    std::env::var(name).expect("tests/check/run sets the variables")
}

#[tokio::main]
async fn main() {
    let config = OAuthConfig {
        enabled: true,
        issuer: variable("ISSUER"),
        jwks_uri: Some(variable("JWKS_URL")),
        audience: variable("AUDIENCE"),
        resource: format!("http://127.0.0.1:{}/orders", variable("PORT")),
        algorithms: vec!["RS256".to_owned()],
        // Vercel's tokens have no OAuth scope: their `scope` repeats the subject.
        allow_unscoped_tokens: true,
        required_claims: [("sub".to_owned(), variable("SUBJECT").into())].into(),
        ..OAuthConfig::default()
    };
    let config = config.resolve(KeyNaming::Dotted("oauth")).unwrap().expect("it is enabled");
    let validator = Arc::new(OAuthValidator::new(&config).unwrap());
    validator.spawn_background_refresh();
    validator.refresh_now().await.expect("the issuer is up");
    let policy = static_token_policy(None, Some(&config), false).unwrap();
    let layer = AuthLayer::from_decision(policy, Some(validator)).unwrap();
    let app = Router::new().route("/orders", get(|| async { "OK" })).route_layer(layer);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", variable("PORT"))).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
