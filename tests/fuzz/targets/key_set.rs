//! `cargo +nightly fuzz run key_set --fuzz-dir tests/fuzz`: the JWKS document that the issuer sends.

#![no_main]

use std::time::SystemTime;

use vercel_oidc_verifier::{KeySet, Trust, Verifier};

libfuzzer_sys::fuzz_target!(|document: &[u8]| {
    if let Ok(keys) = KeySet::from_jwks(document) {
        // {"alg":"RS256","kid":"k"}, and no signature of any key.
        let token = format!("eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.e30.{}", "A".repeat(342));
        let verifier = Verifier::new(Trust::project("acme", "storefront", "production").unwrap(), keys);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(verifier.verify(token.as_bytes(), SystemTime::now())).is_err());
    }
});
