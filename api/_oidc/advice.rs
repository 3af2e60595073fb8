//! What an answer other than 2xx means, and what to do.

use http::StatusCode;

/// What is known about an answer other than 2xx.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'a> {
    pub(crate) status: StatusCode,
    pub(crate) code: Option<&'a str>,
    /// The answer has `WWW-Authenticate: Bearer`, so it is the API's own (RFC 6750, section 3).
    pub(crate) has_challenge: bool,
    pub(crate) encoding: Option<&'a str>,
    /// The answer redirects to a page that looks like a sign-in.
    pub(crate) is_sign_in: bool,
    /// The request carried the token for Deployment Protection too.
    pub(crate) is_on_vercel: bool,
    /// The token came from the exchange.
    pub(crate) is_exchanged: bool,
}

impl Refusal<'_> {
    pub(crate) fn message(self) -> String {
        let Self { code, encoding, .. } = self;
        let status = self.status.as_u16();
        let check_the_way = if self.is_on_vercel {
            "Check Deployment Protection (this project must be a trusted source), firewalls and proxies."
        } else {
            "Behind Deployment Protection, call the API at its `.vercel.app` URL. Else check firewalls and proxies."
        };
        let advice = match (status, code) {
            (400 | 401 | 403, None) if encoding.is_some() => {
                return format!(
                    "The API refused the request with {status}. The reason has `Content-Encoding: {}`, which was not \
                     asked for. Look for a proxy that compresses answers.",
                    encoding.unwrap_or_default()
                );
            }
            (401, None) if self.has_challenge => {
                "Its challenge names no error, so maybe no token arrived. Check that nothing removes `Authorization`."
            }
            (403, None) if self.has_challenge => {
                "Compare the token's subject (project and environment) with what the API accepts."
            }
            (400, None) => "It gave no code. Check the request, and look for a proxy in front of the API.",
            (401 | 403, None) => {
                return format!("Refused with {status} and no code, so maybe not by the API. {check_the_way}");
            }
            (400 | 401 | 403, Some(code)) => match code {
                "missing_token" => "No token arrived: something on the way removed the `Authorization` header.",
                "invalid_request" => "Look for a proxy that adds or changes the header `Authorization`.",
                "invalid_token" if self.is_exchanged => {
                    "Compare issuer, audience and expiry with its settings. An exchanged token has the team's issuer."
                }
                "invalid_token" => "Compare the token's issuer, audience and expiry with the API's settings and log.",
                "forbidden" | "insufficient_scope" => {
                    "Compare the token's subject (project and environment) with what the API accepts."
                }
                _ => "Look up this code in the API's documentation.",
            },
            (_, Some("keys_unavailable")) => {
                "It can't fetch the keys that verify tokens. Try again. If it lasts, check its log."
            }
            (429, _) => "It limits the rate of requests. Try again later, or send fewer requests.",
            (503, _) => "It is temporarily unavailable. Try again later, and check its log.",
            (300..=399, _) if self.is_sign_in => check_the_way,
            (300..=399, _) => "Redirects are not followed. Check the base URL, the path and its trailing slash.",
            (405, _) => "Check the method and the path.",
            (413 | 415 | 422, _) => "Check the request's body.",
            (502 | 504, None) => "A gateway in front of the API could not reach the API: check that the API runs.",
            (500..=599, _) => "Check the API's log.",
            _ => "Check the base URL and the path.",
        };
        let verb = if matches!(status, 400 | 401 | 403) { "refused the request with" } else { "answered" };
        let code = code.map_or_else(String::new, |code| format!(" `{code}`"));
        format!("The API {verb} {status}{code}. {advice}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Refusal<'static>> {
        const LONGEST: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        let codes = ["missing_token", "invalid_request", "invalid_token", "forbidden", "keys_unavailable", LONGEST];
        let mut all = Vec::new();
        for status in [201, 302, 400, 401, 403, 404, 405, 407, 413, 415, 418, 422, 429, 500, 502, 503, 504, 599] {
            for code in codes.into_iter().map(Some).chain([None]) {
                for encoding in [None, Some("deflate"), Some("(unknown)")] {
                    for flags in 0..16 {
                        all.push(Refusal {
                            status: StatusCode::from_u16(status).unwrap_or_default(),
                            code,
                            encoding,
                            has_challenge: flags & 1 != 0,
                            is_sign_in: flags & 2 != 0,
                            is_on_vercel: flags & 4 != 0,
                            is_exchanged: flags & 8 != 0,
                        });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn each_message_is_one_to_three_short_sentences() {
        for refusal in all() {
            let message = refusal.message();
            // The demo adds the name of a variable to advice about the base URL.
            let limit = if message.contains("base URL") { 169 } else { 200 };
            assert!(message.ends_with('.') && message.len() <= limit, "{} characters: {message}", message.len());
        }
    }

    #[test]
    fn an_answer_with_a_code_or_a_challenge_is_the_apis_own() {
        for refusal in all().iter().filter(|refusal| matches!(refusal.status.as_u16(), 401 | 403)) {
            let is_known = refusal.code.is_some() || refusal.has_challenge || refusal.encoding.is_some();
            assert_eq!(!is_known, refusal.message().contains("Deployment Protection"), "{refusal:?}");
        }
    }

    #[test]
    fn the_advice_for_deployment_protection_works_at_that_host() {
        let refusals = all().into_iter().filter(|refusal| refusal.message().contains("Deployment Protection"));
        for refusal in refusals {
            let works = if refusal.is_on_vercel { "trusted source" } else { "at its `.vercel.app` URL" };
            assert!(refusal.message().contains(works), "{refusal:?}");
        }
    }
}
