//! The three calls as a story, for a reader who has never met OIDC federation.
//!
//! The story uses the caller's answers: a check gets a tick only if the answer proves that it passed. The story shows
//! the claims of the tokens, and no token.

use std::fmt::{Display, Write as _};

use serde_json::Value;

use crate::stage::{ORDERS_AUDIENCE, Outcome, Stage};

/// The width of the text. A longer word is not broken.
const WIDTH: usize = 100;

/// Tells the three calls: accepted, accepted with an exchanged token, refused.
pub(crate) fn tell(stage: &Stage, [accepted, exchanged, refused]: [&Outcome; 3], colour: bool) -> String {
    let mut page = Page { text: String::new(), colour };
    introduction(&mut page, stage);
    first_call(&mut page, stage, accepted);
    exchanged_call(&mut page, stage, exchanged);
    refused_call(&mut page, stage, refused);
    page.text
}

fn introduction(page: &mut Page, stage: &Stage) {
    page.title("Vercel OIDC federation, on your machine");
    page.line(
        "A function proves to an API which deployment it is. The two share no password, API key or other secret.\n",
    );
    for (end, url, what) in [
        ("issuer", &stage.issuer_url, "the stand-in for Vercel: signs tokens, publishes its public key"),
        ("caller", &stage.caller_url, "the Vercel Function: gets a token with each request"),
        ("backend", &stage.backend_url, "the protected API: verifies each token"),
    ] {
        page.line(&format!("   {end:<9}{url:<30}{}", page.paint("2", what)));
    }
}

fn first_call(page: &mut Page, stage: &Stage, outcome: &Outcome) {
    // The claims are made again, because only the function gets the token. The times differ by at most a second.
    let claims = stage.issuer.claims(&stage.deployment);
    page.line("");
    page.title("A call from production");

    page.step(1, "Vercel gives the function a token, in the request header x-vercel-oidc-token", None);
    page.line("   The issuer has signed the token. Its claims are:");
    let hours = (claims["exp"].as_u64().unwrap_or(0) - claims["iat"].as_u64().unwrap_or(0)) / 3600;
    let explained = [
        ("iss", "who signed the token"),
        ("sub", "which deployment it names"),
        ("aud", "which APIs it is for"),
        ("exp", &format!("when it expires: after {hours} hours")),
    ];
    for (name, meaning) in explained {
        page.field(name, plain(&claims[name]), meaning);
    }
    let others =
        claims.as_object().into_iter().flatten().filter(|(name, _)| !explained.iter().any(|(shown, _)| shown == name));
    page.words("   and      ", others.map(|(name, value)| format!("{name}={}", plain(value))));

    page.step(2, "The function calls the backend", outcome.milliseconds("backend"));
    page.field("GET", format!("{}/", stage.backend_url), "");
    page.field("with", "Authorization: Bearer ***", "the token is the only credential");

    page.step(3, "The backend verifies the token", outcome.milliseconds("verify"));
    let verdict = Verdict::of(outcome);
    page.check(verdict.valid, "signature", &format!("RS256, by a key from {}/.well-known/jwks", stage.issuer_url));
    page.check(verdict.valid, "iss", &stage.issuer_url);
    page.check(verdict.valid, "aud", &stage.deployment.audience());
    page.check(verdict.valid, "time", "now is after nbf and iat, and before exp");
    page.check(verdict.trusted, "sub", &stage.deployment.subject());

    page.step(4, &format!("The function returns the answer: {}", outcome.status), Some(outcome.total_milliseconds()));
    page.words("   ", outcome.body.to_string().split_inclusive(',').map(str::trim));
}

fn exchanged_call(page: &mut Page, stage: &Stage, outcome: &Outcome) {
    page.line("");
    page.title("A call with a token for one API only");
    page.line("");
    page.line(
        "   An API that receives the token above could call another API with it, if that API accepts the same aud.",
    );
    page.line(
        "   If BACKEND_AUDIENCE is set, the function first exchanges the token for one that only this API accepts.",
    );

    page.step(1, "The function exchanges the token", outcome.milliseconds("exchange"));
    page.field("POST", stage.issuer.exchange_url(), "");
    page.field("aud", ORDERS_AUDIENCE, "the audience of the new token");

    page.step(2, "The function calls a backend that accepts this aud only", outcome.milliseconds("backend"));
    page.field("GET", format!("{}/", stage.orders_url), "");
    page.check(Verdict::of(outcome).valid, "aud", ORDERS_AUDIENCE);
    page.line("");
    page.line(&format!("   The function answers {}.", outcome.status));
}

fn refused_call(page: &mut Page, stage: &Stage, outcome: &Outcome) {
    page.line("");
    page.title("The first call again, from preview");
    page.line("");
    page.line("   The project is the same and the token is valid, but this backend trusts production only.");
    page.field("sub", stage.deployment.in_environment("preview").subject(), "which deployment it names");
    page.line("");
    let verdict = Verdict::of(outcome);
    page.check(verdict.valid, "valid", "signature, iss, aud and time, as in the first call");
    page.check(verdict.trusted, "sub", &format!("expected {}", stage.deployment.subject()));
    page.line("");
    let refusal = match outcome.body["backend_status"].as_u64() {
        Some(status) => format!("The backend refuses: {status} ({}). ", plain(&outcome.body["backend_code"])),
        None => String::new(),
    };
    page.line(&format!("   {refusal}The function answers {} ({}).", outcome.status, plain(&outcome.body["code"])));
    page.line("");
}

/// Which of the backend's checks passed; `None` if the answer does not say.
struct Verdict {
    valid: Option<bool>,
    trusted: Option<bool>,
}

impl Verdict {
    fn of(outcome: &Outcome) -> Self {
        match (outcome.is_accepted(), outcome.is_forbidden()) {
            (true, _) => Self { valid: Some(true), trusted: Some(true) },
            (_, true) => Self { valid: Some(true), trusted: Some(false) },
            // The token was refused for another reason, or was not verified. The answer below has the reason.
            _ => Self { valid: None, trusted: None },
        }
    }
}

/// Returns a JSON value as text. A string has no quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end_matches(' '));
        self.text.push('\n');
    }

    fn title(&mut self, title: &str) {
        self.line(&self.paint("1", title));
    }

    fn step(&mut self, number: u8, what: &str, milliseconds: Option<f64>) {
        let number = self.paint("1", &number.to_string());
        let took = milliseconds.map_or_else(String::new, |time| self.paint("2", &format!("  {time:.1} ms")));
        self.line(&format!("\n{number}  {what}{took}"));
    }

    fn field(&mut self, name: &str, value: impl Display, meaning: &str) {
        let value = format!("   {name:<9}{value:<54}");
        self.line(&format!("{value}{}", self.paint("2", meaning)));
    }

    fn check(&mut self, passed: Option<bool>, name: &str, expected: &str) {
        let mark = match passed {
            Some(true) => self.paint("32", "✓"),
            Some(false) => self.paint("31", "✗"),
            None => "?".to_owned(),
        };
        self.line(&format!("   {mark} {name:<11}{expected}"));
    }

    /// Writes words in lines of [`WIDTH`]. `indent` starts the first line, and the other lines start with as many
    /// spaces.
    fn words(&mut self, indent: &str, words: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut line = indent.to_owned();
        for word in words {
            let word = word.as_ref();
            if line.len() + word.len() > WIDTH {
                self.line(&line);
                line = " ".repeat(indent.len());
            }
            let _ = write!(line, "{word} ");
        }
        self.line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_at_the_width() {
        let [a, b, c] = ["a".repeat(50), "b".repeat(47), "c".repeat(48)];
        let mut page = Page { text: String::new(), colour: false };
        page.words("> ", [&a, &b]);
        page.words("> ", [&a, &c]);
        assert_eq!(page.text, format!("> {a} {b}\n> {a}\n  {c}\n"));
    }

    #[test]
    fn each_colour_is_switched_off() {
        let mut page = Page { text: String::new(), colour: true };
        page.check(Some(true), "aud", "me");
        page.field("GET", "/", "");
        assert_eq!(page.text, "   \x1b[32m✓\x1b[0m aud        me\n   GET      /\n");
    }
}
