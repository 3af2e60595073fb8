//! Project Wycheproof's vectors for RSASSA-PKCS1-v1_5 with SHA-256, on the path of a token's signature.
//!
//! The messages of the vectors are no JSON. So a valid signature leads to claims that can't be read, and an invalid
//! signature is refused before the claims are read.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;

use crate::error::Invalid;
use crate::jwk::Keys;
use crate::token::UnverifiedToken;

#[derive(Deserialize)]
struct Vectors {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    bits: u32,
    n: String,
    e: String,
    tests: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    id: u32,
    message: String,
    signature: String,
    result: String,
}

#[test]
fn verifies_exactly_the_valid_signatures_of_wycheproof() {
    let Vectors { keys } = serde_json::from_str(include_str!("testdata/wycheproof-rs256.json")).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for Key { bits, n, e, tests } in keys {
        let jwk = json!({ "kty": "RSA", "kid": "a", "n": n, "e": e });
        let (parsed, _) = Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        for Vector { id, message, signature, result } in tests {
            let signing_input = BASE64_URL_SAFE_NO_PAD.decode(message).unwrap();
            let token = UnverifiedToken {
                signing_input: &signing_input,
                payload: "",
                signature: &signature,
                unverified_kid: "a".into(),
            };
            let expected = match result.as_str() {
                "valid" => Invalid::MalformedClaims,
                // "acceptable" is a legacy form without the NULL of the algorithm. RFC 8017 requires the NULL.
                "invalid" | "acceptable" => Invalid::Signature,
                _ => panic!("{result}"),
            };
            let is_valid = expected == Invalid::MalformedClaims;
            *(if is_valid { &mut valid } else { &mut invalid }) += 1;
            assert_eq!(token.signed_claims(parsed.get("a").unwrap()).err(), Some(expected), "{bits} bits, test {id}");
        }
    }
    assert_eq!((valid, invalid), (24, 752));
}
