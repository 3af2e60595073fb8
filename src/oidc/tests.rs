//! Tests of the whole verifier and of its cache, with the exact reason for each refusal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::crypto::aws_lc;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;

static KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_rsa_der(include_bytes!("testdata/rsa-2048.der")));

/// The key's modulus. jsonwebtoken's `Jwk::from_encoding_key` panics if another crate enables a second provider.
const MODULUS: &str = "x467KKS-oG2FVhHF9mjbv3Jc12O16nFEphg8XnI1dd14xjOpSF1FBiEWGGinPzJN41ogn1n63tpGikDDwqaswce8dYtqeJqqq928hXDiQP5i850KWrierh2U2NMLt2wRWbR7KS9F2C-dRwLGNOWIfbKiVZindbzQ-YqeENFjAaZZBbBLqmNATxBbCne-19lRpphNt9cjnetDajstLWeOHlMCxUeXy52JrpxAahdmK7glcvRU_VHINcrrme_NBdr55dhrXhQH5lYIdlc8c5Htklqete5H5UJbupOAJbP1I8VErkeVc5pL4p7W4fLwSNwIzIYvrJbWEdYXhTBGktUhUw";

pub(crate) fn jwks(kids: &[&str]) -> String {
    let jwk = |kid: &&str| json!({ "kty": "RSA", "alg": "RS256", "kid": kid, "n": MODULUS, "e": "AQAB" });
    let keys = kids.iter().map(jwk);
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

pub(crate) fn key_set() -> KeySet {
    KeySet::from_jwks(jwks(&["key-1"]).as_bytes()).unwrap()
}

pub(crate) fn trust() -> Trust {
    Trust::project("acme", "storefront", "production").unwrap()
}

/// A token of any bytes, with a valid signature.
pub(crate) fn signed(header: &str, payload: &str) -> String {
    let message = [header, payload].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let signer = (aws_lc::DEFAULT_PROVIDER.signer_factory)(&Algorithm::RS256, &KEY).unwrap();
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signer.sign(message.as_bytes())))
}

/// A token that [`trust`] accepts, with these changes; `null` removes a claim.
pub(crate) fn token(changes: &[(&str, Value)]) -> String {
    let mut claims = json!({
        "iss": "https://oidc.vercel.com/acme",
        "aud": "https://vercel.com/acme",
        "sub": "owner:acme:project:storefront:environment:production",
        "exp": now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600,
        "project": "storefront",
    });
    for (name, value) in changes {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    signed(r#"{"alg":"RS256","typ":"JWT","kid":"key-1"}"#, &claims.to_string())
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn verifier() -> Verifier {
    Verifier::new(trust(), key_set())
}

async fn refusal(token: &str) -> VerifyError {
    verifier().verify(token.as_bytes(), now()).await.unwrap_err()
}

#[tokio::test]
async fn accepts_a_token_and_returns_its_claims() {
    let claims = verifier().verify(token(&[]).as_bytes(), now()).await.unwrap();
    assert_eq!(claims.sub(), Some("owner:acme:project:storefront:environment:production"));
    assert_eq!(claims.project(), Some("storefront"));
}

#[tokio::test]
async fn refuses_a_header_payload_or_signature_of_another_token() {
    let (mine, other) = (token(&[]), token(&[("project", json!("other"))]));
    let (mine, other): (Vec<_>, Vec<_>) = (mine.split('.').collect(), other.split('.').collect());
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"key-1"}"#);
    for [header, payload, signature] in [
        [&header, mine[1], mine[2]],
        [mine[0], other[1], mine[2]],
        [mine[0], mine[1], other[2]],
        [mine[0], mine[1], ""],
    ] {
        let error = refusal(&format!("{header}.{payload}.{signature}")).await;
        assert_eq!(error, Invalid::Signature.into());
    }
}

#[tokio::test]
async fn refuses_an_unknown_key() {
    let payload = r#"{"exp":1}"#;
    let error = refusal(&signed(r#"{"alg":"RS256","kid":"key-2"}"#, payload)).await;
    assert_eq!(error, Invalid::UnknownKey.into());
}

/// jsonwebtoken 12's own `decode` accepts each of these tokens.
#[tokio::test]
async fn refuses_what_jsonwebtoken_alone_would_accept() {
    let claims = |changes: &str| {
        format!(
            r#"{{"iss":"https://oidc.vercel.com/acme","aud":"https://vercel.com/acme","exp":9999999999,
                "sub":"owner:acme:project:storefront:environment:production"{changes}}}"#
        )
    };
    let header = r#"{"alg":"RS256","kid":"key-1"}"#;
    assert!(verifier().verify(signed(header, &claims("")).as_bytes(), now()).await.is_ok());
    for (header, payload, reason) in [
        (r#"{"alg":"RS256","kid":"key-1","crit":["b64"],"b64":true}"#, claims(""), Invalid::CriticalExtension),
        (r#"{"alg":"RS256","kid":"key-1","typ":"at+jwt"}"#, claims(""), Invalid::Type),
        (header, claims(r#","iat":"1""#), Invalid::MalformedClaims),
        (header, claims(r#","owner":"acme","owner":"acme""#), Invalid::MalformedClaims),
        (
            header,
            claims("").replace(r#""https://oidc.vercel.com/acme""#, r#"["https://oidc.vercel.com/acme"]"#),
            Invalid::MalformedClaims,
        ),
        (
            header,
            r#"[9999999999,1,"owner:acme:project:storefront:environment:production","https://oidc.vercel.com/acme","https://vercel.com/acme"]"#
                .into(),
            Invalid::MalformedClaims,
        ),
    ] {
        assert_eq!(refusal(&signed(header, &payload)).await, reason.into(), "{header} {payload}");
    }
    let future = refusal(&signed(header, &claims(r#","iat":9999999990"#))).await;
    assert!(matches!(future, VerifyError::Invalid(Invalid::IssuedInTheFuture { .. })), "{future}");
}

#[tokio::test]
async fn refuses_a_valid_token_of_another_caller() {
    let error = refusal(&token(&[("sub", json!("owner:acme:project:storefront:environment:preview"))])).await;
    assert!(matches!(error, VerifyError::Forbidden(_)), "{error}");
}

#[tokio::test]
async fn a_cached_token_expires() {
    let (verifier, token) = (verifier(), token(&[]));
    let later = now() + Duration::from_secs(3600 + 31);
    for _ in 0..2 {
        assert!(verifier.verify(token.as_bytes(), now()).await.is_ok());
        assert_eq!(verifier.verified.len(), 1);
        let error = verifier.verify(token.as_bytes(), later).await.unwrap_err();
        assert!(matches!(error, VerifyError::Invalid(Invalid::Expired { .. })), "{error}");
        assert_eq!(verifier.verified.len(), 0, "an expired token leaves the cache");
    }
}

#[tokio::test]
async fn a_cached_token_is_found_by_all_its_bytes() {
    let (verifier, token) = (verifier(), token(&[]));
    verifier.verify(token.as_bytes(), now()).await.unwrap();
    for changed in 0..token.len() {
        let replacement = if token.as_bytes()[changed] == b'A' { "B" } else { "A" };
        let other = format!("{}{replacement}{}", &token[..changed], &token[changed + 1..]);
        assert!(verifier.verified.get(other.as_bytes()).is_none());
        assert!(verifier.verify(other.as_bytes(), now()).await.is_err(), "{changed}");
    }
    assert_eq!(verifier.verified.len(), 1, "a refused token is not cached");
}

#[tokio::test]
async fn a_key_that_is_fetched_again_invalidates_its_cached_tokens() {
    let mut verifier = verifier();
    let token = token(&[]);
    let first = verifier.verify(token.as_bytes(), now()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &verifier.verify(token.as_bytes(), now()).await.unwrap()));
    verifier.keys = key_set();
    assert!(!Arc::ptr_eq(&first, &verifier.verify(token.as_bytes(), now()).await.unwrap()));
    verifier.keys = KeySet::from_jwks(jwks(&["key-2"]).as_bytes()).unwrap();
    assert_eq!(verifier.verify(token.as_bytes(), now()).await.unwrap_err(), Invalid::UnknownKey.into());
}

#[tokio::test]
async fn the_cache_stays_within_its_capacity() {
    let tokens: Vec<_> = (0..50).map(|number| token(&[("jti", json!(number.to_string()))])).collect();
    for (capacity, kept) in [(0, 0..=0), (1, 1..=1), (10, 5..=10)] {
        let verifier = verifier().with_cached_tokens(capacity);
        for token in &tokens {
            assert!(verifier.verify(token.as_bytes(), now()).await.is_ok());
        }
        assert!(kept.contains(&verifier.verified.len()), "{} of {capacity}", verifier.verified.len());
    }
}

#[tokio::test]
async fn no_debug_output_holds_a_token() {
    let (verifier, token) = (verifier(), token(&[]));
    let claims = verifier.verify(token.as_bytes(), now()).await.unwrap();
    let refused = verifier.verify(token.replace('.', "..").as_bytes(), now()).await;
    let shown = format!("{verifier:?} {claims:?} {refused:?}");
    for part in token.split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
}
