//! Gets a Vercel Function's own OIDC token and calls APIs with it.
//!
//! With each request, Vercel gives a function a signed token that names the function's team, project and environment.
//! An API can verify that token, so function and API need no shared secret. See <https://vercel.com/docs/oidc>.
//!
//! A function that posts an order:
//!
//! ```no_run
//! use http::HeaderMap;
//! use serde::{Deserialize, Serialize};
//! use vercel_oidc_client::{Api, ApiError, Tokens};
//!
//! #[derive(Serialize)]
//! struct Order { item: &'static str, quantity: u32 }
//!
//! #[derive(Deserialize)]
//! struct Receipt { ordered_by: String }
//!
//! async fn order(api: &Api, headers: &HeaderMap) -> Result<Receipt, ApiError> {
//!     let order = Order { item: "tea", quantity: 2 };
//!     api.post(headers, "/orders").json(&order).send().await?.error_for_status().await?.json().await
//! }
//!
//! async fn run() -> Result<(), Box<dyn std::error::Error>> {
//!     let tokens = Tokens::from_env(|name| std::env::var(name).ok())?;
//!     let api = Api::new("https://orders.example.com", tokens)?.with_audience("https://orders.example.com");
//!     let receipt = order(&api, &HeaderMap::new()).await?; // In a function: the request's headers.
//!     println!("ordered by {}", receipt.ordered_by);
//!     Ok(())
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() {
//!     if let Err(error) = run().await {
//!         eprintln!("{error}"); // Says what to do. `Debug`, which a `Result` of `main` prints, does not.
//!         std::process::exit(1);
//!     }
//! }
//! ```
//!
//! # What it does
//!
//! - [`Tokens::get`] finds the function's own token: in the request's headers, else in the file or the variable that
//!   Vercel's tools set. If the program turns it on, the Vercel CLI refreshes an expired token of a developer's machine.
//! - [`Tokens::scope`] and [`Tokens::current`] give the request's token to code without the request, such as the
//!   credentials provider of a cloud's SDK.
//! - [`Tokens::get_for`] exchanges that token for a token with a narrower audience. An API that receives the new token
//!   can't use it at another API. Results are cached, and requests that come together share one exchange.
//! - [`Api`] sends a request with the token. The token goes to the base URL's origin only: redirects are not followed,
//!   a path can't leave the base URL, and plain `http` is for loopback hosts only.
//! - Every error says what is wrong and what to do. Anyone may see the message. `log_detail` adds what only the
//!   operator may see, such as the token's claims. Neither holds a token. The only text of another program in either is
//!   an API's short error code.
//!
//! # What it does not do
//!
//! It does not verify tokens: only the API that receives a token can tell whether it is genuine. It does not retry a
//! request that may have arrived, does not follow redirects, and reads no compressed answers.

mod advice;
mod api;
mod cache;
mod challenge;
mod client;
mod error;
mod exchange;
mod json;
mod path;
mod refresh;
mod request;
mod response;
mod source;
mod token;
mod tokens;
mod url;

pub use crate::api::Api;
pub use crate::error::{ApiError, Misconfigured, RetryAfter, TokenError};
pub use crate::request::ApiRequest;
pub use crate::response::ApiResponse;
pub use crate::token::{Source, Token};
pub use crate::tokens::{Tokens, TokensBuilder};
/// A request's body: text, bytes, or with [`Body::wrap`] a stream. It is reqwest's.
pub use reqwest::Body;

/// Runs the page's example.
#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;
