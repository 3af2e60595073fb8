//! Refreshes an expired development token with the Vercel CLI.
//!
//! Guarantees: this happens only if the program turns it on; no shell runs, and no id is passed that the CLI could
//! mistake for an option or a path; one CLI process runs at a time, for at most 20 seconds, and may print 64 KiB. The
//! CLI's output is not shown: the error gives the command to run by hand. A token that has expired and can't be
//! refreshed is not sent.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::cache::{Cache, Obtained};
use crate::error::{TokenError, path_for_log};
use crate::json::{self, TokenAnswer};
use crate::source::read_file;
use crate::token::{Source, Token};

/// A token with less time left may expire on its way to the API.
const MARGIN: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(20);
/// A token's JSON has about 2 KiB.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
const PROGRAM: &str = if cfg!(windows) { "vercel.cmd" } else { "vercel" };

/// Two projects: the current one, and another if the folder is linked again.
pub(crate) const CAPACITY: usize = 2;

/// The token itself, or a new one if it has expired or will within a minute.
pub(crate) async fn unexpired(token: Token, may_run_the_cli: bool, cache: &Cache) -> Result<Token, TokenError> {
    // A token whose expiry can't be read is sent as it is.
    let Some(expiry) = token.unverified_expiry() else { return Ok(token) };
    let now = SystemTime::now();
    // Vercel sends a new token with each request, so a token from a header is not refreshed.
    let is_of_environment = matches!(token.source(), Source::File | Source::Variable);
    if may_run_the_cli && is_of_environment && expiry <= now + MARGIN {
        // Boxed, because a refresh is rare and its future is large.
        return Box::pin(async move {
            let project = Project::find(&token, &std::env::current_dir().unwrap_or_default()).await?;
            let key = (project.id.as_str().into(), project.team.as_deref().unwrap_or_default().into());
            cache.get(key, SystemTime::now, || run(PROGRAM.into(), project)).await
        })
        .await;
    }
    match token.unverified_expired(now) {
        Some(ago) => Err(expired(&token, ago)),
        None => Ok(token),
    }
}

fn expired(token: &Token, ago: Duration) -> TokenError {
    let advice = match token.source() {
        Source::Header | Source::InternalHeader | Source::Refreshed => {
            "Vercel sends a new one with each request: look for an old request that is replayed, and check the clock"
        }
        Source::File | Source::Variable => {
            "On your machine, run `vercel env pull`. On Vercel, remove that setting: each request brings a token"
        }
    };
    let problem = format!("in {} expired {} ago. {advice}", token.source().described(), rounded(ago));
    TokenError::Expired { ago, problem, log: token.unverified_claims().to_string() }
}

/// A time in the largest unit of which it has at least two.
fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// The project whose token is wanted, as in `.vercel/project.json`.
#[derive(Debug, Deserialize, PartialEq)]
struct Project {
    #[serde(rename = "projectId")]
    id: String,
    #[serde(rename = "orgId")]
    team: Option<String>,
}

impl Project {
    /// The project that this folder, or the nearest one above it, is linked to; else the project of the expired token.
    /// In a monorepo, `vercel link --repo` writes no `project.json`.
    async fn find(token: &Token, folder: &Path) -> Result<Self, TokenError> {
        let failed = |problem: &str, log| {
            let source = token.source().described();
            let problem = format!("in {source} has expired, and {problem}. Run `vercel link`, then `vercel env pull`");
            TokenError::Refresh { problem, log, source: None }
        };
        for folder in folder.ancestors() {
            let path = folder.join(".vercel/project.json");
            let json = match read_file(path.clone()).await {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                json => json.unwrap_or_default(),
            };
            let wrong = || failed("`.vercel/project.json` does not name a project", path_for_log(&path));
            return Self::parse(&json).ok_or_else(wrong);
        }
        let claims = token.unverified_claims();
        let id = claims.project_id.filter(|id| is_id(id));
        let id = id.ok_or_else(|| failed("this folder is not linked to a project", String::new()))?;
        Ok(Self { id, team: claims.owner_id }.with_team_only())
    }

    fn parse(json: &[u8]) -> Option<Self> {
        let project: Self = json::object(json)?;
        let are_ids = is_id(&project.id) && project.team.as_deref().is_none_or(is_id);
        are_ids.then(|| project.with_team_only())
    }

    /// The CLI refuses a personal account's id as its scope.
    fn with_team_only(self) -> Self {
        Self { team: self.team.filter(|team| team.starts_with("team_") && is_id(team)), ..self }
    }

    fn arguments(&self) -> Vec<&str> {
        let scope = self.team.iter().flat_map(|team| ["--scope", team]);
        ["project", "token", &self.id, "--format=json"].into_iter().chain(scope).collect()
    }
}

/// An id goes to another program, and may come with someone else's repository: it must not pass for an option
/// (`--token`, `--cwd`) or a path.
fn is_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

async fn run(program: PathBuf, project: Project) -> Result<Obtained, TokenError> {
    let arguments = project.arguments();
    let failed = |problem: &str| {
        let problem = format!("{problem}. Run `vercel {}`", arguments.join(" "));
        TokenError::Refresh { problem, log: String::new(), source: None }
    };
    let mut child = Command::new(program)
        .args(&arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let command = arguments.join(" ");
            TokenError::Refresh {
                problem: format!("has expired. Install the Vercel CLI with `npm i -g vercel`. Run `vercel {command}`"),
                log: format!("cause=`{}`", error.kind()),
                source: Some(Arc::new(error)),
            }
        })?;
    let stdout = child.stdout.take();
    let work = async {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            // At the limit, the pipe closes, so the program ends. A read error is ignored: the exit status shows a
            // failure.
            let _ = stdout.take(MAX_OUTPUT_BYTES).read_to_end(&mut output).await;
        }
        (output, child.wait().await)
    };
    let Ok((output, status)) = tokio::time::timeout(TIMEOUT, work).await else {
        return Err(failed("has expired, and the Vercel CLI did not answer within 20 s"));
    };
    if !status.is_ok_and(|status| status.success()) {
        return Err(failed("has expired, and the Vercel CLI failed"));
    }
    let answer: TokenAnswer = json::object(&output)
        .ok_or_else(|| failed("has expired, and the Vercel CLI printed no token. Update the CLI"))?;
    let token = Token::parse(&answer.token, Source::Refreshed)
        .map_err(|mistake| failed(&format!("from the Vercel CLI is not usable: {mistake}")))?;
    let expiry = token.unverified_expiry();
    if expiry.is_some_and(|expiry| expiry <= SystemTime::now()) {
        return Err(failed("from the Vercel CLI has already expired. Check this machine's clock"));
    }
    // The first minute that the system can represent has no minute before it.
    let until = expiry.and_then(|expiry| expiry.checked_sub(MARGIN));
    Ok((token, until))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::UNIX_EPOCH;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    fn token(claims: &str, source: Source) -> Token {
        Token::parse(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)), source).unwrap()
    }

    async fn sent(source: Source, seconds_left: i64) -> Result<Token, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let token = token(&format!(r#"{{"exp": {}, "sub": "me"}}"#, now + seconds_left), source);
        unexpired(token, false, &Cache::new(CAPACITY, Duration::ZERO)).await
    }

    #[tokio::test]
    async fn a_token_that_expired_half_a_minute_ago_is_not_sent_and_the_error_says_how_long_ago() {
        for source in [Source::Header, Source::InternalHeader, Source::File, Source::Variable] {
            for seconds_left in [3600, 1, -20] {
                assert!(sent(source, seconds_left).await.is_ok(), "{source} {seconds_left}");
            }
            for (seconds_left, ago) in [(-40, "40 s"), (-400, "6 min"), (-40_000, "11 h"), (-4_000_000, "46 days")] {
                let error = sent(source, seconds_left).await.unwrap_err();
                let message = error.to_string();
                let expected = format!("The token in {} expired {ago} ago.", source.described());
                // The clock may tick meanwhile.
                assert!(message.starts_with(&expected) || message.contains("expired 41 s ago"), "{message}");
                assert!(message.len() <= 200, "{} characters: {message}", message.len());
                assert!(error.log_detail().contains("sub=`me`"));
            }
        }
    }

    #[tokio::test]
    async fn a_token_without_a_readable_expiry_is_sent() {
        let cache = Cache::new(CAPACITY, Duration::ZERO);
        for claims in ["{}", r#"{"exp": "1"}"#] {
            assert!(unexpired(token(claims, Source::Variable), true, &cache).await.is_ok());
        }
    }

    #[test]
    fn ids_can_be_no_option_and_no_path() {
        for good in ["prj_a", "a", "7", "a.b-c_d"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", "-x", "--token", "_a", ".", "..", "a/b", "a b", "a;b", "a=b", "a\n", "é"] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_project_file_is_a_json_object_with_ids() {
        let project = |id: &str, team: Option<&str>| Project { id: id.to_owned(), team: team.map(str::to_owned) };
        for (json, expected) in [
            (r#"{"projectId": "prj_a", "orgId": "team_b"}"#, Some(project("prj_a", Some("team_b")))),
            (r#"{"projectId": "prj_a", "orgId": "7Gw5ZMzpQA8h90F8"}"#, Some(project("prj_a", None))),
            (r#"{"projectId": "prj_a", "orgId": null}"#, Some(project("prj_a", None))),
            (r#"{"projectId": "prj_a"}"#, Some(project("prj_a", None))),
            (r#"{"projectId": "prj_a", "orgId": "--cwd=/"}"#, None),
            (r#"{"projectId": "prj_a", "orgId": ""}"#, None),
            (r#"{"projectId": "--token"}"#, None),
            (r#"{"orgId": "team_b"}"#, None),
            (r#"["prj_a", "team_b"]"#, None),
            ("", None),
        ] {
            assert_eq!(Project::parse(json.as_bytes()), expected, "{json}");
        }
    }

    #[tokio::test]
    async fn without_a_project_file_the_expired_token_names_the_project() {
        let folder = std::env::temp_dir();
        for (claims, arguments) in [
            (r#"{"project_id": "prj_a", "owner_id": "team_b"}"#, "project token prj_a --format=json --scope team_b"),
            (r#"{"project_id": "prj_a", "owner_id": "7Gw5ZMzpQA8h90F8"}"#, "project token prj_a --format=json"),
            (r#"{"project_id": "prj_a", "owner_id": "team_b --token"}"#, "project token prj_a --format=json"),
            (r#"{"project_id": "prj_a"}"#, "project token prj_a --format=json"),
        ] {
            let project = Project::find(&token(claims, Source::File), &folder).await.unwrap();
            assert_eq!(project.arguments().join(" "), arguments);
        }
        for claims in ["{}", r#"{"project_id": "--token"}"#, r#"{"project_id": 7}"#] {
            let error = Project::find(&token(claims, Source::File), &folder).await.unwrap_err();
            let expected =
                "The token in the file of `VERCEL_OIDC_TOKEN_FILE` has expired, and this folder is not linked";
            assert!(error.to_string().starts_with(expected), "{claims}: {error}");
        }
    }

    /// The clock stands still until everything waits for it, and then jumps to the limit.
    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_cli_that_hangs_is_stopped_after_20_seconds() {
        use std::io::{BufRead as _, Read as _};
        use std::os::unix::fs::PermissionsExt;

        let folder = std::env::temp_dir().join(format!("vercel-oidc-client-hang-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (program, pipe, never) = (folder.join("vercel"), folder.join("pipe"), folder.join("never"));
        assert!(std::process::Command::new("mkfifo").args([&pipe, &never]).status().unwrap().success());
        let script =
            format!("#!/bin/sh\nexec 3> '{}'\necho started >&3\nread line < '{}'\n", pipe.display(), never.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

        let project = Project { id: "prj_a".to_owned(), team: None };
        let running = tokio::spawn(run(program, project));
        // The clock does not jump while a blocking task runs.
        let started = tokio::task::spawn_blocking(move || {
            let mut pipe = std::io::BufReader::new(std::fs::File::open(pipe).unwrap());
            let mut line = String::new();
            pipe.read_line(&mut line).unwrap();
            (pipe, line)
        });
        let (mut pipe, line) = started.await.unwrap();
        assert_eq!(line, "started\n");
        let began = tokio::time::Instant::now();
        let message = running.await.unwrap().unwrap_err().to_string();
        assert!(message.contains("20 s. Run `vercel project token prj_a --format=json`."), "{message}");
        assert!(began.elapsed() <= TIMEOUT);
        // The pipe ends when the last process that can write to it has ended. A CLI that still runs fails the test.
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || ended.send(pipe.read_to_end(&mut Vec::new()).unwrap()));
        let rest = tokio::task::spawn_blocking(move || end.recv_timeout(Duration::from_secs(30)));
        assert_eq!(rest.await.unwrap(), Ok(0), "the CLI still runs");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
