//! Follows `docs/use-the-crates.md` word for word. For each recipe: a fresh project, the page's commands and code, a
//! build without warnings, and real calls that are accepted and refused.
//!
//! The fresh projects build from scratch, so a plain `cargo test` ignores these tests. To run them: `cargo test --test
//! use_the_crates -- --ignored`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use axum::http::Uri;
use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Json, Router};
use local::{Deployment, Issuer, SigningKey, TestKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use vercel_oidc_verifier::{KeySet, RequireTokenLayer, Subject, Trust, VerifiedCaller, Verifier};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = include_str!("../docs/use-the-crates.md");

/// The owner id and the subject that the page's examples trust.
const OWNER_ID: &str = "team_7Gw5ZMzpQA8h90F832KGp7nw";
const SUBJECT: &str = "owner:acme:project:storefront:environment:production";

/// A section of the page: the text under its heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// All blocks of the section in this language.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    section.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The one block of the section in this language.
fn block(section: &str, language: &str) -> String {
    let mut blocks = blocks(section, language);
    let block = blocks.pop().unwrap();
    assert!(blocks.is_empty(), "the section has one block of {language}");
    block
}

/// A fresh project, in which a test follows a recipe.
struct Project {
    folder: tempfile::TempDir,
    target: PathBuf,
}

/// The projects share one target folder, so one builds at a time.
static BUILD: Mutex<()> = Mutex::new(());

impl Project {
    fn new() -> Self {
        let target = Path::new(REPOSITORY).join("target/use-the-crates");
        let project = Self { folder: tempfile::tempdir().unwrap(), target };
        project.run(env!("CARGO"), &["init", "--quiet", "--vcs", "none", "--name", "fresh"]);
        // The versions that this repository is tested with.
        std::fs::copy(Path::new(REPOSITORY).join("Cargo.lock"), project.path("Cargo.lock")).unwrap();
        project
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder).env("TEMPLATE", REPOSITORY);
        command.env("CARGO_TARGET_DIR", &self.target).env("RUSTFLAGS", "-D warnings");
        // Without debug information, the build is faster.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        assert!(command.status().unwrap().success(), "{program} {arguments:?}");
    }

    /// Runs the section's commands, with these replacements.
    fn run_commands(&self, section: &str, replacements: &[(&str, &str)]) {
        for commands in blocks(section, "bash") {
            self.run("bash", &["-euc", &replaced(&commands, replacements)]);
        }
    }

    /// Adds the section's lines to the manifest.
    fn extend_manifest(&self, section: &str) {
        let manifest = std::fs::read_to_string(self.path("Cargo.toml")).unwrap();
        std::fs::write(self.path("Cargo.toml"), format!("{manifest}\n{}", block(section, "toml"))).unwrap();
    }

    /// Writes the section's code to this file, with these replacements.
    fn write_code(&self, section: &str, file: &str, replacements: &[(&str, &str)]) {
        self.write(file, &replaced(&block(section, "rust"), replacements));
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Builds the project without warnings, and returns its program.
    fn build(&self, program: &str) -> PathBuf {
        let copy = self.path(format!("{program}-built"));
        let _building = BUILD.lock();
        self.run(env!("CARGO"), &["build", "--quiet", "--bin", program]);
        std::fs::copy(self.target.join("debug").join(program), &copy).unwrap();
        copy
    }

    /// Builds the project without warnings, and starts its program.
    fn start(&self, program: &str, variables: &[(&str, &str)]) -> Running {
        let mut command = Command::new(self.build(program));
        command.envs(variables.iter().copied()).stdout(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// The same, and the program can open this many files.
    fn start_with_open_files(&self, program: &str, limit: u32) -> Running {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\"")).arg(self.build(program));
        Running(command.spawn().unwrap())
    }
}

/// The text with this test's URLs instead of the page's.
fn replaced(text: &str, replacements: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in replacements {
        assert!(text.contains(from), "the page has no `{from}`");
        text = text.replace(from, to);
    }
    text
}

struct Running(Child);

impl Running {
    fn terminate(&self) {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
    }

    /// The time for which the process used a processor.
    fn cpu_time(&self) -> Duration {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())) else {
            // The test harness hides what `eprintln!` prints.
            writeln!(std::io::stderr().lock(), "skipped: this system has no /proc").unwrap();
            return Duration::ZERO;
        };
        // `utime` and `stime` of proc(5), in hundredths of a second. The name before them is in parentheses.
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        Duration::from_millis(fields.map(|field| field.parse::<u64>().unwrap() * 10).sum())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Serves an application, and returns its address.
async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    url
}

/// A connection to this address, as soon as a program listens there.
async fn connect(address: &str) -> TcpStream {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < patience => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The status, head and body of the answer to a request with these headers.
async fn answer(url: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = connect(address).await;
    // HTTP/1.0: the body ends with the connection, and is not in chunks.
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("GET /{path} HTTP/1.0\r\nhost: {address}\r\n{lines}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

/// The status and body of the answer to a request with this header.
async fn ask(url: &str, header: &str, value: &str) -> (u16, String) {
    let (status, _, body) = answer(url, &[(header, value)]).await;
    (status, body)
}

/// An issuer with Vercel's `iss`, and its local URL.
struct Vercel {
    issuer: Issuer,
    url: String,
}

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::for_tests("key", TestKey::Next));

impl Vercel {
    async fn start() -> Self {
        let issuer = Issuer::new("https://oidc.vercel.com", SigningKey::for_tests("key", TestKey::Issuer));
        let url = serve(issuer.router()).await;
        Self { issuer, url }
    }

    fn team_url(&self) -> String {
        format!("{}/acme", self.url)
    }

    fn exchange_url(&self) -> String {
        format!("{}/~token", self.url)
    }

    /// A token for production of the page's project.
    fn good(&self) -> String {
        self.issuer.token(&deployment())
    }

    /// A token for preview of the same project.
    fn preview(&self) -> String {
        self.issuer.token(&deployment().in_environment("preview"))
    }

    /// Tokens that no recipe accepts, with the status of the answer.
    fn refused(&self) -> [(String, u16); 4] {
        let none = "none".to_owned();
        [(self.preview(), 403), (self.of_another_owner(), 403), (self.forged(), 401), (none, 401)]
    }

    /// A token for a team that has taken the page's name.
    fn of_another_owner(&self) -> String {
        self.issuer.token(&Deployment { team_id: "team_other".to_owned(), ..deployment() })
    }

    /// A token that is signed with another key.
    fn forged(&self) -> String {
        KEY.mint(&self.issuer.claims(&deployment()))
    }

    /// An API that answers `GET /orders` and `POST /orders`, and accepts this audience.
    async fn api(&self, audience: &str) -> String {
        let trust = Trust::issuer("https://oidc.vercel.com/acme", [audience], [Subject::new(SUBJECT)]).unwrap();
        let keys = KeySet::of_issuer(&self.team_url()).unwrap();
        let verifier = Arc::new(Verifier::new(trust.with_owner_ids([OWNER_ID]).unwrap(), keys));
        let list = async |caller: VerifiedCaller| format!("Orders of {}", caller.claims().project().unwrap());
        let order = async |caller: VerifiedCaller, Json(order): Json<Value>| {
            assert_eq!(order, json!({ "item": "tea", "quantity": 2 }));
            Json(json!({ "item": "tea", "quantity": 2, "ordered_by": caller.claims().sub() }))
        };
        let routes = Router::new().route("/orders", get(list)).route("/orders", post(order));
        serve(routes.layer(RequireTokenLayer::new(verifier))).await
    }
}

fn deployment() -> Deployment {
    Deployment { team_id: OWNER_ID.to_owned(), ..Deployment::default() }
}

const ISSUER: &str = "https://oidc.vercel.com/acme";

/// Writes a service that verifies, starts it, and makes the calls that it should answer and refuse.
async fn the_service_verifies(project: &Project, code: &str) {
    let vercel = Vercel::start().await;
    let port = free_port().await.to_string();
    project.write("src/main.rs", &replaced(code, &[(ISSUER, &vercel.team_url()), ("3001", &port)]));
    let _running = project.start("fresh", &[]);
    it_verifies(&vercel, &port).await;
}

async fn it_verifies(vercel: &Vercel, port: &str) {
    let url = format!("http://127.0.0.1:{port}/orders");
    let bearer = |token: String| format!("Bearer {token}");
    // A function sends its token in both headers to pass Deployment Protection.
    let good = vercel.good();
    let both = [("authorization", &*bearer(good.clone())), ("x-vercel-trusted-oidc-idp-token", &*good)];
    let (status, _, body) = answer(&url, &both).await;
    assert_eq!((status, body.as_str()), (200, "Orders of storefront"));
    for (token, status) in vercel.refused() {
        let (answered, head, body) = answer(&url, &[("authorization", &bearer(token))]).await;
        assert_eq!(answered, status, "{body}");
        assert!(head.contains("\r\nwww-authenticate: bearer error=") && head.contains("no-store"), "{head}");
        assert!(body.contains(r#""code":""#), "{body}");
    }
    // The first of two headers must not decide.
    let two = [("authorization", &*bearer(vercel.good())), ("authorization", "Bearer none")];
    assert_eq!(answer(&url, &two).await.0, 400);
    // The guard also refuses a path without a route.
    for url in [&url, &format!("http://127.0.0.1:{port}/none")] {
        assert_eq!(ask(url, "cookie", "a=b").await.0, 401);
    }
}

/// Starts a function, and makes the calls that the API behind it should answer and refuse.
async fn the_function_calls(project: &Project, vercel: &Vercel, program: &str, answer: &str) {
    let port = free_port().await.to_string();
    let exchange_url = vercel.exchange_url();
    let variables =
        [("VERCEL_DEV_PORT", &*port), ("OIDC_TOKEN_EXCHANGE_URL", &*exchange_url), ("VERCEL_ENV", "preview")];
    let _running = project.start(program, &variables);
    let url = format!("http://127.0.0.1:{port}/");
    let call = async |token: &str| ask(&url, "x-vercel-oidc-token", token).await;
    assert_eq!(call(&vercel.good()).await, (200, answer.to_owned()));
    for token in [vercel.preview(), vercel.of_another_owner(), vercel.forged()] {
        let (status, error) = call(&token).await;
        assert_eq!(status, 500, "{error}");
        assert!(!error.contains(&token));
    }
    let (status, error) = ask(&url, "cookie", "a=b").await;
    assert!(status == 500 && error.contains("There is no OIDC token."), "{error}");
}

/// Follows a recipe whose only code is a service.
async fn a_service(heading: &str) {
    let (project, section) = (Project::new(), section(heading));
    project.run_commands(section, &[]);
    the_service_verifies(&project, &block(section, "rust")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn an_axum_service() {
    a_service("An axum service").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn an_actix_web_service() {
    let (project, section) = (Project::new(), section("An actix-web service"));
    project.run_commands(section, &[]);
    // The handler also asserts that no header with the token reaches it.
    let handler = "(caller: ReqData<VerifiedCaller>) -> String {\n";
    let without_token = "(caller: ReqData<VerifiedCaller>, request: actix_web::HttpRequest) -> String {
    assert!(!request.headers().contains_key(\"authorization\"));
    assert!(!request.headers().contains_key(\"x-vercel-trusted-oidc-idp-token\"));\n";
    the_service_verifies(&project, &replaced(&block(section, "rust"), &[(handler, without_token)])).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn a_service_on_plain_hyper() {
    let (project, section) = (Project::new(), section("A service on plain hyper"));
    project.run_commands(section, &[]);
    let vercel = Vercel::start().await;
    let port = free_port().await.to_string();
    let replacements = [(ISSUER, &*vercel.team_url()), ("3001", &port), ("from_secs(30)", "from_secs(2)")];
    project.write_code(section, "src/main.rs", &replacements);
    let running = project.start_with_open_files("fresh", 32);
    it_verifies(&vercel, &port).await;
    it_survives_too_many_connections(running, &port).await;
}

/// More connections than open files, each with an incomplete head. The service waits without spinning until the first
/// head takes too long, serves again, and stops when it is asked to.
async fn it_survives_too_many_connections(mut running: Running, port: &str) {
    let address = format!("127.0.0.1:{port}");
    let cpu_before = running.cpu_time();
    let mut connections = Vec::new();
    for _ in 0..60 {
        let mut stream = connect(&address).await;
        stream.write_all(b"GET /orders HTTP/1.1\r\n").await.unwrap();
        connections.push(stream);
    }
    let _ = timeout(Duration::from_secs(10), connections[0].read_to_end(&mut Vec::new())).await.unwrap();
    let spent = running.cpu_time() - cpu_before;
    assert!(spent < Duration::from_millis(500), "{spent:?}");
    drop(connections);
    assert_eq!(ask(&format!("http://{address}/orders"), "cookie", "a=b").await.0, 401);
    running.terminate();
    assert!(running.0.wait().unwrap().success());
}

/// The program that sends one request to the tonic service.
const GRPC_CLIENT: &str = r#"
tonic::include_proto!("orders");

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut client = orders_client::OrdersClient::connect(arguments[1].clone()).await.unwrap();
    let mut request = tonic::Request::new(ListRequest {});
    for authorization in &arguments[2..] {
        request.metadata_mut().append("authorization", authorization.parse().unwrap());
    }
    match client.list(request).await {
        Ok(reply) => println!("{}", reply.into_inner().text),
        Err(status) => println!("{:?}: {}", status.code(), status.message()),
    }
}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn a_tonic_service() {
    let (project, section) = (Project::new(), section("A tonic service"));
    project.run_commands(section, &[]);
    let [build, main] = <[String; 2]>::try_from(blocks(section, "rust")).unwrap();
    let vercel = Vercel::start().await;
    let port = free_port().await.to_string();
    project.write("orders.proto", &block(section, "proto"));
    project.write("build.rs", &build);
    project.write("src/bin/client.rs", GRPC_CLIENT);
    let client = project.build("client");
    let main = replaced(&main, &[(ISSUER, &vercel.team_url()), ("3001", &port)]);
    // The guard around the server, and the page's other way: around one service.
    let (all, one) = (".layer(guard).add_service(orders)", ".add_service(guard.named_layer(orders))");
    assert!(section.contains(one));
    let main_of_one = format!("use tonic::service::LayerExt;\n{}", replaced(&main, &[(all, one)]));
    for main in [main, main_of_one] {
        project.write("src/main.rs", &main);
        let _running = project.start("fresh", &[]);
        drop(connect(&format!("127.0.0.1:{port}")).await);
        the_orders_are_guarded(&vercel, &client, &port);
    }
}

fn the_orders_are_guarded(vercel: &Vercel, client: &Path, port: &str) {
    let call = |tokens: &[&str]| {
        let mut command = Command::new(client);
        command.arg(format!("http://127.0.0.1:{port}")).args(tokens.iter().map(|token| format!("Bearer {token}")));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(call(&[&vercel.good()]), "Orders of storefront\n");
    for (token, status) in vercel.refused() {
        let (code, reason) = match status {
            403 => ("PermissionDenied: ", "The token is valid, but"),
            _ => ("Unauthenticated: ", "The token was refused: "),
        };
        let printed = call(&[&token]);
        assert!(printed.starts_with(&format!("{code}{reason}")), "{printed}");
    }
    assert!(call(&[]).starts_with("Unauthenticated: This API needs a Vercel OIDC token."));
    assert!(call(&[&vercel.good(), "none"]).starts_with("Unauthenticated: The request has several"));
}

/// AWS Lambda, as a function sees it: it asks for the next event, and posts its response.
struct Lambda {
    address: String,
    events: mpsc::UnboundedSender<Value>,
    responses: mpsc::UnboundedReceiver<Value>,
}

impl Lambda {
    async fn start() -> Self {
        let (events, next) = mpsc::unbounded_channel::<Value>();
        let (respond, responses) = mpsc::unbounded_channel();
        let next = Arc::new(tokio::sync::Mutex::new(next));
        let next = async move || {
            let event = next.lock().await.recv().await.unwrap();
            let headers = [
                ("lambda-runtime-aws-request-id", "id"),
                ("lambda-runtime-deadline-ms", "4102444800000"),
                ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:orders"),
            ];
            (headers, Json(event))
        };
        let respond = async move |response: String| respond.send(serde_json::from_str(&response).unwrap()).unwrap();
        let invocation = "/2018-06-01/runtime/invocation";
        let routes = Router::new()
            .route(&format!("{invocation}/next"), get(next))
            .route(&format!("{invocation}/id/response"), post(respond));
        let address = serve(routes).await.strip_prefix("http://").unwrap().to_owned();
        Self { address, events, responses }
    }

    /// The response to a call of the function's URL. AWS joins headers of one name with a comma.
    async fn call(&mut self, authorization: Option<&str>) -> Value {
        let headers = authorization.map(|value| json!({ "authorization": value })).unwrap_or(json!({}));
        let http = json!({
            "method": "GET",
            "path": "/orders",
            "protocol": "HTTP/1.1",
            "sourceIp": "192.0.2.1",
            "userAgent": "test",
        });
        let context = json!({
            "accountId": "123456789012",
            "apiId": "orders",
            "domainName": "orders.lambda-url.us-east-1.on.aws",
            "domainPrefix": "orders",
            "http": http,
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1_773_342_238_000_u64,
        });
        let event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/orders",
            "rawQueryString": "",
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": false,
        });
        self.events.send(event).unwrap();
        timeout(Duration::from_secs(60), self.responses.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn a_lambda_function() {
    let (project, section) = (Project::new(), section("A Lambda function"));
    project.run_commands(section, &[]);
    let vercel = Vercel::start().await;
    let mut lambda = Lambda::start().await;
    project.write_code(section, "src/main.rs", &[(ISSUER, &vercel.team_url())]);
    let variables = [
        ("AWS_LAMBDA_RUNTIME_API", &*lambda.address.clone()),
        ("AWS_LAMBDA_FUNCTION_NAME", "orders"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
    ];
    let _running = project.start("fresh", &variables);
    let response = lambda.call(Some(&format!("Bearer {}", vercel.good()))).await;
    assert_eq!((&response["statusCode"], &response["body"]), (&json!(200), &json!("Orders of storefront")));
    for (token, status) in vercel.refused() {
        let response = lambda.call(Some(&format!("Bearer {token}"))).await;
        assert_eq!(response["statusCode"], status);
        assert!(response["body"].as_str().unwrap().contains(r#""code":""#), "{response}");
        assert!(response["headers"]["www-authenticate"].as_str().unwrap().starts_with("Bearer error="), "{response}");
    }
    assert_eq!(lambda.call(None).await["statusCode"], 401);
    let two = format!("Bearer {},Bearer none", vercel.good());
    assert_eq!(lambda.call(Some(&two)).await["statusCode"], 400);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn your_own_http_client_for_the_keys() {
    let (project, section) = (Project::new(), section("Your own HTTP client for the keys"));
    project.run_commands(section, &[]);
    let [keys, line] = <[String; 2]>::try_from(blocks(section, "rust")).unwrap();
    let axum = block(self::section("An axum service"), "rust");
    let of_issuer = format!("    let keys = KeySet::of_issuer(\"{ISSUER}\")?;\n");
    let main = replaced(&axum, &[(&of_issuer, &line), ("{KeySet, ", "{")]);
    let vercel = Vercel::start().await;
    let url = vercel.team_url();
    let redirect =
        serve(Router::new().fallback(async move |uri: Uri| Redirect::temporary(&format!("{url}{uri}")))).await;
    for issuer in [redirect, vercel.team_url()] {
        let port = free_port().await.to_string();
        project.write("src/keys.rs", &replaced(&keys, &[(ISSUER, &issuer), ("https_only(true)", "https_only(false)")]));
        project.write("src/main.rs", &format!("mod keys;\n\n{}", replaced(&main, &[("3001", &port)])));
        let _running = project.start("fresh", &[]);
        if issuer == vercel.team_url() {
            it_verifies(&vercel, &port).await;
        } else {
            let url = format!("http://127.0.0.1:{port}/orders");
            assert_eq!(ask(&url, "authorization", &format!("Bearer {}", vercel.good())).await.0, 503);
        }
    }
    let tree =
        Command::new(env!("CARGO")).args(["tree", "--prefix=none"]).current_dir(&project.folder).output().unwrap();
    assert!(!String::from_utf8(tree.stdout).unwrap().contains("reqwest"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn a_function_that_only_needs_its_token() {
    let (project, section) = (Project::new(), section("A function that only needs its token"));
    let vercel = Vercel::start().await;
    let api = vercel.api("https://vercel.com/acme").await;
    project.run_commands(section, &[]);
    project.extend_manifest(section);
    project.write_code(section, "api/orders.rs", &[("https://api.example.com", &api)]);
    the_function_calls(&project, &vercel, "orders", "Orders of storefront").await;

    // An API that sends the caller elsewhere, and an API that never answers.
    let redirect = serve(Router::new().fallback(async move || Redirect::temporary(&format!("{api}/orders")))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    for (api, error) in [(redirect, "The API answered 307"), (silent, "error sending request")] {
        let replacements = [("https://api.example.com", &*api), ("from_secs(10)", "from_secs(1)")];
        project.write_code(section, "api/orders.rs", &replacements);
        let port = free_port().await.to_string();
        let _running = project.start("orders", &[("VERCEL_DEV_PORT", &*port)]);
        let (status, body) = ask(&format!("http://127.0.0.1:{port}/"), "x-vercel-oidc-token", &vercel.good()).await;
        assert!(status == 500 && body.contains(error), "{body}");
    }
}

const ORDER_SECTION: &str = "A function that posts an order";

/// Writes the function that posts an order, and starts it with an API that accepts only the exchanged token.
async fn the_order_is_posted(project: &Project) {
    let section = section(ORDER_SECTION);
    let vercel = Vercel::start().await;
    let api = format!("Api::new(\"{}\"", vercel.api("https://orders.example.com").await);
    project.extend_manifest(section);
    project.write_code(section, "api/order.rs", &[("Api::new(\"https://orders.example.com\"", &api)]);
    the_function_calls(project, &vercel, "order", &format!("ordered by {SUBJECT}")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn a_function_that_posts_an_order() {
    let project = Project::new();
    project.run_commands(section(ORDER_SECTION), &[]);
    the_order_is_posted(&project).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn a_command_line_program() {
    let (project, section) = (Project::new(), section("A command-line program"));
    let vercel = Vercel::start().await;
    let api = vercel.api("https://vercel.com/acme").await;
    // The last block needs an account.
    for commands in &blocks(section, "bash")[..2] {
        project.run("bash", &["-euc", commands]);
    }
    project.write_code(section, "src/main.rs", &[("https://api.example.com", &api)]);
    let program = project.build("fresh");
    let run = |token: Option<&str>| {
        let mut command = Command::new(&program);
        command.env_remove("VERCEL_OIDC_TOKEN").env_remove("VERCEL_OIDC_TOKEN_FILE").current_dir(&project.folder);
        if let Some(token) = token {
            std::fs::write(project.path("token"), format!("{token}\n")).unwrap();
            command.env("VERCEL_OIDC_TOKEN_FILE", project.path("token"));
        }
        let output = command.output().unwrap();
        let [printed, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), printed, errors)
    };
    assert_eq!(run(Some(&vercel.good())), (Some(0), "Orders of storefront\n".to_owned(), String::new()));
    for (token, advice) in [(Some(vercel.preview()), "`forbidden`"), (None, "There is no OIDC token.")] {
        let (status, printed, errors) = run(token.as_deref());
        assert_eq!((status, printed.as_str()), (Some(1), ""));
        assert!(errors.contains(advice), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn git_dependencies() {
    let project = Project::new();
    let repository = format!("file://{}", repository("repository").display());
    let section_of_git = section("Git dependencies");
    // A project that is made from the template has its own URL here.
    let url = section_of_git.split("--git ").nth(1).unwrap().split(' ').next().unwrap();
    project.run_commands(section_of_git, &[(url, &repository)]);
    // The other commands of both recipes add what the examples use.
    for heading in ["An axum service", ORDER_SECTION] {
        for commands in &blocks(section(heading), "bash")[1..] {
            project.run("bash", &["-euc", commands]);
        }
    }
    the_service_verifies(&project, &block(section("An axum service"), "rust")).await;
    the_order_is_posted(&project).await;
}

/// A repository with this folder's files as its one commit. Equal files make an equal commit.
fn repository(name: &str) -> PathBuf {
    let copy = Path::new(REPOSITORY).join("target/use-the-crates").join(name);
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir_all(&copy).unwrap();
    let script = r#"
        export GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'
        git -c safe.directory='*' -C "$TEMPLATE" ls-files -z --cached --others --exclude-standard |
            (cd "$TEMPLATE" && while IFS= read -r -d '' file; do [ ! -f "$file" ] || printf '%s\0' "$file"; done) |
            tar -C "$TEMPLATE" -c --null -T - | tar -x
        git init --quiet --initial-branch main
        git add --force .
        git -c user.name=test -c user.email=test@example.com -c commit.gpgsign=false commit --quiet --message Copy
    "#;
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(&copy).env("TEMPLATE", REPOSITORY);
    assert!(command.status().unwrap().success(), "a copy of the repository");
    copy
}

/// The code of the README's sections *Your route* and *Your call*: the routes, an arm of a `match`, and a method. A
/// project that is made from this template has its own README, without the template's front matter.
fn route_and_call() -> Option<[String; 3]> {
    let readme = include_str!("../README.md");
    if !readme.contains("\nslug: rust-oidc\n") {
        // The test harness hides what `eprintln!` prints.
        writeln!(std::io::stderr().lock(), "skipped: README.md is not this template's").unwrap();
        return None;
    }
    let (_, rest) = readme.split_once("\n## Your route\n").unwrap();
    let (sections, _) = rest.split_once("\n## Use the crates\n").unwrap();
    Some(blocks(sections, "rust").try_into().unwrap())
}

#[test]
fn your_call_calls_your_route() {
    let Some([routes, _, method]) = route_and_call() else { return };
    let (_, path) = method.split_once("api.get(headers, ").unwrap();
    let (path, _) = path.split_once(')').unwrap();
    assert!(routes.contains(&format!(".route({path}, get(")), "{path}");
    for code in [routes, method] {
        assert!((10..=15).contains(&code.lines().filter(|line| !line.is_empty()).count()), "{code}");
    }
}

/// The README's sections *Your route* and *Your call*, in a copy of the repository.
#[test]
#[ignore = "checks a copy of the repository"]
fn your_route_and_your_call() {
    let Some([routes, line, method]) = route_and_call() else { return };
    let copy = repository("fork");
    std::fs::write(copy.join("src/routes.rs"), routes).unwrap();
    let path = copy.join("api/_app/lib.rs");
    let app = std::fs::read_to_string(&path).unwrap();
    // An arm of the `match` in `handle`, and a method next to `call`.
    let (before_arms, arms) = app.split_once("            _ => Err(Failure::NotFound),\n").unwrap();
    let (before_call, call) = arms.split_once("    /// Gets a token").unwrap();
    let app = format!(
        "{before_arms}{line}            _ => Err(Failure::NotFound),\n{before_call}{method}\n    /// Gets a token{call}"
    );
    std::fs::write(path, app).unwrap();
    // `cargo check` does not overwrite this repository's binaries.
    let mut check = Command::new(env!("CARGO"));
    check.args(["check", "--package", "backend", "--package", "caller"]).current_dir(copy);
    let output = check.env("CARGO_TARGET_DIR", Path::new(REPOSITORY).join("target")).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !printed.contains("warning"), "{printed}");
}

#[test]
fn a_guard_without_tower_takes_at_most_15_lines() {
    for heading in ["A service on plain hyper", "An actix-web service"] {
        let code = block(section(heading), "rust");
        let guard = code.split("\n\n").find(|part| part.contains(".authenticate(")).unwrap();
        assert!(guard.lines().count() <= 15, "{guard}");
    }
}

#[test]
fn an_order_takes_at_most_25_lines() {
    let code = block(section(ORDER_SECTION), "rust");
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 25, "{lines} lines");
}

/// The page's function and the front page of the crate differ only in `main`.
#[test]
fn the_order_on_the_crates_front_page_is_the_same() {
    let front = include_str!("../api/_oidc/lib.rs");
    let front: Vec<_> = front.lines().map(|line| line.trim_start_matches("//!").trim()).collect();
    let code = block(section(ORDER_SECTION), "rust");
    let (before_main, main) = code.split_once("#[tokio::main").unwrap();
    let of_vercel = |line: &&str| line.contains("vercel_runtime");
    let shared_of_main = main.lines().filter(|line| line.contains("let tokens") || line.contains("let api = Api"));
    for line in before_main.lines().chain(shared_of_main).map(str::trim).filter(|line| !of_vercel(line)) {
        assert!(front.contains(&line), "{line}");
    }
}
