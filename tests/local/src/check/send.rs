//! Sends the request of a case, and returns the answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, Method, Url};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Options;
use super::kit::Request;

/// How much of a body is read.
const MAX_BODY: usize = 64 * 1024;

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(Reply),
    /// No answer.
    None(Failure),
    /// The case was not tried.
    Skipped(&'static str),
}

impl Answer {
    /// Whether the API accepted the request.
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self, Self::Reply(reply) if reply.is_accepted())
    }

    /// Whether an answer holds the signature of its token.
    pub(crate) fn echoes(&self) -> bool {
        matches!(self, Self::Reply(reply) if reply.echoes)
    }
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Whether it has `WWW-Authenticate`.
    pub(crate) challenge: bool,
    pub(crate) body: Vec<u8>,
    /// Whether it holds the signature of the token.
    pub(crate) echoes: bool,
}

impl Reply {
    fn is_accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused,
    Unreachable,
    UnknownHost,
    UntrustedCertificate,
    ExpiredCertificate,
    CertificateOfAnotherName,
    Tls,
    ConnectTimeout,
    Timeout,
    Closed,
    NotHttp,
}

impl Failure {
    /// Returns what happened, and what to do.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Refused => {
                "connection refused: nothing listens on this host and port. Start the API, or correct the URL"
            }
            Self::Unreachable => "no route to this host. Check the URL and the network",
            Self::UnknownHost => "this host name can't be resolved. Correct the URL",
            Self::UntrustedCertificate => {
                "the server's certificate is not trusted. Pass its authority with --ca FILE, or skip the check with \
                 --insecure"
            }
            Self::ExpiredCertificate => {
                "the server's certificate has expired. Renew it, or skip the check with --insecure"
            }
            Self::CertificateOfAnotherName => {
                "the server's certificate is for another host name. Correct the URL, or skip the check with --insecure"
            }
            Self::Tls => "the TLS handshake failed. If the API speaks plain HTTP, use an http:// URL",
            Self::ConnectTimeout => {
                "no connection in time: a firewall drops the packets, or the TLS handshake hangs. Check the URL"
            }
            Self::Timeout => "connected, but no answer in time. See --timeout",
            Self::Closed => "the connection was closed before an answer",
            Self::NotHttp => "the answer is not HTTP. If the API uses TLS, use an https:// URL",
        }
    }

    /// Whether waiting can't help.
    fn is_final(self) -> bool {
        use Failure::{CertificateOfAnotherName, ExpiredCertificate, NotHttp, Tls, UnknownHost, UntrustedCertificate};
        matches!(
            self,
            UnknownHost | UntrustedCertificate | ExpiredCertificate | CertificateOfAnotherName | Tls | NotHttp
        )
    }

    fn of(error: &reqwest::Error) -> Self {
        let causes = || std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
        let says = |text| causes().any(|cause| cause.to_string().contains(text));
        let kind = causes().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        match kind {
            _ if error.is_timeout() && error.is_connect() => Self::ConnectTimeout,
            _ if error.is_timeout() => Self::Timeout,
            Some(io::ErrorKind::ConnectionRefused) => Self::Refused,
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => Self::Unreachable,
            Some(io::ErrorKind::TimedOut) => Self::ConnectTimeout,
            _ if says("dns error") => Self::UnknownHost,
            _ if says("certificate expired") => Self::ExpiredCertificate,
            _ if says("not valid for name") => Self::CertificateOfAnotherName,
            _ if says("certificate") => Self::UntrustedCertificate,
            _ if error.is_connect() && error.url().is_some_and(|url| url.scheme() == "https") => Self::Tls,
            _ if says("invalid HTTP") => Self::NotHttp,
            _ => Self::Closed,
        }
    }
}

/// Sends requests to the API.
pub(crate) struct Sender {
    client: Client,
    url: Url,
    method: Method,
    data: Option<String>,
    timeout: Duration,
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
    /// If the URL or an option can't be used.
    pub(crate) fn new(url: &str, options: &Options) -> io::Result<Self> {
        let parsed = Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let url = parsed.ok_or_else(|| invalid(format!("not an http URL: {url}")))?;
        let method = Method::from_bytes(options.method.as_bytes())
            .map_err(|_| invalid(format!("not a method: {}", options.method)))?;
        // Each request has its own connection, so that a closed connection is the answer to this request.
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(options.timeout)
            .connect_timeout(options.timeout / 2)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .tls_danger_accept_invalid_certs(options.insecure);
        if url.scheme() == "http" {
            // A machine without certificate authorities can check an API over plain http.
            client = client.tls_certs_only([]);
        } else if let Some(pem) = &options.ca {
            let authorities = Certificate::from_pem_bundle(pem).ok().filter(|authorities| !authorities.is_empty());
            client =
                client.tls_certs_only(authorities.ok_or_else(|| invalid("--ca has no certificate in PEM".to_owned()))?);
        }
        let mut fixed = HeaderMap::new();
        let mut carrier = (AUTHORIZATION, "Bearer ".to_owned(), String::new());
        for (name, value) in &options.headers {
            let header = HeaderName::try_from(name).map_err(|_| invalid(format!("not a header's name: {name}")))?;
            if let Some((before, after)) = value.split_once("{token}") {
                carrier = (header, before.to_owned(), after.to_owned());
            } else {
                let value =
                    HeaderValue::try_from(value).map_err(|_| invalid(format!("not a header's value: {value}")))?;
                fixed.append(header, value);
            }
        }
        if options.data.is_some() && !fixed.contains_key(CONTENT_TYPE) {
            fixed.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let (data, timeout) = (options.data.clone(), options.timeout);
        Ok(Self { client: client.build().map_err(io::Error::other)?, url, method, data, timeout, fixed, carrier })
    }

    /// Waits until the API answers anything.
    ///
    /// # Errors
    ///
    /// The API does not answer in time, or waiting can't help.
    pub(crate) async fn wait(&self, patience: Duration) -> io::Result<()> {
        let start = tokio::time::Instant::now();
        while let Answer::None(failure) = self.send(Request::Nothing).await {
            if failure.is_final() || start.elapsed() > patience {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{}: {}", self.url, failure.text())));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// Sends the request.
    pub(crate) async fn send(&self, request: Request) -> Answer {
        let (mut url, mut method, mut data) = (self.url.clone(), self.method.clone(), self.data.clone());
        let mut headers = self.fixed.clone();
        let mut sent_token = None;
        let mut add = |name: HeaderName, value: String| {
            // A token that no header can hold never reaches an API.
            HeaderValue::try_from(value).is_ok_and(|value| headers.append(name, value) || !headers.is_empty())
        };
        let (carrier, before, after) = &self.carrier;
        let can_be_sent = match request {
            Request::Skip(reason) => return Answer::Skipped(reason),
            Request::Nothing => true,
            Request::Token(token) => {
                let fits = add(carrier.clone(), format!("{before}{token}{after}"));
                sent_token = Some(token);
                fits
            }
            Request::AfterAccepted(accepted, changed) => {
                if !Box::pin(self.send(Request::Token(accepted))).await.is_accepted() {
                    return Answer::Skipped("the API did not accept the valid token before it");
                }
                return Box::pin(self.send(Request::Token(changed))).await;
            }
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
            Request::Form(token) => {
                if Box::pin(self.send(Request::Method("POST"))).await.is_accepted() {
                    return Answer::Skipped("the API answers POST without a token");
                }
                method = Method::POST;
                data = Some(format!("access_token={token}&token={token}"));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                true
            }
            Request::Method(name) if self.method == name => {
                return Answer::Skipped("every other case uses this method");
            }
            Request::Method(name) => {
                method = Method::from_bytes(name.as_bytes()).unwrap_or_default();
                true
            }
            Request::Path(spell) => return self.send_path(spell).await,
        };
        if !can_be_sent {
            return Answer::Skipped("an HTTP header can't hold this token");
        }
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(data) = data {
            request = request.body(data);
        }
        match request.send().await {
            Ok(response) => read(response, sent_token.as_deref()).await,
            Err(error) => Answer::None(Failure::of(&error)),
        }
    }

    /// Sends a request without a token to another spelling of the path.
    async fn send_path(&self, spell: fn(&str) -> Option<String>) -> Answer {
        let Some(path) = spell(self.url.path()).filter(|path| path != self.url.path()) else {
            return Answer::Skipped("the path of the URL has no such spelling");
        };
        let answer = self.send_raw(&path).await;
        let Answer::Reply(Reply { status: 200..=299, body, .. }) = &answer else { return answer };
        match self.send_raw("/a-path-that-no-api-has").await {
            Answer::Reply(any) if any.is_accepted() && any.body == *body => {
                Answer::Skipped("the API gives the same answer to a path that does not exist")
            }
            _ => answer,
        }
    }

    /// Sends this path as it is. A URL would be normalized.
    async fn send_raw(&self, path: &str) -> Answer {
        if self.url.scheme() == "https" {
            let mut url = self.url.clone();
            url.set_path(path);
            if url.path() != path {
                return Answer::Skipped("this spelling is sent over plain HTTP only");
            }
            return match self.client.request(self.method.clone(), url).headers(self.fixed.clone()).send().await {
                Ok(response) => read(response, None).await,
                Err(error) => Answer::None(Failure::of(&error)),
            };
        }
        match tokio::time::timeout(self.timeout, self.exchange(path)).await {
            Ok(Ok(response)) => {
                let text = String::from_utf8_lossy(&response);
                let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
                let challenge = head.to_ascii_lowercase().contains("\r\nwww-authenticate:");
                status.map_or(Answer::None(Failure::Closed), |status| {
                    Answer::Reply(Reply { status, challenge, body: body.as_bytes().to_vec(), echoes: false })
                })
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::None(Failure::Refused),
            Ok(Err(_)) => Answer::None(Failure::Closed),
            Err(_) => Answer::None(Failure::Timeout),
        }
    }

    async fn exchange(&self, path: &str) -> io::Result<Vec<u8>> {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or(80);
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let mut head = format!("{} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n", self.method);
        for (name, value) in &self.fixed {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
        }
        let data = self.data.as_deref().unwrap_or_default();
        head.push_str(&format!("content-length: {}\r\n\r\n{data}", data.len()));
        stream.write_all(head.as_bytes()).await?;
        let mut response = Vec::new();
        stream.take(MAX_BODY as u64).read_to_end(&mut response).await?;
        Ok(response)
    }
}

/// Reads the start of the body.
async fn read(mut response: reqwest::Response, token: Option<&str>) -> Answer {
    let status = response.status().as_u16();
    let challenge = response.headers().contains_key(WWW_AUTHENTICATE);
    let mut body = Vec::new();
    // An error here ends the body; the status has been read.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            break;
        }
    }
    // The signature is the part of a token that nothing else contains.
    let signature = token.and_then(|token| token.rsplit('.').next()).filter(|part| part.len() >= 40);
    let echoes = signature.is_some_and(|signature| {
        let holds = |bytes: &[u8]| bytes.windows(signature.len()).any(|window| window == signature.as_bytes());
        holds(&body) || response.headers().values().any(|value| holds(value.as_bytes()))
    });
    Answer::Reply(Reply { status, challenge, body, echoes })
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}
