//! Whom this API trusts: which issuer, audience and subjects it accepts, and at what time.
//!
//! Pure functions of the claims, the rules and the time given. [`Trust::judge`] assumes that the claims come from a
//! verified signature, which [`Verifier`](super::Verifier) sees to. Rules: RFC 7519, section 4.1; names:
//! <https://vercel.com/docs/oidc/reference>.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::claims::Claims;
use super::subject::Subject;
use super::{Forbidden, Invalid, VerifyError};

/// Vercel's issuer in global mode; in team mode the team's slug follows after a slash.
pub const VERCEL_ISSUER: &str = "https://oidc.vercel.com";

/// What a token must say to be accepted.
///
/// [`Trust::project`] makes the usual rules. All others are spelled out:
///
/// ```
/// use backend::oidc::{Subject, Trust, Trusted};
/// use std::time::Duration;
///
/// let trust = Trust {
///     who: Trusted::Subjects {
///         issuer: "https://oidc.vercel.com/acme".into(),
///         audiences: vec!["https://api.example.com".into()],
///         subjects: vec![Subject::of("acme", "shop", "production"), Subject::new("owner:acme:project:admin-*:environment:preview")],
///         owner_ids: None,
///         project_ids: None,
///     },
///     leeway: Duration::from_secs(30),
/// };
/// assert!(trust.to_string().contains("owner:acme:project:shop:environment:production"));
/// ```
#[derive(Clone, Debug)]
pub struct Trust {
    /// The accepted callers.
    pub who: Trusted,
    /// The clock skew allowed on `exp`, `nbf` and `iat`.
    pub leeway: Duration,
}

/// The two ways to say who is accepted.
#[derive(Clone, Debug)]
pub enum Trusted {
    /// Callers named by the claims of their tokens. An empty list accepts nobody.
    Subjects {
        /// The one accepted `iss`, exactly.
        issuer: String,
        /// The accepted `aud` values.
        audiences: Vec<String>,
        /// The accepted `sub` values.
        subjects: Vec<Subject>,
        /// If given, `owner_id` must be one of these.
        owner_ids: Option<Vec<String>>,
        /// If given, `project_id` must be one of these.
        project_ids: Option<Vec<String>>,
    },
    /// The same project in the same environment, whatever its team: both ends in one deployment.
    SameProject {
        /// What the `project_id` claim must be: ids are unique over all of Vercel, so this names the team as well.
        project_id: String,
        /// What the `environment` claim must be.
        environment: String,
    },
}

impl Trust {
    /// Trusts one project in one environment: in team issuer mode, with Vercel's own audience and 30 s of leeway.
    pub fn project(team: &str, project: &str, environment: &str) -> Self {
        Self {
            who: Trusted::Subjects {
                issuer: vercel_issuer(team),
                audiences: vec![vercel_audience(team)],
                subjects: vec![Subject::of(team, project, environment)],
                owner_ids: None,
                project_ids: None,
            },
            leeway: Duration::from_secs(30),
        }
    }

    /// Decides whether these claims are accepted at this time: first those that make a token valid, then those that say
    /// whose it is.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Invalid`] where `iss`, `aud`, `exp`, `nbf` or `iat` is not as it must be;
    /// [`VerifyError::Forbidden`] where the token is valid but its holder is not among those accepted.
    pub fn judge(&self, claims: &Claims, now: SystemTime) -> Result<(), VerifyError> {
        self.judge_issuer(claims)?;
        self.judge_audience(claims)?;
        self.judge_time(claims, now)?;
        Ok(self.judge_caller(claims)?)
    }

    fn judge_issuer(&self, claims: &Claims) -> Result<(), Invalid> {
        let found = claims.iss.as_deref();
        let expected = match &self.who {
            Trusted::Subjects { issuer, .. } if found == Some(issuer) => return Ok(()),
            Trusted::SameProject { .. } if found.is_some_and(is_vercel_issuer) => return Ok(()),
            Trusted::Subjects { issuer, .. } => issuer.clone(),
            Trusted::SameProject { .. } => vercel_issuer("TEAM"),
        };
        Err(Invalid::Issuer { found: claims.iss.clone(), expected })
    }

    fn judge_audience(&self, claims: &Claims) -> Result<(), Invalid> {
        let of_owner;
        let accepted = match &self.who {
            Trusted::Subjects { audiences, .. } => audiences.as_slice(),
            Trusted::SameProject { .. } => {
                let owner = claims.owner.as_ref().filter(|owner| !owner.is_empty());
                of_owner = owner.map(|owner| vercel_audience(owner));
                of_owner.as_slice()
            }
        };
        if claims.aud.iter().any(|found| accepted.iter().any(|audience| audience == found)) {
            return Ok(());
        }
        let found = claims.aud.iter().collect::<Vec<_>>().join(", ");
        Err(Invalid::Audience { found, expected: accepted.join(", ") })
    }

    pub(super) fn judge_time(&self, claims: &Claims, now: SystemTime) -> Result<(), Invalid> {
        // A clock that is set before 1970 reads as 1970, when no token was good that says from when it is.
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let exp = claims.exp.ok_or(Invalid::NoExpiry)?;
        if exp <= now - leeway {
            return Err(Invalid::Expired { seconds_ago: now - exp });
        }
        if let Some(nbf) = claims.nbf.filter(|nbf| *nbf > now + leeway) {
            return Err(Invalid::NotYetValid { seconds_ahead: nbf - now });
        }
        if let Some(iat) = claims.iat.filter(|iat| *iat > now + leeway) {
            return Err(Invalid::IssuedInTheFuture { seconds_ahead: iat - now });
        }
        Ok(())
    }

    fn judge_caller(&self, claims: &Claims) -> Result<(), Forbidden> {
        match &self.who {
            Trusted::Subjects { subjects, owner_ids, project_ids, .. } => {
                if !claims.sub.as_ref().is_some_and(|found| subjects.iter().any(|subject| subject.matches(found))) {
                    let expected = subjects.iter().map(Subject::as_str).collect::<Vec<_>>().join(", ");
                    return Err(Forbidden { claim: "sub", found: claims.sub.clone(), expected });
                }
                one_of("owner_id", claims.owner_id.as_deref(), owner_ids.as_deref())?;
                one_of("project_id", claims.project_id.as_deref(), project_ids.as_deref())
            }
            Trusted::SameProject { project_id, environment } => {
                one_of("project_id", claims.project_id.as_deref(), Some(std::slice::from_ref(project_id)))?;
                one_of("environment", claims.environment.as_deref(), Some(std::slice::from_ref(environment)))
            }
        }
    }
}

/// Who issues a team's tokens in team issuer mode.
pub fn vercel_issuer(team: &str) -> String {
    format!("{VERCEL_ISSUER}/{team}")
}

/// Whom a team's tokens are for, unless they were exchanged.
pub fn vercel_audience(team: &str) -> String {
    format!("https://vercel.com/{team}")
}

/// `https://oidc.vercel.com`, or that, a slash and a team's slug.
fn is_vercel_issuer(issuer: &str) -> bool {
    issuer
        .strip_prefix(VERCEL_ISSUER)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/').is_some_and(is_slug))
}

/// Whether this can be a team's slug: one or more letters, digits, `-` and `_`.
pub fn is_slug(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn one_of(claim: &'static str, found: Option<&str>, accepted: Option<&[String]>) -> Result<(), Forbidden> {
    match accepted {
        Some(accepted) if !found.is_some_and(|found| accepted.iter().any(|one| one == found)) => {
            Err(Forbidden { claim, found: found.map(String::from), expected: accepted.join(", ") })
        }
        Some(_) | None => Ok(()),
    }
}

/// In words, for the operator: whom the settings trust.
impl fmt::Display for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Trusted::Subjects { issuer, audiences, subjects, owner_ids, project_ids } => {
                let subjects = subjects.iter().map(Subject::as_str).collect::<Vec<_>>().join(" or ");
                write!(out, "tokens from `{issuer}` for `{}` about `{subjects}`", audiences.join(" or "))?;
                for (claim, accepted) in [("owner_id", owner_ids), ("project_id", project_ids)] {
                    if let Some(accepted) = accepted {
                        write!(out, ", with {claim} `{}`", accepted.join(" or "))?;
                    }
                }
                Ok(())
            }
            Trusted::SameProject { project_id, environment } => {
                write!(
                    out,
                    "tokens from Vercel with project_id `{project_id}` and environment `{environment}`: this very project's"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn same_project() -> Trusted {
        Trusted::SameProject { project_id: "prj_1".into(), environment: "preview".into() }
    }

    /// Judges the claims of a good token, but for these, at `NOW` and half a second.
    fn judge(who: Trusted, leeway: u64, changes: &[(&str, Value)]) -> Result<(), VerifyError> {
        let mut claims = json!({
            "iss": "https://oidc.vercel.com/acme",
            "aud": "https://vercel.com/acme",
            "sub": "owner:acme:project:shop:environment:production",
            "exp": NOW + 1000,
            "owner": "acme",
            "project_id": "prj_1",
            "environment": "preview",
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let claims = serde_json::from_value(claims).unwrap();
        let now = UNIX_EPOCH + Duration::from_millis(NOW * 1000 + 500);
        Trust { who, leeway: Duration::from_secs(leeway) }.judge(&claims, now)
    }

    fn judge_time(leeway: u64, claim: &str, time: f64) -> Result<(), VerifyError> {
        judge(Trust::project("acme", "shop", "production").who, leeway, &[(claim, json!(time))])
    }

    #[test]
    fn each_time_is_judged_to_the_limit_of_the_leeway() {
        let now = NOW as f64 + 0.5;
        for leeway in [0, 30, 300] {
            let (oldest, newest) = (now - leeway as f64, now + leeway as f64);
            assert!(judge_time(leeway, "exp", oldest + 0.001).is_ok());
            for exp in [oldest, oldest - 0.001] {
                let error = judge_time(leeway, "exp", exp).unwrap_err();
                assert!(matches!(error, VerifyError::Invalid(Invalid::Expired { .. })), "{error}");
            }
            for claim in ["nbf", "iat"] {
                assert!(judge_time(leeway, claim, newest).is_ok());
                let error = judge_time(leeway, claim, newest + 0.001).unwrap_err();
                match error {
                    VerifyError::Invalid(Invalid::NotYetValid { .. }) => assert_eq!(claim, "nbf"),
                    VerifyError::Invalid(Invalid::IssuedInTheFuture { .. }) => assert_eq!(claim, "iat"),
                    other => unreachable!("{other}"),
                }
            }
        }
    }

    #[test]
    fn before_1970_no_token_is_good_that_says_from_when_it_is() {
        let claims = serde_json::from_value(json!({
            "iss": "https://oidc.vercel.com/acme", "aud": "https://vercel.com/acme", "exp": NOW, "nbf": NOW,
            "sub": "owner:acme:project:shop:environment:production",
        }));
        let error = Trust::project("acme", "shop", "production")
            .judge(&claims.unwrap(), UNIX_EPOCH - Duration::from_secs(1))
            .unwrap_err();
        assert!(matches!(error, VerifyError::Invalid(Invalid::NotYetValid { .. })), "{error}");
    }

    #[test]
    fn same_project_mode_trusts_its_own_project_and_environment() {
        assert!(judge(same_project(), 0, &[]).is_ok());
        // Whatever the subject says, and whichever team it is: the project's id says it all.
        assert!(judge(same_project(), 0, &[("sub", json!("owner:x"))]).is_ok());
        assert!(judge(same_project(), 0, &[("sub", Value::Null)]).is_ok());
        let other_team = [
            ("iss", json!("https://oidc.vercel.com/other")),
            ("owner", json!("b")),
            ("aud", json!("https://vercel.com/b")),
        ];
        assert!(judge(same_project(), 0, &other_team).is_ok());
        for (claim, value) in [
            ("project_id", json!("prj_2")),
            ("project_id", json!("prj_1 ")),
            ("project_id", Value::Null),
            ("environment", json!("production")),
            ("environment", Value::Null),
        ] {
            let error = judge(same_project(), 0, &[(claim, value.clone())]).unwrap_err();
            assert!(
                matches!(&error, VerifyError::Forbidden(forbidden) if forbidden.claim == claim),
                "{value}: {error}"
            );
        }
    }

    #[test]
    fn same_project_mode_takes_vercels_issuer_in_both_modes_and_no_other() {
        for issuer in ["https://oidc.vercel.com", "https://oidc.vercel.com/acme", "https://oidc.vercel.com/A-b_9"] {
            assert!(judge(same_project(), 0, &[("iss", json!(issuer))]).is_ok(), "{issuer}");
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
            "",
        ] {
            let error = judge(same_project(), 0, &[("iss", json!(issuer))]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Issuer { .. })), "{issuer}: {error}");
        }
        assert!(judge(same_project(), 0, &[("iss", Value::Null)]).is_err());
    }

    #[test]
    fn same_project_mode_takes_its_owners_audience_and_no_other() {
        assert!(judge(same_project(), 0, &[("aud", json!(["https://x.test", "https://vercel.com/acme"]))]).is_ok());
        for (owner, audience) in [
            (json!("acme"), json!("https://vercel.com/other")),
            (json!("acme"), json!("https://vercel.com/acme/")),
            (json!("acme"), json!("https://vercel.com")),
            (json!("acme"), Value::Null),
            (Value::Null, json!("https://vercel.com/acme")),
            (Value::Null, json!("https://vercel.com/")),
            (json!(""), json!("https://vercel.com/")),
        ] {
            let error = judge(same_project(), 0, &[("owner", owner), ("aud", audience.clone())]).unwrap_err();
            assert!(matches!(error, VerifyError::Invalid(Invalid::Audience { .. })), "{audience}: {error}");
        }
    }
}
