//! Compares each answer with the expected answer, and sums up what an attacker can do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Options;
use super::cases::{Case, Expected};
use super::hole::Hole;
use super::send::{Answer, Failure};

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
    /// What was measured.
    pub note: Option<String>,
    /// Whether an answer 401 lacked `WWW-Authenticate`.
    pub lacks_challenge: bool,
}

impl Row {
    /// A row of something that is not one token.
    pub(crate) fn of(name: &'static str, what: &'static str, source: &'static str, outcome: Outcome) -> Self {
        Self { name, what, source, expected: "refuse", status: None, outcome, note: None, lacks_challenge: false }
    }

    /// The row with the status of this answer.
    pub(crate) fn answered(self, answer: &Answer) -> Self {
        let status = match answer {
            Answer::Reply(reply) => Some(reply.status),
            Answer::None(_) | Answer::Skipped(_) => None,
        };
        Self { status, ..self }
    }
}

const PERMITTED: &str = "accepted: refusing is better, but this alone gains an attacker nothing";

/// Returns the outcome of an answer that shows this hole, which gains an attacker nothing alone.
pub(crate) fn permitted(hole: Hole, strict: bool, reason: &'static str) -> Outcome {
    if strict { Outcome::Failed(hole) } else { Outcome::Remark(reason) }
}

/// Compares an answer with the case's. `fetched` is whether a URL was fetched that only the token names. `fetches` is
/// whether the API has fetched the keys since the issuer changed them.
pub(crate) fn judge(case: &Case, answer: &Answer, fetched: bool, fetches: bool, options: &Options) -> Row {
    use Expected::{Accept, AcceptSoon, Either, Refuse, RefuseOrAbsent, RefuseSoon, ShouldRefuse};
    let strict = options.strict;
    let expected = match case.expected {
        Refuse(hole) if options.ids && case.differs_in_names_only() => ShouldRefuse(hole),
        expected => expected,
    };
    let status = match answer {
        Answer::Reply(reply) => Some(reply.status),
        Answer::None(_) | Answer::Skipped(_) => None,
    };
    let outcome = match (expected, answer) {
        (_, Answer::Skipped(reason)) => Outcome::Skipped(reason),
        _ if fetched => Outcome::Failed(Hole::Fetch),
        // Many servers close the connection of a request that is too large for them.
        (Either, Answer::None(Failure::Closed)) => Outcome::Passed,
        (Accept | AcceptSoon, Answer::None(failure)) => Outcome::Unproven(failure.text()),
        (_, Answer::None(Failure::Closed | Failure::Timeout)) => Outcome::Failed(Hole::Crash),
        (_, Answer::None(failure)) => Outcome::Unproven(failure.text()),
        (expected, Answer::Reply(reply)) => match (expected, reply.status) {
            (Accept | AcceptSoon | Either, 200..=299) => Outcome::Passed,
            (Accept | AcceptSoon, _) => Outcome::Failed(Hole::GoodRefused),
            (_, 503) => Outcome::Remark("503: the API could not get the keys"),
            (_, 501 | 505) => Outcome::Remark("refused with an unusual status"),
            (_, 500..) => Outcome::Failed(Hole::Crash),
            (Refuse(hole), 200..=299) => Outcome::Failed(hole),
            (RefuseOrAbsent { empty_is_fine: true, .. }, 200..=299) if reply.body.is_empty() => Outcome::Passed,
            (RefuseOrAbsent { hole, .. }, 200..=299) => Outcome::Failed(hole),
            (ShouldRefuse(hole), 200..=299) => permitted(hole, strict, PERMITTED),
            (RefuseSoon(hole), 200..=299) if fetches => {
                permitted(hole, strict, "still accepted, although the API has fetched the keys since")
            }
            (RefuseSoon(_), 200..=299) => {
                Outcome::Remark("still accepted: fine for 10 minutes after the key was withdrawn")
            }
            (_, 429) => Outcome::Unproven("429 means that there were too many requests"),
            (RefuseOrAbsent { .. }, 404 | 405) | (Either, _) => Outcome::Passed,
            (_, 404) => Outcome::Remark("refused with 404, which hides that there is something"),
            // 3xx: a redirect to a sign-in page does not let the caller in.
            (_, 300..=399 | 400 | 401 | 403 | 413 | 414 | 431) => Outcome::Passed,
            _ => Outcome::Remark("refused with an unusual status"),
        },
    };
    let lacks_challenge = matches!(answer, Answer::Reply(reply) if reply.status == 401 && !reply.challenge);
    let expected = match case.expected {
        Accept | AcceptSoon => "accept",
        Refuse(_) | ShouldRefuse(_) | RefuseOrAbsent { .. } | RefuseSoon(_) => "refuse",
        Either => "either",
    };
    let &Case { name, what, source, .. } = case;
    Row { name, what, source, expected, status, outcome, note: None, lacks_challenge }
}

/// How many cases of a hole the summary explains. It names the others.
const MAX_LISTED: usize = 8;

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

    /// Records that the API failed because of this case, or fetched an address in the case's token, after its answer.
    pub(crate) fn blame(&mut self, case: &str, hole: Hole) {
        for (_, row) in &mut self.rows {
            if row.name == case && !matches!(row.outcome, Outcome::Failed(_)) {
                row.outcome = Outcome::Failed(hole);
            }
        }
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
        let fails = |name, hole| self.rows().any(|row| row.name == name && row.outcome == Outcome::Failed(hole));
        let (open, unverified) = (fails("no-token", Hole::Open), fails("garbage", Hole::Unverified));
        let unsigned = fails("forged", Hole::Signature);
        let mut holes = BTreeMap::<_, Vec<_>>::new();
        for row in self.rows() {
            let Outcome::Failed(hole) = row.outcome else { continue };
            let hole = match hole {
                Hole::GoodRefused | Hole::Crash | Hole::Fetch | Hole::Echo | Hole::Flood | Hole::Outage => hole,
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
            let (plain, _) = hole.plain();
            say(&format!("\n{}: {}", hole.name(), verdict(*hole, cases)));
            let mut rows: Vec<_> = self.rows().filter(|row| cases.contains(&row.name)).collect();
            // The plain case says most.
            rows.sort_by_key(|row| !plain.contains(&row.name));
            for row in rows.iter().take(MAX_LISTED) {
                let status = row.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
                say(&format!("  {status} to {}: {}", row.name, row.what));
            }
            let more: Vec<_> = rows.iter().skip(MAX_LISTED).map(|row| row.name).collect();
            if !more.is_empty() {
                say(&format!("  and {} more: {}", more.len(), more.join(", ")));
            }
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
        for row in self.rows() {
            if let Some(note) = &row.note {
                say(&format!("\n{}: {note}", row.name));
            }
        }
        if self.rows().any(|row| row.status.is_some_and(|status| (300..400).contains(&status))) {
            say("\nremark: refused with a redirect. A program that follows it takes another page for the answer.");
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
                    "note": row.note,
                })
            })
            .collect();
        let holes: Vec<_> = self
            .holes()
            .iter()
            .map(|(hole, cases)| json!({ "name": hole.name(), "meaning": verdict(*hole, cases), "cases": cases }))
            .collect();
        json!({ "url": self.url, "clean": self.is_clean(), "holes": holes, "cases": cases })
    }
}

/// Returns what an API lacks that fails these cases: the whole check only if it fails the plain case of it.
fn verdict(hole: Hole, cases: &[&str]) -> String {
    let (plain, checked) = hole.plain();
    if plain.is_empty() || cases.iter().any(|case| plain.contains(case)) {
        hole.meaning().to_owned()
    } else {
        format!("The API checks {checked}, but it accepts what it should refuse.")
    }
}
