//! The claims of Vercel's tokens: every claim that Vercel's OIDC reference documents, for one deployment.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::unix_seconds;

/// The deployment that a token names.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The team, as in its dashboard URL.
    pub team: String,
    /// The team's id. A rename does not change it.
    pub team_id: String,
    /// The project, by name.
    pub project: String,
    /// The project's id. A rename does not change it.
    pub project_id: String,
    /// `production`, `preview`, `development`, or a custom environment.
    pub environment: String,
}

impl Default for Deployment {
    /// Production of `storefront`, a project of the team `acme`.
    fn default() -> Self {
        Self {
            team: "acme".to_owned(),
            team_id: "team_7Gw5ZMzpQA8h90F832KGp7nw".to_owned(),
            project: "storefront".to_owned(),
            project_id: "prj_7Gw5ZMBpQA8h9GF832KGp7nw".to_owned(),
            environment: "production".to_owned(),
        }
    }
}

impl Deployment {
    /// Returns the same project in another environment.
    #[must_use]
    pub fn in_environment(&self, environment: &str) -> Self {
        Self { environment: environment.to_owned(), ..self.clone() }
    }

    /// Returns the subject of this deployment's tokens.
    #[must_use]
    pub fn subject(&self) -> String {
        let Self { team, project, environment, .. } = self;
        format!("owner:{team}:project:{project}:environment:{environment}")
    }

    /// Returns the default audience of this deployment's tokens. An exchange changes it.
    #[must_use]
    pub fn audience(&self) -> String {
        format!("https://vercel.com/{}", self.team)
    }

    /// Returns the claims of a token that `issuer` makes `now` and that is valid for `lifetime`.
    #[must_use]
    pub fn claims(&self, issuer: &str, now: SystemTime, lifetime: Duration) -> Value {
        let mut claims = json!({
            "iss": issuer,
            "sub": self.subject(),
            "scope": self.subject(),
            "aud": self.audience(),
            "owner": self.team,
            "owner_id": self.team_id,
            "project": self.project,
            "project_id": self.project_id,
            "environment": self.environment,
            "plan": "pro",
            "nbf": unix_seconds(now),
            "iat": unix_seconds(now),
            "exp": unix_seconds(now + lifetime),
        });
        // A development token names the developer who pulled it.
        if self.environment == "development" {
            claims["user_id"] = json!("7Gw5ZMzpQA8h90F832KGp7nw");
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claims_are_those_of_vercels_tokens() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let claims = Deployment::default().claims("https://oidc.vercel.com/acme", now, Duration::from_secs(7200));
        assert_eq!(
            claims,
            json!({
                "iss": "https://oidc.vercel.com/acme",
                "sub": "owner:acme:project:storefront:environment:production",
                "scope": "owner:acme:project:storefront:environment:production",
                "aud": "https://vercel.com/acme",
                "owner": "acme",
                "owner_id": "team_7Gw5ZMzpQA8h90F832KGp7nw",
                "project": "storefront",
                "project_id": "prj_7Gw5ZMBpQA8h9GF832KGp7nw",
                "environment": "production",
                "plan": "pro",
                "nbf": 1_790_000_000,
                "iat": 1_790_000_000,
                "exp": 1_790_007_200,
            })
        );
    }

    #[test]
    fn only_a_development_token_names_a_developer() {
        let claims = |environment: &str| {
            Deployment::default().in_environment(environment).claims(
                "https://oidc.vercel.com",
                SystemTime::now(),
                Duration::ZERO,
            )
        };
        assert!(claims("development")["user_id"].is_string());
        assert!(claims("preview").get("user_id").is_none());
    }
}
