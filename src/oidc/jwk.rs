//! The issuer's document, read key by key: a key that can't be used is skipped, and spoils no other.
//!
//! A pure function of the document's bytes. Which keys are usable: RSA of 2048 bits or more for RS256 signatures (RFC
//! 7517, section 4; RFC 7518, sections 3.3 and 6.3.1). jsonwebtoken's own reader fails the whole set for one odd member
//! of one key.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Invalid;
use super::token::{UnverifiedToken, decode, if_present, object};

/// RFC 7518, section 3.3: a key of 2048 bits or larger MUST be used.
const MIN_MODULUS_BITS: usize = 2048;

/// A key that verifies RS256 signatures. Two are equal when they are the same key under the same `kid`.
#[derive(Debug)]
pub(super) struct Key {
    kid: String,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    decoding: DecodingKey,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (&self.kid, &self.modulus, &self.exponent) == (&other.kid, &other.modulus, &other.exponent)
    }
}

impl Key {
    pub(super) fn verify(&self, token: &UnverifiedToken<'_>) -> Result<(), Invalid> {
        // An error here is a signature that isn't even base64url.
        match crypto::verify(token.signature, token.signing_input.as_bytes(), &self.decoding, Algorithm::RS256) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Invalid::Signature),
        }
    }
}

/// The usable keys of a document, by `kid`. The first of several with the same `kid` counts.
#[derive(Debug)]
pub(super) struct Keys(HashMap<String, Arc<Key>>);

/// Why a document is not a key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadDocument {
    #[error("not a JSON object with an array `keys`")]
    NotKeySet,
    #[error("none of its {0} keys is usable: an RSA key with a `kid`, 2048 bits or more, for RS256 signatures")]
    NoUsableKey(usize),
}

impl Keys {
    pub(super) fn parse(document: &[u8]) -> Result<Self, BadDocument> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Box<RawValue>>,
        }
        let document: Document = object(document).ok_or(BadDocument::NotKeySet)?;
        let mut keys = HashMap::new();
        for key in document.keys.iter().filter_map(|jwk| usable(jwk)) {
            keys.entry(key.kid.clone()).or_insert_with(|| Arc::new(key));
        }
        if keys.is_empty() {
            return Err(BadDocument::NoUsableKey(document.keys.len()));
        }
        Ok(Self(keys))
    }

    pub(super) fn get(&self, kid: &str) -> Option<&Arc<Key>> {
        self.0.get(kid)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn usable(jwk: &RawValue) -> Option<Key> {
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        kid: String,
        n: String,
        e: String,
        #[serde(default, rename = "use", deserialize_with = "if_present")]
        usage: Option<String>,
        #[serde(default, deserialize_with = "if_present")]
        alg: Option<String>,
        #[serde(default, deserialize_with = "if_present")]
        key_ops: Option<Vec<String>>,
    }
    let jwk: Jwk = object(jwk.get().as_bytes())?;
    let modulus = unsigned(&jwk.n)?;
    let exponent = unsigned(&jwk.e)?;
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    let usable = jwk.kty == "RSA"
        && bits >= MIN_MODULUS_BITS
        && !matches!(*exponent, [] | [1] | [2])
        && jwk.usage.is_none_or(|usage| usage == "sig")
        && jwk.alg.is_none_or(|alg| alg == "RS256")
        && jwk.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    let decoding = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    usable.then_some(Key { kid: jwk.kid, modulus, exponent, decoding })
}

/// A Base64urlUInt (RFC 7518, section 2), most significant byte first, without leading zeros.
fn unsigned(number: &str) -> Option<Vec<u8>> {
    Some(decode(number)?.into_iter().skip_while(|byte| *byte == 0).collect())
}
