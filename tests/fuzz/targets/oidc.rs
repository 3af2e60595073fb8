//! The parts of `src/oidc` that read what others send, and the ways in that they keep to themselves.

#![allow(dead_code, unused_imports, reason = "each target uses its own part of this")]

#[path = "../../../src/oidc/error.rs"]
mod error;
#[path = "../../../src/oidc/jwk.rs"]
mod jwk;
#[path = "../../../src/oidc/token.rs"]
mod token;

use error::{Forbidden, Invalid};

/// What a stranger sends.
pub fn read_token(bytes: &[u8]) {
    if let Ok(token) = token::UnverifiedToken::parse(bytes) {
        assert!(!token.kid.is_empty() && bytes.len() <= 8 * 1024);
        assert_eq!([token.signing_input, token.signature].join(&b'.'), bytes);
        let _ = token::decode(token.payload).and_then(|payload| token::object::<serde_json::Value>(&payload));
    }
}

/// What the issuer sends.
pub fn read_key_set(document: &[u8]) {
    // A token that no key has signed, and whatever keys the document brings.
    let header = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ";
    let text = format!("{header}.e30.{}", "A".repeat(342));
    let Ok(token) = token::UnverifiedToken::parse(text.as_bytes()) else { unreachable!("it is well formed") };
    if let Ok(keys) = jwk::Keys::parse(document) {
        assert!(keys.len() > 0);
        if let Some(key) = keys.get("k") {
            assert!(key.verify(&token).is_err());
        }
    }
}
