//! Which tokens the backend accepts, in the order of its checks. Each test changes one thing of a valid token.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use common::{
    Backend, FORGED_KEY, FakeIssuer, KEY, NEXT_KEY, claims, claims_with, fresh_token, settings, token, verifier,
};
use local::{Deployment, base64url};
use serde_json::{Value, json};
use vercel_oidc_verifier::{Claims, KeySet, Trust, Verifier};

const NOT_COMPACT: &str = "the token is not a compact JWS: three base64url parts joined by dots";
const HEADER: &str = "the token's header is not base64url of a JSON object with `alg` and `kid`, each once";
const ALGORITHM: &str = "the token's `alg` is not RS256";
const TYPE: &str = "the token's `typ` is not JWT";
const CRITICAL: &str = "the token's header has `crit`, and no extension is supported";
const UNKNOWN_KEY: &str =
    "the token's `kid` names no usable key of the issuer: get a new token, and compare the issuer";
const SIGNATURE: &str = "the token's signature is wrong";
const CLAIMS: &str = "the token's payload is not a JSON object of claims, each once and of its type";

/// Sends each token, and demands a 401 with exactly this description.
async fn refuses(tokens: impl IntoIterator<Item = (String, &'static str)>) {
    let backend = Backend::start(&FakeIssuer::start(&KEY).await).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    for (token, description) in tokens {
        let answer = backend.get(&token).await;
        let shown = token.chars().take(120).collect::<String>();
        assert_eq!((answer.status, answer.code()), (401, "invalid_token".into()), "{shown}");
        assert_eq!(answer.description(), description, "{shown}");
    }
}

async fn accepts(tokens: impl IntoIterator<Item = String>) {
    let backend = Backend::start(&FakeIssuer::start(&KEY).await).await;
    for token in tokens {
        let answer = backend.get(&token).await;
        assert_eq!(answer.status, 200, "{token}: {answer:?}");
    }
}

/// A token with this header, signed with the issuer's key.
fn with_header(header: &str) -> String {
    KEY.sign(header.as_bytes(), claims().to_string().as_bytes())
}

/// A token with this payload, signed with the issuer's key.
fn with_payload(payload: &str) -> String {
    KEY.sign(br#"{"alg":"RS256","kid":"key-1"}"#, payload.as_bytes())
}

/// A valid payload with these members added. A member may then occur twice.
fn payload_and(members: &str) -> String {
    format!("{},{members}}}", claims().to_string().strip_suffix('}').unwrap())
}

fn signed(signing_input: &str) -> String {
    format!("{signing_input}.{}", base64url(KEY.signature(signing_input.as_bytes())))
}

#[tokio::test]
async fn refuses_a_token_that_is_not_three_parts() {
    let token = token();
    let (signing_input, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = signing_input.split_once('.').unwrap();
    refuses([
        ("abc".into(), NOT_COMPACT),
        (signing_input.into(), NOT_COMPACT),
        (format!("{token}.{signature}"), NOT_COMPACT),
        (format!("{token}."), NOT_COMPACT),
        (format!("{header}.k.iv.{payload}.{signature}"), NOT_COMPACT),
        ("..".into(), HEADER),
        (format!(".{payload}.{signature}"), HEADER),
        (format!("{header}..{signature}"), SIGNATURE),
        (format!("{signing_input}."), SIGNATURE),
        (signed(&format!("{header}.")), CLAIMS),
    ])
    .await;
}

#[tokio::test]
async fn accepts_a_token_of_8_kib_but_no_longer_one() {
    // One part of base64url can't have every length, but header and payload together can.
    let sized = |bytes: usize| {
        let header = |padding| format!(r#"{{"alg":"RS256","kid":"key-1","x":"{}"}}"#, "x".repeat(padding));
        let payload = |padding| payload_and(&format!(r#""x":"{}""#, "x".repeat(padding)));
        let length = |text: String| base64url(text).len();
        let signature_and_dots = 342 + 2;
        let padding = (0..3).flat_map(|header| (0..bytes).map(move |payload| (header, payload)));
        let fitting = padding.into_iter().find(|(of_header, of_payload)| {
            length(header(*of_header)) + length(payload(*of_payload)) + signature_and_dots == bytes
        });
        let (of_header, of_payload) = fitting.unwrap();
        let token = KEY.sign(header(of_header).as_bytes(), payload(of_payload).as_bytes());
        assert_eq!(token.len(), bytes);
        token
    };
    let (fits, longer) = (sized(8192), sized(8193));
    let message = "the token has 8193 bytes, at most 8192 are accepted";
    accepts([fits]).await;
    refuses([(longer, message)]).await;
}

#[tokio::test]
async fn refuses_a_header_that_is_not_a_jwt_header_of_rs256() {
    let header = |header: &str, description| (with_header(header), description);
    refuses([
        header("", HEADER),
        header("RS256", HEADER),
        header(r#"["RS256","key-1","JWT"]"#, HEADER),
        header(r#""alg""#, HEADER),
        header("null", HEADER),
        header(r#"{"alg":"RS256","kid":"key-1"} {}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1",}"#, HEADER),
        header("\u{feff}{\"alg\":\"RS256\",\"kid\":\"key-1\"}", HEADER),
        header(r#"{"alg":"RS256"}"#, HEADER),
        header(r#"{"alg":"RS256","kid":""}"#, HEADER),
        header(r#"{"alg":"RS256","kid":null}"#, HEADER),
        header(r#"{"alg":"RS256","kid":1}"#, HEADER),
        header(r#"{"alg":"RS256","kid":["key-1"]}"#, HEADER),
        header(r#"{"kid":"key-1"}"#, HEADER),
        header(r#"{"alg":null,"kid":"key-1"}"#, HEADER),
        header(r#"{"alg":["RS256"],"kid":"key-1"}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","alg":"RS256"}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","kid":"key-1"}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","k\u0069d":"key-1"}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","typ":"JWT","typ":"JWT"}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","typ":1}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","typ":null}"#, HEADER),
        header(r#"{"alg":"RS256","kid":"key-1","typ":""}"#, TYPE),
        header(r#"{"alg":"RS256","kid":"key-1","typ":"at+jwt"}"#, TYPE),
        header(r#"{"alg":"RS256","kid":"key-1","typ":"JWT "}"#, TYPE),
        header(r#"{"alg":"RS256","kid":"key-1","crit":["exp"]}"#, CRITICAL),
        header(r#"{"alg":"RS256","kid":"key-1","crit":["b64"],"b64":false}"#, CRITICAL),
        header(r#"{"alg":"RS256","kid":"key-1","crit":[]}"#, CRITICAL),
        header(r#"{"alg":"RS256","kid":"key-1","crit":null}"#, CRITICAL),
    ])
    .await;
}

#[tokio::test]
async fn accepts_typ_jwt_in_any_case_or_none() {
    accepts([
        with_header(r#"{"alg":"RS256","kid":"key-1"}"#),
        with_header(r#"{"alg":"RS256","kid":"key-1","typ":"JWT"}"#),
        with_header(r#"{"alg":"RS256","kid":"key-1","typ":"jwT"}"#),
        with_header(r#" {"kid" : "key-1", "alg":"RS256", "typ":"jwt"} "#),
    ])
    .await;
}

/// Half of these tokens have the issuer's signature. They are refused because of their `alg`.
#[tokio::test]
async fn refuses_every_other_algorithm() {
    let mut names =
        ["RS384", "RS512", "PS256", "ES256", "ES256K", "EdDSA", "HS256", "HS512", "rs256", "Rs256"].to_vec();
    names.extend(["none", "None", "NONE", "nOnE", "", "RS256 ", " RS256", "RS256\0", "RS\u{ff12}56"]);
    let header = |name| json!({ "alg": name, "kid": "key-1" }).to_string();
    let signed = names.iter().map(|name| (with_header(&header(name)), ALGORITHM));
    let unsigned = names.iter().map(|name| {
        let parts = [base64url(header(name)), base64url(claims().to_string()), String::new()];
        (parts.join("."), ALGORITHM)
    });
    refuses(signed.chain(unsigned)).await;
}

/// Algorithm confusion: the secret of the HMAC is the public key, which is no secret.
#[tokio::test]
async fn refuses_an_hmac_over_the_public_key() {
    let jwk = KEY.jwk();
    let number = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let (modulus, exponent) = (number("n"), number("e"));
    let pkcs1 = der(0x30, &[integer(&modulus), integer(&exponent)].concat());
    let rsa_encryption = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let spki = der(0x30, &[&rsa_encryption[..], &der(0x03, &[b"\0", &pkcs1[..]].concat())].concat());
    let pem = |label: &str, der: &[u8]| {
        let base64 = BASE64_STANDARD.encode(der);
        let lines: Vec<_> =
            base64.as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let secrets = [
        pem("PUBLIC KEY", &spki).into_bytes(),
        pem("PUBLIC KEY", &spki).trim_end().as_bytes().to_vec(),
        pem("RSA PUBLIC KEY", &pkcs1).into_bytes(),
        spki,
        pkcs1,
        jwk["n"].as_str().unwrap().as_bytes().to_vec(),
        modulus,
        jwk.to_string().into_bytes(),
        json!({ "keys": [jwk] }).to_string().into_bytes(),
        Vec::new(),
    ];
    let forged = |alg: &str, secret: &[u8]| {
        let header = json!({ "alg": alg, "typ": "JWT", "kid": "key-1" }).to_string();
        let signing_input = format!("{}.{}", base64url(header), base64url(claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signing_input.as_bytes());
        format!("{signing_input}.{}", base64url(tag))
    };
    let hs256 = secrets.iter().map(|secret| (forged("HS256", secret), ALGORITHM));
    let rs256 = secrets.iter().map(|secret| (forged("RS256", secret), SIGNATURE));
    refuses(hs256.chain(rs256)).await;
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = if content.len() < 128 { vec![length[1]] } else { vec![0x82, length[0], length[1]] };
    [&[tag], &length[..], content].concat()
}

fn integer(unsigned: &[u8]) -> Vec<u8> {
    der(0x02, &[b"\0", unsigned].concat())
}

#[tokio::test]
async fn takes_no_key_from_the_token() {
    let attacker = FakeIssuer::start(&FORGED_KEY).await;
    let header =
        |kid: &str, member: &str, value: Value| json!({ "alg": "RS256", "kid": kid, member: value }).to_string();
    let mut own = FORGED_KEY.jwk();
    own["kid"] = json!("own");
    let members = [
        ("jwk", own),
        ("jku", json!(attacker.url())),
        ("x5u", json!(attacker.url())),
        ("x5c", json!(["MIIB"])),
        ("jwks", json!({ "keys": [FORGED_KEY.jwk()] })),
    ];
    let payload = claims().to_string();
    let forged = |kid, (member, value): &(&str, Value)| {
        FORGED_KEY.sign(header(kid, member, value.clone()).as_bytes(), payload.as_bytes())
    };
    refuses(members.iter().map(|member| (forged("key-1", member), SIGNATURE))).await;
    refuses(members.iter().map(|member| (forged("own", member), UNKNOWN_KEY))).await;
    // In a token that the issuer has signed, these members are ignored.
    accepts(members.iter().map(|(member, value)| with_header(&header("key-1", member, value.clone())))).await;
    assert_eq!(attacker.fetches(), 0);
}

#[tokio::test]
async fn a_kid_is_only_compared() {
    let kids = [
        "key-2",
        "KEY-1",
        "key-1 ",
        " key-1",
        "key-1\0",
        "key-1/",
        "./key-1",
        "../../../../dev/null",
        "*",
        "key-*",
        "key-1' OR '1'='1",
        "| id",
        "http://127.0.0.1/",
        "\u{212a}ey-1",
        "0",
        "keys",
    ];
    refuses(kids.map(|kid| (common::token_of_kid(kid), UNKNOWN_KEY))).await;
}

#[tokio::test]
async fn refuses_a_signature_that_is_not_the_issuers() {
    let token = token();
    let (signing_input, signature) = token.rsplit_once('.').unwrap();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        (format!("{signing_input}.{}", base64url(bytes)), SIGNATURE)
    };
    let other_payload = base64url(claims_with("environment", json!("preview")).to_string());
    let header = signing_input.split('.').next().unwrap();
    refuses([
        (FORGED_KEY.mint(&claims()), SIGNATURE),
        (format!("{header}.{other_payload}.{signature}"), SIGNATURE),
        changed(|bytes| bytes[0] ^= 0x80),
        changed(|bytes| bytes[255] ^= 1),
        changed(|bytes| bytes.truncate(255)),
        changed(|bytes| bytes.push(0)),
        changed(|bytes| bytes.insert(0, 0)),
        changed(|bytes| bytes.fill(0)),
    ])
    .await;
}

/// Each of these texts decodes to the bytes of a valid token, so one signature would have several tokens.
#[tokio::test]
async fn refuses_base64url_that_is_not_canonical() {
    let token = token();
    let (signing_input, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = signing_input.split_once('.').unwrap();
    let standard = |part: &str| part.replace('-', "+").replace('_', "/");
    assert_ne!(signature, standard(signature), "the signature has neither `-` nor `_`: run the test again");
    let loose_header = set_spare_bit(&base64url(r#"{"alg":"RS256","kid":"key-1"}"#));
    let mut with_spare_bits = claims().to_string();
    while with_spare_bits.len().is_multiple_of(3) {
        with_spare_bits.push(' ');
    }
    let loose_payload = set_spare_bit(&base64url(with_spare_bits));
    refuses([
        (format!("{signing_input}.{}", set_spare_bit(signature)), SIGNATURE),
        (format!("{signing_input}.{signature}=="), SIGNATURE),
        (format!("{signing_input}.{}", standard(signature)), SIGNATURE),
        (signed(&format!("{loose_header}.{payload}")), HEADER),
        (signed(&format!("{header}=.{payload}")), HEADER),
        (signed(&format!("{header}.{payload}=")), CLAIMS),
        (signed(&format!("{header}.{loose_payload}")), CLAIMS),
    ])
    .await;
}

/// Sets a spare bit: a bit of the last character that is part of no byte.
fn set_spare_bit(part: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (part, last) = match part.len() % 4 {
        0 => panic!("no spare bits in {part}"),
        _ => part.split_at(part.len() - 1),
    };
    let value = ALPHABET.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
    format!("{part}{}", char::from(ALPHABET[value | 1]))
}

#[tokio::test]
async fn refuses_a_payload_that_is_not_claims() {
    let payload = |payload: &str| (with_payload(payload), CLAIMS);
    let whole = claims().to_string();
    let values = claims().as_object().unwrap().values().cloned().collect::<Vec<_>>();
    refuses([
        payload(""),
        payload("null"),
        payload("[]"),
        payload(&json!(values).to_string()),
        payload(&json!([claims()]).to_string()),
        payload(&format!("{whole}{whole}")),
        payload(&format!("{whole}x")),
        payload(&payload_and(r#""x":NaN"#)),
        (KEY.sign(br#"{"alg":"RS256","kid":"key-1"}"#, b"{\"sub\":\"\xff\"}"), CLAIMS),
    ])
    .await;
}

#[tokio::test]
async fn refuses_a_member_that_is_given_twice() {
    let read =
        ["iss", "aud", "exp", "nbf", "iat", "sub", "jti", "owner", "owner_id", "project", "project_id", "environment"];
    let twice = |name: &&str| {
        let value = if *name == "jti" { json!("x") } else { claims()[name].clone() };
        let payload = payload_and(&format!(r#""{name}":{value},"{name}":{value}"#));
        (with_payload(&payload), CLAIMS)
    };
    let hidden = ("\\u0065xp", json!(u32::MAX));
    let hidden = (with_payload(&payload_and(&format!(r#""{}":{}"#, hidden.0, hidden.1))), CLAIMS);
    refuses(read.iter().map(twice).chain([hidden])).await;
    // No rule reads this claim.
    accepts([with_payload(&payload_and(r#""theirs":1,"theirs":2"#))]).await;
}

#[tokio::test]
async fn refuses_a_registered_claim_of_the_wrong_type() {
    let mut wrong = Vec::new();
    for text in ["iss", "sub", "jti"] {
        wrong.extend([json!(1), json!(true), json!([claims()["iss"]]), json!({})].map(|value| (text, value)));
    }
    for time in ["exp", "nbf", "iat"] {
        wrong.extend(
            [json!("4102444800"), json!(true), json!([4_102_444_800_u64]), json!({})].map(|value| (time, value)),
        );
    }
    let audience = claims()["aud"].clone();
    let audiences = [
        json!(1),
        json!(true),
        json!({}),
        json!([1]),
        json!([audience, 1]),
        json!([audience, null]),
        json!([[audience]]),
    ];
    wrong.extend(audiences.map(|value| ("aud", value)));
    let tokens = wrong.into_iter().map(|(name, value)| (KEY.mint(&claims_with(name, value)), CLAIMS));
    let null = |name: &&str| {
        let mut claims = claims();
        claims[name] = Value::Null;
        (KEY.mint(&claims), CLAIMS)
    };
    let nulls = ["iss", "aud", "exp", "nbf", "iat", "sub", "jti"];
    let overflow = (with_payload(&claims().to_string().replace(&claims()["exp"].to_string(), "1e999")), CLAIMS);
    refuses(tokens.chain(nulls.iter().map(null)).chain([overflow])).await;
}

#[tokio::test]
async fn refuses_another_issuer_or_audience() {
    let issuers = [
        "https://oidc.vercel.com",
        "https://oidc.vercel.com/",
        "https://oidc.vercel.com/acme/",
        "https://oidc.vercel.com/ACME",
        "https://oidc.vercel.com/acme2",
        "http://oidc.vercel.com/acme",
        "https://oidc.vercel.com/acme?",
        "oidc.vercel.com/acme",
        "https://oidc.vercel.com/./acme",
        " https://oidc.vercel.com/acme",
        "https://oidc.vercel.com:443/acme",
    ];
    let issuer = |found: &str| -> &'static str { format!("the issuer is {found}").leak() };
    let issuers = issuers.iter().map(|iss| (KEY.mint(&claims_with("iss", json!(iss))), issuer(&format!("`{iss}`"))));
    let no_issuer = [
        (KEY.mint(&claims_with("iss", Value::Null)), issuer("missing")),
        (KEY.mint(&claims_with("iss", json!(""))), issuer("missing")),
    ];
    let audience = |found: &str| -> &'static str { format!("the audience is {found}").leak() };
    let audiences = ["https://vercel.com/acme/", "https://vercel.com/acm", "https://vercel.com/acme2", "*"];
    let audiences = audiences.iter().flat_map(|aud| {
        [json!(aud), json!([aud])].map(|value| (KEY.mint(&claims_with("aud", value)), audience(&format!("`{aud}`"))))
    });
    let no_audience = [
        (KEY.mint(&claims_with("aud", Value::Null)), audience("missing")),
        (KEY.mint(&claims_with("aud", json!([]))), audience("missing")),
        (KEY.mint(&claims_with("aud", json!(""))), audience("missing")),
        // Two parts of the accepted audience.
        (
            KEY.mint(&claims_with("aud", json!(["https://vercel.com/", "acme"]))),
            audience("`https://vercel.com/, acme`"),
        ),
    ];
    refuses(issuers.chain(no_issuer).chain(audiences).chain(no_audience)).await;
}

#[tokio::test]
async fn accepts_several_audiences_if_one_is_accepted() {
    let (good, other) = (claims()["aud"].clone(), json!("https://other.test"));
    let audiences = [json!(good), json!([good]), json!([other, good]), json!([good, other])];
    accepts(audiences.map(|aud| KEY.mint(&claims_with("aud", aud)))).await;
}

/// Another kind of token, signed with the same key. Everyone who signs in to a deployment with Passport gets one.
#[tokio::test]
async fn refuses_a_passport_token() {
    let mut passport = claims_with("iss", json!("https://passport.vercel.com/acme"));
    let description = "the issuer is `https://passport.vercel.com/acme`";
    refuses([(KEY.mint(&passport), description)]).await;
    // Same-project mode refuses it, too.
    let keys = KeySet::from_jwks(json!({ "keys": [KEY.jwk()] }).to_string().as_bytes()).unwrap();
    let project_id = passport["project_id"].as_str().unwrap().to_owned();
    let verifier = Verifier::new(Trust::same_project(project_id, "production").unwrap(), keys);
    let now = SystemTime::now();
    let error = verifier.verify(KEY.mint(&passport).as_bytes(), now).await.unwrap_err();
    assert_eq!(error.to_string(), description);
    passport["iss"] = json!("https://oidc.vercel.com/acme");
    assert!(verifier.verify(KEY.mint(&passport).as_bytes(), now).await.is_ok());
}

/// `serde_json::Value` would read this object as the string in it, if any crate enables the feature `raw_value`.
#[tokio::test]
async fn an_object_does_not_count_as_a_string() {
    let deployment = Deployment::default();
    let raw = |text: &str| json!({ "$serde_json::private::RawValue": json!(text).to_string() });
    let issuer = FakeIssuer::start(&KEY).await;
    let ids = [("OIDC_OWNER_ID", deployment.team_id.as_str()), ("OIDC_PROJECT_ID", &deployment.project_id)];
    let backend = Backend::start_with(&issuer, &ids).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    for (name, status) in
        [("iss", 401), ("aud", 401), ("sub", 401), ("jti", 401), ("exp", 401), ("nbf", 401), ("iat", 401)]
    {
        let text = claims()[name].as_str().unwrap_or("1").to_owned();
        assert_eq!(backend.get(&KEY.mint(&claims_with(name, raw(&text)))).await.status, status, "{name}");
    }
    // Vercel's own claims that a rule needs.
    for (name, text) in [("owner_id", &deployment.team_id), ("project_id", &deployment.project_id)] {
        let answer = backend.get(&KEY.mint(&claims_with(name, raw(text)))).await;
        assert_eq!((answer.status, answer.code()), (403, "forbidden".into()), "{name}");
    }
    // Vercel's other claims count as absent.
    let keys = KeySet::from_jwks(json!({ "keys": [KEY.jwk()] }).to_string().as_bytes()).unwrap();
    let verifier = Verifier::new(Trust::project("acme", "storefront", "production").unwrap(), keys);
    let same_project = Verifier::new(
        Trust::same_project(deployment.project_id.clone(), "production").unwrap(),
        KeySet::from_jwks(json!({ "keys": [KEY.jwk()] }).to_string().as_bytes()).unwrap(),
    );
    type Getter = fn(&Claims) -> Option<&str>;
    let getters: [(&str, Getter); 8] = [
        ("owner", Claims::owner),
        ("owner_id", Claims::owner_id),
        ("project", Claims::project),
        ("project_id", Claims::project_id),
        ("environment", Claims::environment),
        ("scope", Claims::scope),
        ("plan", Claims::plan),
        ("user_id", Claims::user_id),
    ];
    let now = SystemTime::now();
    for (name, get) in getters {
        let text = if name == "owner" { "acme" } else { "production" };
        let verified = verifier.verify(KEY.mint(&claims_with(name, json!(text))).as_bytes(), now).await.unwrap();
        assert_eq!(get(&verified), Some(text), "{name}");
        let odd = KEY.mint(&claims_with(name, raw(text)));
        let verified = verifier.verify(odd.as_bytes(), now).await.unwrap();
        assert_eq!(get(&verified), None, "{name}");
        let is_needed = ["owner", "project_id", "environment"].contains(&name);
        assert_eq!(same_project.verify(odd.as_bytes(), now).await.is_err(), is_needed, "{name}");
    }
}

/// The backend uses the real time here, so these times are far from the limit. `src/oidc/trust.rs` tests the limit.
#[tokio::test]
async fn refuses_an_expired_or_early_token() {
    let backend = Backend::start(&FakeIssuer::start(&KEY).await).await;
    let now = local::unix_seconds(SystemTime::now());
    let cases = [
        ("exp", Value::Null, "the token has no `exp`"),
        ("exp", json!(now - 90), "the token expired 9"),
        ("exp", json!(0), "the token expired 1"),
        ("exp", json!(-1), "the token expired 1"),
        ("exp", json!(-1e308), "the token expired 1"),
        ("nbf", json!(now + 90), "the token is not valid for another "),
        ("nbf", json!(1e308), "the token is not valid for another 1"),
        ("iat", json!(now + 90), "the token was issued "),
    ];
    for (name, value, description) in cases {
        let answer = backend.get(&KEY.mint(&claims_with(name, value.clone()))).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token".into()), "{name} {value}");
        assert!(answer.description().starts_with(description), "{name} {value}: {answer:?}");
    }
    let skewed = [("exp", now - 10), ("nbf", now + 20), ("iat", now + 20)];
    accepts(skewed.map(|(name, value)| KEY.mint(&claims_with(name, json!(value))))).await;
    accepts(["nbf", "iat", "jti", "scope", "plan"].map(|name| KEY.mint(&claims_with(name, Value::Null)))).await;
    // A NumericDate may have a fraction.
    accepts([KEY.mint(&claims_with("exp", json!(now as f64 + 100.5)))]).await;
}

#[tokio::test]
async fn refuses_a_subject_that_is_not_trusted() {
    let backend = Backend::start(&FakeIssuer::start(&KEY).await).await;
    let accepted = "owner:acme:project:storefront:environment:production";
    let subjects = [
        json!("owner:acme:project:storefront:environment:preview"),
        json!("owner:acme:project:other:environment:production"),
        json!("owner:other:project:storefront:environment:production"),
        json!(format!("{accepted}:x")),
        json!(format!("{accepted} ")),
        json!(accepted.to_uppercase()),
        json!("*"),
        json!(""),
        Value::Null,
    ];
    for sub in subjects {
        let answer = backend.get(&KEY.mint(&claims_with("sub", sub.clone()))).await;
        assert_eq!((answer.status, answer.code()), (403, "forbidden".into()), "{sub}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\""));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("`sub`") && !detail.contains(&format!("`{accepted}`")), "{detail}");
    }
}

#[tokio::test]
async fn checks_ids_if_they_are_configured() {
    let issuer = FakeIssuer::start(&KEY).await;
    let ids = [("OIDC_OWNER_ID", "team_1, team_2"), ("OIDC_PROJECT_ID", "prj_1")];
    let backend = Backend::start_with(&issuer, &ids).await;
    let cases = [
        (json!("team_1"), json!("prj_1"), 200),
        (json!("team_2"), json!("prj_1"), 200),
        (json!("team_3"), json!("prj_1"), 403),
        (json!("team_1"), json!("prj_2"), 403),
        (json!("team_1, team_2"), json!("prj_1"), 403),
        (Value::Null, json!("prj_1"), 403),
        (json!("team_1"), Value::Null, 403),
        (json!(["team_1"]), json!("prj_1"), 403),
    ];
    for (owner, project, status) in cases {
        let mut claims = claims_with("owner_id", owner);
        claims["project_id"] = project;
        assert_eq!(backend.get(&KEY.mint(&claims)).await.status, status, "{claims}");
    }
}

/// Invalid comes before forbidden, so a 403 never says anything about an invalid token.
#[tokio::test]
async fn checks_in_a_fixed_order() {
    let wrong = |names: &[&str]| {
        let mut claims = claims();
        for name in names {
            claims[name] = match *name {
                "exp" => json!(0),
                "nbf" | "iat" => json!(9_999_999_999_u64),
                _ => json!("other"),
            };
        }
        claims
    };
    let all = ["iss", "aud", "exp", "sub"];
    let forged = FORGED_KEY.mint(&wrong(&all));
    let bad_header = FORGED_KEY.sign(br#"{"alg":"HS256","kid":"unknown"}"#, wrong(&all).to_string().as_bytes());
    let of_unknown_key = FORGED_KEY.sign(br#"{"alg":"RS256","kid":"unknown"}"#, wrong(&all).to_string().as_bytes());
    refuses([
        (bad_header, ALGORITHM),
        (of_unknown_key, UNKNOWN_KEY),
        (forged, SIGNATURE),
        (KEY.mint(&wrong(&all)), "the issuer is `other`"),
        (KEY.mint(&wrong(&all[1..])), "the audience is `other`"),
    ])
    .await;
    let backend = Backend::start(&FakeIssuer::start(&KEY).await).await;
    for time in ["exp", "nbf", "iat"] {
        assert_eq!(backend.get(&KEY.mint(&wrong(&[time, "sub"]))).await.status, 401, "{time}");
    }
    assert_eq!(backend.get(&KEY.mint(&wrong(&["sub"]))).await.status, 403);
}

#[tokio::test]
async fn uses_the_first_usable_key_of_a_kid() {
    let issuer = FakeIssuer::start(&KEY).await;
    let mut unusable = NEXT_KEY.jwk();
    unusable["kid"] = json!("key-1");
    unusable["use"] = json!("enc");
    issuer.serve_jwks(vec![unusable, KEY.jwk(), FORGED_KEY.jwk()]);
    let backend = Backend::start(&issuer).await;
    assert_eq!(backend.get(&token()).await.status, 200);
    assert_eq!(backend.get(&FORGED_KEY.mint(&claims())).await.description(), SIGNATURE);
}

/// With an exponent of 1, the signature is the padded digest, so anyone can make it.
#[tokio::test]
async fn refuses_a_forgery_for_a_key_of_exponent_1() {
    let issuer = FakeIssuer::start(&KEY).await;
    for exponent in ["AQ", "AAE", "Ag", "", "AA"] {
        let mut weak = KEY.jwk();
        weak["kid"] = json!("weak");
        weak["e"] = json!(exponent);
        issuer.serve_jwks(vec![weak, KEY.jwk()]);
        let backend = Backend::start(&issuer).await;
        let header = base64url(r#"{"alg":"RS256","kid":"weak"}"#);
        let signing_input = format!("{header}.{}", base64url(claims().to_string()));
        let digest_info = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
        let digest = digest::digest(&digest::SHA256, signing_input.as_bytes());
        let padded = [b"\0\x01", &[0xff; 202][..], b"\0", digest_info, digest.as_ref()].concat();
        assert_eq!(padded.len(), 256);
        let answer = backend.get(&format!("{signing_input}.{}", base64url(padded))).await;
        assert_eq!(answer.description(), UNKNOWN_KEY, "{exponent}");
        assert_eq!(backend.get(&token()).await.status, 200);
    }
}

#[tokio::test]
async fn checks_the_time_of_a_cached_token_at_each_use() {
    let issuer = FakeIssuer::start(&KEY).await;
    for cached in ["0", "10"] {
        let settings = settings(&issuer.url(), &[("OIDC_REMEMBERED_TOKENS", cached)]);
        let verifier = verifier(settings);
        let (token, now) = (fresh_token(&KEY), SystemTime::now());
        for last in [&token, &fresh_token(&KEY)] {
            for token in [&token, &token, last] {
                verifier.verify(token.as_bytes(), now).await.unwrap();
            }
            let error = verifier.verify(token.as_bytes(), now + Duration::from_secs(7200)).await.unwrap_err();
            assert!(error.to_string().starts_with("the token expired 3"), "{error}");
            // The clock was set back, so the token is valid again.
            verifier.verify(token.as_bytes(), now).await.unwrap();
        }
        // A changed payload with the same signature is another token.
        let (signing_input, signature) = token.rsplit_once('.').unwrap();
        let header = signing_input.split('.').next().unwrap();
        let changed = format!("{header}.{}.{signature}", base64url(claims_with("owner", json!("other")).to_string()));
        assert_eq!(verifier.verify(changed.as_bytes(), now).await.unwrap_err().to_string(), SIGNATURE);
    }
}
