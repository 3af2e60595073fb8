//! Checks whether an API in any language verifies Vercel's OIDC tokens: `cargo run -p local --example check`.
//!
//! It starts an issuer that the API is configured to trust. It sends the API valid tokens and tokens with exactly one
//! thing wrong, and reports each invalid token that the API accepts. It does not depend on the backend or the caller of
//! this repository.

mod cases;
mod hole;
mod issuer;
mod keys;
mod kit;
mod report;
mod send;

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpListener;

use cases::{Case, Expected, groups};
pub use hole::Hole;
use issuer::CheckIssuer;
use kit::{Kit, MAIN, Phase};
pub use report::{Outcome, Report, Row};
use send::{Answer, Sender};

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
    /// Headers of each request, where `{token}` stands for the token.
    pub headers: Vec<(String, String)>,
    /// How long the API may take to start.
    pub wait: Duration,
    /// How long the API may refuse a valid token until it has fetched the key.
    pub patience: Duration,
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
            headers: Vec::new(),
            wait: Duration::from_secs(60),
            // Some libraries (jose) fetch keys at most every 30 seconds.
            patience: Duration::from_secs(40),
            strict: false,
        }
    }
}

/// The running local issuer. The API can be started now.
pub struct Check {
    options: Options,
    kit: Kit,
    issuer: CheckIssuer,
    jwks_url: String,
}

impl Check {
    /// Starts the issuer.
    ///
    /// # Errors
    ///
    /// If its port is taken, or the system has no randomness for keys.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let local = format!("{origin}/acme");
        let issuer_url = options.issuer.clone().unwrap_or_else(|| local.clone());
        let (audience, subject) = (options.audience.clone(), options.subject.clone());
        // Making keys takes a second, so it runs on a thread that serves no requests.
        let (url, place) = (issuer_url.clone(), origin.clone());
        let kit = tokio::task::spawn_blocking(move || Kit::new(&url, &audience, &subject, &place));
        let kit = kit.await.map_err(io::Error::other)??;
        let issuer = CheckIssuer::new(&issuer_url, &origin, kit.attacker_jwk(MAIN));
        issuer.publish(kit.published(Phase::First));
        tokio::spawn(axum::serve(listener, issuer.router()).into_future());
        Ok(Self { options, kit, issuer, jwks_url: format!("{local}/.well-known/jwks") })
    }

    /// Returns the name and value of each setting that the API needs.
    #[must_use]
    pub fn settings(&self) -> [(&'static str, &str); 4] {
        [
            ("issuer", &self.kit.issuer),
            ("JWKS URL", &self.jwks_url),
            ("audience", &self.kit.audience),
            ("subject", &self.kit.subject),
        ]
    }

    /// Returns the `owner_id` and `project_id` of the tokens, for an API that checks ids too.
    #[must_use]
    pub fn ids(&self) -> [(&'static str, &str); 2] {
        [("owner_id", &self.kit.deployment.team_id), ("project_id", &self.kit.deployment.project_id)]
    }

    /// Waits until the API at `url` answers anything.
    ///
    /// # Errors
    ///
    /// If the URL or a header can't be used, or the API does not answer in time.
    pub async fn wait(&self, url: &str) -> io::Result<()> {
        Sender::new(url, &self.options.headers)?.wait(self.options.wait).await
    }

    /// Sends all tokens to the protected route at `url`. `progress` gets each title and row when it is known.
    ///
    /// # Errors
    ///
    /// If the URL or a header can't be used.
    pub async fn run(&self, url: &str, mut progress: impl FnMut(Progress<'_>)) -> io::Result<Report> {
        let sender = Sender::new(url, &self.options.headers)?;
        let mut report = Report::new(url);
        for group in groups() {
            self.issuer.publish(self.kit.published(group.phase));
            progress(Progress::Group(group.title));
            for case in &group.cases {
                let row = self.try_case(&sender, case, &mut progress).await;
                progress(Progress::Row(&row));
                report.add(group.title, row);
            }
        }
        report.finish(self.issuer.key_fetches());
        Ok(report)
    }

    async fn try_case(&self, sender: &Sender, case: &Case, progress: &mut impl FnMut(Progress<'_>)) -> Row {
        let visits = self.issuer.attacker_visits();
        let patience = match case.expected {
            Expected::AcceptSoon => self.options.patience,
            _ => Duration::ZERO,
        };
        let start = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(100);
        let answer = loop {
            // Each attempt has a new token, because some APIs cache refusals.
            let answer = sender.send((case.request)(&self.kit)).await;
            let may_become_good = matches!(answer, Answer::Status { status, .. } if !(200..300).contains(&status));
            if !may_become_good || start.elapsed() + pause > patience {
                break answer;
            }
            progress(Progress::Retrying(case.name, patience));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        };
        let fetched = self.issuer.attacker_visits() > visits;
        report::judge(case, answer, fetched, self.options.strict)
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
