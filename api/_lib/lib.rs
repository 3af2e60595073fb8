//! A Vercel Function that calls a protected API with its own OIDC token.
//!
//! [`Caller`] answers requests: `/` with a page, `/api/call` with what the API answers. A call goes from the token's
//! source ([`token`]) by way of a refresh (on a developer's machine) and an exchange (where an audience is set) to the
//! backend. Vercel's runtime is left to `index.rs`.

mod backend;
mod client;
mod exchange;
mod page;
mod problem;
mod refresh;
mod settings;
mod store;
mod timing;
pub mod token;

use std::time::SystemTime;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};

use crate::client::SharedClient;
use crate::exchange::Exchange;
use crate::problem::Failure;
use crate::refresh::Refresh;
pub use crate::settings::Settings;
use crate::timing::Timing;

/// The function: what its requests share (the HTTP client, exchanged tokens, a refreshed one), and the answers to them.
pub struct Caller {
    settings: Settings,
    client: SharedClient,
    exchange: Exchange,
    refresh: Refresh,
}

impl Caller {
    /// A caller with these settings. A process needs one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            client: SharedClient::new(settings.endpoints.as_ref().is_ok_and(|endpoints| endpoints.need_tls())),
            exchange: Exchange::new(),
            refresh: Refresh::new(settings.may_refresh),
            settings,
        }
    }

    /// Answers a request. `log` gets one line for each failure that someone has to see to.
    pub async fn handle<B>(&self, request: &Request<B>, log: impl Fn(&str)) -> Response<String> {
        let mut timing = Timing::start();
        let readable = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match request.uri().path() {
            "/" | "/api/call" if !readable => Err(Failure::MethodNotAllowed),
            "/" => Ok(page::page()),
            "/api/call" => self.call(request.headers(), &mut timing).await,
            _ => Err(Failure::NotFound),
        };
        let mut response = answer.unwrap_or_else(|failure| {
            if let Some(line) = failure.log_line() {
                log(&line);
            }
            failure.into_response()
        });
        timing.write_to(response.headers_mut());
        response
    }

    async fn call(&self, headers: &HeaderMap, timing: &mut Timing) -> Result<Response<String>, Failure> {
        let endpoints = self.settings.endpoints.as_ref().map_err(Clone::clone)?;
        let (mut token, source) = token::find(headers, |name| self.settings.token_variable(name)).await?;
        if refresh::is_due(&token, &source, SystemTime::now) {
            // Boxed, as the exchange below: most calls need neither, and both are larger than all the rest of a call.
            token = Box::pin(self.refresh.replace(token, source)).await?;
        }
        timing.add("token");
        if let Some(audience) = &endpoints.audience {
            let client = self.client.get().map_err(Failure::ExchangeClient)?;
            token = Box::pin(self.exchange.swap(client, &endpoints.exchange, &token, audience)).await?;
            timing.add("exchange");
        }
        let client = self.client.get().map_err(Failure::BackendClient)?;
        let json = backend::call(client, endpoints, &token, headers, timing).await?;
        let mut response = Response::new(json);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}
