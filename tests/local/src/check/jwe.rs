//! An encrypted token (RFC 7516) whose secret is the issuer's public key, and a compressed payload.

use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_128, AesKek, KeyWrap as _};
use aws_lc_rs::pbkdf2;
use serde_json::json;

use crate::base64url;

/// Returns a JWE of `claims` by `PBES2-HS256+A128KW` and `A128GCM`. Anyone who has the password can make one. The header
/// names `p2c` as the number of iterations, and the token is made with 1000 of them.
pub(crate) fn encrypted(kid: &str, password: &str, p2c: u64, claims: &str) -> Result<String, Unspecified> {
    const ALGORITHM: &str = "PBES2-HS256+A128KW";
    let (salt, content_key, nonce) = ([7; 16], [8; 16], [9; NONCE_LEN]);
    let header =
        json!({ "alg": ALGORITHM, "enc": "A128GCM", "kid": kid, "cty": "JWT", "p2s": base64url(salt), "p2c": p2c });
    let header = base64url(header.to_string());

    let mut derived = [0; 16];
    let iterations = NonZeroU32::new(1000).ok_or(Unspecified)?;
    let full_salt = [ALGORITHM.as_bytes(), &[0], &salt].concat();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &full_salt, password.as_bytes(), &mut derived);
    let mut wrapped = [0; 24];
    let wrapped = AesKek::new(&AES_128, &derived)?.wrap(&content_key, &mut wrapped)?;

    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key)?);
    let mut text = claims.as_bytes().to_vec();
    let nonce_of_key = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce_of_key, Aad::from(header.as_bytes()), &mut text)?;
    Ok([header, base64url(&*wrapped), base64url(nonce), base64url(text), base64url(tag)].join("."))
}

/// Returns the text in DEFLATE (RFC 1951, section 3.2.4: one block that is not compressed).
pub(crate) fn deflated(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    let complement = length.map(|byte| !byte);
    [&[1][..], &length, &complement, text.as_bytes()].concat()
}
