//! `cargo +nightly fuzz run payload --fuzz-dir tests/fuzz`: the payload of a token with a valid signature.

#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use tokio::runtime::Builder;
use vercel_oidc_verifier::{KeySet, Trust, Verifier};

static KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_rsa_der(include_bytes!("../../../src/oidc/testdata/rsa-2048.der")));

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
        let Jwk { algorithm, .. } = Jwk::from_encoding_key(&KEY, Algorithm::RS256).unwrap();
        let jsonwebtoken::jwk::AlgorithmParameters::RSA(rsa) = algorithm else { unreachable!("an RSA key") };
        let jwks = format!(r#"{{"keys":[{{"kty":"RSA","kid":"k","n":"{}","e":"{}"}}]}}"#, rsa.n, rsa.e);
        Verifier::new(Trust::project("acme", "storefront", "production").unwrap(), KeySet::from_jwks(jwks.as_bytes()).unwrap())
    });
    // {"alg":"RS256","kid":"k"}
    let message = format!("eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.{}", BASE64_URL_SAFE_NO_PAD.encode(payload));
    let signature = crypto::sign(message.as_bytes(), &KEY, Algorithm::RS256).unwrap();
    let token = format!("{message}.{signature}");
    let runtime = Builder::new_current_thread().build().unwrap();
    if let Ok(claims) = runtime.block_on(VERIFIER.verify(token.as_bytes(), SystemTime::now())) {
        assert_eq!(claims.iss(), Some("https://oidc.vercel.com/acme"));
        assert_eq!(claims.sub(), Some("owner:acme:project:storefront:environment:production"));
    }
});
