//! jwt-authorizer, as in its README, with an issuer, an audience and a check of the subject.

use axum_0_7::Router;
use axum_0_7::routing::get;
use jwt_authorizer::{Authorizer, IntoLayer as _, JwtAuthorizer, Validation};
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
struct User {
    sub: String,
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("tests/check/run sets the variables")
}

#[tokio::main]
async fn main() {
    let subject = variable("SUBJECT");
    let rules = Validation::new().iss(&[variable("ISSUER")]).aud(&[variable("AUDIENCE")]).nbf(true);
    let authorizer: Authorizer<User> = JwtAuthorizer::from_jwks_url(&variable("JWKS_URL"))
        .validation(rules)
        .check(move |user: &User| user.sub == subject)
        .build()
        .await
        .expect("the issuer is up");
    let app = Router::new().route("/orders", get(|| async { "OK" })).layer(authorizer.into_layer());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", variable("PORT"))).await.unwrap();
    axum_0_7::serve(listener, app).await.unwrap();
}
