//! The tokens of a function: its own, and one for each audience.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http::HeaderMap;
use reqwest::Url;

use crate::cache::Cache;
use crate::client::Clients;
use crate::error::{Misconfigured, TokenError};
use crate::exchange;
use crate::refresh;
use crate::source::{self, Environment};
use crate::token::Token;
use crate::url;

/// Gets the function's tokens. A program needs one `Tokens` for its whole lifetime. Clones are cheap and share their
/// caches.
///
/// ```no_run
/// # async fn example(headers: http::HeaderMap) -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = vercel_oidc_client::Tokens::from_env(|name| std::env::var(name).ok())?;
/// let own = tokens.get(&headers).await?;
/// let for_orders = tokens.get_for(&headers, "https://orders.example.com").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokens(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    environment: Environment,
    may_refresh: bool,
    refreshed: Cache,
    exchange_url: Url,
    exchanged: Cache,
    pub(crate) clients: Clients,
    /// `VERCEL_URL`.
    pub(crate) own_host: Option<String>,
}

impl Tokens {
    /// Reads where tokens come from. `variable` gives the value of an environment variable; a blank value counts as
    /// unset.
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `VERCEL_OIDC_TOKEN_FILE`, `VERCEL_OIDC_TOKEN` | where the token is if no request header has it |
    /// | `VERCEL_ENV` | an expired token is refreshed only if this is absent or `development` |
    /// | `VERCEL_URL` | this deployment's host, for [`Api`](crate::Api)'s header for Deployment Protection |
    /// | `OIDC_TOKEN_EXCHANGE_URL` | the URL of an exchange other than Vercel's, for tests |
    ///
    /// # Errors
    ///
    /// `OIDC_TOKEN_EXCHANGE_URL` is not a URL that a token may be sent to.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Misconfigured> {
        let variable =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let exchange_url = variable("OIDC_TOKEN_EXCHANGE_URL");
        let exchange_url =
            url::parse("`OIDC_TOKEN_EXCHANGE_URL`", exchange_url.as_deref().unwrap_or(exchange::VERCEL))?;
        Ok(Self(Arc::new(Shared {
            environment: Environment {
                file: variable("VERCEL_OIDC_TOKEN_FILE").map(Into::into),
                variable: variable("VERCEL_OIDC_TOKEN"),
                last: Mutex::default(),
            },
            may_refresh: variable("VERCEL_ENV").is_none_or(|environment| environment == "development"),
            refreshed: Cache::new(refresh::CAPACITY),
            exchange_url,
            exchanged: Cache::new(exchange::CAPACITY),
            clients: Clients::default(),
            own_host: variable("VERCEL_URL"),
        })))
    }

    /// Gets the function's own token: from the request's headers, else from the file or the variable. An expired token
    /// of the file or the variable is refreshed with the Vercel CLI in development.
    ///
    /// Without a request, as in a command-line tool, pass `&HeaderMap::new()`.
    ///
    /// # Errors
    ///
    /// There is no token, the token does not have the form of a JWT, or it has expired and can't be refreshed.
    pub async fn get(&self, headers: &HeaderMap) -> Result<Token, TokenError> {
        let token = source::find(headers, &self.0.environment).await?;
        refresh::if_due(token, self.0.may_refresh, &self.0.refreshed).await
    }

    /// Gets a token for one audience: the function's own token, exchanged.
    ///
    /// # Errors
    ///
    /// As for [`Tokens::get`], or the exchange fails.
    pub async fn get_for(&self, headers: &HeaderMap, audience: &str) -> Result<Token, TokenError> {
        let token = self.get(headers).await?;
        self.exchange(&token, audience).await
    }

    /// Exchanges a token from [`Tokens::get`] for one with this audience. The result is cached until shortly before it
    /// expires, and requests that come together share one exchange.
    ///
    /// # Errors
    ///
    /// The exchange can't be reached, or gives no token.
    pub async fn exchange(&self, token: &Token, audience: &str) -> Result<Token, TokenError> {
        let now = SystemTime::now();
        let (shared, own, requested) = (Arc::clone(&self.0), token.clone(), audience.to_owned());
        let obtain =
            async move { exchange::request(&shared.clients, &shared.exchange_url, &own, &requested, now).await };
        // Boxed, because its future is large and most calls find the token in the cache.
        Box::pin(self.0.exchanged.get((token.expose().into(), audience.into()), now, || obtain)).await
    }

    /// Drops an exchanged token from the cache, because an API answered 401 to it. [`Api`](crate::Api) does so itself.
    pub fn drop_refused(&self, exchanged: &Token) {
        self.0.exchanged.remove(exchanged);
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(***)")
    }
}
