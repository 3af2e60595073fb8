//! A development token that has expired: the Vercel CLI is asked for another.
//!
//! Guarantees: only where `VERCEL_ENV` says development or nothing, and `.vercel/project.json` names the project; no
//! shell, and no id that the CLI could take for an option; one CLI at a time, for 20 s at most, whatever its output;
//! its own words reach the developer, without anything that looks like a token.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::problem::{foreign_words, says};
use crate::store::{Interrupted, Key, Obtained, Store};
use crate::token::{Source, Token};

/// A token with less than this left may expire on its way.
const MARGIN: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(20);
/// A token's JSON is about 2 KiB.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
const PROGRAM: &str = if cfg!(windows) { "vercel.cmd" } else { "vercel" };

/// Whether a token from this source needs replacing. One whose expiry can't be read is taken as it is, and so is a
/// header's: Vercel made it for the request.
pub(crate) fn is_due(token: &Token, source: &Source, now: impl FnOnce() -> SystemTime) -> bool {
    match source {
        Source::Header(_) => false,
        Source::File(_) | Source::Variable => token.unverified_expiry().is_some_and(|expiry| expiry <= now() + MARGIN),
    }
}

/// Why there is no new token.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    #[error(
        "the OIDC token of {0} has expired, and this is no development environment: on Vercel, remove the variable, for a token comes with each request; on your own machine, unset `VERCEL_ENV`, and run `vercel env pull`"
    )]
    NotDevelopment(Source),
    #[error(
        "the OIDC token of {0} has expired: run `vercel env pull` for a new one (and `vercel link` before, for this folder is linked to no project)"
    )]
    NotLinked(Source),
    #[error("the OIDC token has expired, and `{}` does not name the project: run `vercel link`, then `vercel env pull`", .0.display())]
    Project(PathBuf),
    #[error(
        "the OIDC token has expired, and the Vercel CLI could not be run: install it (`npm i -g vercel`), or run `vercel env pull`"
    )]
    NoCli(#[source] std::sync::Arc<std::io::Error>),
    #[error("the OIDC token has expired, and the Vercel CLI gave no new one within {} s: run `vercel env pull`", TIMEOUT.as_secs())]
    Timeout,
    #[error(
        "the OIDC token has expired, and the Vercel CLI gave no new one{}: run `vercel login`, then `vercel env pull`",
        says(.0)
    )]
    Cli(String),
    #[error(
        "the OIDC token that the Vercel CLI gave has expired: check this machine's clock, then run `vercel env pull`"
    )]
    Expired,
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

pub(crate) struct Refresh {
    allowed: bool,
    store: Store<RefreshError>,
}

impl Refresh {
    pub(crate) fn new(allowed: bool) -> Self {
        // One project, and another if the folder is linked anew meanwhile.
        Self { allowed, store: Store::new(2) }
    }

    /// A new token in place of this one, which the environment holds.
    pub(crate) async fn replace(&self, expired: Token, source: Source) -> Result<Token, RefreshError> {
        if !self.allowed {
            return Err(RefreshError::NotDevelopment(source));
        }
        let folder = std::env::current_dir().unwrap_or_default();
        let Some(project) = Project::find(&folder).await? else {
            return Err(RefreshError::NotLinked(source));
        };
        let key = Key::of(&[&project.project_id, project.org_id.as_deref().unwrap_or_default()]);
        self.store.get(key, SystemTime::now(), ask(PROGRAM.as_ref(), project, expired)).await
    }
}

/// What `vercel link` writes.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Project {
    project_id: String,
    org_id: Option<String>,
}

impl Project {
    /// Finds the project of this folder, or of the nearest above that is linked.
    async fn find(folder: &Path) -> Result<Option<Self>, RefreshError> {
        for folder in folder.ancestors() {
            let path = folder.join(".vercel/project.json");
            match tokio::fs::read(&path).await {
                Ok(json) => {
                    return Self::parse(&json).map(Some).ok_or(RefreshError::Project(path));
                }
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
                Err(_) => return Err(RefreshError::Project(path)),
            }
        }
        Ok(None)
    }

    fn parse(json: &[u8]) -> Option<Self> {
        let project: Self = serde_json::from_slice(json).ok()?;
        let good = is_id(&project.project_id) && project.org_id.as_deref().is_none_or(is_id);
        good.then_some(project)
    }
}

/// The file may come with someone else's repository, and its ids go to a program: none may pass for an option
/// (`--token`, `--cwd`) or a path.
fn is_id(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

async fn ask(program: &Path, project: Project, expired: Token) -> Result<Obtained, RefreshError> {
    let mut command = Command::new(program);
    command.args(["project", "token", &project.project_id, "--format=json"]);
    if let Some(team) = &project.org_id {
        command.args(["--scope", team]);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| RefreshError::NoCli(error.into()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async { tokio::join!(read(stdout), read(stderr), child.wait()) };
    let (stdout, stderr, status) = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| RefreshError::Timeout)?;
    if !status.is_ok_and(|status| status.success()) {
        // Its reasons are on standard error. What it prints for programs, on standard output, may be a token.
        return Err(RefreshError::Cli(foreign_words(&String::from_utf8_lossy(&stderr), Some(&expired))));
    }
    let token = token(&stdout).ok_or_else(|| RefreshError::Cli("success, but its output holds no token".to_owned()))?;
    let until = token.unverified_expiry();
    if until.is_some_and(|until| until <= SystemTime::now()) {
        return Err(RefreshError::Expired);
    }
    Ok((token, until))
}

/// Reads to the end or the limit; past it the pipe closes, so that the program ends instead of waiting for a reader.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Zeroizing<Vec<u8>> {
    let mut output = Zeroizing::new(Vec::new());
    if let Some(pipe) = pipe {
        // What was read before an error is as good as any: the exit status decides.
        let _ = pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut output).await;
    }
    output
}

fn token(stdout: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    struct Output<'a> {
        token: std::borrow::Cow<'a, str>,
    }
    let output: Output<'_> = serde_json::from_slice(stdout).ok()?;
    Token::new(&output.token)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_token_is_due_from_a_minute_before_it_expires_and_only_if_the_environment_holds_it() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"exp": 1000}"#);
        let token = Token::new(&format!("e30.{claims}.sig")).unwrap();
        let due = |source, now| is_due(&token, &source, || UNIX_EPOCH + Duration::from_secs(now));
        for source in [Source::Variable, Source::File("f".to_owned())] {
            assert!(!due(source.clone(), 939));
            assert!(due(source.clone(), 940));
            assert!(due(source, 5000));
        }
        assert!(!due(Source::Header("x-vercel-oidc-token"), 5000));
        let opaque = Token::new("opaque").unwrap();
        assert!(!is_due(&opaque, &Source::Variable, SystemTime::now));
    }

    /// The clock stands still until everything waits for it, and then jumps to the limit.
    #[tokio::test(start_paused = true)]
    async fn a_cli_that_hangs_is_stopped_after_its_time() {
        let folder = std::env::temp_dir().join(format!("caller-hang-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (program, pipe) = (folder.join("vercel"), folder.join("pipe"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let path = pipe.display();
        std::fs::write(&program, format!("#!/bin/sh\necho $$ > '{path}'\nread never < '{path}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

        let project = Project { project_id: "prj_shop".to_owned(), org_id: None };
        let asked = tokio::spawn(async move { ask(&program, project, Token::new("expired").unwrap()).await });
        // The clock does not jump while this waits.
        let pid = tokio::task::spawn_blocking(move || std::fs::read_to_string(pipe).unwrap()).await.unwrap();
        let started = tokio::time::Instant::now();
        assert!(matches!(asked.await.unwrap(), Err(RefreshError::Timeout)));
        assert!(started.elapsed() <= TIMEOUT);
        let stat = format!("/proc/{}/stat", pid.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        while runs() {
            assert!(std::time::Instant::now() < patience, "the CLI still runs");
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
