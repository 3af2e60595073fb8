//! The parts of the cases: keys, the header and claims of a valid token, and ways to change one thing.

use std::io;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::issuer::ATTACKER;
use super::keys::{EcKey, UnfitKey};
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
    /// The origin of the local issuer. The attacker's keys are on this origin, too.
    pub(crate) origin: String,
    pub(crate) main: SigningKey,
    pub(crate) rotated: SigningKey,
    pub(crate) next: SigningKey,
    /// A key that the issuer never publishes.
    pub(crate) attacker: SigningKey,
    pub(crate) small: UnfitKey,
    pub(crate) exponent_one: UnfitKey,
    pub(crate) ec: EcKey,
}

impl Kit {
    /// Makes the keys.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub(crate) fn new(issuer: &str, audience: &str, subject: &str, origin: &str) -> io::Result<Self> {
        let vercel = vercel_subject(subject);
        let mut deployment = Deployment::default();
        if let Some([team, project, environment]) = vercel {
            (deployment.team, deployment.project) = (team.to_owned(), project.to_owned());
            environment.clone_into(&mut deployment.environment);
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            subject: subject.to_owned(),
            deployment,
            has_vercel_subject: vercel.is_some(),
            origin: origin.to_owned(),
            main: SigningKey::generate(MAIN)?,
            rotated: SigningKey::generate(ROTATED)?,
            next: SigningKey::generate(NEXT)?,
            attacker: SigningKey::generate("attacker")?,
            small: UnfitKey::small(),
            exponent_one: UnfitKey::with_exponent_one(&[0xff; 256]),
            ec: EcKey::generate()?,
        })
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
        let mut claims = deployment.claims(&self.issuer, now, Duration::from_secs(3600));
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
        Request::Token(self.signed(&self.header(), &self.claims_of(&deployment, SystemTime::now())))
    }

    /// A token that was made at another time.
    pub(crate) fn made(&self, now: SystemTime) -> Request {
        Request::Token(self.signed(&self.header(), &self.claims_of(&self.deployment, now)))
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
        let (header, claims) = (text(self.header()), text(self.claims()));
        let message = format!("{}.{}", encode(0, header.as_bytes()), encode(1, claims.as_bytes()));
        let signature = self.main.signature(message.as_bytes());
        Request::Token(format!("{message}.{}", encode(2, &signature)))
    }

    /// Returns a URL of the attacker.
    pub(crate) fn attacker_url(&self, path: &str) -> String {
        format!("{}{ATTACKER}{path}", self.origin)
    }

    /// Returns the attacker's public key, as a JWKS has it.
    pub(crate) fn attacker_jwk(&self, kid: &str) -> Value {
        changed(self.attacker.jwk(), "kid", json!(kid))
    }

    /// Returns what the issuer publishes in this phase.
    pub(crate) fn published(&self, phase: Phase) -> Vec<Value> {
        let next = |kid: &str, changes: &[(&str, Value)]| {
            let jwk = changed(self.next.jwk(), "kid", json!(kid));
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

/// Returns team, project and environment of a subject in Vercel's form.
fn vercel_subject(subject: &str) -> Option<[&str; 3]> {
    let parts: Vec<_> = subject.split(':').collect();
    match parts[..] {
        ["owner", team, "project", project, "environment", environment] => Some([team, project, environment]),
        _ => None,
    }
}
