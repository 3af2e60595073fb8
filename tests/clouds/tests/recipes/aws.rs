//! A stand-in for AWS: the STS call that changes a token into a role's credentials, and S3, which checks the signature
//! that these credentials make.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use aws_smithy_types::date_time::{DateTime, Format};
use axum::extract::{Form, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Router, response::IntoResponse};
use jsonwebtoken::errors::ErrorKind;
use local::Issuer;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::stage::{Function, ISSUER, SUBJECT, serve, token_with, vercel, verify};

const ROLE: &str = "arn:aws:iam::123456789012:role/storefront";
const ORDER: &str = r#"{"item":"tea","quantity":2}"#;

/// Credentials that STS gave.
#[derive(Clone)]
struct Session {
    secret: String,
    token: String,
    expires: SystemTime,
}

#[derive(Clone)]
struct Aws {
    vercel: Arc<Issuer>,
    /// How long the credentials are valid.
    lifetime: Duration,
    sessions: Arc<Mutex<HashMap<String, Session>>>,
    /// The tokens that a role was assumed with.
    assumed_with: Arc<Mutex<Vec<String>>>,
    /// A role can be assumed as often as the test permits.
    permits: Arc<Semaphore>,
    /// The object of the bucket.
    order: Arc<Mutex<String>>,
}

impl Aws {
    fn new(lifetime: Duration) -> Self {
        Self {
            vercel: Arc::new(vercel()),
            lifetime,
            sessions: Arc::default(),
            assumed_with: Arc::default(),
            permits: Arc::new(Semaphore::new(1000)),
            order: Arc::new(Mutex::new(ORDER.to_owned())),
        }
    }

    /// The variables by which the SDK finds these stand-ins.
    async fn variables(&self) -> [(&'static str, String); 2] {
        let sts = serve(Router::new().route("/", post(assume_role)).with_state(self.clone())).await;
        let object = Router::new().route("/acme-orders/latest.json", get(s3).put(s3));
        let s3 = serve(object.with_state(self.clone())).await;
        [("AWS_ENDPOINT_URL_STS", sts), ("AWS_ENDPOINT_URL_S3", s3)]
    }

    async fn function(&self) -> Function {
        let variables = self.variables().await;
        Function::start(&variables.each_ref().map(|(name, url)| (*name, url.as_str()))).await
    }

    fn assumed_with(&self) -> Vec<String> {
        self.assumed_with.lock().unwrap().clone()
    }
}

type Refusal = (StatusCode, String);

fn sts_refusal(status: u16, code: &str, message: &str) -> Refusal {
    let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
    (StatusCode::from_u16(status).unwrap(), format!("<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"))
}

/// Whether the trust policy of the page lets these claims assume the role.
fn policy_allows(claims: &Value) -> bool {
    let policy =
        include_str!("../../../../docs/clouds.md").split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let policy: Value = serde_json::from_str(policy).unwrap();
    let [statement] = &policy["Statement"].as_array().unwrap()[..] else { panic!("{policy}") };
    let provider = ISSUER.strip_prefix("https://").unwrap();
    assert_eq!(statement["Principal"]["Federated"], format!("arn:aws:iam::123456789012:oidc-provider/{provider}"));
    assert_eq!(
        (&statement["Effect"], &statement["Action"]),
        (&json!("Allow"), &json!("sts:AssumeRoleWithWebIdentity"))
    );
    let conditions = statement["Condition"].as_object().unwrap();
    assert!(conditions.len() == 1 && statement["Condition"]["StringEquals"].as_object().unwrap().len() == 2);
    ["aud", "sub"].iter().all(|claim| conditions["StringEquals"][format!("{provider}:{claim}")] == claims[claim])
}

async fn assume_role(
    State(aws): State<Aws>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Result<String, Refusal> {
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if field("Action") != "AssumeRoleWithWebIdentity" || field("Version") != "2011-06-15" {
        return Err(sts_refusal(400, "InvalidAction", "Could not find operation"));
    }
    if headers.contains_key("authorization") || field("RoleSessionName").len() < 2 {
        return Err(sts_refusal(400, "ValidationError", "The request is not of this operation's form"));
    }
    let token = field("WebIdentityToken");
    let not_authorized = || sts_refusal(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
    let claims = verify(&aws.vercel, token).map_err(|reason| match reason {
        ErrorKind::ExpiredSignature => sts_refusal(400, "ExpiredTokenException", "Token expired"),
        ErrorKind::InvalidAudience => sts_refusal(400, "InvalidIdentityToken", "Incorrect token audience"),
        ErrorKind::InvalidIssuer => sts_refusal(400, "InvalidIdentityToken", "No OpenIDConnect provider found"),
        _ => sts_refusal(400, "InvalidIdentityToken", "Couldn't verify the token"),
    })?;
    if field("RoleArn") != ROLE || !policy_allows(&claims) {
        return Err(not_authorized());
    }
    aws.permits.acquire().await.unwrap().forget();
    aws.assumed_with.lock().unwrap().push(token.to_owned());
    let number = aws.assumed_with.lock().unwrap().len();
    let (id, expires) = (format!("ASIA{number:016}"), SystemTime::now() + aws.lifetime);
    let session = Session { secret: format!("secret-{number}"), token: format!("session-{number}"), expires };
    let expiration = DateTime::from(expires).fmt(Format::DateTime).unwrap();
    let answer = format!(
        r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
        <AssumeRoleWithWebIdentityResult>
        <SubjectFromWebIdentityToken>{SUBJECT}</SubjectFromWebIdentityToken>
        <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/storefront/storefront</Arn>
        <AssumedRoleId>AROA1:storefront</AssumedRoleId></AssumedRoleUser>
        <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>
        <SessionToken>{}</SessionToken><Expiration>{expiration}</Expiration></Credentials>
        </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"#,
        session.secret, session.token
    );
    aws.sessions.lock().unwrap().insert(id, session);
    Ok(answer)
}

async fn s3(
    State(aws): State<Aws>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Result<impl IntoResponse, Refusal> {
    let refuse = |code: &str| (StatusCode::FORBIDDEN, format!("<Error><Code>{code}</Code></Error>"));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parts = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| refuse("AccessDenied"))?;
    let parts: HashMap<&str, &str> = parts.split(", ").filter_map(|part| part.split_once('=')).collect();
    let (id, scope) = parts["Credential"].split_once('/').ok_or_else(|| refuse("AccessDenied"))?;
    let session = aws.sessions.lock().unwrap().get(id).cloned().ok_or_else(|| refuse("InvalidAccessKeyId"))?;
    if header("x-amz-security-token") != session.token {
        return Err(refuse("InvalidToken"));
    }
    if session.expires <= SystemTime::now() {
        return Err(refuse("ExpiredToken"));
    }
    // AWS Signature Version 4.
    let mut canonical = format!("{method}\n{}\n{}\n", uri.path(), uri.query().unwrap_or_default());
    for name in parts["SignedHeaders"].split(';') {
        writeln!(canonical, "{name}:{}", header(name)).unwrap();
    }
    write!(canonical, "\n{}\n{}", parts["SignedHeaders"], header("x-amz-content-sha256")).unwrap();
    let date = header("x-amz-date");
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let mut key = format!("AWS4{}", session.secret).into_bytes();
    for part in scope.split('/') {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}")));
    let today = &date[..8];
    if scope != format!("{today}/eu-central-1/s3/aws4_request") || parts["Signature"] != signature {
        return Err(refuse("SignatureDoesNotMatch"));
    }
    if method == "PUT" {
        if header("x-amz-content-sha256") != hex(digest::digest(&digest::SHA256, body.as_bytes()).as_ref()) {
            return Err((StatusCode::BAD_REQUEST, "<Error><Code>XAmzContentSHA256Mismatch</Code></Error>".to_owned()));
        }
        *aws.order.lock().unwrap() = body;
    }
    let order = aws.order.lock().unwrap().clone();
    Ok(([("content-type", "application/json"), ("etag", "\"1\"")], order))
}

fn mac(key: &[u8], message: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_role_is_assumed_with_the_token_of_the_request_and_opens_s3() {
    let aws = Aws::new(Duration::from_secs(3600));
    let (function, token) = (aws.function().await, token_with(&aws.vercel, |_| ()));
    assert_eq!(function.call("/aws", &token).await, (200, ORDER.to_owned()));
    assert_eq!(aws.assumed_with(), [token.as_str()]);
    let printed = function.stop().await;
    assert!(!token.split('.').any(|part| printed.contains(part)), "{printed}");
}

#[tokio::test]
async fn the_roles_credentials_are_cached_for_all_requests() {
    let aws = Aws::new(Duration::from_secs(3600));
    let (function, token) = (aws.function().await, token_with(&aws.vercel, |_| ()));
    let (one, two) = tokio::join!(function.call("/aws", &token), function.call("/aws", &token));
    assert_eq!((one.0, two.0), (200, 200));
    // Credentials are the cloud's own. They outlive the request, so a request without a token can use them.
    let response = function.request("/aws").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(aws.assumed_with().len(), 1);
}

#[tokio::test]
async fn new_credentials_take_the_token_of_the_request_that_needs_them() {
    // The SDK replaces credentials 10 s before they expire, so these are due at once.
    let aws = Aws::new(Duration::from_secs(5));
    let function = aws.function().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let tokens: Vec<_> =
        (1..4).map(|n| token_with(&aws.vercel, |claims| claims["exp"] = json!(now + 600 + n))).collect();
    for token in &tokens {
        assert_eq!(function.call("/aws", token).await.0, 200);
    }
    assert_eq!(aws.assumed_with(), tokens);
    let response = function.request("/aws").send().await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(response.text().await.unwrap().contains("There is no OIDC token."));
}

#[tokio::test]
async fn work_after_the_answer_uses_the_token_of_the_request_and_keeps_the_invocation_open() {
    let aws = Aws { permits: Arc::new(Semaphore::new(0)), ..Aws::new(Duration::from_secs(3600)) };
    let variables = aws.variables().await;
    let variables = variables.each_ref().map(|(name, url)| (*name, url.as_str()));
    let (function, mut platform) = Function::start_on_vercel(&variables).await;
    let token = token_with(&aws.vercel, |_| ());
    let answer = function.invocation(1, "/later").header("x-vercel-oidc-token", &token).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "accepted");
    // The second invocation ends first, because the work of the first one waits for its role.
    function.invocation(2, "/none").send().await.unwrap();
    assert_eq!(platform.ended().await, 2);
    aws.permits.add_permits(1);
    assert_eq!(platform.ended().await, 1);
    assert_eq!(aws.assumed_with(), [token]);
    assert_eq!(*aws.order.lock().unwrap(), r#"{"item":"tea","quantity":3}"#);
}

#[tokio::test]
async fn sts_refuses_each_wrong_token() {
    let aws = Aws::new(Duration::from_secs(3600));
    let function = aws.function().await;
    // The crate itself does not send a token that expired more than 30 s ago.
    let past = json!(UNIX_EPOCH.elapsed().unwrap().as_secs() - 5);
    for (claim, value, code) in [
        ("exp", past, "ExpiredTokenException: Token expired"),
        ("aud", json!("https://vercel.com/other"), "InvalidIdentityToken: Incorrect token audience"),
        ("iss", json!("https://oidc.vercel.com"), "InvalidIdentityToken: No OpenIDConnect provider found"),
        ("sub", json!(SUBJECT.replace("production", "preview")), "AccessDenied: Not authorized"),
    ] {
        let token = token_with(&aws.vercel, |claims| claims[claim] = value);
        let explained = function.refused("/aws", &token).await;
        let (code, message) = code.split_once(": ").unwrap();
        assert!(explained.contains(code) && explained.contains(message), "{claim}: {explained}");
    }
    let forged = token_with(&vercel(), |_| ());
    assert!(function.refused("/aws", &forged).await.contains("Couldn't verify the token"));
    assert!(aws.assumed_with().is_empty());
    // An error is not cached.
    assert_eq!(function.call("/aws", &token_with(&aws.vercel, |_| ())).await.0, 200);
}
