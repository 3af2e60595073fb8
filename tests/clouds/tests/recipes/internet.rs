//! The internet of one test: hosts with their real names, on loopback.
//!
//! The function's variables name a proxy and the certificate authority that signed the hosts' certificates. So the
//! recipes run with their real URLs. The proxy refuses any other host.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

pub(crate) struct Internet {
    proxy: String,
    authority: tempfile::NamedTempFile,
    unknown_hosts: Arc<Mutex<Vec<String>>>,
}

type Hosts = HashMap<String, (TlsAcceptor, Router)>;

impl Internet {
    pub(crate) async fn of(sites: impl IntoIterator<Item = (&'static str, Router)>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut authority = tempfile::NamedTempFile::new().unwrap();
        authority.write_all(params.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
        let issuer = Issuer::new(params, key);
        let hosts = sites.into_iter().map(|(host, routes)| (format!("{host}:443"), (certified(host, &issuer), routes)));
        let hosts = Arc::new(hosts.collect::<Hosts>());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let unknown_hosts = Arc::new(Mutex::default());
        let unknown = Arc::clone(&unknown_hosts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connect(stream, Arc::clone(&hosts), Arc::clone(&unknown)));
            }
        });
        Self { proxy, authority, unknown_hosts }
    }

    /// The variables of a function on this internet.
    pub(crate) fn variables(&self) -> [(&str, &str); 2] {
        [("HTTPS_PROXY", &self.proxy), ("SSL_CERT_FILE", self.authority.path().to_str().unwrap())]
    }

    pub(crate) fn unknown_hosts(&self) -> Vec<String> {
        self.unknown_hosts.lock().unwrap().clone()
    }
}

/// A server with a certificate for this host.
fn certified(host: &str, authority: &Issuer<'_, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    Arc::new(config).into()
}

/// Serves one connection of the proxy: `CONNECT`, then TLS and HTTP as that host.
async fn connect(stream: TcpStream, hosts: Arc<Hosts>, unknown_hosts: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let (mut request, mut line) = (String::new(), String::new());
    stream.read_line(&mut request).await.unwrap();
    while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 2) {
        line.clear();
    }
    let host = request.split(' ').nth(1).unwrap_or_default();
    let Some((tls, routes)) = hosts.get(host) else {
        unknown_hosts.lock().unwrap().push(host.to_owned());
        return stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap_or_default();
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    // A client that does not trust the certificate ends the connection.
    if let Ok(stream) = tls.accept(stream).await {
        let service = TowerToHyperService::new(routes.clone());
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}
