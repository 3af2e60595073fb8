//! Issuer, backends and caller, each on its own loopback socket, as if on several machines.
//!
//! The environment configures none of them, and they connect to these sockets only.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use local::{Deployment, Issuer, SigningKey, TestKey};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::proxy;

/// The audience that the second backend accepts. It is only a name, and nothing is sent there.
pub(crate) const ORDERS_AUDIENCE: &str = "https://orders.acme.example";

/// The running programs and their URLs.
pub(crate) struct Stage {
    pub(crate) issuer: Issuer,
    pub(crate) deployment: Deployment,
    pub(crate) issuer_url: String,
    pub(crate) backend_url: String,
    /// A backend that accepts tokens for [`ORDERS_AUDIENCE`] only.
    pub(crate) orders_url: String,
    pub(crate) caller_url: String,
}

/// The answer to a call.
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    pub(crate) server_timing: String,
    pub(crate) body: Value,
    pub(crate) took: Duration,
}

impl Stage {
    /// Starts everything: the caller on `listeners`, the issuer and the backends on free ports.
    pub(crate) async fn start(listeners: Vec<TcpListener>) -> io::Result<Self> {
        let deployment = Deployment::default();
        // A new key would take longer than the calls. This one is public, but only backends on loopback trust it.
        let issuer = Issuer::start_with(loopback(0).await?, SigningKey::for_tests("local-key", TestKey::Issuer))?;
        let issuer_url = issuer.team_url(&deployment.team);
        let backend_url = start_backend(&deployment, &issuer_url, &deployment.audience()).await?;
        let orders_url = start_backend(&deployment, &issuer_url, ORDERS_AUDIENCE).await?;

        let caller_url = format!("http://{}", listeners[0].local_addr()?);
        let app = proxy::app(&issuer, &deployment, &backend_url, &orders_url)?;
        for listener in listeners {
            tokio::spawn(axum::serve(listener, app.clone()).into_future());
        }
        Ok(Self { issuer, deployment, issuer_url, backend_url, orders_url, caller_url })
    }

    /// Calls the function as a browser does, with the token of this name.
    pub(crate) async fn call(&self, token: &str) -> io::Result<Outcome> {
        // Plain http to loopback needs no proxy and no certificate authorities, and this machine may have none.
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().map_err(io::Error::other)?;
        let start = Instant::now();
        let url = format!("{}/api/call?token={token}", self.caller_url);
        let response = client.get(url).send().await.map_err(io::Error::other)?;
        let status = response.status();
        let server_timing = response
            .headers()
            .get_all("server-timing")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(",");
        let body = response.bytes().await.map_err(io::Error::other)?;
        Ok(Outcome { status, server_timing, took: start.elapsed(), body: serde_json::from_slice(&body)? })
    }
}

/// Starts a backend that trusts this deployment's tokens for this audience, and returns its URL.
async fn start_backend(deployment: &Deployment, issuer_url: &str, audience: &str) -> io::Result<String> {
    let listener = loopback(0).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let settings = backend::settings::Settings::read(|name| match name {
        "OIDC_TEAM_SLUG" => Some(&*deployment.team),
        "OIDC_PROJECT_NAME" => Some(&*deployment.project),
        "OIDC_OWNER_ID" => Some(&*deployment.team_id),
        "OIDC_ISSUER" => Some(issuer_url),
        "OIDC_AUDIENCE" => Some(audience),
        _ => None,
    })
    .map_err(|error| io::Error::other(error.to_string()))?;
    tokio::spawn(backend::run(listener, settings, pending()));
    Ok(url)
}

impl Outcome {
    pub(crate) fn is_accepted(&self) -> bool {
        self.status == StatusCode::OK
    }

    /// Whether the token is valid, but the backend does not trust its deployment.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.body["backend_code"] == "forbidden"
    }

    /// Returns how long the whole call took.
    pub(crate) fn total_milliseconds(&self) -> f64 {
        self.took.as_secs_f64() * 1000.0
    }

    /// Returns the milliseconds that `Server-Timing` has for `step`.
    pub(crate) fn milliseconds(&self, step: &str) -> Option<f64> {
        self.server_timing.split(',').find_map(|entry| {
            let (name, parameters) = entry.trim().split_once(';')?;
            let duration = parameters.split(';').find_map(|one| one.trim().strip_prefix("dur="))?;
            (name == step).then(|| duration.parse().ok())?
        })
    }
}

/// Listens on `first`, or on the next port that is free.
///
/// The port must be free on both addresses of `localhost`, because a browser may use either.
pub(crate) async fn listen_on_localhost(first: u16) -> io::Result<Vec<TcpListener>> {
    for port in first..u16::MAX {
        match both_loopbacks(port).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

async fn both_loopbacks(port: u16) -> io::Result<Vec<TcpListener>> {
    let v4 = loopback(port).await?;
    let port = v4.local_addr()?.port();
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // Without IPv6, `localhost` has one address.
        Err(_) => Ok(vec![v4]),
    }
}

pub(crate) async fn loopback(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn skips_a_port_that_is_in_use_on_either_address() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(taken) = TcpListener::bind(address).await else {
                assert_eq!(address, "[::1]:0", "only a machine without IPv6 can't bind this address");
                continue;
            };
            let port = taken.local_addr().unwrap().port();
            let listeners = listen_on_localhost(port).await.unwrap();
            assert!(listeners.iter().all(|one| one.local_addr().unwrap().port() > port), "{address}");
        }
    }

    #[test]
    fn reads_the_time_of_each_step() {
        let outcome = Outcome {
            status: StatusCode::OK,
            server_timing: "token;dur=0.1;desc=file, backend;desc=x;dur=12, verify;dur=2.5,odd".to_owned(),
            body: Value::Null,
            took: Duration::ZERO,
        };
        assert_eq!(outcome.milliseconds("backend"), Some(12.0));
        assert_eq!(outcome.milliseconds("verify"), Some(2.5));
        assert_eq!(outcome.milliseconds("odd"), None);
        assert_eq!(outcome.milliseconds("exchange"), None);
    }
}
