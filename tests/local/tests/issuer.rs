//! The issuer over a socket: what it serves, and which tokens it exchanges.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use local::check::{Check, Options};
use local::{Deployment, Issuer, SigningKey, TestKey};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn start() -> Issuer {
    let key = SigningKey::for_tests("local-key", TestKey::Issuer);
    Issuer::start_with(TcpListener::bind("127.0.0.1:0").await.unwrap(), key).unwrap()
}

fn client() -> Client {
    Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

async fn get(url: &str) -> Value {
    let response = client().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200, "{url}");
    assert_eq!(response.headers()["content-type"], "application/json", "{url}");
    json(response).await
}

async fn exchange(issuer: &Issuer, request: &Value) -> (u16, Value) {
    let request =
        client().post(issuer.exchange_url()).header("content-type", "application/json").body(request.to_string());
    let response = request.send().await.unwrap();
    (response.status().as_u16(), json(response).await)
}

/// Returns the claims of a token. It comes from the issuer itself, so it is not verified.
fn unverified_claims(token: &Value) -> Value {
    use base64::Engine as _;
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[tokio::test]
async fn publishes_its_key_in_team_mode_and_in_global_mode() {
    let issuer = start().await;
    let keys = json!({ "keys": [issuer.key().jwk()] });
    assert_eq!(get(&format!("{}/.well-known/jwks", issuer.url())).await, keys);
    assert_eq!(get(&format!("{}/.well-known/jwks", issuer.team_url("acme"))).await, keys);
}

#[tokio::test]
async fn discovery_leads_from_the_iss_to_the_keys() {
    let issuer = start().await;
    for iss in [issuer.url().to_owned(), issuer.team_url("acme")] {
        let document = get(&format!("{iss}/.well-known/openid-configuration")).await;
        assert_eq!(document["issuer"], iss);
        let keys = get(document["jwks_uri"].as_str().unwrap()).await;
        assert_eq!(keys["keys"][0]["kid"], issuer.key().kid());
    }
}

/// An API that a developer points at the example issuer or at the check must not trust keys that others have.
#[tokio::test]
async fn an_issuer_for_other_programs_makes_a_new_key_at_each_start() {
    let example = async || {
        let issuer = Issuer::start(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
        issuer.key().jwk()["n"].clone()
    };
    let check = async || {
        let check = Check::start(Options { port: 0, ..Options::default() }).await.unwrap();
        let (_, url) = check.settings().into_iter().find(|(name, _)| *name == "JWKS URL").unwrap();
        get(url).await["keys"][0]["n"].clone()
    };
    assert_ne!(example().await, example().await);
    assert_ne!(check().await, check().await);
}

#[tokio::test]
async fn an_exchange_changes_the_audience_and_records_it_in_act() {
    let issuer = start().await;
    let before = SystemTime::now() - Duration::from_secs(600);
    let claims = Deployment::default().claims(issuer.url(), before, Duration::from_secs(3600));
    let token = issuer.key().mint(&claims);

    let request = json!({ "token": token, "aud": "https://api.example" });
    let (status, answer) = exchange(&issuer, &request).await;

    assert_eq!(status, 200);
    assert_eq!(answer["expiry"], claims["exp"]);
    let mut exchanged = unverified_claims(&answer["token"]);
    let iat = exchanged["iat"].as_u64().unwrap();
    assert!(iat >= claims["iat"].as_u64().unwrap() + 600, "{iat} is now");
    let mut expected = claims.clone();
    expected["iss"] = json!(issuer.team_url("acme"));
    expected["aud"] = json!("https://api.example");
    expected["act"] = json!({ "aud": "https://vercel.com/acme", "iat": claims["iat"] });
    exchanged["iat"] = claims["iat"].clone();
    assert_eq!(exchanged, expected);
}

#[tokio::test]
async fn an_exchanged_token_can_be_given_an_id() {
    let issuer = start().await;
    let token = issuer.token(&Deployment::default());
    let request = json!({ "token": token, "aud": "https://api.example", "jti": "an-id" });
    let (_, answer) = exchange(&issuer, &request).await;
    assert_eq!(unverified_claims(&answer["token"])["jti"], "an-id");
}

#[tokio::test]
async fn exchanges_no_token_of_another_issuer() {
    let issuer = start().await;
    let forger = SigningKey::for_tests(issuer.key().kid(), TestKey::Attacker);
    let forged = forger.mint(&issuer.claims(&Deployment::default()));
    for token in [forged.as_str(), "", "a.b.c"] {
        assert_eq!(
            exchange(&issuer, &json!({ "token": token, "aud": "https://api.example" })).await,
            (401, json!({ "error": "the token was not signed by this issuer" })),
            "{token}"
        );
    }
}

#[tokio::test]
async fn exchanges_no_expired_token() {
    let issuer = start().await;
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let claims = Deployment::default().claims(issuer.url(), an_hour_ago, Duration::from_secs(3600));
    let request = json!({ "token": issuer.key().mint(&claims), "aud": "https://api.example" });
    assert_eq!(exchange(&issuer, &request).await, (401, json!({ "error": "the token has expired" })));
}

#[tokio::test]
async fn an_exchange_needs_a_token_and_an_audience() {
    let issuer = start().await;
    let token = issuer.token(&Deployment::default());
    for request in [json!({ "token": token }), json!({ "aud": "a" }), json!({ "token": token, "aud": 1 })] {
        let (status, answer) = exchange(&issuer, &request).await;
        assert_eq!(status, 400);
        assert_eq!(answer["error"], "`token` and `aud` must be strings");
    }
}
