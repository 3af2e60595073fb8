//! The tokens of a function: its own, and one for each audience.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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

tokio::task_local! {
    /// The token in the headers of the request that this task answers.
    static OF_REQUEST: Option<Result<Token, TokenError>>;
}

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
///
/// Each method that takes a request's headers also takes `None`, as in a command-line program, and then uses
/// [`Tokens::current`].
#[derive(Clone)]
pub struct Tokens(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    environment: Environment,
    may_run_the_cli: bool,
    refreshed: Cache,
    exchange_url: Url,
    exchanged: Cache,
    pub(crate) clients: Clients,
    /// `VERCEL_URL`.
    pub(crate) own_host: Option<String>,
}

/// Where tokens come from. See [`Tokens::builder`]. A blank value counts as unset.
#[derive(Clone, Default)]
#[must_use = "`build` makes the tokens"]
pub struct TokensBuilder {
    file: Option<String>,
    variable: Option<String>,
    own_host: Option<String>,
    exchange_url: Option<String>,
    may_run_the_cli: bool,
}

impl TokensBuilder {
    /// Reads these variables. `variable` gives the value of an environment variable.
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `VERCEL_OIDC_TOKEN_FILE`, `VERCEL_OIDC_TOKEN` | where the token is if no request header has it |
    /// | `VERCEL_URL` | this deployment's host, for [`Api`](crate::Api)'s header for Deployment Protection |
    /// | `OIDC_TOKEN_EXCHANGE_URL` | the URL of an exchange other than Vercel's, for tests |
    pub fn env(self, variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            file: variable("VERCEL_OIDC_TOKEN_FILE"),
            variable: variable("VERCEL_OIDC_TOKEN"),
            own_host: variable("VERCEL_URL"),
            exchange_url: variable("OIDC_TOKEN_EXCHANGE_URL"),
            ..self
        }
    }

    /// The file that holds the token if no request header does. It is read at each call.
    pub fn token_file(self, path: impl Into<String>) -> Self {
        Self { file: Some(path.into()), ..self }
    }

    /// The token, if neither a request header nor a file holds it.
    pub fn token(self, token: impl Into<String>) -> Self {
        Self { variable: Some(token.into()), ..self }
    }

    /// This deployment's host, which Vercel's Deployment Protection may guard.
    pub fn deployment_host(self, host: impl Into<String>) -> Self {
        Self { own_host: Some(host.into()), ..self }
    }

    /// An exchange other than Vercel's: `https`, or `http` to a loopback host.
    pub fn exchange_url(self, url: impl Into<String>) -> Self {
        Self { exchange_url: Some(url.into()), ..self }
    }

    /// Whether the Vercel CLI (`vercel`, found by `PATH`) may run, to refresh an expired token of the file or the
    /// variable. It may not, unless this is called with `true`. Turn it on for a developer's machine only:
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let is_development = std::env::var("VERCEL_ENV").is_ok_and(|environment| environment == "development");
    /// let tokens = vercel_oidc_client::Tokens::builder()
    ///     .env(|name| std::env::var(name).ok())
    ///     .refresh_with_vercel_cli(is_development)
    ///     .build()?;
    /// # let _ = tokens;
    /// # Ok(())
    /// # }
    /// ```
    pub fn refresh_with_vercel_cli(self, is_allowed: bool) -> Self {
        Self { may_run_the_cli: is_allowed, ..self }
    }

    /// Makes the tokens.
    ///
    /// # Errors
    ///
    /// The exchange's URL is not one that a token may be sent to.
    pub fn build(self) -> Result<Tokens, Misconfigured> {
        let set = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let exchange_url = set(self.exchange_url);
        let exchange_url =
            url::parse("`OIDC_TOKEN_EXCHANGE_URL`", exchange_url.as_deref().unwrap_or(exchange::VERCEL))?;
        Ok(Tokens(Arc::new(Shared {
            environment: Environment { file: set(self.file).map(PathBuf::from), variable: set(self.variable) },
            may_run_the_cli: self.may_run_the_cli,
            refreshed: Cache::new(refresh::CAPACITY, Duration::ZERO),
            exchange_url,
            exchanged: Cache::new(exchange::CAPACITY, exchange::MAX_WAIT),
            clients: Clients::default(),
            own_host: set(self.own_host),
        })))
    }
}

impl fmt::Debug for TokensBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokensBuilder(***)")
    }
}

impl Tokens {
    /// Starts with no file, no variable and Vercel's exchange: the token comes from a request's headers.
    pub fn builder() -> TokensBuilder {
        TokensBuilder::default()
    }

    /// Reads where tokens come from: the variables of [`TokensBuilder::env`]. No command is run to refresh an expired
    /// token: see [`TokensBuilder::refresh_with_vercel_cli`].
    ///
    /// # Errors
    ///
    /// `OIDC_TOKEN_EXCHANGE_URL` is not a URL that a token may be sent to.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Misconfigured> {
        Self::builder().env(variable).build()
    }

    /// Gets the function's own token: from the request's headers, else from the file or the variable.
    ///
    /// # Errors
    ///
    /// There is no token, the token does not have the form of a JWT, or it expired more than 30 s ago (an API may allow
    /// that much for clock skew) and can't be refreshed.
    pub async fn get<'a>(&self, headers: impl Into<Option<&'a HeaderMap>>) -> Result<Token, TokenError> {
        match headers.into() {
            Some(headers) => self.own(source::in_headers(headers)).await,
            None => self.current().await,
        }
    }

    /// Runs `future` with the token in these headers as its current token, which [`Tokens::current`] reads. So code
    /// without access to the request gets the token, such as the credentials provider of a cloud's SDK.
    ///
    /// ```
    /// # use vercel_oidc_client::{TokenError, Tokens};
    /// # struct Credentials { tokens: Tokens }
    /// # impl Credentials {
    /// // Called by an SDK:
    /// async fn provide(&self) -> Result<String, TokenError> {
    ///     Ok(self.tokens.current().await?.expose().to_owned())
    /// }
    /// # }
    ///
    /// async fn handle(request: http::Request<()>, tokens: &Tokens, credentials: &Credentials) {
    ///     tokens.scope(request.headers(), async {
    ///         let token = credentials.provide().await; // The token of this request.
    /// #       let _ = token;
    ///     }).await
    /// }
    /// ```
    ///
    /// The scope is the future and the futures that it awaits. A task that the future spawns is outside of the scope:
    /// the task may outlive the request. Wrap what you spawn in a scope, if it ends before the request.
    ///
    /// A request has one token, so the scope holds for each `Tokens` in it, and not only for this one. Of nested scopes,
    /// the innermost counts.
    pub fn scope<F: Future>(&self, headers: &HeaderMap, future: F) -> impl Future<Output = F::Output> + use<F> {
        OF_REQUEST.scope(source::in_headers(headers), future)
    }

    /// Gets the function's own token without the request's headers. In a [`Tokens::scope`], this is what
    /// [`Tokens::get`] gives for the scope's headers. Outside of a scope, the token is that of the file or the variable.
    ///
    /// # Errors
    ///
    /// As for [`Tokens::get`].
    pub async fn current(&self) -> Result<Token, TokenError> {
        self.own(OF_REQUEST.try_with(Clone::clone).unwrap_or_default()).await
    }

    async fn own(&self, of_request: Option<Result<Token, TokenError>>) -> Result<Token, TokenError> {
        let token = match of_request {
            Some(token) => token,
            None => source::in_environment(&self.0.environment).await,
        };
        refresh::unexpired(token?, self.0.may_run_the_cli, &self.0.refreshed).await
    }

    /// Gets a token for one audience: the function's own token, exchanged.
    ///
    /// # Errors
    ///
    /// As for [`Tokens::get`], or the exchange fails.
    pub async fn get_for<'a>(
        &self,
        headers: impl Into<Option<&'a HeaderMap>>,
        audience: &str,
    ) -> Result<Token, TokenError> {
        let token = self.get(headers.into()).await?;
        self.exchange(&token, audience).await
    }

    /// Exchanges a token from [`Tokens::get`] for one with this audience. The result is cached until shortly before it
    /// expires, and requests that come together share one exchange. A failed exchange is not repeated for a second,
    /// doubling up to 30: until then, the failure is the answer.
    ///
    /// The new token has the team's issuer (`https://oidc.vercel.com/TEAM`), also if the project's issuer mode is
    /// *Global*.
    ///
    /// # Errors
    ///
    /// The exchange can't be reached, or gives no token.
    pub async fn exchange(&self, token: &Token, audience: &str) -> Result<Token, TokenError> {
        let (shared, own, requested) = (Arc::clone(&self.0), token.clone(), audience.to_owned());
        let obtain = async move {
            exchange::request(&shared.clients, &shared.exchange_url, &own, &requested, SystemTime::now()).await
        };
        let key = (token.expose().into(), audience.into());
        // Boxed, because its future is large and most calls find the token in the cache.
        Box::pin(self.0.exchanged.get(key, SystemTime::now, || obtain)).await
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use tokio::sync::Barrier;

    use super::*;
    use crate::token::Source;

    /// A token that differs from others by its name.
    fn jwt(name: impl fmt::Display) -> String {
        format!("e30.e30.{}", URL_SAFE_NO_PAD.encode(format!("the signature of {name}")))
    }

    fn headers(token: &str) -> HeaderMap {
        HeaderMap::from_iter([("x-vercel-oidc-token".parse().unwrap(), token.parse().unwrap())])
    }

    fn tokens(variables: &[(&str, &str)]) -> Tokens {
        let find = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        Tokens::from_env(find).unwrap()
    }

    #[tokio::test]
    async fn the_builder_takes_what_the_environment_has() {
        let token = jwt("built");
        let built = Tokens::builder().token(&token).token_file(" ").build().unwrap();
        assert_eq!(built.get(None).await.unwrap().expose(), token);
        assert_eq!(built.get(&headers(&jwt("request"))).await.unwrap().expose(), jwt("request"));
        let with_file = Tokens::builder().token(&token).token_file("/nowhere/token").build().unwrap();
        assert!(matches!(with_file.get(None).await, Err(TokenError::Unusable { source: Some(_), .. })));
        let error = Tokens::builder().exchange_url("http://a.example").build().unwrap_err();
        assert!(error.to_string().starts_with("`OIDC_TOKEN_EXCHANGE_URL` must be `https`."), "{error}");
        let shown = format!("{:?} {built:?}", Tokens::builder().token(&token));
        assert_eq!(shown, "TokensBuilder(***) Tokens(***)");
    }

    /// No command runs unless the program turns it on: the error is that of a token that is not refreshed.
    #[tokio::test]
    async fn an_expired_token_runs_no_command_by_default() {
        // `{"exp":1000,"project_id":"prj_a"}`
        let expired = "e30.eyJleHAiOjEwMDAsInByb2plY3RfaWQiOiJwcmpfYSJ9.c2ln";
        let tokens = tokens(&[("VERCEL_OIDC_TOKEN", expired), ("VERCEL_ENV", "development")]);
        assert!(matches!(tokens.current().await, Err(TokenError::Expired { .. })));
    }

    /// What code without access to the request gets.
    async fn current(tokens: &Tokens) -> String {
        tokens.current().await.map_or_else(|error| error.to_string(), |token| token.expose().to_owned())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_tokens_of_a_thousand_requests_at_once_never_cross() {
        let (tokens, all_in_scope) = (tokens(&[]), Arc::new(Barrier::new(1000)));
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..1000 {
            let (tokens, all_in_scope) = (tokens.clone(), Arc::clone(&all_in_scope));
            requests.spawn(async move {
                let own = jwt(number);
                // The headers are gone when the future runs.
                let scope = tokens.scope(&headers(&own), async {
                    for _ in 0..5 {
                        // Each wait can move the task to another thread.
                        all_in_scope.wait().await;
                        assert_eq!(current(&tokens).await, own);
                    }
                });
                scope.await;
                current(&tokens).await
            });
        }
        let outside: Vec<_> = requests.join_all().await;
        assert_eq!(outside.len(), 1000);
        assert!(outside.iter().all(|outside| *outside == TokenError::Missing.to_string()), "{outside:?}");
    }

    #[tokio::test]
    async fn outside_of_a_scope_and_without_a_header_the_variable_has_the_token() {
        let (variable, request) = (jwt("variable"), jwt("request"));
        let tokens = tokens(&[("VERCEL_OIDC_TOKEN", &variable)]);
        assert_eq!(current(&tokens).await, variable);
        assert_eq!(tokens.scope(&headers(&request), current(&tokens)).await, request);
        assert_eq!(tokens.scope(&HeaderMap::new(), current(&tokens)).await, variable);
        assert_eq!(current(&tokens).await, variable);
        let unusable = tokens.scope(&headers("not-a-jwt"), current(&tokens)).await;
        assert!(unusable.starts_with("The token in the header `x-vercel-oidc-token` is not usable"), "{unusable}");
    }

    #[tokio::test]
    async fn the_innermost_scope_counts_for_each_tokens() {
        let (one, two) = (tokens(&[]), tokens(&[("VERCEL_OIDC_TOKEN", &jwt("variable"))]));
        let (outer, inner) = (headers(&jwt("outer")), headers(&jwt("inner")));
        let seen = one.scope(&outer, async {
            let nested = two.scope(&inner, async { (current(&one).await, current(&two).await) }).await;
            let without = one.scope(&HeaderMap::new(), current(&two)).await;
            (nested, without, current(&two).await)
        });
        assert_eq!(seen.await, ((jwt("inner"), jwt("inner")), jwt("variable"), jwt("outer")));
    }

    #[tokio::test]
    async fn a_spawned_task_is_outside_of_the_scope() {
        let tokens = tokens(&[]);
        let spawn = async {
            let tokens = tokens.clone();
            tokio::spawn(async move { current(&tokens).await }).await.unwrap()
        };
        assert_eq!(tokens.scope(&headers(&jwt("request")), spawn).await, TokenError::Missing.to_string());
    }

    #[tokio::test]
    async fn nothing_of_a_requests_header_outlives_the_request() {
        let tokens = tokens(&[]);
        let in_scope = async { tokens.current().await.unwrap().downgrade() };
        let of_scope = tokens.scope(&headers(&jwt("request")), in_scope).await;
        let of_get = tokens.get(&headers(&jwt("request"))).await.unwrap().downgrade();
        let held = tokens.get(&headers(&jwt("request"))).await.unwrap();
        assert!(held.downgrade().upgrade().is_some());
        assert!(of_scope.upgrade().is_none() && of_get.upgrade().is_none());
        assert_eq!(held.source(), Source::Header);
    }
}
