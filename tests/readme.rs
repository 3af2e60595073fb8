//! What the README's section on copying says, done word for word: a fresh project for each reader, the files, the
//! dependencies, the code, a build, a call.
//!
//! It builds them from scratch, and may fetch a crate for that, so a plain `cargo test` passes over it: `cargo test
//! --test readme -- --ignored`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::routing::get;
use axum::{Json, Router};
use backend::auth::{self, VerifiedCaller};
use backend::oidc::{KeySet, Trust, Verifier};
use common::KEY;
use local::{Deployment, Issuer, SigningKey};
use serde_json::json;
use tokio::net::TcpListener;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A section of the README: the text under its heading.
fn section(heading: &str) -> String {
    let readme = std::fs::read_to_string(Path::new(REPOSITORY).join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("\n### {heading}\n")).unwrap();
    rest.split("\n##").next().unwrap().to_owned()
}

/// The section's one block of code in this language.
fn block(section: &str, language: &str) -> String {
    let fence = format!("```{language}\n");
    let mut blocks = section.split(&fence).skip(1);
    let block = blocks.next().unwrap().split("```").next().unwrap().to_owned();
    assert!(blocks.next().is_none(), "one block of {language} is what this test knows how to use");
    block
}

/// Does what the section says in a fresh project, with addresses of this test's in place of the README's, and runs the
/// result, with these variables.
fn follow(section: &str, main: &str, port: u16, replacements: &[(&str, &str)], variables: &[(&str, &str)]) -> Running {
    let project = tempfile::tempdir().unwrap();
    let folder = project.path();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).env("TEMPLATE", REPOSITORY);
        // One folder for all of them, apart from the tests' own: they share most dependencies.
        command.env("CARGO_TARGET_DIR", Path::new(REPOSITORY).join("target/readme"));
        assert!(command.status().unwrap().success(), "{program} {arguments:?}");
    };
    std::fs::create_dir(folder.join("src")).unwrap();
    run("bash", &["-euc", &block(section, "bash")]);
    let manifest =
        format!("[package]\nname = \"copied\"\nedition = \"2024\"\n{}\n[workspace]\n", block(section, "toml"));
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // The versions that this repository is tested with.
    std::fs::copy(Path::new(REPOSITORY).join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let mut code = block(section, "rust");
    for (from, to) in replacements {
        assert!(code.contains(from), "{from}");
        code = code.replace(from, to);
    }
    std::fs::write(folder.join(main), code).unwrap();
    run(env!("CARGO"), &["build", "--quiet"]);
    let name = Path::new(main).file_stem().filter(|name| *name != "main").map_or("copied".as_ref(), |name| name);
    let program = folder.join("program");
    std::fs::copy(Path::new(REPOSITORY).join("target/readme/debug").join(name), &program).unwrap();
    let mut command = Command::new(&program);
    command.env("VERCEL_DEV_PORT", port.to_string()).envs(variables.iter().copied()).stdout(Stdio::null());
    Running(command.spawn().unwrap(), project)
}

struct Running(Child, #[expect(dead_code, reason = "the folder goes with it")] tempfile::TempDir);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Serves an application on a port of its own, and says where.
async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    url
}

/// The answer to a request with this header, as soon as somebody listens.
async fn ask(url: &str, header: &str, value: &str) -> (u16, String) {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match reqwest::Client::new().get(url).header(header, value).send().await {
            Ok(answer) => return (answer.status().as_u16(), answer.text().await.unwrap()),
            Err(error) if error.is_connect() && Instant::now() < patience => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// An issuer that calls itself Vercel's, and where its keys are.
async fn vercel() -> (Issuer, String) {
    let issuer = Issuer::new("https://oidc.vercel.com", SigningKey::generate("key").unwrap());
    let url = serve(issuer.router()).await;
    (issuer, format!("{url}/acme/.well-known/jwks"))
}

async fn the_verifier_works(heading: &str) {
    let (issuer, keys) = vercel().await;
    let port = free_port().await;
    let replacements = [("https://oidc.vercel.com/acme/.well-known/jwks", keys.as_str()), ("3001", &port.to_string())];
    let _running = follow(&section(heading), "src/main.rs", port, &replacements, &[]);
    let url = format!("http://127.0.0.1:{port}/orders");
    let production = Deployment::default();
    let good = format!("Bearer {}", issuer.token(&production));
    assert_eq!(ask(&url, "authorization", &good).await, (200, "Orders for storefront".to_owned()));
    let preview = format!("Bearer {}", issuer.token(&production.in_environment("preview")));
    assert_eq!(ask(&url, "authorization", &preview).await.0, 403);
    let forged = format!("Bearer {}", KEY.mint(&issuer.claims(&production)));
    assert_eq!(ask(&url, "authorization", &forged).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn the_verifier_goes_into_an_axum_service() {
    the_verifier_works("The verifier, into an axum service").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn the_verifier_goes_into_a_service_on_any_other_framework() {
    the_verifier_works("The verifier, into a service on any other framework").await;
}

/// An API that lets in what the README's examples call themselves, its issuer, and where it is.
async fn protected() -> (Issuer, String) {
    let (issuer, keys) = vercel().await;
    let keys = KeySet::new(keys.parse().unwrap());
    let verifier = Arc::new(Verifier::new(Trust::project("acme", "storefront", "production"), keys, 1));
    let name = |VerifiedCaller(claims): VerifiedCaller| async move { Json(json!({ "for": claims.project })) };
    let app = Router::new().route("/orders", get(name)).layer(auth::require(verifier.clone())).with_state(verifier);
    (issuer, serve(app).await)
}

const ORDERS: &str = r#"{"for":"storefront"}"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn the_token_goes_into_a_vercel_rust_function() {
    let (issuer, backend) = protected().await;
    let port = free_port().await;
    let section = section("The token, into a Vercel Rust function");
    // The file's own head names what it needs, for those who meet it without the README.
    let head = std::fs::read_to_string(Path::new(REPOSITORY).join("api/_lib/token.rs")).unwrap();
    let manifest = block(&section, "toml");
    let (_, dependencies) = manifest.split_once("[dependencies]\n").unwrap();
    for name in dependencies.lines().filter_map(|line| line.split(' ').next()) {
        let of_the_example = ["reqwest", "vercel_runtime"].contains(&name);
        assert!(of_the_example || head.contains(&format!("`{name}`")), "{name}");
    }
    let _running = follow(&section, "api/orders.rs", port, &[("https://api.example.com", &backend)], &[]);
    let url = format!("http://127.0.0.1:{port}/");
    let token = issuer.token(&Deployment::default());
    assert_eq!(ask(&url, "x-vercel-oidc-token", &token).await, (200, ORDERS.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a fresh project"]
async fn the_whole_caller_goes_into_a_vercel_rust_function() {
    let (issuer, backend) = protected().await;
    let port = free_port().await;
    let section = section("The whole caller, into a Vercel Rust function");
    let backend = format!("{backend}/orders");
    let _running = follow(&section, "api/call.rs", port, &[], &[("BACKEND_URL", &backend)]);
    let url = format!("http://127.0.0.1:{port}/api/call");
    let production = Deployment::default();
    assert_eq!(ask(&url, "x-vercel-oidc-token", &issuer.token(&production)).await, (200, ORDERS.to_owned()));
    let preview = issuer.token(&production.in_environment("preview"));
    assert_eq!(ask(&url, "x-vercel-oidc-token", &preview).await.0, 502);
}
