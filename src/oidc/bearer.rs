//! RFC 6750: a request's headers in, the verified caller or a refusal out.
//!
//! The token comes from the `Authorization` header alone (section 2.1): queries and cookies end up in logs and caches.
//! Each refusal is logged once, at the level `info`.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::claims::Claims;
use crate::error::{Invalid, VerifyError};
use crate::problem::Problem;
use crate::trust::VERCEL_ISSUER;
use crate::verifier::Verifier;

/// The caller that sent a request, from its verified token.
#[derive(Clone, Debug)]
pub struct VerifiedCaller {
    claims: Arc<Claims>,
}

impl VerifiedCaller {
    /// The claims of the caller's token.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// Why a request is refused. `Display` is for the client. [`Problem::from`] makes the response.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request has no token of the scheme `Bearer`: 401.
    #[error("This API needs a Vercel OIDC token. Send it as `Authorization: Bearer <token>`.")]
    MissingToken,
    /// The request has several `Authorization` headers: 400.
    #[error("The request has several `Authorization` headers. Send exactly one.")]
    SeveralHeaders,
    /// `Bearer` without a token: 400.
    #[error("`Bearer` has no token. Send `Authorization: Bearer <token>`.")]
    EmptyToken,
    /// `Bearer` with several tokens: 400.
    #[error("`Bearer` has several tokens. Send exactly one.")]
    SeveralTokens,
    /// The token is not accepted: 401, 403 or 503.
    #[error(transparent)]
    Token(#[from] VerifyError),
}

impl Verifier {
    /// Returns the caller whose token a request has in its `Authorization` header, if the token is accepted now.
    ///
    /// This takes all headers of a request, as pairs of a name and a value, so it works with any framework: `&HeaderMap` of
    /// any version of the crate `http`, or of actix-web, or the pairs themselves. For axum, tonic, hyper and others with
    /// tower's `Service`, the feature `tower` has a layer that also answers refusals.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use http::HeaderMap;
    /// use vercel_oidc_verifier::{Problem, Refusal, Verifier};
    ///
    /// async fn answer(verifier: &Verifier, headers: &HeaderMap) -> http::Response<String> {
    ///     match verifier.authenticate(headers, SystemTime::now()).await {
    ///         Ok(caller) => http::Response::new(format!("Hello, {:?}", caller.claims().project())),
    ///         Err(refusal) => Problem::from(refusal).into_response(),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use vercel_oidc_verifier::{KeySet, Trust};
    /// # let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
    /// # let verifier = Verifier::new(Trust::project("acme", "storefront", "production")?, keys);
    /// # assert_eq!(answer(&verifier, &HeaderMap::new()).await.status(), 401);
    /// // Without a header map:
    /// let headers = [("Host", "api.example.com"), ("Authorization", "Basic dXNlcg==")];
    /// let refused = verifier.authenticate(headers, SystemTime::now()).await;
    /// assert_eq!(refused.err(), Some(Refusal::MissingToken));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Refusal`], which is logged already.
    pub async fn authenticate<'a, N, V>(
        &self,
        headers: impl IntoIterator<Item = (&'a N, &'a V)>,
        now: SystemTime,
    ) -> Result<VerifiedCaller, Refusal>
    where
        N: AsRef<str> + ?Sized + 'a,
        V: AsRef<[u8]> + ?Sized + 'a,
    {
        self.authenticate_or_refuse(headers, now).await.map_err(|(refusal, _)| refusal)
    }

    /// The same, and the answer to a refused request.
    pub(crate) async fn authenticate_or_refuse<'a, N, V>(
        &self,
        headers: impl IntoIterator<Item = (&'a N, &'a V)>,
        now: SystemTime,
    ) -> Result<VerifiedCaller, (Refusal, Problem)>
    where
        N: AsRef<str> + ?Sized + 'a,
        V: AsRef<[u8]> + ?Sized + 'a,
    {
        let verified = match bearer_token(headers) {
            Ok(token) => self.verify(token, now).await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        verified.map(|claims| VerifiedCaller { claims }).map_err(|refusal| {
            let problem = Problem::from(refusal.clone());
            tracing::info!(
                status = problem.status().as_u16(),
                code = problem.code(),
                reason = problem.log_detail(),
                "refused a request"
            );
            (refusal, problem)
        })
    }
}

/// Reads the token of a request (RFC 6750, section 2.1), and verifies nothing. The scheme may be in any case (RFC 9110,
/// section 11.1).
///
/// [`Verifier::authenticate`] does this, too. This function is for [`unverified_issuer`](crate::unverified_issuer).
///
/// # Errors
///
/// [`Refusal`]: there is no token, or there are several. This is not logged.
pub fn bearer_token<'a, N, V>(headers: impl IntoIterator<Item = (&'a N, &'a V)>) -> Result<&'a [u8], Refusal>
where
    N: AsRef<str> + ?Sized + 'a,
    V: AsRef<[u8]> + ?Sized + 'a,
{
    let mut headers = headers.into_iter().filter(|(name, _)| name.as_ref().eq_ignore_ascii_case("authorization"));
    let value = headers.next().map(|(_, value)| value.as_ref()).unwrap_or_default();
    if headers.next().is_some() {
        return Err(Refusal::SeveralHeaders);
    }
    // Field values may hold spaces and tabs (RFC 9110, section 5.5).
    let value = value.trim_ascii();
    let end_of_scheme = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, token) = value.split_at(end_of_scheme);
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Err(Refusal::MissingToken);
    }
    let token = token.trim_ascii_start();
    if token.is_empty() {
        return Err(Refusal::EmptyToken);
    }
    // A field value holds no other byte up to the space than the space and the tab. Without an early exit, the compiler
    // vectorises the loop: else it is a tenth of a request with a cached token.
    if token.iter().fold(false, |found, byte| found | (*byte <= b' ')) {
        return Err(Refusal::SeveralTokens);
    }
    Ok(token)
}

/// The answer to the client, and what the operator's log says (RFC 6750, section 3).
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let bearer = |status, code, detail, challenge| {
            Self::new(status, code, detail).with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
        };
        match refusal {
            // RFC 6750, section 3.1: no error code for a request without a token.
            Refusal::MissingToken => bearer(StatusCode::UNAUTHORIZED, "missing_token", refusal.to_string(), "Bearer"),
            Refusal::SeveralHeaders | Refusal::EmptyToken | Refusal::SeveralTokens => bearer(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                refusal.to_string(),
                "Bearer error=\"invalid_request\"",
            ),
            Refusal::Token(error) => error.into(),
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        let problem = match &error {
            VerifyError::Invalid(reason) => {
                let reason = reason.to_string();
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{}\"", quotable(&reason));
                let challenge = HeaderValue::try_from(challenge)
                    .unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\""));
                Self::new(StatusCode::UNAUTHORIZED, "invalid_token", format!("The token was refused: {reason}."))
                    .with_header(WWW_AUTHENTICATE, challenge)
            }
            VerifyError::Forbidden(reason) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", format!("The token is valid, but {reason}."))
                    .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"insufficient_scope\""))
            }
            VerifyError::KeysUnavailable { retry_after } => {
                let detail = "The issuer's keys are not available, so the token can't be verified. Try again later.";
                // Rounded up, because an earlier attempt can't succeed.
                let seconds = (retry_after.as_secs_f64().ceil() as u64).max(1);
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail)
                    .with_header(RETRY_AFTER, seconds.into())
            }
        };
        match error.accepted() {
            Some(accepted) => problem.with_log_detail(format!("{error}; accepted: `{accepted}`{}", hint(&error))),
            None => problem,
        }
    }
}

/// Global issuer mode ends where tokens are exchanged.
fn hint(error: &VerifyError) -> &'static str {
    match error {
        VerifyError::Invalid(Invalid::Issuer { found: Some(found), accepted })
            if accepted == VERCEL_ISSUER && found.starts_with(VERCEL_ISSUER) =>
        {
            "; an exchanged token has the team's issuer, also in global issuer mode"
        }
        _ => "",
    }
}

/// Makes a text fit for the quotes of an `error_description`: printable ASCII without `"` and `\` (RFC 6750, section
/// 3), at most 200 characters.
pub(crate) fn quotable(text: &str) -> String {
    let allowed = |character| match character {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => character,
        _ => '?',
    };
    text.chars().take(200).map(allowed).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::error::Forbidden;
    use crate::verifier::tests::{key_set, token, trust};

    /// Returns the token, or the code of the refusal.
    fn read(values: &[&str]) -> Result<String, &'static str> {
        // As pairs, because other frameworks have header types of their own.
        let headers = values.iter().map(|value| ("Authorization", *value));
        let token = bearer_token([("cookie", "Bearer c")].into_iter().chain(headers))
            .map_err(|refusal| Problem::from(refusal).code())?;
        Ok(String::from_utf8(token.to_vec()).unwrap())
    }

    #[test]
    fn takes_one_token_of_the_bearer_scheme() {
        for value in
            ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "Bearer   a.b.c ", " Bearer a.b.c", "Bearer\ta.b.c"]
        {
            assert_eq!(read(&[value]).as_deref(), Ok("a.b.c"), "{value}");
        }
        for values in [&[][..], &[""], &["Basic a"], &["Bearera"], &["a.b.c"], &["Bearer,a"]] {
            assert_eq!(read(values), Err("missing_token"), "{values:?}");
        }
        for values in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a\tb"],
            &["Bearer a", "Bearer a"],
            &["Basic a", "Basic b"],
            &["", ""],
        ] {
            assert_eq!(read(values), Err("invalid_request"), "{values:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_matched_by_its_cause() {
        let verifier = Verifier::new(trust(), key_set());
        let authenticate =
            async |value: &str| verifier.authenticate([("authorization", value)], SystemTime::now()).await.map(drop);
        assert_eq!(authenticate(&format!("Bearer {}", token(&[]))).await, Ok(()));
        assert_eq!(authenticate("Basic a").await, Err(Refusal::MissingToken));
        assert_eq!(authenticate("Bearer").await, Err(Refusal::EmptyToken));
        assert_eq!(authenticate("Bearer a b").await, Err(Refusal::SeveralTokens));
        assert_eq!(authenticate("Bearer a.b").await, Err(VerifyError::from(Invalid::NotCompactJws).into()));
    }

    #[test]
    fn the_client_does_not_learn_what_would_be_accepted() {
        let (found, accepted) = (Some("mine".to_owned()), "secret".to_owned());
        for (error, status) in [
            (Invalid::Issuer { found: found.clone(), accepted: accepted.clone() }.into(), 401),
            (Invalid::Audience { found: "mine".into(), accepted: accepted.clone() }.into(), 401),
            (VerifyError::from(Forbidden { claim: "sub", found, accepted }), 403),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.status().as_u16(), status);
            assert!(problem.log_detail().contains("secret") && problem.log_detail().contains("mine"));
            let (head, body) = problem.into_response::<String>().into_parts();
            assert!(!format!("{:?} {body}", head.headers).contains("secret"));
        }
    }

    #[test]
    fn the_log_explains_the_issuer_of_an_exchanged_token_in_global_mode() {
        for (found, accepted, explained) in [
            ("https://oidc.vercel.com/acme", VERCEL_ISSUER, true),
            ("https://evil.test", VERCEL_ISSUER, false),
            (VERCEL_ISSUER, "https://oidc.vercel.com/acme", false),
        ] {
            let error = Invalid::Issuer { found: Some(found.to_owned()), accepted: accepted.to_owned() };
            let problem = Problem::from(VerifyError::from(error));
            assert_eq!(problem.log_detail().contains("exchanged"), explained, "{found} {accepted}");
            assert!(!problem.detail().contains("exchanged"));
        }
    }

    #[test]
    fn a_client_waits_until_the_next_attempt_can_succeed() {
        for (milliseconds, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let retry_after = std::time::Duration::from_millis(milliseconds);
            let response = Problem::from(VerifyError::KeysUnavailable { retry_after }).into_response::<String>();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn a_description_fits_between_quotes() {
        assert_eq!(quotable("a \"b\" c\\d\r\n\u{7f}é"), "a 'b' c/d????");
        assert_eq!(quotable(&"x".repeat(300)), "x".repeat(200));
    }
}
