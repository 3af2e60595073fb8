// One text for crates.io, docs.rs and the tests, which run its code.
#![doc = include_str!("README.md")]

#[cfg(feature = "axum")]
mod axum;
mod bearer;
mod claims;
mod error;
mod jwk;
mod key_set;
#[cfg(feature = "tower")]
mod layer;
mod problem;
mod strict;
mod subject;
mod token;
mod trust;
mod verifier;
#[cfg(test)]
mod wycheproof;

pub use bearer::{Refusal, VerifiedCaller, bearer_token};
pub use claims::Claims;
pub use error::{Forbidden, Invalid, KeySetError, TrustError, VerifyError};
pub use key_set::KeySet;
#[cfg(feature = "tower")]
pub use layer::{RequireToken, RequireTokenLayer};
pub use problem::Problem;
pub use subject::Subject;
pub use token::unverified_issuer;
pub use trust::{Trust, VERCEL_ISSUER};
pub use verifier::Verifier;
