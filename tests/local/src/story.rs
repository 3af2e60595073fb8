//! The two calls as a story, for someone who never heard of OIDC federation.
//!
//! Told from what the caller answered: a check is ticked because that answer proves it passed. It has the claims of the
//! tokens, and never a token.

use std::fmt::{Display, Write as _};

use serde_json::Value;

use crate::stage::{AUDIENCE, Outcome, Stage};

/// How wide the text gets, but for a single word that is wider.
const WIDTH: usize = 100;

/// Tells both calls.
pub(crate) fn tell(stage: &Stage, accepted: &Outcome, refused: &Outcome, colour: bool) -> String {
    let mut page = Page { text: String::new(), colour };
    introduction(&mut page, stage);
    first_call(&mut page, stage, accepted);
    second_call(&mut page, stage, refused);
    page.text
}

fn introduction(page: &mut Page, stage: &Stage) {
    page.title("Vercel OIDC federation, on your machine");
    page.line("A function proves to an API which deployment it is: no password, no API key, nothing to keep secret.\n");
    for (end, url, what) in [
        ("issuer", &stage.issuer_url, "stands in for Vercel: signs tokens, publishes its public key"),
        ("caller", &stage.caller_url, "the Vercel Function: is given a token with each request"),
        ("backend", &stage.backend_url, "the protected API: knows whom to trust, and no secret"),
    ] {
        page.line(&format!("   {end:<9}{url:<30}{}", page.paint("2", what)));
    }
}

fn first_call(page: &mut Page, stage: &Stage, outcome: &Outcome) {
    // Made again rather than read from the token, which only the function gets: the same but for a second.
    let claims = stage.issuer.claims(&stage.deployment);
    page.line("");
    page.title("A call from production");

    page.step(1, "Vercel gives the function a token, in a header of the request: x-vercel-oidc-token", None);
    page.line("   The issuer has signed it. It says:");
    let hours = (claims["exp"].as_u64().unwrap_or(0) - claims["iat"].as_u64().unwrap_or(0)) / 3600;
    let explained = [
        ("iss", "who says so"),
        ("sub", "of which deployment"),
        ("aud", "to whom"),
        ("exp", &format!("until when: for {hours} hours")),
    ];
    for (name, meaning) in explained {
        page.field(name, plain(&claims[name]), meaning);
    }
    let others =
        claims.as_object().into_iter().flatten().filter(|(name, _)| !explained.iter().any(|(one, _)| one == name));
    page.words("   and      ", others.map(|(name, value)| format!("{name}={}", plain(value))));

    page.step(2, "The function swaps it for one that is good at this backend alone", outcome.milliseconds("exchange"));
    page.field("POST", stage.issuer.exchange_url(), "");
    page.field("aud", AUDIENCE, "`act` tells what it is made from");

    page.step(3, "The function calls the backend", outcome.milliseconds("backend"));
    page.field("GET", format!("{}/", stage.backend_url), "");
    page.field("with", "Authorization: Bearer ***", "the token, and no other credential");

    page.step(4, "The backend checks the token", outcome.milliseconds("verify"));
    let verdict = Verdict::of(outcome);
    page.check(verdict.genuine, "signature", &format!("RS256, by a key from {}/.well-known/jwks", stage.issuer_url));
    page.check(verdict.genuine, "iss", &stage.issuer_url);
    page.check(verdict.genuine, "aud", AUDIENCE);
    page.check(verdict.genuine, "time", "it has come (nbf, iat), and is not over (exp)");
    page.check(verdict.trusted, "sub", &stage.deployment.subject());

    let took = outcome.took.as_secs_f64() * 1000.0;
    page.step(5, &format!("The function passes the answer on: {}", outcome.status), Some(took));
    page.words("   ", outcome.body.to_string().split_inclusive(',').map(str::trim));
}

fn second_call(page: &mut Page, stage: &Stage, outcome: &Outcome) {
    page.line("");
    page.title("The same call from preview");
    page.line("");
    page.line("   The same project, and a token just as genuine. But this backend trusts production alone.");
    page.field("sub", stage.deployment.in_environment("preview").subject(), "of which deployment");
    page.line("");
    let verdict = Verdict::of(outcome);
    page.check(verdict.genuine, "genuine", "signature, iss, aud, time: as before");
    page.check(verdict.trusted, "sub", &format!("expected {}", stage.deployment.subject()));
    page.line("");
    if outcome.is_forbidden() {
        page.line(&format!(
            "   The backend refuses: {} ({})",
            outcome.body["backend_status"],
            plain(&outcome.body["backend_code"])
        ));
    }
    page.line(&format!("   The function answers: {} ({})", outcome.status, plain(&outcome.body["code"])));
    page.words("   ", plain(&outcome.body["detail"]).split(' '));
    page.line("");
}

/// How the backend's checks went, as far as the answer tells.
struct Verdict {
    genuine: Option<bool>,
    trusted: Option<bool>,
}

impl Verdict {
    fn of(outcome: &Outcome) -> Self {
        match (outcome.is_accepted(), outcome.is_forbidden()) {
            (true, _) => Self { genuine: Some(true), trusted: Some(true) },
            (_, true) => Self { genuine: Some(true), trusted: Some(false) },
            // Refused for another reason, or never asked: the answer that follows has the reason.
            _ => Self { genuine: None, trusted: None },
        }
    }
}

/// A JSON value without the quotes that a string has.
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

    /// Fills lines with words; `indent` starts the first, as many spaces the others.
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
    fn words_fill_a_line_and_no_more() {
        let [a, b, c] = ["a".repeat(50), "b".repeat(47), "c".repeat(48)];
        let mut page = Page { text: String::new(), colour: false };
        page.words("> ", [&a, &b]);
        page.words("> ", [&a, &c]);
        assert_eq!(page.text, format!("> {a} {b}\n> {a}\n  {c}\n"));
    }

    #[test]
    fn colours_end_where_they_began() {
        let mut page = Page { text: String::new(), colour: true };
        page.check(Some(true), "aud", "me");
        page.field("GET", "/", "");
        assert_eq!(page.text, "   \x1b[32m✓\x1b[0m aud        me\n   GET      /\n");
    }
}
