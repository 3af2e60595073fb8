//! Verifies Vercel OIDC tokens, and returns the claims of a token or the reason why it is refused.
//!
//! A Vercel Function proves who it is with a JSON Web Token that Vercel signs. This crate verifies such a token before
//! an API answers. The function and the API share no secret: the API needs only Vercel's public keys, which this crate
//! fetches.
//!
//! ```no_run
//! use std::time::SystemTime;
//! use vercel_oidc_verifier::{KeySet, Trust, Verifier};
//!
//! # async fn example(token: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
//! let trust = Trust::project("acme", "storefront", "production").with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"]);
//! let verifier = Verifier::new(trust, keys);
//!
//! let claims = verifier.verify(token, SystemTime::now()).await?;
//! println!("called by {:?}", claims.sub());
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `axum`, `require_token` guards an axum application, `VerifiedCaller` tells a handler who calls, and
//! `Problem` answers errors as `application/problem+json`.
//!
//! # What is checked, in order
//!
//! 1. The form: a compact JWS (RFC 7515) of at most 8 KiB, `alg` RS256, a `kid`, no `crit`. The token chooses neither the
//!    algorithm (`none`, HMAC with a public key as the secret) nor the key (`jwk`, `jku`, `x5u`, `x5c`).
//! 2. The key: the issuer's usable key of that `kid`, from the one URL that was configured.
//! 3. The signature, by that key.
//! 4. Issuer, audience and time (RFC 7519, section 4.1). Vercel signs tokens for all its customers. Without the checks
//!    of audience and subject, the API would accept the tokens of every customer.
//! 5. Who calls: the subject, and the ids of team and project.
//!
//! # What is not covered
//!
//! A token that an attacker has read can be used until it expires: use TLS, and an audience for each API. The crate
//! does not limit how often a caller may call, and can't revoke a single token.
//!
//! # Several issuers
//!
//! One verifier serves one issuer. An API with several issuers chooses a verifier by the token's unverified issuer, and
//! the verifier then checks the issuer. Nothing is fetched for an unknown issuer:
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Arc;
//! use std::time::SystemTime;
//! use vercel_oidc_verifier::{Claims, KeySet, Subject, Trust, Verifier, unverified_issuer};
//!
//! const VERCEL: &str = "https://oidc.vercel.com/acme";
//! const GITHUB: &str = "https://token.actions.githubusercontent.com";
//!
//! struct Verifiers(HashMap<&'static str, Verifier>);
//!
//! impl Verifiers {
//!     async fn verify(&self, token: &[u8]) -> Option<Arc<Claims>> {
//!         let verifier = self.0.get(unverified_issuer(token)?.as_str())?;
//!         verifier.verify(token, SystemTime::now()).await.ok()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vercel = Trust::project("acme", "storefront", "production").with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"]);
//! // A workflow's token has none of Vercel's own claims: issuer, audience and subject decide.
//! let workflow = Subject::new("repo:acme/storefront:ref:refs/heads/main");
//! let github = Trust::issuer(GITHUB, ["https://api.example.com"], [workflow]);
//! let verifiers = Verifiers(HashMap::from([
//!     (VERCEL, Verifier::new(vercel, KeySet::of_issuer(VERCEL)?)),
//!     (GITHUB, Verifier::new(github, KeySet::of_issuer(GITHUB)?)),
//! ]));
//! // {"iss":"https://evil.example"}
//! let unknown = b"e30.eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSJ9.e30";
//! assert!(verifiers.verify(unknown).await.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! # Testing your handlers
//!
//! Only a [`Verifier`] makes [`Claims`]. A test makes a verifier with the test's own key, and signs any claims with
//! that key. It needs two development dependencies:
//!
//! ```text
//! cargo add --dev jsonwebtoken@11 --no-default-features -F aws_lc_rs
//! cargo add --dev serde_json@1
//! ```
//!
//! This test accepts a token and refuses it an hour later:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use jsonwebtoken::jwk::Jwk;
//! use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
//! use serde_json::json;
//! use vercel_oidc_verifier::{KeySet, Trust, Verifier};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // openssl genrsa -traditional 2048 | openssl rsa -traditional -outform DER -out rsa-2048.der
//! let key = EncodingKey::from_rsa_der(include_bytes!("testdata/rsa-2048.der"));
//! let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
//! jwk.common.key_id = Some("test".into());
//! let keys = KeySet::from_jwks(json!({ "keys": [jwk] }).to_string().as_bytes())?;
//! let verifier = Verifier::new(Trust::project("acme", "storefront", "production"), keys);
//!
//! let now = SystemTime::now();
//! let header = Header { kid: Some("test".into()), ..Header::new(Algorithm::RS256) };
//! let claims = json!({
//!     "iss": "https://oidc.vercel.com/acme",
//!     "aud": "https://vercel.com/acme",
//!     "sub": "owner:acme:project:storefront:environment:production",
//!     "exp": now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + 60,
//! });
//! let token = encode(&header, &claims, &key)?;
//! assert!(verifier.verify(token.as_bytes(), now).await.is_ok());
//! assert!(verifier.verify(token.as_bytes(), now + Duration::from_secs(3600)).await.is_err());
//! # Ok(())
//! # }
//! ```

mod claims;
mod error;
mod fetch;
#[cfg(feature = "axum")]
mod guard;
mod jwk;
mod key_set;
#[cfg(feature = "axum")]
mod problem;
mod strict;
mod subject;
mod token;
mod trust;
mod verifier;
#[cfg(test)]
mod wycheproof;

pub use claims::Claims;
pub use error::{BadDocument, Forbidden, Invalid, KeySetError, SkippedKey, Unusable, VerifyError};
#[cfg(feature = "axum")]
pub use guard::{VerifiedCaller, require_token};
pub use key_set::KeySet;
#[cfg(feature = "axum")]
pub use problem::Problem;
pub use subject::Subject;
pub use token::unverified_issuer;
pub use trust::{Trust, VERCEL_ISSUER, is_slug, vercel_audience, vercel_issuer};
pub use verifier::Verifier;
