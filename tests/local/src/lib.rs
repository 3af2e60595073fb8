//! Vercel on your machine: an issuer of OIDC tokens, for the tests and the demo.
//!
//! [`Issuer`] serves what `oidc.vercel.com` serves. [`Deployment`] has the claims of Vercel's tokens. [`SigningKey`]
//! signs these claims or any other bytes, so a test can make any invalid token. `check` sends such tokens to an API.
//! Neither production binary depends on this package.

#[cfg(feature = "check")]
pub mod check;
mod deployment;
mod issuer;
mod key;

pub use deployment::Deployment;
pub use issuer::Issuer;
pub use key::{SigningKey, TestKey, base64url};

/// Returns the time as in a token's claims: whole seconds since 1970. A time before 1970 is 0.
#[must_use]
pub fn unix_seconds(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
