//! The check against a correct server, and against servers with one flaw each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::key_wrap::{AES_128, AesKek, KeyWrap as _};
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};
use aws_lc_rs::{hmac, pbkdf2};
use axum::Router;
use axum::extract::State;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Redirect, Response};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD};
use local::check::{Check, Hole, Options, Outcome, Report, Row};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::task::JoinSet;

/// The flaw of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    RedirectsToSignIn,
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
    /// A subject that is a word is a user, and users are welcome.
    SubjectMayBeAUser,
    IdsInsteadOfSubject,
    ExpIgnored,
    ExpOfTheWrongTypeIgnored,
    ExpAsText,
    /// `exp` must be a number, but as text it is not compared.
    ExpAsTextUncompared,
    NbfIgnored,
    TokenFromTheQuery,
    TokenFromAForm,
    KeysFetchedOnce,
    LenientBase64,
    LastDuplicateWins,
    TypIgnored,
    KidIgnored,
    HidesBehind404,
    /// Only this method needs no token.
    OpenTo(&'static str),
    /// The guard compares the path as it is written. The router knows the other spelling of this case.
    Routes(&'static str),
    /// A cache of accepted tokens that leaves out everything but these parts.
    Caches(Part),
    CacheIgnoresTime,
    DecryptsWithThePublicKey,
    DerivesWithoutALimit,
    Inflates,
    FailsOnGarbage,
    /// The header (0) or the payload (1) of a token.
    FailsOnLarge(usize),
    FailsOnDeep(usize),
    FailsOnManyMembers,
    DiesOfAForgery,
    DiesWithoutAnAnswer,
    /// It writes this member of a header to its log with a shell.
    RunsTheHeaders(&'static str),
    FetchesTheClaim(&'static str),
    FetchesClaimSources,
    FetchesForEachKid,
    KeepsWithdrawnKeys,
    /// It fetches keys for an unknown `kid` only.
    KeysNeverExpire,
    OutageIs401(Outage),
    RefusesKnownKeysIn(Outage),
    NeverFetchesAfterAnOutage,
    UnknownKidsStayUnknown,
    FollowsRedirects,
    WaitsForTheIssuer,
    EchoesAcceptedTokens,
    EchoesRefusedTokens,
}

/// The part of a token that a cache compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    HeaderAndPayload,
    HeaderAndSignature,
    PayloadAndSignature,
    AllButTheEnd,
    /// As much of it as the other token is long.
    LengthOfTheOther,
}

/// How the issuer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Error,
    Redirect,
    Endless,
    Silent,
}

impl Part {
    fn of(self, token: &str) -> Option<String> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        Some(match self {
            Self::HeaderAndPayload => message.to_owned(),
            Self::HeaderAndSignature => format!("{header} {signature}"),
            Self::PayloadAndSignature => format!("{payload} {signature}"),
            Self::AllButTheEnd => token.get(..token.len() - 20)?.to_owned(),
            Self::LengthOfTheOther => token.to_owned(),
        })
    }
}

/// A server that trusts the tokens of [`Options::default`], and protects `/orders`.
struct Server {
    flaw: Flaw,
    issuer: String,
    jwks_url: String,
    client: reqwest::Client,
    keys: tokio::sync::Mutex<Keys>,
    /// What the cache of accepted tokens holds.
    accepted: Mutex<HashSet<String>>,
    stop: Arc<Notify>,
    address: SocketAddr,
}

/// The issuer's keys, and when a fetch last brought nothing new.
#[derive(Default)]
struct Keys {
    keys: Vec<Value>,
    outage: Option<Outage>,
    /// The `kid`s for which a fetch brought no key.
    unknown: HashSet<String>,
    fetched: Option<Instant>,
    unproductive: Option<Instant>,
}

/// Keys are fetched again after this time.
const KEY_LIFE: Duration = Duration::from_secs(1);
/// A fetch that brings no new key is not repeated for this time.
const COOLDOWN: Duration = Duration::from_millis(500);

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
    zip: Option<Member>,
    jku: Option<Member>,
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
    environment: Option<Member>,
}

fn text(member: Option<&Member>) -> Option<&str> {
    match member {
        Some(Member::Text(text)) => Some(text),
        _ => None,
    }
}

impl Server {
    async fn accepts(&self, token: &str) -> Result<(), StatusCode> {
        let cached = match self.flaw {
            Flaw::Caches(part) => part.of(token),
            Flaw::CacheIgnoresTime => Some(token.to_owned()),
            _ => None,
        };
        let is_cached = |part: &String| match self.flaw {
            Flaw::Caches(Part::LengthOfTheOther) => {
                self.accepted.lock().unwrap().iter().any(|token| token.starts_with(part))
            }
            _ => self.accepted.lock().unwrap().contains(part),
        };
        if cached.as_ref().is_some_and(is_cached) {
            let payload = token.split('.').nth(1).and_then(|payload| self.decode(payload));
            let claims = payload.and_then(|payload| self.object(&payload));
            if self.flaw == Flaw::CacheIgnoresTime || claims.is_some_and(|claims| self.trusts(&claims)) {
                return Ok(());
            }
        }
        self.verify(token).await?;
        self.accepted.lock().unwrap().extend(cached);
        Ok(())
    }

    async fn verify(&self, token: &str) -> Result<(), StatusCode> {
        const REFUSED: StatusCode = StatusCode::UNAUTHORIZED;
        if self.flaw == Flaw::VerifiesNothing {
            return Ok(());
        }
        self.fail_on(token)?;
        if token.split('.').count() == 5 {
            let keys = self.keys(MAIN_KID).await?;
            let claims = decrypted(self.flaw, token, &keys).await.ok_or(REFUSED)?;
            return self.object(&claims).filter(|claims| self.trusts(claims)).map(|_| ()).ok_or(REFUSED);
        }
        let [header_text, payload_text, signature] =
            token.split('.').collect::<Vec<_>>().try_into().map_err(|_| REFUSED)?;
        if let Flaw::RunsTheHeaders(name) = self.flaw {
            let header: Value = serde_json::from_slice(&self.decode(header_text).ok_or(REFUSED)?).unwrap_or_default();
            if let Some(value) = header[name].as_str().filter(|value| value.contains('$')) {
                let command = format!("echo {value}");
                let output = move || std::process::Command::new("sh").args(["-c", &command]).output();
                tokio::task::spawn_blocking(output).await.unwrap().unwrap();
            }
        }
        let header: Header = self.decode(header_text).and_then(|header| self.object(&header)).ok_or(REFUSED)?;
        let kid = text(header.kid.as_ref()).filter(|kid| !kid.is_empty()).ok_or(REFUSED)?;
        let typ = header.typ.is_none() || text(header.typ.as_ref()).is_some_and(|typ| typ.eq_ignore_ascii_case("JWT"));
        let may_continue = (typ || self.flaw == Flaw::TypIgnored)
            && (header.crit.is_none() || self.flaw == Flaw::CritIgnored)
            && (header.alg == "RS256" || self.flaw == Flaw::AlgorithmFromTheToken);
        if !may_continue {
            return Err(REFUSED);
        }
        let mut keys = match (&header.jwk, text(header.jku.as_ref())) {
            (Some(jwk), _) if self.flaw == Flaw::KeyFromTheToken => vec![jwk.clone()],
            (_, Some(jku)) if self.flaw == Flaw::FetchesJku => self.fetch(jku).await.unwrap_or_default(),
            _ => self.keys(kid).await?,
        };
        let from_the_token = [Flaw::KeyFromTheToken, Flaw::FetchesJku].contains(&self.flaw)
            && (header.jwk.is_some() || header.jku.is_some());
        keys.retain(|key| key["kid"] == kid || from_the_token || self.flaw == Flaw::KidIgnored);
        let message = format!("{header_text}.{payload_text}");
        let signature = self.decode(signature).ok_or(REFUSED)?;
        let mut keys = keys.iter();
        if !keys.any(|key| self.is_signed(&header.alg, key, message.as_bytes(), &signature) == Some(true)) {
            if self.flaw == Flaw::DiesOfAForgery {
                self.stop.notify_one();
            }
            if self.flaw == Flaw::DiesWithoutAnAnswer {
                self.stop.notify_one();
                // Then the connection is closed, and no other is accepted.
                while TcpStream::connect(self.address).await.is_ok() {}
                std::panic::resume_unwind(Box::new(()));
            }
            return Err(REFUSED);
        }
        let mut payload = self.decode(payload_text).ok_or(REFUSED)?;
        if self.flaw == Flaw::Inflates && header.zip.is_some() {
            // The case's one block is not compressed, and has five bytes in front.
            payload.drain(..5);
        }
        let claims: Value = serde_json::from_slice(&payload).unwrap_or_default();
        let url = match self.flaw {
            Flaw::FetchesTheClaim(name) => &claims[name],
            Flaw::FetchesClaimSources => &claims["_claim_sources"]["attacker"]["endpoint"],
            _ => &Value::Null,
        };
        if let Some(url) = url.as_str().filter(|url| url.starts_with("http://127.0.0.1")) {
            let _ = self.client.get(url).send().await;
        }
        self.object(&payload).filter(|claims| self.trusts(claims)).map(|_| ()).ok_or(REFUSED)
    }

    /// Fails as a parser with a limit does if nothing catches its error.
    fn fail_on(&self, token: &str) -> Result<(), StatusCode> {
        let text: Vec<_> = token.split('.').filter_map(|part| URL_SAFE_NO_PAD.decode(part).ok()).take(2).collect();
        let count =
            |part, sign| text.get::<usize>(part).map_or(0, |part| part.iter().filter(|byte| **byte == sign).count());
        let fails = match self.flaw {
            Flaw::FailsOnGarbage => text.len() < 2,
            Flaw::FailsOnLarge(part) => text.get(part).is_some_and(|part| part.len() > 64 * 1024),
            Flaw::FailsOnDeep(part) => count(part, b'[') > 1000,
            Flaw::FailsOnManyMembers => count(1, b':') > 400,
            _ => false,
        };
        if fails { Err(StatusCode::INTERNAL_SERVER_ERROR) } else { Ok(()) }
    }

    fn token(&self, headers: &HeaderMap, query: Option<&str>, body: &str) -> Option<String> {
        if self.flaw == Flaw::TokenFromAForm {
            let field = body.split('&').find_map(|pair| pair.strip_prefix("token="));
            if let Some(token) = field {
                return Some(token.to_owned());
            }
        }
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

    /// Returns the issuer's keys. Fetches them if none has this `kid`.
    async fn keys(&self, kid: &str) -> Result<Vec<Value>, StatusCode> {
        let mut known = self.keys.lock().await;
        if self.flaw == Flaw::UnknownKidsStayUnknown && known.unknown.contains(kid) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let is_known = known.keys.iter().any(|key| key["kid"] == kid);
        let cooling = known.unproductive.is_some_and(|time| time.elapsed() < COOLDOWN);
        let is_old = known.fetched.is_none_or(|time| time.elapsed() > KEY_LIFE && self.flaw != Flaw::KeysNeverExpire);
        let may_fetch = match self.flaw {
            Flaw::KeysFetchedOnce => known.keys.is_empty(),
            Flaw::FetchesForEachKid => true,
            Flaw::NeverFetchesAfterAnOutage => !cooling && known.outage.is_none(),
            _ => !cooling,
        };
        if (!is_known || is_old) && may_fetch {
            let fetched = self.fetch(&self.jwks_url).await;
            known.fetched = Some(Instant::now());
            known.outage = fetched.as_ref().err().copied();
            match fetched {
                Ok(keys) if self.flaw == Flaw::KeepsWithdrawnKeys => known.keys.extend(keys),
                Ok(keys) => known.keys = keys,
                Err(_) => {}
            }
            let brought = known.keys.iter().any(|key| key["kid"] == kid);
            known.unproductive = (!brought).then(Instant::now);
            if !brought {
                known.unknown.insert(kid.to_owned());
            }
        }
        let brought = known.keys.iter().any(|key| key["kid"] == kid);
        match (known.outage, self.flaw) {
            (Some(outage), Flaw::RefusesKnownKeysIn(this)) if brought && outage == this => {
                return Err(StatusCode::UNAUTHORIZED);
            }
            (Some(outage), Flaw::OutageIs401(this)) if outage == this => {}
            (Some(_), _) if !brought => return Err(StatusCode::SERVICE_UNAVAILABLE),
            _ => {}
        }
        Ok(known.keys.clone())
    }

    async fn fetch(&self, url: &str) -> Result<Vec<Value>, Outage> {
        let response = self.client.get(url).send().await.map_err(|_| Outage::Silent)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(Outage::Redirect),
            _ => return Err(Outage::Error),
        }
        let body = response.bytes().await.map_err(|_| Outage::Endless)?;
        let document: Value = serde_json::from_slice(&body).map_err(|_| Outage::Error)?;
        document["keys"].as_array().cloned().ok_or(Outage::Error)
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
        let is_a_word =
            |given: &str| !given.is_empty() && given.chars().all(|sign| sign.is_alphanumeric() || sign == '-');
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
            (_, Flaw::IdsInsteadOfSubject) => text(claims.environment.as_ref()) == Some("production"),
            (Some(given), Flaw::SubjectMayBeAUser) if is_a_word(given) => true,
            (Some(given), Flaw::SubjectByPrefix) => given.starts_with("owner:acme:project:storefront"),
            (given, _) => given == Some(&*subject),
        };
        let expiry = match &claims.exp {
            _ if self.flaw == Flaw::ExpIgnored => true,
            Some(Member::Number(exp)) => *exp > now,
            Some(Member::Text(exp)) if self.flaw == Flaw::ExpAsText => exp.parse::<f64>().is_ok_and(|exp| exp > now),
            Some(Member::Text(exp)) if self.flaw == Flaw::ExpAsTextUncompared => exp.parse::<f64>().is_ok(),
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

const MAIN_KID: &str = "check-1";

/// Decrypts a token with the issuer's public key as the password, as libraries did before CVE-2023-51774.
async fn decrypted(flaw: Flaw, token: &str, keys: &[Value]) -> Option<Vec<u8>> {
    let parts: Vec<_> = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).collect();
    let header: Value = serde_json::from_slice(&parts[0]).ok()?;
    let key = keys.iter().find(|key| key["kid"] == header["kid"])?;
    let member = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
    let password = secrets(key, &RsaPublicKeyComponents { n: member("n")?, e: member("e")? })[0].clone();
    let iterations = header["p2c"].as_u64()?;
    match (iterations, flaw) {
        // Instead of computing for hours.
        (10_000_000.., Flaw::DerivesWithoutALimit) => std::future::pending().await,
        (..10_000_000, Flaw::DecryptsWithThePublicKey) => {}
        _ => return None,
    }
    let salt = URL_SAFE_NO_PAD.decode(header["p2s"].as_str()?).ok()?;
    let salt = [header["alg"].as_str()?.as_bytes(), &[0], &salt].concat();
    let (mut derived, mut content_key) = ([0; 16], [0; 16]);
    let iterations = u32::try_from(iterations).ok()?.try_into().ok()?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, &password, &mut derived);
    let content_key = AesKek::new(&AES_128, &derived).ok()?.unwrap(&parts[1], &mut content_key).ok()?.to_vec();
    let mut text = [&parts[3][..], &parts[4]].concat();
    let aad = Aad::from(token.split('.').next()?.as_bytes());
    let nonce = Nonce::try_assume_unique_for_key(&parts[2]).ok()?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key).ok()?);
    Some(key.open_in_place(nonce, aad, &mut text).ok()?.to_vec())
}

/// Whether a router that knows the other spelling of this case takes the path for `/orders`.
fn routes(case: &str, path: &str) -> bool {
    let resolved = |path: &str| {
        let mut segments = Vec::new();
        for segment in path.split('/') {
            match segment {
                ".." => _ = segments.pop(),
                segment => segments.push(segment),
            }
        }
        segments.join("/")
    };
    let meant = match case {
        "path-two-slashes" => path.replace("//", "/"),
        "path-slash-at-end" => path.trim_end_matches('/').to_owned(),
        "path-case" => path.to_lowercase(),
        "path-encoded" => path.replace("%6F", "o"),
        "path-dot" => path.replace("/%2e/", "/"),
        "path-dots" if !path.starts_with("/orders") => resolved(path),
        // Behind a proxy that passes only paths that start like this.
        "path-own-dots" if path.starts_with("/orders") => resolved(path),
        "path-semicolon" => path.split(';').next().unwrap().to_owned(),
        _ => return false,
    };
    meant == "/orders"
}

async fn answer(
    State(server): State<Arc<Server>>,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
    body: String,
) -> Response {
    let flaw = server.flaw;
    if uri.path() != "/orders" {
        let is_open = matches!(flaw, Flaw::Routes(case) if routes(case, uri.path()));
        return if is_open { "orders".into_response() } else { StatusCode::NOT_FOUND.into_response() };
    }
    if matches!(flaw, Flaw::OpenTo(open) if method == open) {
        return "orders".into_response();
    }
    if method == Method::OPTIONS {
        // A CORS preflight has no credentials.
        return StatusCode::NO_CONTENT.into_response();
    }
    let token = server.token(&headers, uri.query(), &body);
    let result = match &token {
        Some(token) => server.accepts(token).await,
        None => Err(StatusCode::UNAUTHORIZED),
    };
    match (result, flaw) {
        (Ok(()), Flaw::EchoesAcceptedTokens) => token.unwrap_or_default().into_response(),
        (Ok(()), _) => "orders".into_response(),
        (Err(_), Flaw::AnswersWithoutAToken) if !headers.contains_key("authorization") => "orders".into_response(),
        (Err(status), Flaw::EchoesRefusedTokens) => {
            (status, [("x-token", token.unwrap_or_default().replace('\t', " "))]).into_response()
        }
        (Err(StatusCode::UNAUTHORIZED), Flaw::HidesBehind404) => StatusCode::NOT_FOUND.into_response(),
        (Err(_), Flaw::RedirectsToSignIn) => Redirect::to("/sign-in").into_response(),
        (Err(status), _) => (status, [(WWW_AUTHENTICATE, "Bearer")]).into_response(),
    }
}

/// Serves a server with this flaw, and returns its URL.
async fn serve(check: &Check, flaw: Flaw) -> String {
    let settings = check.settings();
    let mut client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    if flaw != Flaw::FollowsRedirects {
        client = client.redirect(reqwest::redirect::Policy::none());
    }
    if flaw != Flaw::WaitsForTheIssuer {
        client = client.timeout(Duration::from_secs(1));
    }
    let (issuer, jwks_url) = (settings[0].1.to_owned(), settings[1].1.to_owned());
    let stop = Arc::new(Notify::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server {
        flaw,
        issuer,
        jwks_url,
        client: client.build().unwrap(),
        keys: Default::default(),
        accepted: Default::default(),
        stop: stop.clone(),
        address,
    };
    let url = format!("http://{address}/orders");
    let app = Router::new().fallback(answer).with_state(Arc::new(server));
    let stopped = async move { stop.notified().await };
    tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stopped).into_future());
    url
}

fn options() -> Options {
    Options {
        port: 0,
        wait: Duration::from_secs(1),
        patience: Duration::from_secs(3),
        timeout: Duration::from_secs(5),
        key_life: Duration::from_secs(3),
        ..Options::default()
    }
}

/// Starts a check. All checks share their keys, because making keys takes time.
async fn start(options: Options) -> Check {
    static FIRST: OnceCell<Check> = OnceCell::const_new();
    let first = FIRST.get_or_init(async || Check::start(self::options()).await.unwrap()).await;
    first.beside(options).await.unwrap()
}

/// Checks a server with this flaw.
async fn report_on(flaw: Flaw, options: Options) -> Report {
    /// With more checks at once, a slow machine answers too late.
    static SLOTS: Semaphore = Semaphore::const_new(16);
    let _slot = SLOTS.acquire().await.unwrap();
    let check = start(options).await;
    check.run(&serve(&check, flaw).await, |_| ()).await.unwrap()
}

/// Checks many servers at once.
async fn reports_on<T: Copy + Send + 'static>(
    cases: impl IntoIterator<Item = (Flaw, T)>,
    options: impl Fn() -> Options,
) -> Vec<(Flaw, T, Report)> {
    let mut reports = JoinSet::new();
    for (flaw, expected) in cases {
        let options = options();
        reports.spawn(async move { (flaw, expected, report_on(flaw, options).await) });
    }
    reports.join_all().await
}

/// The names of the cases that failed.
fn failed(report: &Report) -> BTreeSet<&'static str> {
    let failed = |row: &&Row| matches!(row.outcome, Outcome::Failed(_));
    report.rows().filter(failed).map(|row| row.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_verifies_passes_every_case() {
    let options = || Options { strict: true, long: true, ..options() };
    for (_, (), report) in reports_on([(Flaw::None, ())], options).await {
        assert!(report.is_clean(), "{}", report.summary());
        assert!(report.rows().count() >= 230);
        for row in report.rows() {
            let permitted = matches!(row.outcome, Outcome::Skipped(_));
            assert!(permitted || row.outcome == Outcome::Passed, "{row:?}");
            assert!(!permitted || !row.name.starts_with("issuer"), "{row:?}");
        }
        let names: BTreeSet<_> = report.rows().map(|row| row.name).collect();
        assert_eq!(names.len(), report.rows().count(), "each case has its own name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_repositorys_backend_passes_every_case() {
    if !include_str!("../../../src/routes.rs").contains(".route(\"/\", get(hello))") {
        // The test harness hides what `eprintln!` prints.
        writeln!(std::io::stderr().lock(), "skipped: the check of the backend needs `GET /` in src/routes.rs").unwrap();
        return;
    }
    let check = start(Options { strict: true, ..options() }).await;
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
        let permitted = matches!(row.outcome, Outcome::Skipped(_));
        assert!(permitted || row.outcome == Outcome::Passed, "{row:?}");
        assert!(!row.lacks_challenge, "{row:?}");
    }
}

/// Each server with a flaw, and exactly the holes that the flaw makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_server_is_reported_with_exactly_its_holes() {
    let flaws = [
        (Flaw::AnswersWithoutAToken, Hole::Open),
        (Flaw::VerifiesNothing, Hole::Unverified),
        (Flaw::SignatureNeverAwaited, Hole::Signature),
        (Flaw::AlgorithmFromTheToken, Hole::Algorithm),
        (Flaw::KeyFromTheToken, Hole::KeyFromToken),
        (Flaw::FetchesJku, Hole::Fetch),
        (Flaw::SmallKeys, Hole::Key),
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
        (Flaw::FailsOnGarbage, Hole::Crash),
    ];
    for (flaw, hole, report) in reports_on(flaws, options).await {
        assert!(report.holes().keys().eq([&hole]), "{flaw:?}\n{}", report.summary());
        if flaw == Flaw::AlgorithmFromTheToken {
            // This server is only detected if each form of the public key has the right bytes.
            let shown = &report.holes()[&Hole::Algorithm];
            for row in report.rows().filter(|row| row.name.starts_with("hs")) {
                assert!(shown.contains(&row.name), "{}", row.name);
            }
            for row in report.rows().filter(|row| row.name.starts_with("rs") || row.name == "ps256") {
                assert_eq!(row.status, Some(200), "{}", row.name);
            }
        }
        assert!(!report.is_clean(), "{flaw:?}");
    }
}

/// Each server fails these cases and no other, so nothing else finds it.
async fn fail_exactly(flaws: impl IntoIterator<Item = (Flaw, (Hole, &'static str))>, options: impl Fn() -> Options) {
    let mut wrong = Vec::new();
    for (flaw, (hole, cases), report) in reports_on(flaws, options).await {
        let failed = failed(&report);
        if failed != cases.split(' ').collect() || !report.holes().contains_key(&hole) {
            wrong.push(format!("{flaw:?} {failed:?}\n{}", report.summary()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_server_fails_the_cases_that_are_made_for_it_and_no_other() {
    let mut flaws = vec![
        (Flaw::OpenTo("HEAD"), (Hole::Method, "no-token-head")),
        (Flaw::OpenTo("POST"), (Hole::Method, "no-token-post")),
        (Flaw::OpenTo("PUT"), (Hole::Method, "no-token-put")),
        (Flaw::OpenTo("PATCH"), (Hole::Method, "no-token-patch")),
        (Flaw::OpenTo("DELETE"), (Hole::Method, "no-token-delete")),
        (Flaw::OpenTo("OPTIONS"), (Hole::Method, "no-token-options")),
        (Flaw::TokenFromAForm, (Hole::Place, "form")),
        (Flaw::Caches(Part::HeaderAndPayload), (Hole::Cache, "seen-no-signature seen-other-signature")),
        (Flaw::Caches(Part::LengthOfTheOther), (Hole::Cache, "seen-no-signature")),
        (Flaw::Caches(Part::AllButTheEnd), (Hole::Cache, "seen-other-signature")),
        (Flaw::Caches(Part::HeaderAndSignature), (Hole::Cache, "seen-other-payload")),
        (Flaw::Caches(Part::PayloadAndSignature), (Hole::Cache, "seen-other-header")),
        (Flaw::CacheIgnoresTime, (Hole::Cache, "seen-expired")),
        (Flaw::DecryptsWithThePublicKey, (Hole::Algorithm, "jwe")),
        (Flaw::DerivesWithoutALimit, (Hole::Crash, "jwe-p2c")),
        (Flaw::Inflates, (Hole::Ambiguity, "zip")),
        (Flaw::FailsOnLarge(0), (Hole::Crash, "large-header")),
        (Flaw::FailsOnLarge(1), (Hole::Crash, "large")),
        (Flaw::FailsOnDeep(0), (Hole::Crash, "deep-header")),
        (Flaw::FailsOnDeep(1), (Hole::Crash, "deep-payload")),
        (Flaw::FailsOnManyMembers, (Hole::Crash, "many-members")),
        (Flaw::TypIgnored, (Hole::Header, "typ-at-jwt typ-logout-jwt typ-number")),
        (Flaw::KeyUseIgnored, (Hole::Key, "encryption-key key-alg key-ops")),
        (
            Flaw::LastDuplicateWins,
            (
                Hole::Ambiguity,
                "alg-twice aud-twice-good-last exp-twice-good-last iss-twice-good-last sub-twice-good-last",
            ),
        ),
        (
            Flaw::LenientBase64,
            (
                Hole::Encoding,
                "header-padding header-spare-bits payload-padding payload-spare-bits signature-padding \
                 signature-spare-bits signature-standard-base64 space-inside",
            ),
        ),
        (Flaw::SubjectMayBeAUser, (Hole::Subject, "sub-other")),
        (Flaw::ExpAsText, (Hole::Expiry, "exp-string")),
        (Flaw::FetchesClaimSources, (Hole::Fetch, "address-of-claims")),
        (Flaw::FetchesForEachKid, (Hole::Flood, "kid-flood")),
        (Flaw::EchoesAcceptedTokens, (Hole::Echo, "echo-accepted")),
        (Flaw::EchoesRefusedTokens, (Hole::Echo, "echo-refused")),
    ];
    let paths = [
        "path-case",
        "path-dot",
        "path-dots",
        "path-encoded",
        "path-own-dots",
        "path-semicolon",
        "path-slash-at-end",
        "path-two-slashes",
    ];
    flaws.extend(paths.map(|case| (Flaw::Routes(case), (Hole::Path, case))));
    let headers = [
        ("alg", "address-in-alg"),
        ("typ", "address-in-typ"),
        ("cty", "address-in-cty"),
        ("jku", "address-in-jku"),
        ("x5u", "address-in-x5u"),
        ("x5t", "address-in-x5t"),
        ("jwk", "address-in-jwk"),
        ("kid", "address-in-kid"),
        ("iss", "address-in-header-iss"),
    ];
    flaws.extend(headers.map(|(name, case)| (Flaw::RunsTheHeaders(name), (Hole::Fetch, case))));
    let claims = [
        ("iss", "address-in-iss"),
        ("aud", "address-in-aud"),
        ("sub", "address-in-sub"),
        ("jti", "address-in-jti"),
        ("owner", "address-in-owner"),
        ("owner_id", "address-in-owner-id"),
        ("project", "address-in-project"),
        ("project_id", "address-in-project-id"),
        ("environment", "address-in-environment"),
        ("scope", "address-in-scope"),
        ("user_id", "address-in-user-id"),
        ("plan", "address-in-plan"),
        ("picture", "address-in-picture"),
    ];
    flaws.extend(claims.map(|(name, case)| (Flaw::FetchesTheClaim(name), (Hole::Fetch, case))));
    fail_exactly(flaws, || Options { strict: true, ..options() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_with_its_issuer_or_after_it_is_found() {
    let flaws = [
        (Flaw::OutageIs401(Outage::Error), (Hole::Outage, "issuer-500")),
        (Flaw::OutageIs401(Outage::Redirect), (Hole::Outage, "issuer-redirect")),
        (Flaw::OutageIs401(Outage::Endless), (Hole::Outage, "issuer-endless")),
        (Flaw::OutageIs401(Outage::Silent), (Hole::Outage, "issuer-silent")),
        (Flaw::RefusesKnownKeysIn(Outage::Error), (Hole::Outage, "issuer-500-known")),
        (Flaw::RefusesKnownKeysIn(Outage::Redirect), (Hole::Outage, "issuer-redirect-known")),
        (Flaw::RefusesKnownKeysIn(Outage::Endless), (Hole::Outage, "issuer-endless-known")),
        (Flaw::RefusesKnownKeysIn(Outage::Silent), (Hole::Outage, "issuer-silent-known")),
        (
            Flaw::WaitsForTheIssuer,
            (Hole::Outage, "issuer-endless issuer-endless-known issuer-silent issuer-silent-known"),
        ),
        (Flaw::FollowsRedirects, (Hole::Outage, "issuer-redirect issuer-redirect-known")),
        (Flaw::UnknownKidsStayUnknown, (Hole::GoodRefused, "issuer-back")),
        (Flaw::NeverFetchesAfterAnOutage, (Hole::GoodRefused, "issuer-back withdrawn-key-life")),
        (Flaw::KeysNeverExpire, (Hole::Key, "withdrawn-key-life")),
        (Flaw::KeepsWithdrawnKeys, (Hole::Key, "withdrawn-key withdrawn-key-life")),
    ];
    fail_exactly(flaws, || Options { strict: true, long: true, ..options() }).await;
}

/// With `GET`, the case is not tried, because every other case uses it.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_get_is_found_with_another_method() {
    let flaws = [(Flaw::OpenTo("GET"), (Hole::Method, "no-token-get"))];
    fail_exactly(flaws, || Options { method: "POST".to_owned(), strict: true, ..options() }).await;
}

/// With `--strict`, `exp-string` also finds it.
#[tokio::test(flavor = "multi_thread")]
async fn an_exp_that_is_text_and_past_is_a_hole_in_any_mode() {
    fail_exactly([(Flaw::ExpAsTextUncompared, (Hole::Expiry, "exp-string-past"))], options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_alone_gains_an_attacker_nothing_is_a_hole_only_if_strict() {
    let flaws = [
        (Flaw::LenientBase64, ()),
        (Flaw::LastDuplicateWins, ()),
        (Flaw::TypIgnored, ()),
        (Flaw::KeyUseIgnored, ()),
        (Flaw::EchoesAcceptedTokens, ()),
        (Flaw::ExpAsText, ()),
        (Flaw::FetchesForEachKid, ()),
    ];
    for (flaw, (), report) in reports_on(flaws, options).await {
        assert!(report.is_clean(), "{flaw:?}\n{}", report.summary());
        assert!(report.rows().any(|row| matches!(row.outcome, Outcome::Remark(_))), "{flaw:?}");
    }
}

/// A check is said to be missing only if the API failed the plain case of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_summary_says_exactly_what_was_accepted() {
    let flaws = [
        (Flaw::ExpIgnored, ("The API does not check `exp`", "200 to expired: expired an hour ago")),
        (Flaw::ExpAsText, ("The API checks `exp`, but it accepts", "200 to exp-string: `exp` is a text with a number")),
        (Flaw::SignatureNeverAwaited, ("The API does not check the signature", "200 to forged: signed by an attacker")),
        (Flaw::KidIgnored, ("The API checks the signature, but it accepts", "200 to kid-renamed: a known key under")),
        (
            Flaw::IssuerByPrefix,
            ("The API checks `iss`, but it accepts", "200 to iss-longer: the accepted `iss` is only"),
        ),
        (Flaw::SubjectUnchecked, ("The API does not check all of `sub`", "200 to sub-other: `sub` is someone else")),
        (Flaw::FailsOnGarbage, ("It failed instead of refusing", "500 to garbage: text that is not a token")),
    ];
    for (flaw, (verdict, line), report) in reports_on(flaws, || Options { strict: true, ..options() }).await {
        let summary = report.summary();
        assert!(summary.contains(verdict) && summary.contains(line), "{flaw:?}\n{summary}");
        let holes = report.to_json()["holes"].to_string();
        assert!(holes.contains(verdict), "{flaw:?}\n{holes}");
        let said = |name: &str| summary.contains(&format!("does not check {name}"));
        assert_eq!(said("the signature"), flaw == Flaw::SignatureNeverAwaited, "{flaw:?}\n{summary}");
        assert_eq!(said("`exp`"), flaw == Flaw::ExpIgnored, "{flaw:?}\n{summary}");
    }
}

/// The issuer makes no token with the accepted ids and other names.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_decides_by_ids_needs_no_names() {
    let flaws = [(Flaw::IdsInsteadOfSubject, ())];
    for (_, (), report) in reports_on(flaws, options).await {
        assert!(report.holes().keys().eq([&Hole::Subject]), "{}", report.summary());
    }
    for (_, (), report) in reports_on(flaws, || Options { ids: true, ..options() }).await {
        assert!(report.is_clean(), "{}", report.summary());
        let refused = ["other-project", "other-team", "other-environment", "other-owner-id", "other-project-id"];
        for row in report.rows().filter(|row| refused.contains(&row.name)) {
            assert_eq!(row.status, Some(401), "{}", row.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_or_a_404_is_no_acceptance() {
    let options = || Options { strict: true, ..options() };
    let flaws = [(Flaw::RedirectsToSignIn, "refused with a redirect"), (Flaw::HidesBehind404, "refused with 404")];
    for (flaw, remark, report) in reports_on(flaws, options).await {
        assert!(report.is_clean(), "{flaw:?}\n{}", report.summary());
        assert!(report.summary().contains(remark), "{flaw:?}\n{}", report.summary());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_dies_is_reported_with_the_case_that_stopped_it() {
    let flaws = [(Flaw::DiesOfAForgery, ()), (Flaw::DiesWithoutAnAnswer, ())];
    for (flaw, (), report) in reports_on(flaws, options).await {
        let mut crashes = report.rows().filter(|row| row.outcome == Outcome::Failed(Hole::Crash));
        let (crash, None) = (crashes.next().unwrap(), crashes.next()) else { panic!("{flaw:?}\n{}", report.summary()) };
        // After the answer to `forged`, the next connection is refused, or accepted and closed.
        let is_next = flaw == Flaw::DiesOfAForgery && crash.name == "signature-stripped";
        assert!(crash.name == "forged" || is_next, "{flaw:?}\n{}", report.summary());
        assert!(!is_next || crash.note.as_ref().unwrap().contains("or at forged before it"), "{crash:?}");
        let skipped =
            report.rows().filter(|row| matches!(row.outcome, Outcome::Skipped(reason) if reason.contains("crashed")));
        assert!(skipped.count() > 100, "{flaw:?}\n{}", report.summary());
    }
}

/// The authority that signed the certificates in `tests/tls`. All have one key, which nothing else uses.
const AUTHORITY: &[u8] = include_bytes!("tls/authority.pem");

/// A server with this certificate.
async fn serve_tls(certificate: &[u8]) -> String {
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    url
}

/// A server that answers these bytes and then closes the connection, or that waits for ever.
async fn serve_bytes(answer: Option<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Some(answer) = answer else { std::future::pending().await };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_of_no_answer_has_its_own_name() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let https = serve_tls(include_bytes!("tls/trusted.pem")).await;
    let other_name = serve_tls(include_bytes!("tls/other-name.pem")).await;
    let expired = serve_tls(include_bytes!("tls/expired.pem")).await;
    let silent = serve_bytes(None).await;
    let closing = serve_bytes(Some(b"")).await;
    let other_protocol = serve_bytes(Some(b"220 mail.example ESMTP\r\n")).await;
    let options = || Options { wait: Duration::ZERO, timeout: Duration::from_secs(2), ..options() };
    let with_ca = |ca: &[u8]| Options { ca: Some(ca.to_owned()), ..options() };
    let insecure = || Options { insecure: true, ..options() };
    for (url, options, cause) in [
        (format!("http://{unused}/"), options(), "connection refused: nothing listens on this host and port"),
        ("http://no-such-host.invalid/".to_owned(), options(), "this host name can't be resolved"),
        (https.clone(), options(), "the server's certificate is not trusted. Pass its authority with --ca FILE"),
        (https.clone(), with_ca(AUTHORITY), ""),
        (https.clone(), insecure(), ""),
        (https.clone(), with_ca(b"no PEM"), "--ca has no certificate in PEM"),
        (other_name.clone(), with_ca(AUTHORITY), "the server's certificate is for another host name"),
        (other_name, insecure(), ""),
        (expired.clone(), with_ca(AUTHORITY), "the server's certificate has expired"),
        (expired, insecure(), ""),
        (silent.replace("http:", "https:"), options(), "no connection in time"),
        (closing.replace("http:", "https:"), options(), "the TLS handshake failed"),
        (other_protocol.replace("http:", "https:"), options(), "the TLS handshake failed"),
        (https.replace("https:", "http:"), options(), "the answer is not HTTP. If the API uses TLS"),
        (silent, options(), "connected, but no answer in time"),
        (closing, options(), "the connection was closed before an answer"),
        (other_protocol, options(), "the answer is not HTTP"),
        ("ftp://127.0.0.1/".to_owned(), options(), "not an http URL"),
    ] {
        let check = start(options).await;
        match check.wait(&url).await {
            Ok(()) => assert_eq!(cause, "", "{url}"),
            Err(error) => assert!(!cause.is_empty() && error.to_string().contains(cause), "{url} {cause}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_uses_the_method_and_the_body_of_the_options() {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let record = |State(seen): State<Arc<Mutex<BTreeSet<_>>>>, method: Method, headers: HeaderMap, body: String| async move {
        let content_type = headers.get("content-type").map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().insert((method.to_string(), content_type, body));
        StatusCode::UNAUTHORIZED
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/orders", listener.local_addr().unwrap());
    let app = Router::new().fallback(record).with_state(seen.clone());
    tokio::spawn(axum::serve(listener, app).into_future());
    let (method, data) = ("POST".to_owned(), Some("{}".to_owned()));
    let options = Options { method, data, patience: Duration::ZERO, ..options() };
    start(options).await.run(&url, |_| ()).await.unwrap();

    let seen = seen.lock().unwrap();
    let json = Some("application/json".to_owned());
    for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
        assert!(seen.contains(&(method.to_owned(), json.clone(), "{}".to_owned())), "{method} {seen:?}");
    }
    // The path's other spellings are sent without a URL.
    let others: Vec<_> = seen.iter().filter(|(_, kind, body)| *kind != json || body != "{}").collect();
    assert!(
        matches!(&others[..], [(_, Some(form), body)] if form.contains("form") && body.contains("token=")),
        "{others:?}"
    );
}
