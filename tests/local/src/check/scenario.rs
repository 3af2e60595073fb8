//! Cases that take several requests: a token that expires, a flood of unknown keys, an issuer that is down, and how long
//! a withdrawn key lives.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Options;
use super::hole::Hole;
use super::issuer::{CheckIssuer, Mode};
use super::kit::{Kit, NEXT, Phase, Request, changed};
use super::listener::Listener;
use super::report::{Outcome, Row, permitted};
use super::send::{Answer, Failure, Sender};

/// The case whose token names no address: the issuer sends the API to the attacker's host.
pub(crate) const REDIRECT: &str = "issuer-redirect";
/// The longest leeway for `exp` that is measured.
const MAX_LEEWAY: Duration = Duration::from_secs(600);

/// A token that the API has accepted, and that it must refuse from a known time on.
pub(crate) struct Expiring {
    token: String,
    expiry: SystemTime,
    leeway: Duration,
}

impl Expiring {
    /// Finds how long after `exp` the API still accepts a token, and lets it accept a token that is about to expire.
    pub(crate) async fn start(kit: &Kit, sender: &Sender) -> Result<Self, &'static str> {
        let (mut leeway, mut refused) = (Duration::ZERO, MAX_LEEWAY);
        let accepts = async |expiry| sender.send(Request::Token(kit.expiring(expiry))).await.is_accepted();
        if !accepts(SystemTime::now() + Duration::from_secs(5)).await {
            return Err("the API did not accept a token that is valid for five seconds");
        }
        if accepts(SystemTime::now() - refused).await {
            return Err("the API accepts a token that expired ten minutes ago");
        }
        while refused - leeway > Duration::from_secs(1) {
            let middle = Duration::from_secs((leeway + refused).as_secs() / 2);
            if accepts(SystemTime::now() - middle).await {
                leeway = middle;
            } else {
                refused = middle;
            }
        }
        let expiry = SystemTime::now() - leeway + Duration::from_secs(3);
        let token = kit.expiring(expiry);
        if sender.send(Request::Token(token.clone())).await.is_accepted() {
            Ok(Self { token, expiry, leeway })
        } else {
            Err("the API answers too slowly to measure how long it accepts a token")
        }
    }

    /// Waits until the token must be refused, and sends it again.
    pub(crate) async fn finish(self, kit: &Kit, sender: &Sender) -> Row {
        // `exp` has whole seconds, and the leeway is known to a second.
        let end = self.expiry + self.leeway + Duration::from_secs(2);
        sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await;
        let answer = sender.send(Request::Token(self.token)).await;
        let new = sender.send(Request::Token(kit.expiring(self.expiry))).await;
        let outcome = match (answer.is_accepted(), new.is_accepted()) {
            (false, _) => Outcome::Passed,
            (true, false) => Outcome::Failed(Hole::Cache),
            (true, true) => {
                Outcome::Unproven("the time at which the API refuses an expired token could not be measured")
            }
        };
        Row { note: Some(format!("leeway: {} s", self.leeway.as_secs())), ..expired_since(outcome) }.answered(&answer)
    }
}

/// Returns the row of a token that expired during the run.
pub(crate) fn expired_since(outcome: Outcome) -> Row {
    Row::of("seen-expired", "a token that was accepted before, and has expired since", "RFC 7519 4.1.4", outcome)
}

/// Counts the fetches that tokens with unknown `kid`s cause.
pub(crate) async fn flood(kit: &Kit, sender: &Arc<Sender>, issuer: &CheckIssuer, options: &Options) -> Row {
    const TOKENS: usize = 50;
    /// Each of these is allowed, so that a slow API with few answers is not taken for a flood.
    const MIN_FETCHES: usize = 3;
    let before = issuer.key_fetches();
    let mut requests = JoinSet::new();
    for number in 0..TOKENS {
        let Request::Token(token) = kit.forged(&kit.header_but("kid", json!(format!("flood-{number}")))) else {
            continue;
        };
        let sender = sender.clone();
        requests.spawn(async move { sender.send(Request::Token(token)).await });
    }
    let answers = requests.join_all().await;
    let answered = answers.iter().filter(|answer| matches!(answer, Answer::Reply(_))).count();
    let fetches = issuer.key_fetches() - before;
    let outcome = match fetches {
        _ if answers.iter().any(Answer::is_accepted) => Outcome::Failed(Hole::Signature),
        // One fetch for five answers is limited in some way.
        _ if fetches <= MIN_FETCHES || fetches * 5 <= answered => Outcome::Passed,
        _ => permitted(Hole::Flood, options.strict, "each unknown `kid` causes a request to the issuer"),
    };
    let note = format!("{TOKENS} tokens with unknown `kid`s caused {fetches} requests to the issuer");
    Row {
        note: Some(note),
        ..Row::of("kid-flood", "50 tokens at once, each with an unknown `kid`", "denial of service", outcome)
    }
}

/// The issuer fails in each way, and comes back.
pub(crate) async fn outages(
    kit: &Kit,
    sender: &Sender,
    issuer: &CheckIssuer,
    listener: &Listener,
    options: &Options,
) -> Vec<Row> {
    const KIDS: [&str; 4] = ["check-outage-1", "check-outage-2", "check-outage-3", "check-outage-4"];
    let redirect = Mode::Redirect(kit.attacker_url(REDIRECT, "/.well-known/jwks"));
    let mut rows = Vec::new();
    let mut has_failed = None;
    for (mode, kid, names, what) in [
        (Mode::Error, KIDS[0], ["issuer-500", "issuer-500-known"], "answers 500"),
        (redirect, KIDS[1], [REDIRECT, "issuer-redirect-known"], "redirects to another host"),
        (Mode::Endless, KIDS[2], ["issuer-endless", "issuer-endless-known"], "sends a body that never ends"),
        (Mode::Silent, KIDS[3], ["issuer-silent", "issuer-silent-known"], "accepts the connection and says nothing"),
    ] {
        // Reading an endless body takes an API seconds, so these two are among the cases that take minutes.
        if !options.long && matches!(mode, Mode::Endless | Mode::Silent) {
            continue;
        }
        issuer.set(mode);
        let fetches = issuer.key_fetches();
        let start = Instant::now();
        let answer = loop {
            let answer = sender.send(of_key(kit, kid)).await;
            if issuer.key_fetches() > fetches || !options.long || start.elapsed() > options.patience {
                break answer;
            }
            sleep(Duration::from_millis(500)).await;
        };
        let fetched = issuer.key_fetches() > fetches;
        let known = sender.send(of_key(kit, NEXT)).await;
        issuer.set(Mode::Up);
        if !fetched {
            rows.push(outage(
                names[0],
                what,
                Outcome::Skipped("the API did not ask for the keys. --long waits for that"),
            ));
            continue;
        }
        has_failed = Some(kid);
        let strict = options.strict;
        let outcome = match &answer {
            _ if listener.visits().contains(&names[0].to_owned()) => {
                permitted(Hole::Outage, strict, "follows a redirect of the issuer to another host")
            }
            Answer::Reply(reply) => match reply.status {
                200..=299 => Outcome::Failed(Hole::Signature),
                503 => Outcome::Passed,
                500.. => Outcome::Remark("a 5xx, but not 503: callers can't tell an outage from a defect"),
                _ => permitted(Hole::Outage, strict, "says that the token is bad, although the issuer is down"),
            },
            Answer::None(Failure::Timeout) => permitted(Hole::Outage, strict, "waits for its issuer without a limit"),
            Answer::None(_) => Outcome::Failed(Hole::Crash),
            Answer::Skipped(reason) => Outcome::Skipped(reason),
        };
        rows.push(outage(names[0], what, outcome).answered(&answer));
        let outcome = match &known {
            Answer::Reply(reply) if reply.status < 300 || reply.status == 503 => Outcome::Passed,
            _ => permitted(Hole::Outage, strict, "refuses valid tokens, although the issuer is down"),
        };
        let row = outage(names[1], "a token by a known key while the issuer is down", outcome);
        rows.push(Row { expected: "accept", ..row }.answered(&known));
    }
    let Some(kid) = has_failed else { return rows };
    let mut keys = kit.published(Phase::Odd);
    keys.push(changed(kit.rotated.jwk(), "kid", json!(kid)));
    issuer.publish(keys);
    let (answer, after) = until(options.patience, || sender.send(of_key(kit, kid)), Answer::is_accepted).await;
    let outcome = if answer.is_accepted() { Outcome::Passed } else { Outcome::Failed(Hole::GoodRefused) };
    let note =
        Some(format!("accepted {} s after the issuer came back", after.as_secs())).filter(|_| answer.is_accepted());
    let row = outage("issuer-back", "a token by a new key after the issuer has come back", outcome);
    rows.push(Row { note, expected: "accept", ..row }.answered(&answer));
    rows
}

fn outage(name: &'static str, what: &'static str, outcome: Outcome) -> Row {
    Row::of(name, what, "RFC 9110 15.6.4", outcome)
}

/// Measures how long a token is accepted after its key was withdrawn.
pub(crate) async fn withdrawn(kit: &Kit, sender: &Sender, issuer: &CheckIssuer, options: &Options) -> Row {
    let accepted = sender.send(of_key(kit, NEXT)).await.is_accepted();
    issuer.publish(vec![kit.main.jwk()]);
    let (answer, after) =
        until(options.key_life, || sender.send(of_key(kit, NEXT)), |answer| !answer.is_accepted()).await;
    let still = answer.is_accepted();
    let outcome = match (accepted, still) {
        (false, _) => Outcome::Skipped("the API did not accept the key before"),
        (true, true) => {
            permitted(Hole::Key, options.strict, "accepts a withdrawn key for longer than was measured. See --key-life")
        }
        (true, false) => Outcome::Passed,
    };
    let word = if still { "still accepted" } else { "refused" };
    let note = Some(format!("{word} {} s after the key was withdrawn", after.as_secs()));
    Row {
        note,
        ..Row::of("withdrawn-key-life", "how long a withdrawn key lives", "OpenID Connect Core 10.1.1", outcome)
    }
    .answered(&answer)
}

/// Sends until the answer is as wanted or the time is over. Returns the last answer and when it came.
async fn until<F: Future<Output = Answer>>(
    patience: Duration,
    send: impl Fn() -> F,
    is_wanted: impl Fn(&Answer) -> bool,
) -> (Answer, Duration) {
    let start = Instant::now();
    loop {
        let answer = send().await;
        if is_wanted(&answer) || start.elapsed() > patience {
            return (answer, start.elapsed());
        }
        sleep(Duration::from_secs(1).min(patience)).await;
    }
}

/// Returns a valid token by the issuer's second key, under this `kid`.
fn of_key(kit: &Kit, kid: &str) -> Request {
    kit.signed_by(&kit.header_but("kid", json!(kid)), |message| kit.rotated.signature(message))
}

/// Returns the rows that say whether an answer repeats a token.
pub(crate) fn echoes(accepted: &[&'static str], refused: &[&'static str], strict: bool) -> [Row; 2] {
    let outcome = |cases: &[_]| match cases {
        [] => Outcome::Passed,
        _ => permitted(Hole::Echo, strict, "repeats the token in its answer"),
    };
    let note =
        |cases: &[&str]| cases.first().map(|case| format!("repeated in {} answers, the first to {case}", cases.len()));
    let row = |name, what, cases: &[&'static str]| Row {
        note: note(cases),
        expected: "either",
        ..Row::of(name, what, "RFC 6750 5.3", outcome(cases))
    };
    [
        row("echo-accepted", "an accepted token in the body or a header of an answer", accepted),
        row("echo-refused", "a refused token in the body or a header of an answer", refused),
    ]
}
