//! The demo's settings, read from the environment once per process.
//!
//! A problem does not stop the function, because Vercel would show a crash and no reason. Each request that needs the
//! setting is answered with what is wrong.

use vercel_oidc_client::{Api, Tokens};

use crate::problem::Failure;

/// The caller's settings, or what is wrong with them.
pub struct Settings(Result<Target, Vec<String>>);

/// The backend, and the tokens for it.
pub(crate) struct Target {
    pub(crate) tokens: Tokens,
    pub(crate) api: Api,
    /// If set, the token is exchanged before the call.
    pub(crate) audience: Option<String>,
}

impl Settings {
    /// Reads the settings. `variable` gives an environment variable's value; a blank value counts as unset.
    #[must_use]
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // On a developer's machine, the Vercel CLI refreshes an expired token.
        let is_development = variable("VERCEL_ENV").is_none_or(|environment| environment == "development");
        let tokens = Tokens::builder().env(variable).refresh_with_vercel_cli(is_development).build();
        // The backend's URL is checked even if the tokens have a problem, so that both problems are reported.
        let for_check = tokens.clone().or_else(|_| Tokens::builder().build());
        let api = for_check.map_err(|problem| problem.to_string()).and_then(|tokens| backend(&variable, tokens));
        Self(match (tokens, api) {
            (Ok(tokens), Ok(api)) => {
                let audience = variable("BACKEND_AUDIENCE");
                // For calls that leave the token to `api`. The demo's own call exchanges by itself, to time each step.
                let api = match &audience {
                    Some(audience) => api.with_audience(audience),
                    None => api,
                };
                Ok(Target { tokens, api, audience })
            }
            (tokens, api) => {
                Err(api.err().into_iter().chain(tokens.err().map(|problem| problem.to_string())).collect())
            }
        })
    }

    pub(crate) fn target(&self) -> Result<&Target, Failure> {
        self.0.as_ref().map_err(|problems| Failure::Misconfigured(problems.join(" ")))
    }
}

/// The backend at `BACKEND_URL`, else the one in the same deployment.
fn backend(variable: &impl Fn(&str) -> Option<String>, tokens: Tokens) -> Result<Api, String> {
    if let Some(url) = variable("BACKEND_URL") {
        return Api::new(&url, tokens).map_err(|problem| problem.named("`BACKEND_URL`").to_string());
    }
    let host = variable("VERCEL_URL").ok_or("Set `BACKEND_URL` to the backend's base URL.")?;
    let is_host = !host.contains(['/', '\\', '?', '#', '@']);
    // Only a loopback host, as under `vercel dev`, may have `http`.
    let api = Api::new(&format!("http://{host}/backend"), tokens.clone());
    let api = api.or_else(|_| Api::new(&format!("https://{host}/backend"), tokens));
    api.ok()
        .filter(|_| is_host)
        .ok_or("`VERCEL_URL` must be a host name alone, as Vercel sets it. Or set `BACKEND_URL`.".to_owned())
}
