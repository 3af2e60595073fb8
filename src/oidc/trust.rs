//! Whom this API trusts: which issuer, audience, time and subject it accepts.
//!
//! Pure functions of the claims, the rules and the time. [`Claims`] exist only if the signature is verified. The rules
//! are in RFC 7519, section 4.1. The names are in <https://vercel.com/docs/oidc/reference>.

use std::fmt;
use std::slice::from_ref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::claims::Claims;
use crate::error::{Forbidden, Invalid, TrustError, VerifyError};
use crate::subject::{Subject, require_name, require_plain};

/// Vercel's issuer in global mode. In team mode, a slash and the team's slug follow.
pub const VERCEL_ISSUER: &str = "https://oidc.vercel.com";

const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);

/// The claims that a token needs to be accepted.
///
/// ```
/// use vercel_oidc_verifier::{Subject, Trust};
///
/// # fn main() -> Result<(), vercel_oidc_verifier::TrustError> {
/// // One project in production. Names can change hands, so the team's id is checked, too.
/// let trust = Trust::project("acme", "storefront", "production")?.with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"])?;
/// assert!(!trust.rests_on_names());
///
/// // Anything else: one issuer, its audiences, its subjects.
/// let trust = Trust::issuer(
///     "https://oidc.vercel.com/acme",
///     ["https://api.example.com"],
///     [Subject::of("acme", "storefront", "production")?, Subject::new("owner:acme:project:admin-*:environment:preview")],
/// )?;
/// assert!(trust.rests_on_names());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Trust {
    callers: Callers,
    /// Accepted `owner_id` claims; `None` accepts any.
    owner_ids: Option<Vec<String>>,
    /// Accepted `project_id` claims; `None` accepts any.
    project_ids: Option<Vec<String>>,
    leeway: Duration,
}

#[derive(Clone, Debug)]
enum Callers {
    /// Callers of one issuer. An empty list accepts no token.
    Named { issuer: String, audiences: Vec<String>, subjects: Vec<Subject> },
    /// One project in one environment. Names are not compared.
    SameProject { project_id: String, environment: String },
}

impl Trust {
    /// Trusts one project in one environment: in team issuer mode, with Vercel's default audience.
    ///
    /// # Errors
    ///
    /// As for [`Subject::of`].
    pub fn project(team: &str, project: &str, environment: &str) -> Result<Self, TrustError> {
        let subject = Subject::of(team, project, environment)?;
        Self::issuer(format!("{VERCEL_ISSUER}/{team}"), [vercel_audience(team)], [subject])
    }

    /// Trusts the tokens of one issuer that have one of these audiences and one of these subjects.
    ///
    /// # Errors
    ///
    /// The issuer has a comma or white space, an audience has a `*`, or one of them is empty.
    pub fn issuer(
        issuer: impl Into<String>,
        audiences: impl IntoIterator<Item = impl Into<String>>,
        subjects: impl IntoIterator<Item = Subject>,
    ) -> Result<Self, TrustError> {
        let issuer = issuer.into();
        if issuer.is_empty() || issuer.contains(|c: char| c == ',' || c.is_whitespace()) {
            return Err(TrustError {
                name: "issuer",
                problem: "is empty, or has a comma or white space: name one issuer",
            });
        }
        let audiences = plain("audience", audiences)?;
        Ok(Self::new(Callers::Named { issuer, audiences, subjects: subjects.into_iter().collect() }))
    }

    /// Trusts one project in one environment. For a caller and an API in the same deployment.
    ///
    /// A project's id is unique at Vercel, so no name is compared. The issuer may be Vercel's in team or global mode,
    /// and the audience must be the default of the token's team.
    ///
    /// # Errors
    ///
    /// One of them is empty or has a `*`, or the environment has a `:`.
    pub fn same_project(project_id: impl Into<String>, environment: impl Into<String>) -> Result<Self, TrustError> {
        let (project_id, environment) = (project_id.into(), environment.into());
        require_plain("project's id", &project_id)?;
        require_name("environment", &environment)?;
        Ok(Self::new(Callers::SameProject { project_id, environment }))
    }

    fn new(callers: Callers) -> Self {
        Self { callers, owner_ids: None, project_ids: None, leeway: DEFAULT_LEEWAY }
    }

    /// Also requires the `owner_id` claim to be one of these.
    ///
    /// # Errors
    ///
    /// An id is empty or has a `*`.
    pub fn with_owner_ids(self, ids: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, TrustError> {
        Ok(Self { owner_ids: Some(plain("team's id", ids)?), ..self })
    }

    /// Also requires the `project_id` claim to be one of these.
    ///
    /// # Errors
    ///
    /// An id is empty or has a `*`.
    pub fn with_project_ids(self, ids: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, TrustError> {
        Ok(Self { project_ids: Some(plain("project's id", ids)?), ..self })
    }

    /// Changes the clock skew that is allowed for `exp`, `nbf` and `iat`: 30 s by default.
    #[must_use]
    pub fn with_leeway(self, leeway: Duration) -> Self {
        Self { leeway, ..self }
    }

    /// Whether trust rests on names alone, because no id is checked. A team slug or a project name that is given up can
    /// be taken by someone else, whose tokens then have the same `iss`, `aud` and `sub`.
    pub fn rests_on_names(&self) -> bool {
        match self.callers {
            Callers::Named { .. } => self.owner_ids.is_none() && self.project_ids.is_none(),
            Callers::SameProject { .. } => false,
        }
    }

    /// The accepted subjects. There are none in same-project mode, which does not look at `sub`.
    pub fn subjects(&self) -> &[Subject] {
        match &self.callers {
            Callers::Named { subjects, .. } => subjects,
            Callers::SameProject { .. } => &[],
        }
    }

    /// Decides whether these claims are accepted: first whether the token is valid here, then whether its holder is
    /// trusted.
    pub(crate) fn check(&self, claims: &Claims, now: SystemTime) -> Result<(), VerifyError> {
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        self.check_time(claims, now)?;
        Ok(self.check_caller(claims)?)
    }

    fn check_issuer(&self, claims: &Claims) -> Result<(), Invalid> {
        let refusal = |accepted| Err(Invalid::Issuer { found: claims.iss().map(String::from), accepted });
        match &self.callers {
            Callers::Named { issuer, .. } if claims.iss() == Some(issuer) => Ok(()),
            Callers::SameProject { .. } if claims.iss().is_some_and(is_vercel_issuer) => Ok(()),
            Callers::Named { issuer, .. } => refusal(issuer.clone()),
            Callers::SameProject { .. } => refusal(format!("{VERCEL_ISSUER}/TEAM")),
        }
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), Invalid> {
        let of_owner;
        let accepted = match &self.callers {
            Callers::Named { audiences, .. } => audiences.as_slice(),
            Callers::SameProject { .. } => {
                of_owner = claims.owner().filter(|owner| !owner.is_empty()).map(vercel_audience);
                of_owner.as_slice()
            }
        };
        if claims.aud().iter().any(|found| accepted.contains(found)) {
            return Ok(());
        }
        Err(Invalid::Audience { found: claims.aud().join(", "), accepted: accepted.join(", ") })
    }

    pub(crate) fn check_time(&self, claims: &Claims, now: SystemTime) -> Result<(), Invalid> {
        // A clock before 1970 reads as 1970. Vercel's tokens have `nbf`, so they are not valid then.
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let exp = claims.exp().ok_or(Invalid::NoExpiry)?;
        if exp <= now - leeway {
            return Err(Invalid::Expired { seconds_ago: now - exp });
        }
        if let Some(nbf) = claims.nbf().filter(|nbf| *nbf > now + leeway) {
            return Err(Invalid::NotYetValid { seconds_ahead: nbf - now });
        }
        if let Some(iat) = claims.iat().filter(|iat| *iat > now + leeway) {
            return Err(Invalid::IssuedInTheFuture { seconds_ahead: iat - now });
        }
        Ok(())
    }

    fn check_caller(&self, claims: &Claims) -> Result<(), Forbidden> {
        match &self.callers {
            Callers::Named { subjects, .. } => {
                if !claims.sub().is_some_and(|sub| subjects.iter().any(|subject| subject.matches(sub))) {
                    let accepted = subjects.iter().map(Subject::as_str).collect::<Vec<_>>().join(", ");
                    return Err(Forbidden { claim: "sub", found: claims.sub().map(String::from), accepted });
                }
            }
            Callers::SameProject { project_id, environment } => {
                check_one_of("project_id", claims.project_id(), from_ref(project_id))?;
                check_one_of("environment", claims.environment(), from_ref(environment))?;
            }
        }
        for (claim, found, accepted) in
            [("owner_id", claims.owner_id(), &self.owner_ids), ("project_id", claims.project_id(), &self.project_ids)]
        {
            if let Some(accepted) = accepted {
                check_one_of(claim, found, accepted)?;
            }
        }
        Ok(())
    }
}

fn check_one_of(claim: &'static str, found: Option<&str>, accepted: &[String]) -> Result<(), Forbidden> {
    if found.is_some_and(|found| accepted.iter().any(|one| one == found)) {
        return Ok(());
    }
    Err(Forbidden { claim, found: found.map(String::from), accepted: accepted.join(", ") })
}

fn plain(name: &'static str, values: impl IntoIterator<Item = impl Into<String>>) -> Result<Vec<String>, TrustError> {
    let values: Vec<String> = values.into_iter().map(Into::into).collect();
    values.iter().try_for_each(|value| require_plain(name, value))?;
    Ok(values)
}

/// The audience of a team's tokens, unless they were exchanged for another.
fn vercel_audience(team: &str) -> String {
    format!("https://vercel.com/{team}")
}

/// Vercel's issuer in either mode. A slug has letters, digits, `-` and `_`.
fn is_vercel_issuer(issuer: &str) -> bool {
    let is_slug =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    issuer
        .strip_prefix(VERCEL_ISSUER)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/').is_some_and(is_slug))
}

/// Describes the rules, for the operator.
impl fmt::Display for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.callers {
            Callers::Named { issuer, audiences, subjects } => {
                let subjects = subjects.iter().map(Subject::as_str).collect::<Vec<_>>().join("` or `");
                write!(out, "tokens from `{issuer}` for `{}` about `{subjects}`", audiences.join("` or `"))?;
            }
            Callers::SameProject { project_id, environment } => {
                write!(out, "tokens of this project, `{project_id}`, in its environment `{environment}`")?;
            }
        }
        for (claim, accepted) in [("owner_id", &self.owner_ids), ("project_id", &self.project_ids)] {
            if let Some(accepted) = accepted {
                write!(out, ", with {claim} `{}`", accepted.join("` or `"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn project() -> Trust {
        Trust::project("acme", "shop", "production").unwrap().with_leeway(Duration::ZERO)
    }

    fn same_project() -> Trust {
        Trust::same_project("prj_1", "production").unwrap().with_leeway(Duration::ZERO)
    }

    /// Checks the claims of an accepted token with these changes, half a second after `NOW`; `null` removes a claim.
    fn check(trust: &Trust, changes: &[(&str, Value)]) -> Result<(), VerifyError> {
        let now = UNIX_EPOCH + Duration::from_millis(NOW * 1000 + 500);
        trust.check(&claims(changes), now)
    }

    fn claims(changes: &[(&str, Value)]) -> Claims {
        let mut claims = json!({
            "iss": "https://oidc.vercel.com/acme",
            "aud": "https://vercel.com/acme",
            "sub": "owner:acme:project:shop:environment:production",
            "exp": NOW + 1000,
            "owner": "acme",
            "owner_id": "team_1",
            "project_id": "prj_1",
            "environment": "production",
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        Claims::from_signed(&BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())).unwrap()
    }

    #[track_caller]
    fn is_forbidden(trust: &Trust, claim: &str, value: Value) {
        let error = check(trust, &[(claim, value.clone())]).unwrap_err();
        assert!(matches!(&error, VerifyError::Forbidden(forbidden) if forbidden.claim == claim), "{value}: {error}");
    }

    #[test]
    fn each_time_is_checked_with_the_leeway() {
        let now = NOW as f64 + 0.5;
        for seconds in [0, 30, 300] {
            let trust = project().with_leeway(Duration::from_secs(seconds));
            let check = |claim: &str, time: f64| check(&trust, &[(claim, json!(time))]);
            let (oldest, newest) = (now - seconds as f64, now + seconds as f64);
            assert_eq!(check("exp", oldest + 0.001), Ok(()));
            for exp in [oldest, oldest - 0.001] {
                assert!(matches!(check("exp", exp), Err(VerifyError::Invalid(Invalid::Expired { .. }))), "{exp}");
            }
            for claim in ["nbf", "iat"] {
                assert_eq!(check(claim, newest), Ok(()));
            }
            let late = newest + 0.001;
            assert!(matches!(check("nbf", late), Err(VerifyError::Invalid(Invalid::NotYetValid { .. }))));
            assert!(matches!(check("iat", late), Err(VerifyError::Invalid(Invalid::IssuedInTheFuture { .. }))));
        }
        assert_eq!(check(&project(), &[("exp", Value::Null)]), Err(Invalid::NoExpiry.into()));
    }

    #[test]
    fn a_clock_before_1970_reads_as_1970() {
        let error = project().check(&claims(&[("nbf", json!(NOW))]), UNIX_EPOCH - Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, VerifyError::Invalid(Invalid::NotYetValid { .. })), "{error}");
    }

    #[test]
    fn a_project_is_trusted_by_its_exact_issuer_audience_and_subject() {
        assert_eq!(check(&project(), &[]), Ok(()));
        // The same without Vercel's own claims, which other issuers' tokens don't have.
        let bare = ["owner", "owner_id", "project_id", "environment"].map(|name| (name, Value::Null));
        assert_eq!(check(&project(), &bare), Ok(()));
        for issuer in [json!("https://oidc.vercel.com"), json!("https://oidc.vercel.com/acme/"), json!(""), Value::Null]
        {
            let error = check(&project(), &[("iss", issuer.clone())]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Issuer { .. })), "{issuer}: {error}");
        }
        for audience in [json!("https://vercel.com/acm"), json!("https://vercel.com/acme/"), json!([]), Value::Null] {
            let error = check(&project(), &[("aud", audience.clone())]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Audience { .. })), "{audience}: {error}");
        }
        for subject in [
            json!("owner:acme:project:shop:environment:preview"),
            json!("owner:acme:project:shop:environment:production2"),
            json!("owner:Acme:project:shop:environment:production"),
            json!(""),
            Value::Null,
        ] {
            is_forbidden(&project(), "sub", subject);
        }
    }

    #[test]
    fn an_empty_list_accepts_no_token() {
        let nothing = || Vec::<String>::new();
        let subject = Subject::of("acme", "shop", "production").unwrap();
        for trust in [
            Trust::issuer("https://oidc.vercel.com/acme", nothing(), [subject]),
            Trust::issuer("https://oidc.vercel.com/acme", ["https://vercel.com/acme"], []),
            project().with_owner_ids(nothing()),
            project().with_project_ids(nothing()),
        ] {
            assert!(check(&trust.unwrap(), &[]).is_err());
        }
    }

    /// A `*` is a pattern in a subject alone.
    #[test]
    fn each_constructor_refuses_what_would_not_mean_what_it_says() {
        let issuer = |issuer: &str, audience: &str| Trust::issuer(issuer, [audience], []);
        for (trust, name) in [
            (Trust::project("acme", "*", "production"), "project"),
            (Trust::project("acme", "shop", "a:b"), "environment"),
            (Trust::project("", "shop", "production"), "team"),
            (issuer("https://a.test,https://b.test", "x"), "issuer"),
            (issuer("https://a.test https://b.test", "x"), "issuer"),
            (issuer("", "x"), "issuer"),
            (issuer("https://a.test", "*"), "audience"),
            (issuer("https://a.test", ""), "audience"),
            (Trust::same_project("*", "production"), "project's id"),
            (Trust::same_project("prj_1", "*"), "environment"),
            (Trust::same_project("prj_1", "a:b"), "environment"),
            (project().with_owner_ids(["team_1", "team_*"]), "team's id"),
            (project().with_project_ids([""]), "project's id"),
        ] {
            assert_eq!(trust.unwrap_err().name, name);
        }
    }

    #[test]
    fn ids_are_required_in_both_modes() {
        for trust in [project(), same_project()] {
            let trust = trust.with_owner_ids(["team_1", "team_2"]).unwrap().with_project_ids(["prj_1"]).unwrap();
            assert_eq!(check(&trust, &[("owner_id", json!("team_2"))]), Ok(()));
            for (claim, value) in [
                ("owner_id", json!("team_3")),
                ("owner_id", Value::Null),
                ("project_id", json!("prj_2")),
                ("project_id", Value::Null),
            ] {
                is_forbidden(&trust, claim, value);
            }
            assert!(!trust.rests_on_names());
        }
        assert!(project().rests_on_names() && !same_project().rests_on_names());
    }

    #[test]
    fn same_project_mode_trusts_its_own_project_and_environment() {
        assert_eq!(check(&same_project(), &[]), Ok(()));
        for subject in [json!("owner:x"), Value::Null] {
            assert_eq!(check(&same_project(), &[("sub", subject)]), Ok(()));
        }
        let renamed = [
            ("iss", json!("https://oidc.vercel.com/other")),
            ("owner", json!("other")),
            ("aud", json!("https://vercel.com/other")),
        ];
        assert_eq!(check(&same_project(), &renamed), Ok(()));
        for (claim, value) in [
            ("project_id", json!("prj_2")),
            ("project_id", json!("prj_1 ")),
            ("project_id", Value::Null),
            ("environment", json!("preview")),
            ("environment", Value::Null),
        ] {
            is_forbidden(&same_project(), claim, value);
        }
    }

    #[test]
    fn same_project_mode_accepts_vercels_issuer_in_both_modes_and_no_other() {
        for issuer in ["https://oidc.vercel.com", "https://oidc.vercel.com/acme", "https://oidc.vercel.com/A-b_9"] {
            assert_eq!(check(&same_project(), &[("iss", json!(issuer))]), Ok(()), "{issuer}");
        }
        for issuer in [
            "https://oidc.vercel.com/",
            "https://oidc.vercel.com/a/b",
            "https://oidc.vercel.com//a",
            "https://oidc.vercel.com.evil.test",
            "https://oidc.vercel.com/a?x",
            "https://oidc.vercel.com/a b",
            "https://oidc.vercel.com/é",
            "https://oidc.vercel.com@evil.test",
            "http://oidc.vercel.com/acme",
            "https://oidc.vercel.comacme",
            "https://oidc.vercel.com:8443/acme",
            "https://oidc.vercel.com/a.b",
            "https://passport.vercel.com/acme",
            "",
        ] {
            let error = check(&same_project(), &[("iss", json!(issuer))]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Issuer { .. })), "{issuer}: {error}");
        }
        assert!(check(&same_project(), &[("iss", Value::Null)]).is_err());
    }

    /// Passport signs with the same keys, and its tokens can have the right audience.
    #[test]
    fn refuses_a_passport_token_in_both_modes() {
        for trust in [project(), same_project()] {
            let error = check(&trust, &[("iss", json!("https://passport.vercel.com/acme"))]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Issuer { .. })), "{error}");
        }
    }

    #[test]
    fn same_project_mode_accepts_its_owners_audience_and_no_other() {
        let both = [("aud", json!(["https://x.test", "https://vercel.com/acme"]))];
        assert_eq!(check(&same_project(), &both), Ok(()));
        for (owner, audience) in [
            (json!("acme"), json!("https://vercel.com/other")),
            (json!("acme"), json!("https://vercel.com/acme/")),
            (json!("acme"), json!("https://vercel.com")),
            (json!("acme"), Value::Null),
            (Value::Null, json!("https://vercel.com/acme")),
            (Value::Null, json!("https://vercel.com/")),
            (json!(""), json!("https://vercel.com/")),
        ] {
            let error = check(&same_project(), &[("owner", owner), ("aud", audience.clone())]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Audience { .. })), "{audience}: {error}");
        }
    }
}
