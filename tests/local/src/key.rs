//! The key that signs tokens.
//!
//! [`SigningKey::mint`] makes tokens as Vercel does. [`SigningKey::sign`] signs any header and payload, for tokens that
//! Vercel never makes. The private key can't be read. The formats are JWS (RFC 7515) and
//! JWK (RFC 7517). The signature is RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, section 3.3).

use std::{fmt, io};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A file of `tests/local/test-keys`. Its private key is public, so nothing outside of tests and the demo may trust it.
#[derive(Clone, Copy, Debug)]
pub enum TestKey {
    /// The issuer's key.
    Issuer,
    /// The key that the issuer changes to.
    Next,
    /// A key that the issuer never publishes.
    Attacker,
}

/// An RSA key of 2048 bits.
pub struct SigningKey {
    kid: String,
    pair: RsaKeyPair,
}

impl SigningKey {
    /// Makes a new key with this `kid`.
    ///
    /// # Errors
    ///
    /// The system has no randomness for a key.
    pub fn generate(kid: &str) -> io::Result<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048)
            .map_err(|_| io::Error::other("the system gave no randomness for an RSA key"))?;
        Ok(Self { kid: kid.to_owned(), pair })
    }

    /// Returns this test key with this `kid`. In an unoptimised build, making a key takes long.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the files don't change")]
    pub fn for_tests(kid: &str, key: TestKey) -> Self {
        let der: &[u8] = match key {
            TestKey::Issuer => include_bytes!("../test-keys/test-key-issuer-never-trust.der"),
            TestKey::Next => include_bytes!("../test-keys/test-key-next-never-trust.der"),
            TestKey::Attacker => include_bytes!("../test-keys/test-key-attacker-never-trust.der"),
        };
        Self { kid: kid.to_owned(), pair: RsaKeyPair::from_der(der).expect("the file holds an RSA key") }
    }

    /// Returns the `kid` of this key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the public key as a JWK.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let public = RsaPublicKeyComponents::from(self.pair.public_key());
        json!({
            "kty": "RSA",
            "n": base64url(public.n),
            "e": base64url(public.e),
            "kid": self.kid,
            "use": "sig",
            "alg": "RS256",
        })
    }

    /// Returns a token with these claims and the header of Vercel's tokens.
    #[must_use]
    pub fn mint(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.kid });
        self.sign(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// Returns a token with this header and payload and a valid signature. Both may be any bytes.
    #[must_use]
    pub fn sign(&self, header: &[u8], payload: &[u8]) -> String {
        let message = format!("{}.{}", base64url(header), base64url(payload));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", base64url(&signature))
    }

    /// Returns the signature of `message`. In a token, the message is `header.payload`, both in base64url.
    #[must_use]
    pub fn signature(&self, message: &[u8]) -> Vec<u8> {
        self.signature_by(&RSA_PKCS1_SHA256, message)
    }

    /// Returns the signature of `message` by an algorithm other than Vercel's.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only a defect in the library can refuse its own key")]
    pub fn signature_by(&self, algorithm: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(algorithm, &SystemRandom::new(), message, &mut signature)
            .expect("a key of 2048 bits signs any message");
        signature
    }

    /// Returns the public key as a `SubjectPublicKeyInfo` in DER, the content of a PEM file with `PUBLIC KEY`.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only a defect in the library can refuse its own key")]
    pub fn public_key_info(&self) -> Vec<u8> {
        self.pair.public_key().as_der().expect("an RSA key has this form").as_ref().to_vec()
    }

    /// Returns the public key as an `RSAPublicKey` in DER, the content of a PEM file with `RSA PUBLIC KEY`.
    #[must_use]
    pub fn rsa_public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// Returns the claims of a token if this key has signed it.
    pub(crate) fn signed_claims(&self, token: &str) -> Option<Value> {
        let (message, signature) = token.rsplit_once('.')?;
        let (_, payload) = message.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.pair.public_key())
            .verify(message.as_bytes(), &signature)
            .ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Encodes bytes as in the parts of a token: base64url without padding.
#[must_use]
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn reads_only_tokens_that_it_has_signed() {
        let ours = SigningKey::for_tests("a", TestKey::Issuer);
        let theirs = SigningKey::for_tests("a", TestKey::Attacker);
        let claims = json!({ "sub": "someone" });

        assert_eq!(ours.signed_claims(&ours.mint(&claims)), Some(claims.clone()));
        assert_eq!(ours.signed_claims(&theirs.mint(&claims)), None);
        assert_eq!(ours.signed_claims("not.a.token"), None);
    }

    #[test]
    fn shows_2048_bits_and_nothing_private() {
        let key = SigningKey::generate("a-key").unwrap();
        let jwk = key.jwk();

        let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
        assert_eq!((modulus.len(), modulus[0] >> 7), (256, 1));
        assert_eq!(jwk["e"], "AQAB");
        let mut members: Vec<_> = jwk.as_object().unwrap().keys().collect();
        members.sort();
        assert_eq!(members, ["alg", "e", "kid", "kty", "n", "use"]);
        assert_eq!(format!("{key:?}"), r#"SigningKey { kid: "a-key", .. }"#);
    }
}
