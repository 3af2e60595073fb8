//! Reads the settings from environment variables, or reports every error at once.
//!
//! The only place that reads the backend's variables. It reads them through a function, so tests don't touch the
//! environment of the process. It does no input or output. A value that is set must be valid: a rule that can't be read
//! is never skipped.

mod variables;

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use vercel_oidc_verifier::{KeySet, Subject, Trust, TrustError, VERCEL_ISSUER};

pub use self::variables::SettingsError;
use self::variables::Variables;

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
const VERCEL_PROJECT_ID: &str = "VERCEL_PROJECT_ID";
const VERCEL_TARGET_ENV: &str = "VERCEL_TARGET_ENV";
const VERCEL_ENV: &str = "VERCEL_ENV";

/// If any of these is set, the operator has chosen whom to trust, so same-project mode is off.
const TRUST_VARIABLES: [&str; 10] =
    [TEAM_SLUG, PROJECT_NAME, ENVIRONMENT, ISSUER_MODE, ISSUER, JWKS_URL, AUDIENCE, SUBJECT, OWNER_ID, PROJECT_ID];

const MAX_LEEWAY_SECONDS: u64 = 300;

/// The backend's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address or host name to listen at.
    pub host: String,
    /// The port to listen at; 0 takes any free one.
    pub port: u16,
    /// The format of the log.
    pub log_format: LogFormat,
    /// Which events are logged.
    pub log_filter: Targets,
    /// Which tokens are accepted.
    pub trust: Trust,
    /// The issuer's keys.
    pub keys: KeySet,
    /// How many verified tokens are cached; 0 turns the cache off.
    pub cached_tokens: usize,
    /// How many threads serve requests. `None` is one for each core.
    pub worker_threads: Option<usize>,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
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
    ///     "OIDC_PROJECT_NAME" => Some("storefront"),
    ///     "OIDC_OWNER_ID" => Some("team_7Gw5ZMzpQA8h90F832KGp7nw"),
    ///     _ => None,
    /// })?;
    /// assert_eq!(settings.trust.subjects()[0].as_str(), "owner:acme:project:storefront:environment:production");
    /// # Ok::<(), backend::settings::SettingsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SettingsError`]: every variable that is missing or wrong.
    pub fn read<V: Into<OsString>>(variable: impl Fn(&str) -> Option<V>) -> Result<Self, SettingsError> {
        let mut variables = Variables::new(variable);
        let host = variables.parsed("HOST", "0.0.0.0".into(), "an IP address or a host name", host);
        let port = variables.parsed("PORT", 3001, "a port: 0 to 65535", |text| text.parse().ok());
        let log_format = variables.parsed("LOG_FORMAT", LogFormat::Text, "`text` or `json`", |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
        let info = Targets::new().with_default(LevelFilter::INFO);
        let expected = "a level (off, error, warn, info, debug, trace) or a list such as `info,backend=debug`";
        let log_filter = variables.parsed("RUST_LOG", info, expected, log_filter);
        let leeway = variables.parsed("OIDC_CLOCK_LEEWAY_SECONDS", 30, "seconds: 0 to 300", |text| {
            text.parse().ok().filter(|seconds| *seconds <= MAX_LEEWAY_SECONDS)
        });
        let cached_tokens =
            variables.parsed("OIDC_REMEMBERED_TOKENS", 10_000, "a number of tokens: 0 to 4294967295", |text| {
                text.parse::<u32>().ok()
            });
        // tokio reads this variable itself, and panics if it is wrong.
        let worker_threads = variables.parsed("TOKIO_WORKER_THREADS", None, "a number of threads: 1 to 1024", |text| {
            text.parse().ok().filter(|threads| (1..=1024).contains(threads)).map(Some)
        });
        match variables.trust() {
            Some((trust, keys)) if !variables.has_errors() => Ok(Self {
                host,
                port,
                log_format,
                log_filter,
                trust: trust.with_leeway(Duration::from_secs(leeway)),
                keys,
                cached_tokens: cached_tokens as usize,
                worker_threads,
            }),
            _ => Err(variables.into_error()),
        }
    }
}

impl<V: Into<OsString>, F: Fn(&str) -> Option<V>> Variables<F> {
    /// Names that become parts of a subject.
    fn names(&mut self, name: &str) -> Option<Vec<String>> {
        let names = self.plain_list(name)?;
        self.require_name(name, &names);
        Some(names)
    }

    /// Accepted subjects. A branch's name can be part of another issuer's subject, so more characters are valid here
    /// than in names and ids.
    fn subjects(&mut self) -> Option<Vec<String>> {
        let subjects = self.list(SUBJECT)?;
        let is_quote = |c: char| c == '"' || c == '\'';
        if subjects.iter().any(|subject| {
            subject.starts_with(is_quote) || subject.contains(char::is_control) || subject.contains(" #")
        }) {
            self.report(SUBJECT, "has quotes around it, a comment or a control character: set the plain value");
        }
        Some(subjects)
    }

    /// A variable without effect would make the operator believe in a rule that does not exist.
    fn refuse_without_effect(&mut self, name: &str, beside: &str) {
        if self.is_set(name) && self.is_set(beside) {
            self.report(name, format_args!("has no effect beside {beside}: unset one of them"));
        }
    }

    /// Whom to trust and where the keys are. `None` if an error has been reported.
    fn trust(&mut self) -> Option<(Trust, KeySet)> {
        if !TRUST_VARIABLES.iter().any(|name| self.is_set(name))
            && let Some((project_id, environment)) = self.same_project()
        {
            let trust = Trust::same_project(project_id, environment);
            return Some((self.made(VERCEL_PROJECT_ID, trust)?, KeySet::of_issuer(VERCEL_ISSUER).ok()?));
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
        let issuer = self.url(ISSUER);
        if issuer.as_ref().is_some_and(|issuer| issuer.contains(',')) {
            self.report(ISSUER, "has a comma: one issuer is accepted");
        }
        let issuer = issuer.or_else(|| match &team {
            _ if is_global => Some(VERCEL_ISSUER.into()),
            team => team.as_ref().map(|team| format!("{VERCEL_ISSUER}/{team}")),
        });
        let audiences =
            self.plain_list(AUDIENCE).or_else(|| Some(vec![format!("https://vercel.com/{}", team.as_ref()?)]));
        let subjects = self.subjects();
        let keys = match self.url(JWKS_URL) {
            Some(url) => KeySet::from_url(&url).ok(),
            None => issuer.as_deref().and_then(|issuer| KeySet::of_issuer(issuer).ok()),
        };
        let owner_ids = self.plain_list(OWNER_ID);
        let project_ids = self.plain_list(PROJECT_ID);

        self.refuse_without_effect(PROJECT_NAME, SUBJECT);
        self.refuse_without_effect(ENVIRONMENT, SUBJECT);
        self.refuse_without_effect(ISSUER_MODE, ISSUER);
        if !self.is_set(TEAM_SLUG) && (issuer.is_none() || audiences.is_none() || subjects.is_none()) {
            let error = format!(
                "is not set: use your team's slug, as in https://vercel.com/[slug], \
                 or set {ISSUER}, {AUDIENCE} and {SUBJECT} instead"
            );
            self.report(TEAM_SLUG, error);
        }
        if projects.is_none() && subjects.is_none() {
            let error = format!("is not set: use the calling project's name, or set {SUBJECT} instead");
            self.report(PROJECT_NAME, error);
        }
        let subjects = match (subjects, team, projects) {
            (Some(subjects), _, _) => subjects.into_iter().map(Subject::new).collect(),
            (None, Some(team), Some(projects)) => {
                let of = |(project, environment): (&String, &String)| Subject::of(&team, project, environment);
                let pairs = projects.iter().flat_map(|project| environments.iter().map(move |one| (project, one)));
                let subjects: Result<Vec<_>, _> = pairs.map(of).collect();
                self.made(PROJECT_NAME, subjects)?
            }
            (None, _, _) => return None,
        };
        let mut trust = self.made(ISSUER, Trust::issuer(issuer?, audiences?, subjects))?;
        if let Some(ids) = owner_ids {
            trust = self.made(OWNER_ID, trust.with_owner_ids(ids))?;
        }
        if let Some(ids) = project_ids {
            trust = self.made(PROJECT_ID, trust.with_project_ids(ids))?;
        }
        Some((trust, keys?))
    }

    /// What a constructor of the crate returns. Each of its errors is reported before, and here at the latest.
    fn made<T>(&mut self, name: &str, result: Result<T, TrustError>) -> Option<T> {
        if let Err(error) = &result
            && !self.has_errors()
        {
            self.report(name, error);
        }
        result.ok()
    }

    /// This deployment's own project and environment, if Vercel's variables name them.
    fn same_project(&mut self) -> Option<(String, String)> {
        let project_id = self.text(VERCEL_PROJECT_ID)?;
        let environment_variable = if self.is_set(VERCEL_TARGET_ENV) { VERCEL_TARGET_ENV } else { VERCEL_ENV };
        let environment = self.text(environment_variable)?;
        self.require_plain(VERCEL_PROJECT_ID, std::slice::from_ref(&project_id));
        self.require_name(environment_variable, std::slice::from_ref(&environment));
        Some((project_id, environment))
    }
}

/// One or more letters, digits, `-` and `_`.
fn is_slug(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        && bare.contains(|c: char| c.is_ascii_alphanumeric());
    (is_name || bare.parse::<IpAddr>().is_ok()).then(|| bare.to_owned())
}

/// A level, or a list of levels and `target=level`.
///
/// Stricter than [`Targets`], which takes `warning` or `true` for the name of a target and then logs nothing else, and
/// `info,` for two items of which the second turns everything on.
fn log_filter(text: &str) -> Option<Targets> {
    let items: Vec<_> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    let mut filter = Targets::new();
    // Without a level for everything else, `backend=debug` would hide that the keys can't be fetched.
    if items.iter().all(|item| item.contains('=')) {
        filter = filter.with_default(LevelFilter::INFO);
    }
    for item in items {
        filter = match item.split_once('=') {
            None => filter.with_default(level(item)?),
            Some((target, level_of_target)) => filter.with_target(target_name(target)?, level(level_of_target)?),
        };
    }
    Some(filter)
}

fn target_name(text: &str) -> Option<&str> {
    let text = text.trim();
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:.".contains(&byte));
    (is_name && !text.is_empty()).then_some(text)
}

fn level(text: &str) -> Option<LevelFilter> {
    match text.trim().to_ascii_lowercase().as_str() {
        "off" => Some(LevelFilter::OFF),
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fmt::Debug;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    const PROJECT: [(&str, &str); 2] = [(TEAM_SLUG, "acme"), (PROJECT_NAME, "shop")];

    fn read_with(more: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        read(&[more, &PROJECT].concat())
    }

    #[track_caller]
    fn assert_same(one: impl Debug, other: impl Debug) {
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }

    /// Demands one line that begins with this variable.
    #[track_caller]
    fn assert_one_error(settings: Result<Settings, SettingsError>, name: &str) {
        let errors = settings.unwrap_err().to_string();
        assert!(errors.starts_with(&format!("{name}: ")) && errors.lines().count() == 1, "{name}: {errors}");
    }

    #[test]
    fn a_team_and_a_project_are_enough() {
        let blank = [("PORT", ""), ("HOST", " "), ("LOG_FORMAT", "\t"), ("RUST_LOG", ""), (ISSUER, ""), (SUBJECT, " ")];
        for more in [&[][..], &blank, &[(VERCEL_PROJECT_ID, "prj_1"), (VERCEL_ENV, "preview")]] {
            let settings = read_with(more).unwrap();
            assert_eq!((settings.host.as_str(), settings.port, settings.cached_tokens), ("0.0.0.0", 3001, 10_000));
            assert_eq!(settings.log_format, LogFormat::Text);
            assert_same(settings.log_filter, Targets::new().with_default(LevelFilter::INFO));
            assert_same(settings.keys, KeySet::from_url("https://oidc.vercel.com/acme/.well-known/jwks").unwrap());
            assert_same(settings.trust, Trust::project("acme", "shop", "production").unwrap());
        }
    }

    #[test]
    fn every_pair_of_project_and_environment_is_a_subject() {
        let settings = read_with(&[(PROJECT_NAME, "a, b,"), (ENVIRONMENT, "preview,staging")]).unwrap();
        let expected = [("a", "preview"), ("a", "staging"), ("b", "preview"), ("b", "staging")];
        let expected = expected.map(|(project, environment)| Subject::of("acme", project, environment).unwrap());
        assert_eq!(settings.trust.subjects(), expected);
    }

    #[test]
    fn reads_ids_and_leeway() {
        let more = [(OWNER_ID, "team_1, team_2"), (PROJECT_ID, "prj_1"), ("OIDC_CLOCK_LEEWAY_SECONDS", "5")];
        let expected = Trust::project("acme", "shop", "production")
            .and_then(|trust| trust.with_owner_ids(["team_1", "team_2"]))
            .and_then(|trust| trust.with_project_ids(["prj_1"]))
            .unwrap()
            .with_leeway(Duration::from_secs(5));
        assert_same(read_with(&more).unwrap().trust, expected);
    }

    #[test]
    fn the_default_url_of_the_keys_follows_from_the_issuer() {
        for (more, url) in [
            (&[(ISSUER_MODE, "global")][..], "https://oidc.vercel.com/.well-known/jwks"),
            (&[(ISSUER, "https://issuer.test/x")], "https://issuer.test/x/.well-known/jwks"),
            (&[(ISSUER, "https://issuer.test/x/")], "https://issuer.test/x/.well-known/jwks"),
            (&[(ISSUER, "https://issuer.test"), (JWKS_URL, "https://keys.test/a?b")], "https://keys.test/a?b"),
        ] {
            assert_same(read_with(more).unwrap().keys, KeySet::from_url(url).unwrap());
        }
    }

    #[test]
    fn any_trust_variable_turns_same_project_mode_off() {
        let deployment = [(VERCEL_PROJECT_ID, "prj_1"), (VERCEL_TARGET_ENV, "staging"), (VERCEL_ENV, "preview")];
        let settings = read(&deployment).unwrap();
        assert_same(settings.keys, KeySet::of_issuer("https://oidc.vercel.com").unwrap());
        assert_same(settings.trust, Trust::same_project("prj_1", "staging").unwrap());
        assert_same(
            read(&[deployment[0], deployment[2]]).unwrap().trust,
            Trust::same_project("prj_1", "preview").unwrap(),
        );
        // Variables that are not about trust don't turn the mode off.
        assert!(read(&[&deployment[..], &[("OIDC_CLOCK_LEEWAY_SECONDS", "0"), ("PORT", "1")]].concat()).is_ok());
        for name in TRUST_VARIABLES {
            let value = if [ISSUER, JWKS_URL].contains(&name) { "https://x.test" } else { "global" };
            let chosen = read(&[&deployment[..], &[(name, value)]].concat());
            assert!(chosen.is_err(), "{name} alone is not enough");
        }
        assert!(read(&deployment[1..]).is_err() && read(&deployment[..1]).is_err());
    }

    #[test]
    fn plain_http_is_allowed_to_loopback_only() {
        for name in [ISSUER, JWKS_URL] {
            for url in ["https://x.test", "http://127.0.0.1:1/", "http://[::1]:1", "http://localhost:1/x"] {
                assert!(read_with(&[(name, url)]).is_ok(), "{name}={url}");
            }
            for url in [
                "http://x.test",
                "http://127.0.0.1.x.test",
                "http://localhost@x.test",
                "https://a:b@x.test",
                "https://x.test/#a",
                "https://x.test/a # comment",
                "https://x.test/a b",
                "https://x.test/a\"",
                "'https://x.test/a'",
                "https:\\\\x.test",
                "ws://localhost",
                "x.test",
            ] {
                assert_one_error(read_with(&[(name, url)]), name);
            }
        }
    }

    #[test]
    fn a_number_or_a_host_is_valid_up_to_its_limit() {
        for (name, good, bad) in [
            ("OIDC_CLOCK_LEEWAY_SECONDS", &["0", "300"][..], &["301", "-1", "1.5", "x"][..]),
            ("OIDC_REMEMBERED_TOKENS", &["0", "1", "1000000"], &["-1", "x", "1e3"]),
            ("PORT", &["0", "65535"], &["65536", "-1", "x"]),
            ("HOST", &["::1", "[::1]", "0", "a-b.c_d"], &["[]", ".", "-", "a b", "127.0.0.1:80"]),
        ] {
            for value in good {
                assert!(read_with(&[(name, *value)]).is_ok(), "{name}={value}");
            }
            for value in bad {
                assert_one_error(read_with(&[(name, *value)]), name);
            }
        }
    }

    #[test]
    fn a_variable_without_effect_is_an_error_that_names_both() {
        let (subject, issuer) = ((SUBJECT, "owner:acme:project:*:environment:*"), (ISSUER, "https://issuer.test"));
        for (name, value, beside) in [
            (PROJECT_NAME, "shop", subject),
            (ENVIRONMENT, "production", subject),
            (ISSUER_MODE, "team", issuer),
            (ISSUER_MODE, "global", issuer),
        ] {
            let base = if beside == issuer { vec![PROJECT[0], PROJECT[1]] } else { vec![PROJECT[0]] };
            assert!(read(&[&base[..], &[beside]].concat()).is_ok());
            let errors = read(&[&[(name, value), beside][..], &base].concat()).unwrap_err().to_string();
            assert_eq!(errors, format!("{name}: has no effect beside {}: unset one of them", beside.0));
            assert!(read(&[&[(name, " "), beside][..], &base].concat()).is_ok() || name == PROJECT_NAME);
        }
        // These combinations are valid.
        for more in [
            &[issuer, (AUDIENCE, "a")][..],
            &[issuer, (JWKS_URL, "https://keys.test")],
            &[(JWKS_URL, "https://x.test")],
        ] {
            assert!(read_with(more).is_ok(), "{more:?}");
        }
        assert!(read(&[PROJECT[0], subject, issuer, (AUDIENCE, "a"), (OWNER_ID, "team_1")]).is_ok());
    }

    /// `docker --env-file` keeps the quotes and comments of an `.env` file.
    #[test]
    fn a_value_that_no_claim_can_equal_is_an_error() {
        for name in [PROJECT_NAME, ENVIRONMENT, AUDIENCE, OWNER_ID, PROJECT_ID] {
            for value in [
                "\"web\"",
                "'web'",
                "`web`",
                "\u{201c}web\u{201d}",
                "web # comment",
                "web#1",
                "web;",
                "a b",
                "a\tb",
                "a\u{a0}b",
                "a\u{200b}b",
                "\u{feff}web",
                "a\u{7}",
                "web,\"b",
            ] {
                assert_one_error(read_with(&[(name, value)]), name);
            }
            assert!(read_with(&[(name, " web-1_a.b , ünïcödé ")]).is_ok(), "{name}");
        }
        for name in [TEAM_SLUG, PROJECT_NAME, ENVIRONMENT, AUDIENCE, OWNER_ID, PROJECT_ID] {
            assert_one_error(read_with(&[(name, "a*")]), name);
            let is_part_of_a_subject = [TEAM_SLUG, PROJECT_NAME, ENVIRONMENT].contains(&name);
            assert_eq!(read_with(&[(name, "a:b")]).is_err(), is_part_of_a_subject, "{name}");
        }
        for (name, value) in [(VERCEL_PROJECT_ID, "prj_*"), (VERCEL_ENV, "*"), (VERCEL_ENV, "a:b")] {
            assert_one_error(read(&[(name, value), (VERCEL_PROJECT_ID, "prj_1"), (VERCEL_ENV, "preview")]), name);
        }
        for issuer in ["https://a.test,https://b.test", "https://a.test https://b.test"] {
            assert_one_error(read_with(&[(ISSUER, issuer)]), ISSUER);
        }
        let deployment = [(VERCEL_PROJECT_ID, "\"prj_1\""), (VERCEL_ENV, "preview")];
        assert_one_error(read(&deployment), VERCEL_PROJECT_ID);
        assert_one_error(read(&[(VERCEL_PROJECT_ID, "prj_1"), (VERCEL_ENV, "\"preview\"")]), VERCEL_ENV);
        assert_one_error(read(&[(VERCEL_PROJECT_ID, "prj_1"), (VERCEL_TARGET_ENV, "a b")]), VERCEL_TARGET_ENV);
        for value in ["\"owner:a\"", "'owner:a'", "owner:a # comment", "owner:\u{7}a"] {
            assert_one_error(read(&[PROJECT[0], (SUBJECT, value)]), SUBJECT);
        }
        assert!(read(&[PROJECT[0], (SUBJECT, "repo:a/b:ref:refs/heads/fix-#1;'x'")]).is_ok());
    }

    #[test]
    fn rust_log_is_a_level_or_a_list() {
        let filter = |text| log_filter(text).map(|filter| format!("{filter:?}"));
        let expected = |filter: Targets| Some(format!("{filter:?}"));
        let default = |level| expected(Targets::new().with_default(level));
        for (text, level) in [
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("INFO", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
            ("info,", LevelFilter::INFO),
            (",,info,", LevelFilter::INFO),
            (",", LevelFilter::INFO),
        ] {
            assert_eq!(filter(text), default(level), "{text}");
        }
        // The failures of the key fetch stay in the log.
        let list = Targets::new().with_default(LevelFilter::INFO).with_target("backend", LevelFilter::DEBUG);
        assert_eq!(filter("backend=debug"), expected(list));
        let list = Targets::new().with_default(LevelFilter::WARN).with_target("backend::server", LevelFilter::DEBUG);
        assert_eq!(filter("warn, backend::server = debug,"), expected(list));
        for text in [
            "warning",
            "true",
            "1",
            "backend",
            "verbose",
            "information",
            "\"info\"",
            "info backend=debug",
            "info;warn",
            "backend=",
            "backend=verbose",
            "backend=1",
            "=info",
            "=",
            "a=b=info",
            "[span]=info",
            "backend[span]=info",
            "info,backend",
            "'backend=info'",
        ] {
            assert_eq!(filter(text), None, "{text}");
            assert_one_error(read_with(&[("RUST_LOG", text)]), "RUST_LOG");
        }
    }

    /// A secret that went to the wrong variable isn't printed whole.
    #[test]
    fn an_error_shows_the_start_of_a_value() {
        let errors = read_with(&[("LOG_FORMAT", &*"x".repeat(1000))]).unwrap_err().to_string();
        assert!(errors.contains(&"x".repeat(24)) && !errors.contains(&"x".repeat(25)), "{errors}");
    }
}
