//! Checks whether an API in any language verifies Vercel's OIDC tokens: `cargo run -p local --example check`.
//!
//! It starts an issuer that the API is configured to trust. It sends the API valid tokens and tokens with exactly one
//! thing wrong, and reports each invalid token that the API accepts. It does not depend on the backend or the caller of
//! this repository.

mod cases;
mod hole;
mod issuer;
mod jwe;
mod keys;
mod kit;
mod listener;
mod report;
mod scenario;
mod send;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::SetOnce;

use cases::{Case, Expected, groups};
pub use hole::Hole;
use issuer::{CheckIssuer, Mode};
use kit::{Keys, Kit, MAIN, Phase, pem};
use listener::Listener;
pub use report::{Outcome, Report, Row};
use scenario::Expiring;
use send::{Answer, Failure, Sender};

use crate::Deployment;

/// What to check, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port of the local issuer. 0 means any.
    pub port: u16,
    /// The `iss` of the tokens. The default is the local issuer's URL and the team.
    pub issuer: Option<String>,
    /// The audience that the API accepts.
    pub audience: String,
    /// The subject that the API accepts.
    pub subject: String,
    /// The method of each request.
    pub method: String,
    /// The body of each request.
    pub data: Option<String>,
    /// Headers of each request, where `{token}` stands for the token.
    pub headers: Vec<(String, String)>,
    /// How long the API may take to start.
    pub wait: Duration,
    /// How long the API may refuse a valid token until it has fetched the key.
    pub patience: Duration,
    /// How long the API may take to answer.
    pub timeout: Duration,
    /// The certificate authorities that are trusted, in PEM. The default is the system's.
    pub ca: Option<Vec<u8>>,
    /// Whether any certificate is accepted.
    pub insecure: bool,
    /// Whether cases that take minutes are tried: an issuer that is down, and the life of a withdrawn key.
    pub long: bool,
    /// For how long a withdrawn key is tried.
    pub key_life: Duration,
    /// Whether the API decides by `owner_id`, `project_id` and `environment`, and not by the names in `iss` and `sub`.
    pub ids: bool,
    /// Whether accepting an invalid token is also a failure if it alone gains an attacker nothing.
    pub strict: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 9400,
            issuer: None,
            audience: "https://vercel.com/acme".to_owned(),
            subject: "owner:acme:project:storefront:environment:production".to_owned(),
            method: "GET".to_owned(),
            data: None,
            headers: Vec::new(),
            wait: Duration::from_secs(60),
            // Some libraries (jose) fetch keys at most every 30 seconds.
            patience: Duration::from_secs(40),
            timeout: Duration::from_secs(10),
            ca: None,
            insecure: false,
            long: false,
            // This repository's verifier uses keys for 10 minutes.
            key_life: Duration::from_secs(11 * 60),
            ids: false,
            strict: false,
        }
    }
}

/// The running local issuer. The API can be started now.
pub struct Check {
    options: Options,
    issuer: String,
    jwks_url: String,
    deployment: Deployment,
    keys: Arc<SetOnce<io::Result<Arc<Keys>>>>,
    served: CheckIssuer,
    attacker: Listener,
}

impl Check {
    /// Starts the issuer. It answers when its keys are made, which takes a moment.
    ///
    /// # Errors
    ///
    /// If its port is taken.
    pub async fn start(options: Options) -> io::Result<Self> {
        let keys = Arc::new(SetOnce::new());
        let made = keys.clone();
        // Making keys takes seconds in a build without optimisation, so it runs on threads that serve no requests.
        std::thread::spawn(move || made.set(Keys::generate().map(Arc::new)));
        Self::with_keys(options, keys).await
    }

    /// Starts another issuer with the same keys.
    ///
    /// # Errors
    ///
    /// If its port is taken.
    pub async fn beside(&self, options: Options) -> io::Result<Self> {
        Self::with_keys(options, self.keys.clone()).await
    }

    async fn with_keys(options: Options, keys: Arc<SetOnce<io::Result<Arc<Keys>>>>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let local = format!("{origin}/acme");
        let issuer = options.issuer.clone().unwrap_or_else(|| local.clone());
        let served = CheckIssuer::new(&issuer, &origin);
        let (router, made, first) = (served.router(), keys.clone(), served.clone());
        // Until then, connections wait.
        tokio::spawn(async move {
            if let Ok(keys) = made.wait().await {
                first.publish(vec![keys.main.jwk()]);
                let _ = axum::serve(listener, router).await;
            }
        });
        let (deployment, attacker) = (kit::deployment(&options.subject), Listener::start().await?);
        let jwks_url = format!("{local}/.well-known/jwks");
        Ok(Self { options, issuer, jwks_url, deployment, keys, served, attacker })
    }

    /// Returns the name and value of each setting that the API needs.
    #[must_use]
    pub fn settings(&self) -> [(&'static str, &str); 4] {
        [
            ("issuer", &self.issuer),
            ("JWKS URL", &self.jwks_url),
            ("audience", &self.options.audience),
            ("subject", &self.options.subject),
        ]
    }

    /// Returns the `owner_id` and `project_id` of the tokens, for an API that checks ids too.
    #[must_use]
    pub fn ids(&self) -> [(&'static str, &str); 2] {
        [("owner_id", &self.deployment.team_id), ("project_id", &self.deployment.project_id)]
    }

    /// Waits until the API at `url` answers anything.
    ///
    /// # Errors
    ///
    /// If the URL or an option can't be used, or the API does not answer in time. The error names the cause.
    pub async fn wait(&self, url: &str) -> io::Result<()> {
        Sender::new(url, &self.options)?.wait(self.options.wait).await
    }

    /// Sends all tokens to the protected route at `url`. `progress` gets each title and row when it is known.
    ///
    /// # Errors
    ///
    /// If the URL or an option can't be used, or the system has no randomness for keys.
    pub async fn run(&self, url: &str, progress: impl FnMut(Progress<'_>)) -> io::Result<Report> {
        let sender = Arc::new(Sender::new(url, &self.options)?);
        let keys = self.keys.wait().await.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
        let Options { audience, subject, .. } = &self.options;
        let kit = Kit::new(&self.issuer, audience, subject, self.attacker.origin(), keys.clone());
        let jwk = kit.attacker_jwk(MAIN);
        self.attacker.publish(serde_json::json!([jwk]), pem("CERTIFICATE", &kit.attacker_certificate()));
        self.served.set(Mode::Up);
        let run = Run {
            check: self,
            kit,
            sender,
            report: Report::new(url),
            title: "",
            fetches_before: 0,
            last: "",
            is_gone: false,
            echoes: Default::default(),
            progress,
        };
        Ok(run.all().await)
    }
}

/// How long an API that has crashed may take to come back, as under a supervisor.
const RESTART: Duration = Duration::from_secs(30);

const GONE: &str = "the API has crashed and does not answer";

/// A check of one API.
struct Run<'a, P> {
    check: &'a Check,
    kit: Kit,
    sender: Arc<Sender>,
    report: Report,
    title: &'static str,
    /// How often the keys had been fetched when they changed.
    fetches_before: usize,
    /// The last case that was sent.
    last: &'static str,
    /// Whether the API has crashed and not come back.
    is_gone: bool,
    /// The cases whose token was in the answer: accepted tokens, and refused tokens.
    echoes: [Vec<&'static str>; 2],
    progress: P,
}

impl<P: FnMut(Progress<'_>)> Run<'_, P> {
    async fn all(mut self) -> Report {
        let Check { options, served, attacker, .. } = self.check;
        let mut expiring = None;
        for group in groups() {
            let keys_change = group.phase != Phase::First;
            if let Some(expiring) = expiring.take_if(|_| keys_change) {
                self.begin("A token that expires during the check");
                let row = match expiring {
                    Ok(expiring) => Expiring::finish(expiring, &self.kit, &self.sender).await,
                    Err(reason) => scenario::expired_since(Outcome::Skipped(reason)),
                };
                self.add(row);
            }
            served.publish(self.kit.published(group.phase));
            self.fetches_before = served.key_fetches();
            self.begin(group.title);
            for case in &group.cases {
                let row = self.row(case).await;
                self.add(row);
            }
            if expiring.is_none() && !keys_change {
                expiring = Some(Expiring::start(&self.kit, &self.sender).await);
            }
        }
        if !self.is_gone {
            self.begin("The issuer");
            let flood = scenario::flood(&self.kit, &self.sender, served, options).await;
            self.add(flood);
            for row in scenario::outages(&self.kit, &self.sender, served, attacker, options).await {
                self.add(row);
            }
            if options.long {
                let row = scenario::withdrawn(&self.kit, &self.sender, served, options).await;
                self.add(row);
            }
        }
        self.begin("All answers");
        for row in scenario::echoes(&self.echoes[0], &self.echoes[1], options.strict) {
            self.add(row);
        }
        // An API can also fetch an address after its answer.
        for case in attacker.visits().iter().filter(|case| *case != scenario::REDIRECT) {
            self.report.blame(case, Hole::Fetch);
        }
        self.report.finish(served.key_fetches());
        self.report
    }

    fn begin(&mut self, title: &'static str) {
        self.title = title;
        (self.progress)(Progress::Group(title));
    }

    fn add(&mut self, row: Row) {
        (self.progress)(Progress::Row(&row));
        if !matches!(row.outcome, Outcome::Skipped(_)) {
            self.last = row.name;
        }
        self.report.add(self.title, row);
    }

    async fn row(&mut self, case: &Case) -> Row {
        let options = &self.check.options;
        if self.is_gone {
            return report::judge(case, &Answer::Skipped(GONE), false, false, options);
        }
        let mut answer = self.answer(case).await;
        let mut has_died = false;
        if let Answer::None(failure @ (Failure::Refused | Failure::Closed)) = answer {
            let is_back = self.sender.wait(RESTART.min(self.check.options.wait)).await.is_ok();
            answer = if is_back { self.answer(case).await } else { Answer::Skipped(GONE) };
            // It answered before. If it answers this case now, the case before this one has stopped it.
            if failure == Failure::Refused || matches!(answer, Answer::Reply(_)) {
                self.report.blame(self.last, Hole::Crash);
            }
            self.is_gone = !is_back;
            // The connection of this case was open when the API stopped, and may have waited to be accepted.
            has_died = failure == Failure::Closed && !is_back;
        }
        if answer.echoes() {
            self.echoes[usize::from(!answer.is_accepted())].push(case.name);
        }
        let fetched = self.check.attacker.visits().iter().any(|visit| visit == case.name);
        let fetches = self.check.served.key_fetches() > self.fetches_before;
        let mut row = report::judge(case, &answer, fetched, fetches, options);
        if has_died {
            row.outcome = Outcome::Failed(Hole::Crash);
            row.note = Some(format!("the API stopped at this case, or at {} before it", self.last));
        }
        row
    }

    /// Sends the token. If the API may accept it only after it has fetched the keys, sends new ones until then.
    async fn answer(&mut self, case: &Case) -> Answer {
        let patience = match case.expected {
            Expected::AcceptSoon => self.check.options.patience,
            _ => Duration::ZERO,
        };
        let start = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            // Each attempt has a new token, because some APIs cache refusals.
            let answer = self.sender.send((case.request)(&self.kit)).await;
            let may_become_good = matches!(answer, Answer::Reply(_)) && !answer.is_accepted();
            if !may_become_good || start.elapsed() + pause > patience {
                return answer;
            }
            (self.progress)(Progress::Retrying(case.name, patience));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// What [`Check::run`] reports while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A group of cases begins.
    Group(&'static str),
    /// This case is repeated for at most this time.
    Retrying(&'static str, Duration),
    /// A case is done.
    Row(&'a Row),
}
