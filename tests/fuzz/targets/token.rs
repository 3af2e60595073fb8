//! `cargo +nightly fuzz run token --fuzz-dir tests/fuzz`: a token that an attacker sends.

#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use vercel_oidc_verifier::{KeySet, Trust, Verifier, unverified_issuer};

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    // 2048 bits, all of them set.
    let jwks = format!(r#"{{"keys":[{{"kty":"RSA","kid":"k","n":"{}w","e":"AQAB"}}]}}"#, "_".repeat(341));
    Verifier::new(Trust::project("acme", "storefront", "production").unwrap(), KeySet::from_jwks(jwks.as_bytes()).unwrap())
});

libfuzzer_sys::fuzz_target!(|token: &[u8]| {
    let _ = unverified_issuer(token);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // No private key belongs to that public key.
    assert!(runtime.block_on(VERIFIER.verify(token, SystemTime::now())).is_err());
});
