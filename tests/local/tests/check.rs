//! The check against a correct server, and against servers with one flaw each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD};
use local::check::{Check, Hole, Options, Outcome, Report, Row};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

/// The flaw of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    AnswersWithoutAToken,
    VerifiesNothing,
    SignatureNeverAwaited,
    AlgorithmFromTheToken,
    KeyFromTheToken,
    FetchesJku,
    SmallKeys,
    KeyUseIgnored,
    CritIgnored,
    IssuerUnchecked,
    IssuerByPrefix,
    AudienceUnchecked,
    AudienceBySubstring,
    SubjectUnchecked,
    SubjectByPrefix,
    ExpIgnored,
    ExpOfTheWrongTypeIgnored,
    NbfIgnored,
    TokenFromTheQuery,
    KeysFetchedOnce,
    LenientBase64,
    LastDuplicateWins,
    TypIgnored,
    HidesBehind404,
}

/// A server that fetches the issuer's keys for each request, and trusts the tokens of [`Options::default`].
struct Server {
    flaw: Flaw,
    issuer: String,
    jwks_url: String,
    client: reqwest::Client,
    first_keys: OnceLock<Vec<Value>>,
}

/// A claim or a header member of any type.
#[derive(Deserialize)]
#[serde(untagged)]
enum Member {
    Text(String),
    Number(f64),
    Texts(Vec<String>),
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<Member>,
    typ: Option<Member>,
    crit: Option<Member>,
    jku: Option<String>,
    jwk: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<Member>,
    aud: Option<Member>,
    sub: Option<Member>,
    exp: Option<Member>,
    nbf: Option<Member>,
    iat: Option<Member>,
    owner_id: Option<Member>,
    project_id: Option<Member>,
}

fn text(member: Option<&Member>) -> Option<&str> {
    match member {
        Some(Member::Text(text)) => Some(text),
        _ => None,
    }
}

impl Server {
    async fn accepts(&self, headers: &HeaderMap, query: Option<&str>) -> Option<()> {
        let token = self.token(headers, query)?;
        if self.flaw == Flaw::VerifiesNothing {
            return Some(());
        }
        let [header_text, payload_text, signature] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
        let header: Header = self.object(&self.decode(header_text)?)?;
        let kid = text(header.kid.as_ref()).filter(|kid| !kid.is_empty())?;
        let typ = header.typ.is_none() || text(header.typ.as_ref()).is_some_and(|typ| typ.eq_ignore_ascii_case("JWT"));
        let may_continue = (typ || self.flaw == Flaw::TypIgnored)
            && (header.crit.is_none() || self.flaw == Flaw::CritIgnored)
            && (header.alg == "RS256" || self.flaw == Flaw::AlgorithmFromTheToken);
        if !may_continue {
            return None;
        }
        let key = match (&header.jwk, &header.jku) {
            (Some(jwk), _) if self.flaw == Flaw::KeyFromTheToken => jwk.clone(),
            (_, Some(jku)) if self.flaw == Flaw::FetchesJku => self.keys(jku).await.into_iter().next()?,
            _ => self.issuers_keys().await.into_iter().find(|key| key["kid"] == kid)?,
        };
        let message = format!("{header_text}.{payload_text}");
        if !self.is_signed(&header.alg, &key, message.as_bytes(), &self.decode(signature)?)? {
            return None;
        }
        self.trusts(&self.object(&self.decode(payload_text)?)?).then_some(())
    }

    fn token(&self, headers: &HeaderMap, query: Option<&str>) -> Option<String> {
        if self.flaw == Flaw::TokenFromTheQuery {
            let parameter = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("token=")));
            if let Some(token) = parameter {
                return Some(token.to_owned());
            }
        }
        let mut values = headers.get_all("authorization").iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        (scheme.eq_ignore_ascii_case("bearer")).then(|| token.to_owned())
    }

    fn decode(&self, text: &str) -> Option<Vec<u8>> {
        if self.flaw == Flaw::LenientBase64 {
            let config = GeneralPurposeConfig::new()
                .with_decode_allow_trailing_bits(true)
                .with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let text = text.replace('\t', "").replace('+', "-").replace('/', "_");
            return GeneralPurpose::new(&base64::alphabet::URL_SAFE, config).decode(text).ok();
        }
        URL_SAFE_NO_PAD.decode(text).ok()
    }

    fn object<T: for<'a> Deserialize<'a>>(&self, json: &[u8]) -> Option<T> {
        if self.flaw == Flaw::LastDuplicateWins {
            // Not through `Value`, because feature `raw_value` turns an object into a string there.
            let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json).ok()?;
            return serde_json::from_str(&serde_json::to_string(&members).ok()?).ok();
        }
        // Serde also fills a struct from an array.
        json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
    }

    async fn issuers_keys(&self) -> Vec<Value> {
        if self.flaw != Flaw::KeysFetchedOnce {
            return self.keys(&self.jwks_url).await;
        }
        if self.first_keys.get().is_none() {
            let _ = self.first_keys.set(self.keys(&self.jwks_url).await);
        }
        self.first_keys.get().unwrap().clone()
    }

    async fn keys(&self, url: &str) -> Vec<Value> {
        let Ok(response) = self.client.get(url).send().await else { return Vec::new() };
        let document: Value = serde_json::from_slice(&response.bytes().await.unwrap_or_default()).unwrap_or_default();
        document["keys"].as_array().cloned().unwrap_or_default()
    }

    fn is_signed(&self, alg: &str, key: &Value, message: &[u8], signature: &[u8]) -> Option<bool> {
        let absent_or = |name: &str, value: &str| key[name].is_null() || key[name] == value;
        let key_ops = &key["key_ops"];
        let usable = key["kty"] == "RSA"
            && absent_or("use", "sig")
            && absent_or("alg", "RS256")
            && (key_ops.is_null() || key_ops.as_array()?.iter().any(|operation| operation == "verify"));
        let member = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
        let (n, e) = (member("n")?, member("e")?);
        let modulus_bits = n.len() * 8;
        let public = RsaPublicKeyComponents { n, e };
        if !usable && self.flaw != Flaw::KeyUseIgnored {
            return None;
        }
        if self.flaw == Flaw::AlgorithmFromTheToken {
            return Some(by_any_algorithm(alg, key, &public, message, signature));
        }
        if modulus_bits < 2048 && self.flaw != Flaw::SmallKeys {
            return None;
        }
        let algorithm = match self.flaw {
            Flaw::SmallKeys => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            _ => &RSA_PKCS1_2048_8192_SHA256,
        };
        let verified = public.verify(algorithm, message, signature);
        Some(verified.is_ok() || self.flaw == Flaw::SignatureNeverAwaited)
    }

    fn trusts(&self, claims: &Claims) -> bool {
        let Options { audience, subject, .. } = Options::default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let id = |member: &Option<Member>, prefix: &str| {
            text(member.as_ref()).is_some_and(|id| id.starts_with(prefix) && id != format!("{prefix}another"))
        };
        let issuer = match (text(claims.iss.as_ref()), self.flaw) {
            (_, Flaw::IssuerUnchecked) => true,
            (Some(issuer), Flaw::IssuerByPrefix) => issuer.starts_with(&self.issuer),
            (issuer, _) => issuer == Some(&*self.issuer),
        };
        let is_audience = |given: &str| match self.flaw {
            Flaw::AudienceBySubstring => given.contains(&audience),
            _ => given == audience,
        };
        let audience = match &claims.aud {
            _ if self.flaw == Flaw::AudienceUnchecked => true,
            Some(Member::Text(one)) => is_audience(one),
            Some(Member::Texts(many)) => many.iter().any(|one| is_audience(one)),
            _ => false,
        };
        let subject = match (text(claims.sub.as_ref()), self.flaw) {
            (_, Flaw::SubjectUnchecked) => true,
            (Some(given), Flaw::SubjectByPrefix) => given.starts_with("owner:acme:project:storefront"),
            (given, _) => given == Some(&*subject),
        };
        let expiry = match &claims.exp {
            _ if self.flaw == Flaw::ExpIgnored => true,
            Some(Member::Number(exp)) => *exp > now,
            Some(_) => self.flaw == Flaw::ExpOfTheWrongTypeIgnored,
            None => false,
        };
        let begun = |member: &Option<Member>| match member {
            None => true,
            Some(Member::Number(time)) => *time <= now + 30.0,
            Some(_) => false,
        };
        let begun = begun(&claims.iat) && (begun(&claims.nbf) || self.flaw == Flaw::NbfIgnored);
        issuer
            && audience
            && subject
            && expiry
            && begun
            && id(&claims.owner_id, "team_")
            && id(&claims.project_id, "prj_")
    }
}

/// Verifies with the algorithm that the token names, as libraries did before CVE-2015-9235.
fn by_any_algorithm(
    alg: &str,
    key: &Value,
    public: &RsaPublicKeyComponents<Vec<u8>>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let rsa = |algorithm| public.verify(algorithm, message, signature).is_ok();
    let hmac = |algorithm| {
        secrets(key, public)
            .iter()
            .any(|secret| hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok())
    };
    match alg.trim().to_uppercase().as_str() {
        "NONE" | "" => true,
        "RS256" => rsa(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => rsa(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => rsa(&RSA_PKCS1_2048_8192_SHA512),
        "PS256" => rsa(&RSA_PSS_2048_8192_SHA256),
        "HS256" => hmac(hmac::HMAC_SHA256),
        "HS384" => hmac(hmac::HMAC_SHA384),
        "HS512" => hmac(hmac::HMAC_SHA512),
        _ => false,
    }
}

/// The forms in which a public key can become the secret of an HMAC.
fn secrets(key: &Value, public: &RsaPublicKeyComponents<Vec<u8>>) -> Vec<Vec<u8>> {
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let info = public.as_der().unwrap().as_ref().to_vec();
    // The `RSAPublicKey` is the end of the `SubjectPublicKeyInfo`, after 24 bytes that name the algorithm.
    let rsa = info[24..].to_vec();
    let n = key["n"].as_str().unwrap().as_bytes().to_vec();
    let info_pem = pem("PUBLIC KEY", &info);
    let trimmed = info_pem.trim_end().as_bytes().to_vec();
    let rsa_pem = pem("RSA PUBLIC KEY", &rsa).into_bytes();
    let jwk = key.to_string().into_bytes();
    vec![info_pem.into_bytes(), trimmed, rsa_pem, info, rsa, jwk, n, public.n.clone(), Vec::new()]
}

async fn answer(State(server): State<Arc<Server>>, headers: HeaderMap, uri: Uri) -> StatusCode {
    match server.accepts(&headers, uri.query()).await {
        Some(()) => StatusCode::OK,
        None if server.flaw == Flaw::AnswersWithoutAToken && !headers.contains_key("authorization") => StatusCode::OK,
        None if server.flaw == Flaw::HidesBehind404 => StatusCode::NOT_FOUND,
        None => StatusCode::UNAUTHORIZED,
    }
}

/// Serves a server with this flaw, and returns its URL.
async fn serve(check: &Check, flaw: Flaw) -> String {
    let settings = check.settings();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let (issuer, jwks_url) = (settings[0].1.to_owned(), settings[1].1.to_owned());
    let server = Server { flaw, issuer, jwks_url, client, first_keys: OnceLock::new() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(Arc::new(server));
    tokio::spawn(axum::serve(listener, app).into_future());
    url
}

async fn start(strict: bool) -> Check {
    // These servers fetch the keys for each request, so a second try would change nothing.
    Check::start(Options { port: 0, patience: Duration::ZERO, strict, ..Options::default() }).await.unwrap()
}

async fn report_on(check: &Check, flaw: Flaw) -> Report {
    check.run(&serve(check, flaw).await, |_| ()).await.unwrap()
}

#[tokio::test]
async fn a_server_that_verifies_passes_every_case() {
    let check = start(true).await;
    let report = report_on(&check, Flaw::None).await;
    assert!(report.is_clean(), "{}", report.summary());
    assert!(report.rows().count() >= 60);
    for row in report.rows() {
        let permitted = row.name == "withdrawn-key" || matches!(row.outcome, Outcome::Skipped(_));
        assert!(permitted || row.outcome == Outcome::Passed, "{row:?}");
    }
    let names: BTreeSet<_> = report.rows().map(|row| row.name).collect();
    assert_eq!(names.len(), report.rows().count(), "each case has its own name");
}

#[tokio::test]
async fn this_repositorys_backend_passes_every_case() {
    if !include_str!("../../../src/routes.rs").contains(".route(\"/\", get(") {
        // The test harness hides what `eprintln!` prints.
        writeln!(std::io::stderr().lock(), "skipped: the check of the backend needs `GET /` in src/routes.rs").unwrap();
        return;
    }
    let check = start(true).await;
    let [(_, issuer), (_, jwks_url), (_, audience), (_, subject)] = check.settings();
    let [(_, owner_id), (_, project_id)] = check.ids();
    let settings = backend::settings::Settings::read(|name| match name {
        "OIDC_ISSUER" => Some(issuer),
        "OIDC_JWKS_URL" => Some(jwks_url),
        "OIDC_AUDIENCE" => Some(audience),
        "OIDC_SUBJECT" => Some(subject),
        "OIDC_OWNER_ID" => Some(owner_id),
        "OIDC_PROJECT_ID" => Some(project_id),
        _ => None,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(backend::run(listener, settings.unwrap(), std::future::pending()));

    let report = check.run(&url, |_| ()).await.unwrap();
    for row in report.rows() {
        assert_eq!(row.outcome, Outcome::Passed, "{row:?}");
        assert!(!row.lacks_challenge, "{row:?}");
    }
}

/// Each server with a flaw, and exactly the holes that the flaw makes.
#[tokio::test]
async fn a_wrong_server_is_reported_with_exactly_its_holes() {
    let check = start(false).await;
    for (flaw, holes) in [
        (Flaw::AnswersWithoutAToken, Hole::Open),
        (Flaw::VerifiesNothing, Hole::Unverified),
        (Flaw::SignatureNeverAwaited, Hole::Signature),
        (Flaw::AlgorithmFromTheToken, Hole::Algorithm),
        (Flaw::KeyFromTheToken, Hole::KeyFromToken),
        (Flaw::FetchesJku, Hole::Fetch),
        (Flaw::SmallKeys, Hole::Key),
        (Flaw::KeyUseIgnored, Hole::Key),
        (Flaw::CritIgnored, Hole::Header),
        (Flaw::IssuerUnchecked, Hole::Issuer),
        (Flaw::IssuerByPrefix, Hole::Issuer),
        (Flaw::AudienceUnchecked, Hole::Audience),
        (Flaw::AudienceBySubstring, Hole::Audience),
        (Flaw::SubjectUnchecked, Hole::Subject),
        (Flaw::SubjectByPrefix, Hole::Subject),
        (Flaw::ExpIgnored, Hole::Expiry),
        (Flaw::ExpOfTheWrongTypeIgnored, Hole::Expiry),
        (Flaw::NbfIgnored, Hole::NotYet),
        (Flaw::TokenFromTheQuery, Hole::Place),
        (Flaw::KeysFetchedOnce, Hole::GoodRefused),
    ] {
        let report = report_on(&check, flaw).await;
        assert!(report.holes().keys().eq([&holes]), "{flaw:?}\n{}", report.summary());
        if flaw == Flaw::AlgorithmFromTheToken {
            // This server is only detected if each form of the public key has the right bytes.
            let shown = &report.holes()[&Hole::Algorithm];
            let of_class = |row: &&Row| row.name.starts_with("hs") || row.name.starts_with("rs");
            for row in report.rows().filter(of_class) {
                assert!(shown.contains(&row.name), "{}", row.name);
            }
        }
        assert!(!report.is_clean(), "{flaw:?}");
    }
}

#[tokio::test]
async fn a_token_that_alone_gains_an_attacker_nothing_is_a_hole_only_if_strict() {
    let (check, strict) = (start(false).await, start(true).await);
    for (flaw, hole) in [
        (Flaw::LenientBase64, Hole::Encoding),
        (Flaw::LastDuplicateWins, Hole::Ambiguity),
        (Flaw::TypIgnored, Hole::Header),
    ] {
        let report = report_on(&check, flaw).await;
        assert!(report.is_clean(), "{flaw:?}\n{}", report.summary());
        assert!(report.rows().any(|row| matches!(row.outcome, Outcome::Remark(_)) && row.status == Some(200)));
        let report = report_on(&strict, flaw).await;
        assert!(report.holes().keys().eq([&hole]), "{flaw:?}\n{}", report.summary());
    }
}

#[tokio::test]
async fn a_404_is_unproven() {
    let check = start(false).await;
    let report = report_on(&check, Flaw::HidesBehind404).await;
    assert!(!report.is_clean() && report.holes().is_empty(), "{}", report.summary());
}
