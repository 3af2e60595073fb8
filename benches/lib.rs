//! Tokens and keys for the benchmarks.

use std::time::{Duration, SystemTime};

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use local::{Deployment, SigningKey};
use serde_json::json;

/// A token like Vercel's that is valid for a day. Each number makes a different token.
pub fn token(key: &SigningKey, issuer: &str, number: usize) -> String {
    let mut claims = Deployment::default().claims(issuer, SystemTime::now(), Duration::from_secs(86_400));
    claims["jti"] = json!(number.to_string());
    key.mint(&claims)
}

/// This token with another token's signature: its form is right, and its signature is wrong.
pub fn forged(token: &str, other: &str) -> String {
    let (signing_input, _) = token.rsplit_once('.').unwrap_or_default();
    let (_, signature) = other.rsplit_once('.').unwrap_or_default();
    format!("{signing_input}.{signature}")
}

/// The public key, parsed.
///
/// # Errors
///
/// The key is not an RSA key.
pub fn parsed(key: &SigningKey) -> Result<ParsedPublicKey, KeyRejected> {
    let jwk = key.jwk();
    let number = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap_or_default()).unwrap_or_default();
    RsaPublicKeyComponents { n: number("n"), e: number("e") }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
}
