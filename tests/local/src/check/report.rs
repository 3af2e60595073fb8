//! Compares each answer with the expected answer, and sums up what an attacker can do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cases::{Case, Expected};
use super::hole::Hole;
use super::send::Answer;

/// The result of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The expected answer.
    Passed,
    /// The API has this hole.
    Failed(Hole),
    /// Not a hole, but worth a look.
    Remark(&'static str),
    /// The answer does not show whether the API is right.
    Unproven(&'static str),
    /// Not tried.
    Skipped(&'static str),
}

impl Outcome {
    /// Returns the word for the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed(_) => "HOLE",
            Self::Remark(_) => "remark",
            Self::Unproven(_) => "UNPROVEN",
            Self::Skipped(_) => "skipped",
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Remark(reason) | Self::Unproven(reason) | Self::Skipped(reason) => Some(reason),
            Self::Passed | Self::Failed(_) => None,
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name of the case.
    pub name: &'static str,
    /// What is wrong with the token.
    pub what: &'static str,
    /// The attack, or the section of a standard.
    pub source: &'static str,
    /// What the API should answer.
    pub expected: &'static str,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The result.
    pub outcome: Outcome,
    /// Whether an answer 401 lacked `WWW-Authenticate`.
    pub lacks_challenge: bool,
}

/// Compares an answer with the case's. `fetched` is whether a URL was fetched that only the token names.
pub(crate) fn judge(case: &Case, answer: Answer, fetched: bool, strict: bool) -> Row {
    use Expected::{Accept, AcceptSoon, Either, Refuse, RefuseSoon, ShouldRefuse};
    const PERMITTED: &str = "accepted: refusing is better, but this alone gains an attacker nothing";
    let (status, lacks_challenge) = match &answer {
        Answer::Status { status, challenge } => (Some(*status), *status == 401 && !challenge),
        Answer::None | Answer::Skipped(_) => (None, false),
    };
    let outcome = match (case.expected, answer) {
        (_, Answer::Skipped(reason)) => Outcome::Skipped(reason),
        _ if fetched => Outcome::Failed(Hole::Fetch),
        (_, Answer::None) => Outcome::Unproven("no answer within ten seconds"),
        (Accept | AcceptSoon, Answer::Status { status: 200..=299, .. }) => Outcome::Passed,
        (Accept | AcceptSoon, Answer::Status { .. }) => Outcome::Failed(Hole::GoodRefused),
        (Either, Answer::Status { status: 500.., .. }) => Outcome::Remark("a 5xx: is this an uncaught error?"),
        (Either, Answer::Status { .. }) => Outcome::Passed,
        (_, Answer::Status { status: 404, .. }) => Outcome::Unproven("404 does not show whether the token was refused"),
        (_, Answer::Status { status: 429, .. }) => Outcome::Unproven("429 means that there were too many requests"),
        (_, Answer::Status { status: 400 | 401 | 403 | 431, .. }) => Outcome::Passed,
        (_, Answer::Status { status: 503, .. }) => Outcome::Remark("503: the API could not get the keys"),
        (_, Answer::Status { status: 500.., .. }) => Outcome::Remark("a 5xx: is this an uncaught error?"),
        (_, Answer::Status { status: 400.., .. }) => Outcome::Remark("refused with an unusual status"),
        (Refuse(hole), _) => Outcome::Failed(hole),
        (ShouldRefuse(hole), _) if strict => Outcome::Failed(hole),
        (ShouldRefuse(_), _) => Outcome::Remark(PERMITTED),
        (RefuseSoon(_), _) => Outcome::Remark("still accepted: fine for 10 minutes after the key was withdrawn"),
    };
    let expected = match case.expected {
        Accept | AcceptSoon => "accept",
        Refuse(_) | ShouldRefuse(_) | RefuseSoon(_) => "refuse",
        Either => "either",
    };
    let &Case { name, what, source, .. } = case;
    Row { name, what, source, expected, status, outcome, lacks_challenge }
}

/// All rows, and the holes that they show.
#[derive(Clone, Debug)]
pub struct Report {
    url: String,
    rows: Vec<(&'static str, Row)>,
    key_fetches: usize,
}

impl Report {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), rows: Vec::new(), key_fetches: 0 }
    }

    pub(crate) fn add(&mut self, group: &'static str, row: Row) {
        self.rows.push((group, row));
    }

    pub(crate) fn finish(&mut self, key_fetches: usize) {
        self.key_fetches = key_fetches;
    }

    /// Returns all rows.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// Whether the API accepted every valid token and refused every invalid token.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.rows().all(|row| !matches!(row.outcome, Outcome::Failed(_) | Outcome::Unproven(_)))
    }

    /// Returns the holes, and the cases that show each. A case whose hole follows from a wider hole counts for the
    /// wider hole.
    #[must_use]
    pub fn holes(&self) -> BTreeMap<Hole, Vec<&'static str>> {
        let fails = |name| self.rows().any(|row| row.name == name && matches!(row.outcome, Outcome::Failed(_)));
        let (open, unverified, unsigned) = (fails("no-token"), fails("garbage"), fails("forged"));
        let mut holes = BTreeMap::<_, Vec<_>>::new();
        for row in self.rows() {
            let Outcome::Failed(hole) = row.outcome else { continue };
            let hole = match hole {
                Hole::GoodRefused => hole,
                _ if open => Hole::Open,
                _ if unverified => Hole::Unverified,
                _ if unsigned && hole.follows_from_signature() => Hole::Signature,
                _ => hole,
            };
            holes.entry(hole).or_default().push(row.name);
        }
        holes
    }

    /// Returns the summary for a reader who has never met OIDC.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let mut say = |line: &str| text.extend([line, "\n"]);
        let count = |test: fn(&Outcome) -> bool| self.rows().filter(|row| test(&row.outcome)).count();
        let passed = count(|outcome| matches!(outcome, Outcome::Passed));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let remarks = count(|outcome| matches!(outcome, Outcome::Remark(_)));
        let unproven = count(|outcome| matches!(outcome, Outcome::Unproven(_)));
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        say(&format!("{passed} passed, {failed} failed, {unproven} unproven, {remarks} remarks, {skipped} skipped"));
        let holes = self.holes();
        let refuses_the_first = holes.get(&Hole::GoodRefused).is_some_and(|cases| cases.contains(&"good"));
        if refuses_the_first {
            say("\nThe API refused a valid token, so its other refusals prove nothing. Compare the API's settings");
            say("with those above: issuer, JWKS URL, audience, subject.");
            if self.key_fetches == 0 {
                say("The keys have not been fetched. Does the API use the JWKS URL above?");
            }
        }
        for (hole, cases) in &holes {
            say(&format!("\n{}: {}", hole.name(), hole.meaning()));
            say(&format!("  shown by: {}", cases.join(", ")));
        }
        let mut reasons = BTreeMap::<_, Vec<_>>::new();
        for row in self.rows() {
            if let Some(reason) = row.outcome.reason() {
                reasons.entry((row.outcome.word(), reason)).or_default().push(row.name);
            }
        }
        for ((word, reason), cases) in reasons {
            say(&format!("\n{word}: {reason}\n  {}", cases.join(", ")));
        }
        if self.rows().any(|row| row.lacks_challenge) {
            say("\nremark: a 401 without `WWW-Authenticate`. RFC 6750 section 3 requires it.");
        }
        if self.is_clean() {
            say("\nNo holes: the API accepted every valid token, and refused every token that it must refuse.");
        } else if holes.keys().any(|hole| *hole != Hole::GoodRefused) {
            say("\nDon't use this API before these holes are closed.");
        }
        text
    }

    /// Returns the report for a program.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let cases: Vec<_> = self
            .rows
            .iter()
            .map(|(group, row)| {
                json!({
                    "group": group,
                    "name": row.name,
                    "what": row.what,
                    "source": row.source,
                    "expected": row.expected,
                    "answered": row.status,
                    "outcome": row.outcome.word().to_lowercase(),
                    "hole": match row.outcome { Outcome::Failed(hole) => Some(hole.name()), _ => None },
                    "reason": row.outcome.reason(),
                })
            })
            .collect();
        let holes: Vec<_> = self
            .holes()
            .iter()
            .map(|(hole, cases)| json!({ "name": hole.name(), "meaning": hole.meaning(), "cases": cases }))
            .collect();
        json!({ "url": self.url, "clean": self.is_clean(), "holes": holes, "cases": cases })
    }
}
