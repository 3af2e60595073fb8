//! Sends the request of a case, and returns the answer.

use std::io;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Url};

use super::kit::Request;

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Status {
        status: u16,
        challenge: bool,
    },
    /// No answer: the connection broke, or ten seconds passed.
    None,
    /// The case was not tried.
    Skipped(&'static str),
}

/// Sends requests to the API.
pub(crate) struct Sender {
    client: Client,
    url: Url,
    /// Headers of each request.
    fixed: HeaderMap,
    /// The header that holds the token, and the text around it.
    carrier: (HeaderName, String, String),
}

impl Sender {
    /// Makes a sender.
    ///
    /// # Errors
    ///
    /// If the URL or a header can't be used.
    pub(crate) fn new(url: &str, headers: &[(String, String)]) -> io::Result<Self> {
        let parsed = Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let url = parsed.ok_or_else(|| invalid(format!("not an http URL: {url}")))?;
        let mut client =
            Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(10)).no_proxy();
        if url.scheme() == "http" {
            // A machine without certificate authorities can check an API over plain http.
            client = client.tls_certs_only([]);
        }
        let mut fixed = HeaderMap::new();
        let mut carrier = (AUTHORIZATION, "Bearer ".to_owned(), String::new());
        for (name, value) in headers {
            let header = HeaderName::try_from(name).map_err(|_| invalid(format!("not a header's name: {name}")))?;
            if let Some((before, after)) = value.split_once("{token}") {
                carrier = (header, before.to_owned(), after.to_owned());
            } else {
                let value =
                    HeaderValue::try_from(value).map_err(|_| invalid(format!("not a header's value: {value}")))?;
                fixed.append(header, value);
            }
        }
        Ok(Self { client: client.build().map_err(io::Error::other)?, url, fixed, carrier })
    }

    /// Waits until the API answers anything.
    ///
    /// # Errors
    ///
    /// The API does not answer in time.
    pub(crate) async fn wait(&self, patience: Duration) -> io::Result<()> {
        let start = tokio::time::Instant::now();
        while matches!(self.send(Request::Nothing).await, Answer::None) {
            if start.elapsed() > patience {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing answers at {}", self.url)));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// Sends the request.
    pub(crate) async fn send(&self, request: Request) -> Answer {
        let mut headers = self.fixed.clone();
        let mut url = self.url.clone();
        let mut add = |name: HeaderName, value: String| {
            // A token that no header can hold never reaches an API.
            HeaderValue::try_from(value).is_ok_and(|value| headers.append(name, value) || !headers.is_empty())
        };
        let (carrier, before, after) = &self.carrier;
        let can_be_sent = match request {
            Request::Skip(reason) => return Answer::Skipped(reason),
            Request::Nothing => true,
            Request::Token(token) => add(carrier.clone(), format!("{before}{token}{after}")),
            Request::Authorization(_) if *carrier != AUTHORIZATION || before != "Bearer " => {
                return Answer::Skipped("`--header` names another place than `Authorization: Bearer`");
            }
            Request::Authorization(values) => values.into_iter().all(|value| add(AUTHORIZATION, value)),
            Request::Header(name, _) if carrier == name => {
                return Answer::Skipped("`--header` names this header for the token");
            }
            Request::Header(name, value) => add(HeaderName::from_static(name), value),
            Request::Query(token) => {
                url.query_pairs_mut().append_pair("access_token", &token).append_pair("token", &token);
                true
            }
        };
        if !can_be_sent {
            return Answer::Skipped("an HTTP header can't hold this token");
        }
        match self.client.get(url).headers(headers).send().await {
            Ok(response) => Answer::Status {
                status: response.status().as_u16(),
                challenge: response.headers().contains_key(WWW_AUTHENTICATE),
            },
            Err(_) => Answer::None,
        }
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}
