//! Keys that no verifier of RS256 should use: an RSA key that is too small, one with exponent 1, and an EC key.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use num_bigint::BigUint;
use serde_json::{Value, json};

use crate::base64url;

/// A TEST KEY of 1024 bits, half of what RS256 requires. It is public on purpose, and nothing else trusts it.
const SMALL_MODULUS: &[u8] = b"d9e9995de747fd979a165b5491bf26c1650e92e64c741dc53f08ef4b34db4e28ce79e50e9360bdea87b793739802d32b0958c9527be4915ffe8ea2ecda8027c66891fba2a4b34170481252770315a32821fe224418b63debf739f1d0aed717924086243d6e926bea33e36899938288e9438ff780e2904777603690b5401b7923";
const SMALL_PRIVATE_EXPONENT: &[u8] = b"43364ffdacb681bb5ee5826a0542463be465a85dac3b2c6b8853c32b1934835906c6862606c31210e2a776ad72b77c568bdd7ccb1a3797b75a16b89e018f01b518e36f17d694e1a33bcaa86d6a2c697c84839d4c39db3cdac8c870faff9fa875e35742459fab41c03a516df0904bacb93198ebf1f07e4741fe7421b16f1f2c41";

/// An RSA key that the crypto library does not sign with, so this module computes the signature.
pub(crate) struct UnfitKey {
    modulus: BigUint,
    public_exponent: BigUint,
    private_exponent: BigUint,
}

impl UnfitKey {
    /// Returns the key of 1024 bits.
    pub(crate) fn small() -> Self {
        let number = |hex: &[u8]| BigUint::parse_bytes(hex, 16).unwrap_or_default();
        Self {
            modulus: number(SMALL_MODULUS),
            public_exponent: BigUint::from(65_537_u32),
            private_exponent: number(SMALL_PRIVATE_EXPONENT),
        }
    }

    /// Returns a key with this modulus and the exponent 1. A message is its own signature, so anyone can sign.
    pub(crate) fn with_exponent_one(modulus: &[u8]) -> Self {
        let one = BigUint::from(1_u32);
        Self { modulus: BigUint::from_bytes_be(modulus), public_exponent: one.clone(), private_exponent: one }
    }

    /// Returns the public key as a JWK.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        json!({
            "kty": "RSA",
            "n": base64url(self.modulus.to_bytes_be()),
            "e": base64url(self.public_exponent.to_bytes_be()),
            "kid": kid,
            "use": "sig",
            "alg": "RS256",
        })
    }

    /// Returns the RS256 signature of `message` (RFC 8017, sections 8.2.1 and 9.2).
    pub(crate) fn signature(&self, message: &[u8]) -> Vec<u8> {
        /// The DER in front of a SHA-256 digest: RFC 8017, section 9.2, note 1.
        const DIGEST_INFO: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
        let length = usize::try_from(self.modulus.bits().div_ceil(8)).unwrap_or_default();
        let end = [&[0][..], DIGEST_INFO, digest(&SHA256, message).as_ref()].concat();
        let padding = vec![0xff; length - 2 - end.len()];
        let encoded = [&[0, 1][..], &padding, &end].concat();
        let signature = BigUint::from_bytes_be(&encoded).modpow(&self.private_exponent, &self.modulus).to_bytes_be();
        [vec![0; length - signature.len()], signature].concat()
    }
}

/// A key for ES256. The algorithm is secure, but the API must accept RS256 only.
pub(crate) struct EcKey(EcdsaKeyPair);

impl EcKey {
    /// Makes a new key.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub(crate) fn generate() -> std::io::Result<Self> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(Self)
            .map_err(|_| std::io::Error::other("the system gave no randomness for an EC key"))
    }

    /// Returns the public key as a JWK.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        // An uncompressed point: the byte 4, then both coordinates, 32 bytes each.
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y), "kid": kid, "use": "sig", "alg": "ES256" })
    }

    /// Returns the ES256 signature of `message`.
    pub(crate) fn signature(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).map(|signature| signature.as_ref().to_vec()).unwrap_or_default()
    }
}

/// Returns a certificate in DER that holds this public key and is signed by `sign` (RFC 5280, section 4.1).
pub(crate) fn certificate(public_key_info: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    /// The algorithm sha256WithRSAEncryption, 1.2.840.113549.1.1.11.
    const ALGORITHM: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
    /// The common name `attacker`.
    const NAME: &[u8] = b"\x30\x13\x31\x11\x30\x0f\x06\x03\x55\x04\x03\x0c\x08attacker";
    let validity = der(SEQUENCE, &[der(0x17, b"250101000000Z"), der(0x17, b"490101000000Z")].concat());
    let contents = [&der(0x02, &[1])[..], ALGORITHM, NAME, &validity, NAME, public_key_info].concat();
    let to_be_signed = der(SEQUENCE, &contents);
    let signature = der(0x03, &[&[0][..], &sign(&to_be_signed)].concat());
    der(SEQUENCE, &[&to_be_signed[..], ALGORITHM, &signature].concat())
}

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(contents.len()).unwrap_or(u16::MAX).to_be_bytes();
    let length = match (high, low) {
        (0, 0..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag][..], &length, contents].concat()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RsaPublicKeyComponents,
        UnparsedPublicKey,
    };

    use super::*;

    /// So a verifier can refuse the small key only because of its size.
    #[test]
    fn the_small_keys_signature_is_valid() {
        let key = UnfitKey::small();
        let public = RsaPublicKeyComponents { n: key.modulus.to_bytes_be(), e: key.public_exponent.to_bytes_be() };
        assert_eq!(key.modulus.bits(), 1024);
        let signature = key.signature(b"message");
        public.verify(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, b"message", &signature).unwrap();
    }

    #[test]
    fn with_exponent_one_a_message_is_its_own_signature() {
        let key = UnfitKey::with_exponent_one(&[0xff; 256]);
        let signature = key.signature(b"message");
        assert_eq!((signature.len(), &signature[..3]), (256, &[0, 1, 0xff][..]));
        assert!(signature.ends_with(digest(&SHA256, b"message").as_ref()));
        assert_eq!(key.jwk("a")["e"], "AQ");
    }

    #[test]
    fn the_ec_keys_signature_is_valid() {
        let key = EcKey::generate().unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.0.public_key().as_ref());
        public.verify(b"message", &key.signature(b"message")).unwrap();
    }
}
