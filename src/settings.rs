//! Environment variables in; settings, or every problem at once, out.
//!
//! The one place that knows the names of the variables. It reads them through a function, so that tests need not touch
//! the environment of the process, and does no input or output. Whatever is set must be right: a rule that can't be
//! read is never skipped.

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;
use tracing_subscriber::filter::Targets;

use crate::oidc::{Subject, Trust, Trusted, VERCEL_ISSUER, is_slug, vercel_audience, vercel_issuer};
pub use crate::variables::Problems;
use crate::variables::Variables;

const TEAM_SLUG: &str = "OIDC_TEAM_SLUG";
const PROJECT_NAME: &str = "OIDC_PROJECT_NAME";
const ENVIRONMENT: &str = "OIDC_ENVIRONMENT";
const ISSUER_MODE: &str = "OIDC_ISSUER_MODE";
const ISSUER: &str = "OIDC_ISSUER";
const JWKS_URL: &str = "OIDC_JWKS_URL";
const AUDIENCE: &str = "OIDC_AUDIENCE";
const SUBJECT: &str = "OIDC_SUBJECT";
const OWNER_ID: &str = "OIDC_OWNER_ID";
const PROJECT_ID: &str = "OIDC_PROJECT_ID";

/// With any of these set, the operator has chosen whom to trust, and the deployment's own project is not trusted by
/// itself.
const TRUST_VARIABLES: [&str; 10] =
    [TEAM_SLUG, PROJECT_NAME, ENVIRONMENT, ISSUER_MODE, ISSUER, JWKS_URL, AUDIENCE, SUBJECT, OWNER_ID, PROJECT_ID];

const MAX_LEEWAY_SECONDS: u64 = 300;

/// What the backend is told from outside.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address or host name to listen at.
    pub host: String,
    /// The port to listen at; 0 takes any free one.
    pub port: u16,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are.
    pub log_filter: Targets,
    /// Whom to trust.
    pub trust: Trust,
    /// Where the issuer's keys are.
    pub jwks_url: Url,
    /// How many verified tokens to remember.
    pub remembered_tokens: usize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

impl Settings {
    /// Reads the settings, for example with [`std::env::var_os`].
    ///
    /// ```
    /// use backend::settings::Settings;
    ///
    /// let settings = Settings::read(|name| match name {
    ///     "OIDC_TEAM_SLUG" => Some("acme"),
    ///     "OIDC_PROJECT_NAME" => Some("shop"),
    ///     _ => None,
    /// })?;
    /// assert_eq!(settings.jwks_url.as_str(), "https://oidc.vercel.com/acme/.well-known/jwks");
    /// # Ok::<(), backend::settings::Problems>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Problems`]: every variable that is missing or wrong.
    pub fn read<V: Into<OsString>>(variable: impl Fn(&str) -> Option<V>) -> Result<Self, Problems> {
        let mut variables = Variables::new(variable);
        let host = variables.parsed("HOST", "0.0.0.0".into(), "an IP address or a host name", host);
        let port = variables.parsed("PORT", 3001, "a port: 0 to 65535", |text| text.parse().ok());
        let log_format = variables.parsed("LOG_FORMAT", LogFormat::Text, "`text` or `json`", |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
        let expected = "a level such as `info`, or a list such as `backend=debug,warn`";
        let info = Targets::new().with_default(tracing::Level::INFO);
        let log_filter = variables.parsed("RUST_LOG", info, expected, |text| text.parse().ok());
        let leeway = variables.parsed("OIDC_CLOCK_LEEWAY_SECONDS", 30, "seconds: 0 to 300", |text| {
            text.parse().ok().filter(|seconds| *seconds <= MAX_LEEWAY_SECONDS)
        });
        let remembered =
            variables.parsed("OIDC_REMEMBERED_TOKENS", 10_000, "a number of tokens: 0 to 4294967295", |text| {
                text.parse::<u32>().ok()
            });
        let trusted = variables.trusted();
        match trusted {
            Some((who, jwks_url)) if variables.are_right() => Ok(Self {
                host,
                port,
                log_format,
                log_filter,
                trust: Trust { who, leeway: Duration::from_secs(leeway) },
                jwks_url,
                remembered_tokens: remembered as usize,
            }),
            _ => Err(variables.into_problems()),
        }
    }
}

impl<V: Into<OsString>, F: Fn(&str) -> Option<V>> Variables<F> {
    /// Names that are parts of a subject. A `:` in one would move the parts after it, and a `*` would make it a
    /// pattern.
    fn names(&mut self, name: &str) -> Option<Vec<String>> {
        let names = self.list(name)?;
        if names.iter().any(|part| part.contains([':', '*'])) {
            self.problem(name, format_args!("takes plain names, without `:` and `*`: for a pattern set {SUBJECT}"));
        }
        Some(names)
    }

    /// Whom to trust, and where the keys are; or nothing, and a problem that says why.
    fn trusted(&mut self) -> Option<(Trusted, Url)> {
        if TRUST_VARIABLES.iter().all(|name| self.text(name).is_none())
            && let Some(project_id) = self.text("VERCEL_PROJECT_ID")
            && let Some(environment) = self.text("VERCEL_TARGET_ENV").or_else(|| self.text("VERCEL_ENV"))
        {
            let keys = jwks_url(VERCEL_ISSUER)?;
            return Some((Trusted::SameProject { project_id, environment }, keys));
        }

        let team = self.parsed(TEAM_SLUG, None, "a team's slug: letters, digits, `-` and `_`", |text| {
            is_slug(text).then(|| Some(text.to_owned()))
        });
        let projects = self.names(PROJECT_NAME);
        let environments = self.names(ENVIRONMENT).unwrap_or_else(|| vec!["production".into()]);
        let is_global = self.parsed(ISSUER_MODE, false, "`team` or `global`", |text| match text {
            "team" => Some(false),
            "global" => Some(true),
            _ => None,
        });
        let issuer = self.url(ISSUER).or_else(|| match &team {
            _ if is_global => Some(VERCEL_ISSUER.into()),
            team => team.as_deref().map(vercel_issuer),
        });
        let audiences = self.list(AUDIENCE).or_else(|| Some(vec![vercel_audience(team.as_ref()?)]));
        let subjects = self.list(SUBJECT);
        let jwks_url = match self.url(JWKS_URL) {
            Some(url) => Url::parse(&url).ok(),
            None => issuer.as_deref().and_then(jwks_url),
        };
        let owner_ids = self.list(OWNER_ID);
        let project_ids = self.list(PROJECT_ID);

        if self.text(TEAM_SLUG).is_none() && (issuer.is_none() || audiences.is_none() || subjects.is_none()) {
            let problem = format!(
                "is not set, and is needed unless {ISSUER}, {AUDIENCE} and {SUBJECT} all are: \
                 set it to your team's slug, as in https://vercel.com/[slug]"
            );
            self.problem(TEAM_SLUG, problem);
        }
        if projects.is_none() && subjects.is_none() {
            let problem =
                format!("is not set, and is needed unless {SUBJECT} is: set it to the calling project's name");
            self.problem(PROJECT_NAME, problem);
        }
        let subjects = match (subjects, team, projects) {
            (Some(subjects), _, _) => subjects.into_iter().map(Subject::new).collect(),
            (None, Some(team), Some(projects)) => projects
                .iter()
                .flat_map(|project| environments.iter().map(|environment| Subject::of(&team, project, environment)))
                .collect(),
            (None, _, _) => return None,
        };
        Some((
            Trusted::Subjects { issuer: issuer?, audiences: audiences?, subjects, owner_ids, project_ids },
            jwks_url?,
        ))
    }
}

fn jwks_url(issuer: &str) -> Option<Url> {
    Url::parse(&format!("{}/.well-known/jwks", issuer.trim_end_matches('/'))).ok()
}

fn host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    (is_name || bare.parse::<IpAddr>().is_ok()).then(|| bare.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Problems> {
        Settings::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    const PROJECT: [(&str, &str); 2] = [(TEAM_SLUG, "acme"), (PROJECT_NAME, "shop")];

    fn read_with(more: &[(&str, &str)]) -> Settings {
        read(&[more, &PROJECT].concat()).unwrap()
    }

    #[test]
    fn a_team_and_a_project_are_enough() {
        let blank = [("PORT", ""), ("HOST", " "), ("LOG_FORMAT", "\t"), ("RUST_LOG", ""), (ISSUER, ""), (SUBJECT, " ")];
        for more in [&[][..], &blank, &[("VERCEL_PROJECT_ID", "prj_1"), ("VERCEL_ENV", "preview")]] {
            let settings = read_with(more);
            assert_eq!((settings.host.as_str(), settings.port, settings.remembered_tokens), ("0.0.0.0", 3001, 10_000));
            assert_eq!((settings.log_format, settings.trust.leeway), (LogFormat::Text, Duration::from_secs(30)));
            assert_eq!(settings.jwks_url.as_str(), "https://oidc.vercel.com/acme/.well-known/jwks");
            let trusted = format!("{:?}", settings.trust.who);
            assert_eq!(trusted, format!("{:?}", Trust::project("acme", "shop", "production").who));
        }
    }

    #[test]
    fn every_pair_of_project_and_environment_is_a_subject() {
        let settings = read_with(&[(PROJECT_NAME, "a, b,"), (ENVIRONMENT, "preview,staging")]);
        let Trusted::Subjects { subjects, .. } = settings.trust.who else { unreachable!() };
        let expected = [("a", "preview"), ("a", "staging"), ("b", "preview"), ("b", "staging")];
        assert_eq!(subjects, expected.map(|(project, environment)| Subject::of("acme", project, environment)));
    }

    #[test]
    fn keys_are_below_the_issuer_unless_they_are_elsewhere() {
        for (more, url) in [
            (&[(ISSUER_MODE, "global")][..], "https://oidc.vercel.com/.well-known/jwks"),
            (&[(ISSUER, "https://issuer.test/x")], "https://issuer.test/x/.well-known/jwks"),
            (&[(ISSUER, "https://issuer.test/x/")], "https://issuer.test/x/.well-known/jwks"),
            (&[(ISSUER, "https://issuer.test"), (JWKS_URL, "https://keys.test/a?b")], "https://keys.test/a?b"),
        ] {
            assert_eq!(read_with(more).jwks_url.as_str(), url, "{more:?}");
        }
    }

    #[test]
    fn same_project_mode_is_for_when_nothing_else_is_said() {
        let deployment = [("VERCEL_PROJECT_ID", "prj_1"), ("VERCEL_TARGET_ENV", "staging"), ("VERCEL_ENV", "preview")];
        let settings = read(&deployment).unwrap();
        assert_eq!(settings.jwks_url.as_str(), "https://oidc.vercel.com/.well-known/jwks");
        assert!(matches!(&settings.trust.who, Trusted::SameProject { project_id, environment }
            if project_id == "prj_1" && environment == "staging"));
        // What isn't about trust leaves it as it is.
        assert!(read(&[&deployment[..], &[("OIDC_CLOCK_LEEWAY_SECONDS", "0"), ("PORT", "1")]].concat()).is_ok());
        for name in TRUST_VARIABLES {
            let value = if [ISSUER, JWKS_URL].contains(&name) { "https://x.test" } else { "global" };
            let chosen = read(&[&deployment[..], &[(name, value)]].concat());
            assert!(chosen.is_err(), "{name} alone settles nothing");
        }
        assert!(read(&deployment[1..]).is_err() && read(&deployment[..1]).is_err());
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for url in [
            "https://x.test",
            "http://127.0.0.1:1/",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://localhost:1/x",
            "http://LOCALHOST",
        ] {
            assert!(read(&[&PROJECT[..], &[(JWKS_URL, url)]].concat()).is_ok(), "{url}");
        }
        for url in [
            "http://x.test",
            "http://127.0.0.1.x.test",
            "http://localhost.x.test",
            "http://[::]",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://localhost@x.test",
            "https://a:b@x.test",
            "https://x.test/#a",
            "ws://localhost",
            "x.test",
            "http:",
            "//localhost",
        ] {
            assert!(read(&[&PROJECT[..], &[(JWKS_URL, url)]].concat()).is_err(), "{url}");
        }
    }

    #[test]
    fn a_number_is_taken_to_its_limit() {
        for (name, good, bad) in [
            ("OIDC_CLOCK_LEEWAY_SECONDS", &["0", "300"][..], &["301", "-1", "1.5", "x"][..]),
            ("OIDC_REMEMBERED_TOKENS", &["0", "1", "1000000"], &["-1", "x", "1e3"]),
            ("PORT", &["0", "65535"], &["65536", "-1", "x"]),
        ] {
            for value in good {
                assert!(read(&[&PROJECT[..], &[(name, *value)]].concat()).is_ok(), "{name}={value}");
            }
            for value in bad {
                let problems = read(&[&PROJECT[..], &[(name, *value)]].concat()).unwrap_err().to_string();
                assert!(problems.starts_with(name) && problems.lines().count() == 1, "{name}={value}: {problems}");
            }
        }
    }

    /// A secret that went to the wrong variable isn't printed whole.
    #[test]
    fn a_problem_shows_the_start_of_a_value() {
        let problems = read(&[("LOG_FORMAT", &*"x".repeat(1000)), PROJECT[0], PROJECT[1]]).unwrap_err().to_string();
        assert!(problems.contains(&"x".repeat(24)) && !problems.contains(&"x".repeat(25)), "{problems}");
    }
}
