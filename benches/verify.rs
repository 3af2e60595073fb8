//! What a verification costs in process, beside two limits: the raw RSA-2048 verification with a parsed key for a new
//! token, and the SHA-256 of a token for a cached one.
//!
//!     cargo bench -p bench
//!
//! After criterion's own report it prints each time as a multiple of one of these two, measured in the same run. It
//! also shows how a verification grows with the issuer's keys, the cached tokens and the accepted subjects.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use axum::{Json, Router, routing::get};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bench::{forged, parsed, token};
use criterion::{BenchmarkId, Criterion};
use local::{Deployment, SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use vercel_oidc_verifier::{Claims, KeySet, Subject, Trust, Verifier, VerifyError};

const ISSUER: &str = "https://oidc.vercel.com/acme";
/// The default capacity of the cache.
const CAPACITY: usize = 10_000;
/// Each case, and the limit that it is compared with.
const RATIOS: [(&str, &str); 5] = [
    ("new", "rsa"),
    ("forged", "rsa"),
    ("cached", "sha256"),
    ("cached_1000_in_turn", "sha256"),
    ("unknown_kid", "sha256"),
];

fn main() {
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion");
    let mut criterion = Criterion::default()
        .output_directory(&results)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let issuer = Issuer::start();
    limits(&mut criterion, &issuer);
    tokens(&mut criterion, &issuer);
    growth(&mut criterion, &issuer);
    criterion.final_summary();
    println!("\n{:<28}{:>10}", "verification", "ratio");
    for (case, limit) in RATIOS {
        let nanoseconds = |group: &str, name: &str| -> Option<f64> {
            let estimates = fs::read(results.join(group).join(name).join("new/estimates.json")).ok()?;
            serde_json::from_slice::<Value>(&estimates).ok()?["median"]["point_estimate"].as_f64()
        };
        // A filter on the command line can leave out some cases.
        if let (Some(case_takes), Some(limit_takes)) = (nanoseconds("token", case), nanoseconds("limit", limit)) {
            println!("{case:<28}{:>10.2} x {limit}", case_takes / limit_takes);
        }
    }
}

/// An issuer that runs until the benchmark ends.
struct Issuer {
    runtime: Runtime,
    key: SigningKey,
}

impl Issuer {
    fn start() -> Self {
        Self { runtime: Runtime::new().unwrap(), key: SigningKey::generate("key-1").unwrap() }
    }

    fn token(&self, number: usize) -> String {
        token(&self.key, ISSUER, number)
    }

    /// A verifier that holds this many keys, and has just looked for an unknown `kid`.
    fn verifier(&self, keys: usize, capacity: usize) -> Verifier {
        let mut document = vec![self.key.jwk(); keys];
        for (number, jwk) in document.iter_mut().enumerate().skip(1) {
            jwk["kid"] = json!(format!("other-{number}"));
        }
        self.runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let routes = Router::new().route("/", get(|| async move { Json(json!({ "keys": document })) }));
            tokio::spawn(axum::serve(listener, routes).into_future());
            let keys = KeySet::from_url(&url).unwrap();
            let verifier = Verifier::new(trust(1), keys).with_cached_tokens(capacity);
            verifier.verify(self.token(0).as_bytes(), SystemTime::now()).await.unwrap();
            verifier.verify(of_unknown_key().as_bytes(), SystemTime::now()).await.unwrap_err();
            verifier
        })
    }
}

fn of_unknown_key() -> String {
    token(&SigningKey::generate("of_unknown_key").unwrap(), ISSUER, 0)
}

/// Trusts this many subjects and audiences. The caller's subject and audience are the last.
fn trust(count: usize) -> Trust {
    let Deployment { team, project, environment, .. } = Deployment::default();
    let audiences = (1..count).map(|number| format!("https://vercel.com/other-{number}"));
    let subjects = (1..count).map(|number| Subject::of(&team, &format!("other-{number}"), &environment).unwrap());
    Trust::issuer(
        ISSUER,
        audiences.chain([format!("https://vercel.com/{team}")]),
        subjects.chain([Subject::of(&team, &project, &environment).unwrap()]),
    )
    .unwrap()
}

/// Verifies without waiting, because the keys are held.
fn verify(verifier: &Verifier, token: &str, now: SystemTime) -> Result<Arc<Claims>, VerifyError> {
    let result = pin!(verifier.verify(black_box(token.as_bytes()), now));
    match result.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("nothing is fetched"),
    }
}

fn limits(criterion: &mut Criterion, issuer: &Issuer) {
    let token = issuer.token(0);
    let (signing_input, signature) = token.rsplit_once('.').unwrap();
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let key = parsed(&issuer.key).unwrap();
    let mut group = criterion.benchmark_group("limit");
    group.bench_function("rsa", |bencher| {
        bencher.iter(|| key.verify_sig(black_box(signing_input.as_bytes()), &signature).unwrap());
    });
    group.bench_function("sha256", |bencher| {
        bencher.iter(|| digest::digest(&digest::SHA256, black_box(token.as_bytes())));
    });
}

fn tokens(criterion: &mut Criterion, issuer: &Issuer) {
    let now = SystemTime::now();
    let good: Vec<_> = (0..1000).map(|number| issuer.token(number)).collect();
    let (forged, of_unknown_key) = (forged(&good[0], &good[1]), of_unknown_key());
    let mut group = criterion.benchmark_group("token");
    // With a capacity of one token, each of a thousand tokens in turn is new.
    let verifier = issuer.verifier(1, 1);
    let mut turns = good.iter().cycle();
    group.bench_function("new", |bencher| {
        bencher.iter(|| verify(&verifier, turns.next().unwrap(), now).unwrap());
    });
    let verifier = issuer.verifier(1, CAPACITY);
    group.bench_function("forged", |bencher| bencher.iter(|| verify(&verifier, &forged, now).unwrap_err()));
    let verifier = issuer.verifier(1, CAPACITY);
    group
        .bench_function("unknown_kid", |bencher| bencher.iter(|| verify(&verifier, &of_unknown_key, now).unwrap_err()));
    group.bench_function("cached_1000_in_turn", |bencher| {
        bencher.iter(|| verify(&verifier, turns.next().unwrap(), now).unwrap());
    });
    group.bench_function("cached", |bencher| bencher.iter(|| verify(&verifier, &good[0], now).unwrap()));
}

fn growth(criterion: &mut Criterion, issuer: &Issuer) {
    let now = SystemTime::now();
    let good: Vec<_> = (0..CAPACITY).map(|number| issuer.token(number)).collect();
    let mut group = criterion.benchmark_group("growth");
    for keys in [1, 10, 100] {
        let verifier = issuer.verifier(keys, CAPACITY);
        group.bench_function(BenchmarkId::new("keys", keys), |bencher| {
            bencher.iter(|| verify(&verifier, &good[0], now).unwrap());
        });
    }
    for cached in [10, 100, 1000, CAPACITY] {
        let verifier = issuer.verifier(1, CAPACITY);
        let mut turns = good[..cached].iter().cycle();
        for token in &good[..cached] {
            verify(&verifier, token, now).unwrap();
        }
        group.bench_function(BenchmarkId::new("cached_tokens", cached), |bencher| {
            bencher.iter(|| verify(&verifier, turns.next().unwrap(), now).unwrap());
        });
    }
    for subjects in [1, 10, 100, 1000] {
        // Without the cache, all rules are checked each time.
        let document = json!({ "keys": [issuer.key.jwk()] }).to_string();
        let keys = KeySet::from_jwks(document.as_bytes()).unwrap();
        let verifier = Verifier::new(trust(subjects), keys).with_cached_tokens(0);
        group.bench_function(BenchmarkId::new("audiences_and_subjects", subjects), |bencher| {
            bencher.iter(|| verify(&verifier, &good[0], now).unwrap());
        });
    }
}
