//! The two calls as a story, for someone who never heard of OIDC federation.
//!
//! Text in, text out. It is told from what the caller answered: a check is ticked because the answer proves that it passed.
//! It has the claims, and never a token.

use std::fmt::Write as _;

use serde_json::Value;

use crate::stage::{AUDIENCE, Outcome, Stage};

/// How wide the text may get.
const WIDTH: usize = 100;

/// Colour, or none.
#[derive(Clone, Copy)]
pub(crate) struct Ink {
    colour: bool,
}

impl Ink {
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn title(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn aside(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn tick(self) -> String {
        self.paint("32", "✓")
    }

    fn cross(self) -> String {
        self.paint("31", "✗")
    }
}

/// Tells both calls.
pub(crate) fn tell(stage: &Stage, accepted: &Outcome, refused: &Outcome, ink: Ink) -> String {
    [introduction(stage, ink), first_call(stage, accepted, ink), second_call(stage, refused, ink)].join("\n")
}

fn introduction(stage: &Stage, ink: Ink) -> String {
    let issuer = stage.issuer.team_url(&stage.deployment.team);
    let end = |name: &str, url: &str, what: &str| format!("   {name:<9}{url:<30}{}\n", ink.aside(what));
    [
        ink.title("Vercel OIDC federation, on your machine") + "\n",
        "A function proves to an API which deployment it is. No password, no API key, nothing to keep secret.\n\n"
            .to_owned(),
        end("issuer", &issuer, "stands in for Vercel: signs tokens, publishes its public key"),
        end("caller", &stage.caller_url, "the Vercel Function: is given a token with each request"),
        end("backend", &stage.backend_url, "the protected API: knows whom to trust, and no secret"),
    ]
    .concat()
}

fn first_call(stage: &Stage, outcome: &Outcome, ink: Ink) -> String {
    let issuer = stage.issuer.team_url(&stage.deployment.team);
    let claims = stage.issuer.claims(&stage.deployment);
    let hours = (number(&claims, "exp") - number(&claims, "iat")) / 3600;
    let mut text = ink.title("A call from production") + "\n\n";
    let mut line = |one: String| {
        text.push_str(&one);
        text.push('\n');
    };

    line(step(ink, 1, "Vercel gives the function a token, in a header of the request: x-vercel-oidc-token.", None));
    line("    The issuer has signed it. It says:".to_owned());
    for (name, meaning) in [
        ("iss", "who says so".to_owned()),
        ("sub", "of which deployment".to_owned()),
        ("aud", "to whom".to_owned()),
        ("exp", format!("for how long: {hours} hours")),
    ] {
        line(format!("      {name:<7}{:<56}{}", plain(&claims[name]), ink.aside(&meaning)));
    }
    line(wrapped("      and    ", other_claims(&claims)));
    line(String::new());
    line(step(
        ink,
        2,
        "The function swaps it for one that is good at this backend alone",
        outcome.milliseconds("exchange"),
    ));
    line(format!("      POST   {}", stage.issuer.exchange_url()));
    line(format!("      aud    {AUDIENCE:<56}{}", ink.aside("the rest stays as it was")));
    line(String::new());
    line(step(ink, 3, "The function calls the backend", outcome.milliseconds("backend")));
    line(format!("      GET    {}/", stage.backend_url));
    line(format!("      Authorization: Bearer ***{:<38}{}", "", ink.aside("the token, and no other credential")));
    line(String::new());
    line(step(ink, 4, "The backend checks the token", outcome.milliseconds("verify")));
    for check in checks(stage, &issuer, outcome, ink) {
        line(check);
    }
    line(String::new());
    line(step(ink, 5, &format!("The function answers {}", outcome.status), Some(outcome.took.as_secs_f64() * 1000.0)));
    let json = outcome.body.to_string();
    line(wrapped("      ", json.split_inclusive(',').map(str::trim)));
    text
}

fn second_call(stage: &Stage, outcome: &Outcome, ink: Ink) -> String {
    let preview = stage.deployment.in_environment("preview");
    let issuer = stage.issuer.team_url(&preview.team);
    let mut text = ink.title("The same call from preview") + "\n\n";
    let mut line = |one: String| {
        text.push_str(&one);
        text.push('\n');
    };
    line("    The same project, and a token just as genuine. But the backend trusts production alone.".to_owned());
    line(format!("      sub    {}", preview.subject()));
    line(String::new());
    for check in checks(stage, &issuer, outcome, ink) {
        line(check);
    }
    line(String::new());
    let backend = outcome.body["backend_status"].as_u64().map_or_else(String::new, |status| {
        format!("The backend answers {status} ({}), so the", plain(&outcome.body["backend_code"]))
    });
    line(format!(
        "    {} function answers {} ({}):",
        if backend.is_empty() { "The" } else { &backend },
        outcome.status,
        plain(&outcome.body["code"])
    ));
    line(wrapped("      ", plain(&outcome.body["detail"]).split(' ')));
    text
}

/// The checks in the backend's order, as far as the answer tells how they went.
fn checks(stage: &Stage, issuer: &str, outcome: &Outcome, ink: Ink) -> Vec<String> {
    let (genuine, trusted) = match (outcome.is_accepted(), outcome.is_forbidden()) {
        (true, _) => (ink.tick(), ink.tick()),
        (_, true) => (ink.tick(), ink.cross()),
        // Refused for another reason, or never asked: the answer below has the reason.
        _ => ("?".to_owned(), "?".to_owned()),
    };
    let row = |mark: &str, name: &str, expected: &str| format!("    {mark} {name:<10}{expected}");
    vec![
        row(&genuine, "signature", &format!("RS256, by a key from {issuer}/.well-known/jwks")),
        row(&genuine, "iss", issuer),
        row(&genuine, "aud", AUDIENCE),
        row(&genuine, "time", "its time has come (nbf, iat) and is not over (exp)"),
        row(&trusted, "sub", &stage.deployment.subject()),
    ]
}

fn step(ink: Ink, number: u8, what: &str, milliseconds: Option<f64>) -> String {
    let took = milliseconds.map_or_else(String::new, |time| ink.aside(&format!("  {time:.1} ms")));
    format!(" {}  {what}{took}", ink.title(&number.to_string()))
}

fn other_claims(claims: &Value) -> Vec<String> {
    let shown = ["iss", "sub", "aud", "exp"];
    let others = claims.as_object().into_iter().flatten().filter(|(name, _)| !shown.contains(&name.as_str()));
    others.map(|(name, value)| format!("{name} {};", plain(value))).collect()
}

fn number(claims: &Value, name: &str) -> u64 {
    claims[name].as_u64().unwrap_or_default()
}

/// A JSON value without the quotes that a string has.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Joins `words`, with a new line where one would get too wide; `indent` starts the first, as many spaces the others.
fn wrapped(indent: &str, words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut text = indent.to_owned();
    let mut width = indent.len();
    for word in words {
        let word = word.as_ref();
        if width + word.len() > WIDTH {
            let _ = write!(text, "\n{:1$}", "", indent.len());
            width = indent.len();
        }
        let _ = write!(text, "{word} ");
        width += word.len() + 1;
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_between_words() {
        let words = ["a".repeat(50), "b".repeat(48), "c".repeat(49)];
        let text = wrapped("> ", &words[..2]);
        assert_eq!(text, format!("> {}\n  {}", words[0], words[1]));
        let text = wrapped("> ", [&words[0], &words[2][2..].to_owned()]);
        assert_eq!(text, format!("> {} {}", words[0], &words[2][2..]));
    }
}
