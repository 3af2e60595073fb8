//! When keys are fetched, and which keys serve: the policy, without any input or output.
//!
//! [`State`] decides as a function of its contents and the time given. It guarantees: a bad document never replaces good
//! keys; old keys serve for a limited time; what an attacker can make this process fetch is bounded.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::jwk::{Key, Keys};

/// From this age on, a request starts a fetch in the background.
const REFRESH_AGE: Duration = Duration::from_secs(9 * 60);
/// From this age on, a request waits for a fetch. So a withdrawn key is accepted for at most this time while the issuer
/// can be reached.
pub(super) const FRESH_AGE: Duration = Duration::from_secs(10 * 60);
/// Up to this age, keys serve if the issuer can't be reached.
const USABLE_AGE: Duration = Duration::from_secs(60 * 60);
/// The least time from a failed fetch to the next while keys are held, and between two fetches that unknown `kid`s
/// cause.
const COOLDOWN: Duration = Duration::from_secs(30);
/// For this long after a failed fetch, requests use old keys without waiting. So an outage delays requests once, and
/// not at each attempt.
const OUTAGE: Duration = Duration::from_secs(60);
/// The time from a failed fetch to the next while no keys are held. It doubles up to [`COOLDOWN`].
pub(super) const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// A fetch takes at most 5 seconds. If one took longer than this, the process was frozen meanwhile, and the result says
/// nothing about the issuer now: its keys may be old, and its failure may be the freeze.
const FROZEN: Duration = Duration::from_secs(10);

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The issuer has no usable key of this `kid`.
    Unknown,
    /// The issuer's keys are not available, so the token can't be verified.
    Unavailable { retry_after: Duration },
}

/// A moment on both clocks. The monotonic clock can stop while a machine is suspended, and the wall clock can be set
/// back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The wall clock, as the program gives it.
    pub(super) wall: SystemTime,
    pub(super) monotonic: Instant,
}

/// Measures how long something took, by the system's clock that shows more time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    wall: SystemTime,
    monotonic: Instant,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    pub(super) fn elapsed(self) -> Duration {
        self.wall.elapsed().unwrap_or_default().max(self.monotonic.elapsed())
    }
}

impl Moment {
    pub(super) fn at(wall: SystemTime) -> Self {
        Self { wall, monotonic: Instant::now() }
    }

    /// This moment plus the time that has passed since.
    pub(super) fn after(self, passed: Duration) -> Self {
        Self { wall: self.wall.checked_add(passed).unwrap_or(self.wall), monotonic: Instant::now() }
    }

    /// The time since an earlier moment, by the clock that shows more time.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        wall.max(self.monotonic - earlier.monotonic)
    }
}

/// A fetch that has begun.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) stopwatch: Stopwatch,
    /// The fetch has ended when the sender is dropped.
    pub(super) ended: watch::Receiver<()>,
}

impl InFlight {
    pub(super) fn has_ended(&self) -> bool {
        self.ended.has_changed().is_err()
    }

    /// Waits for the end. Returns the moment then, and `false` if the process was frozen meanwhile: the result is old then,
    /// so a request decides again.
    pub(super) async fn end(mut self, now: Moment) -> (Moment, bool) {
        let waited = Stopwatch::start();
        let _ended = self.ended.changed().await;
        (now.after(waited.elapsed()), self.stopwatch.elapsed() <= FROZEN)
    }
}

/// What is known about the keys.
#[derive(Debug)]
pub(super) struct State {
    pub(super) held: Option<Held>,
    /// The last fetch, if it failed.
    failure: Option<Failure>,
    /// How long the next failure holds back fetches if no keys are held.
    backoff: Duration,
    /// When a fetch last ended without a `kid` that a request waited for.
    unknown_kid_at: Option<Moment>,
    /// The fetch in flight.
    pub(super) in_flight: Option<InFlight>,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) keys: Keys,
    /// When the fetch began, because the document may be as old as that.
    pub(super) fetched: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Moment,
    /// How long this failure holds back the next fetch.
    hold_back: Duration,
}

/// How a request gets its key.
#[derive(Debug)]
pub(super) enum Decision {
    Answer(Result<Arc<Key>, NoKey>),
    /// Answer, and start a fetch in the background.
    AnswerAndRefresh(Result<Arc<Key>, NoKey>),
    WaitForFetch,
}

impl Default for State {
    fn default() -> Self {
        Self { held: None, failure: None, backoff: FIRST_BACKOFF, unknown_kid_at: None, in_flight: None }
    }
}

impl State {
    pub(super) fn decide(&self, kid: &str, now: Moment) -> Decision {
        let Some(held) = self.usable(now) else {
            return if self.holds_back_fetches(now) {
                Decision::Answer(Err(self.no_key(now)))
            } else {
                Decision::WaitForFetch
            };
        };
        let is_in_cooldown = |since: Moment| now.since(since) < COOLDOWN;
        let answer = match held.keys.get(kid) {
            Some(key) => Ok(Arc::clone(key)),
            None if self.unknown_kid_at.is_some_and(is_in_cooldown) || self.holds_back_fetches(now) => {
                Err(self.no_key(now))
            }
            None => return Decision::WaitForFetch,
        };
        let age = now.since(held.fetched);
        let is_outage = self.failure.is_some_and(|failure| now.since(failure.at) < OUTAGE);
        if age < REFRESH_AGE {
            Decision::Answer(answer)
        } else if age < FRESH_AGE || is_outage || answer.is_err() {
            Decision::AnswerAndRefresh(answer)
        } else {
            Decision::WaitForFetch
        }
    }

    /// The answer after a fetch.
    pub(super) fn answer(&self, kid: &str, now: Moment) -> Result<Arc<Key>, NoKey> {
        self.usable(now).and_then(|held| held.keys.get(kid)).cloned().ok_or_else(|| self.no_key(now))
    }

    fn no_key(&self, now: Moment) -> NoKey {
        match (self.usable(now), self.failure) {
            (Some(_), None) => NoKey::Unknown,
            _ => NoKey::Unavailable { retry_after: self.time_to_next_fetch(now) },
        }
    }

    pub(super) fn usable(&self, now: Moment) -> Option<&Held> {
        self.held.as_ref().filter(|held| now.since(held.fetched) < USABLE_AGE)
    }

    /// Whether the last fetch failed so recently that no fetch may start.
    pub(super) fn holds_back_fetches(&self, now: Moment) -> bool {
        self.failure.is_some_and(|failure| now.since(failure.at) < failure.hold_back)
    }

    pub(super) fn time_to_next_fetch(&self, now: Moment) -> Duration {
        let after_failure =
            self.failure.map_or(FIRST_BACKOFF, |failure| failure.hold_back.saturating_sub(now.since(failure.at)));
        let after_unknown_kid = match (self.usable(now), self.unknown_kid_at) {
            (Some(_), Some(at)) => COOLDOWN.saturating_sub(now.since(at)),
            _ => Duration::ZERO,
        };
        after_failure.max(after_unknown_kid)
    }

    /// Records the result of a fetch that began at `began`.
    pub(super) fn end_fetch(&mut self, fetched: Result<Keys, ()>, wanted: Option<&str>, began: Moment, now: Moment) {
        let was_frozen = now.since(began) > FROZEN;
        match fetched {
            Err(()) if was_frozen => {}
            Ok(keys) => {
                self.held = Some(Held { keys, fetched: began });
                (self.failure, self.backoff) = (None, FIRST_BACKOFF);
            }
            Err(()) if self.usable(now).is_some() => self.failure = Some(Failure { at: now, hold_back: COOLDOWN }),
            Err(()) => {
                self.failure = Some(Failure { at: now, hold_back: self.backoff });
                self.backoff = (self.backoff * 2).min(COOLDOWN);
            }
        }
        if let Some(kid) = wanted.filter(|_| !was_frozen) {
            self.record_unknown_kid(kid, now);
        }
    }

    /// Starts the cooldown if a fetch did not bring this `kid`. If no keys are held, it is unknown whether the issuer
    /// has the `kid`.
    pub(super) fn record_unknown_kid(&mut self, kid: &str, now: Moment) {
        if self.usable(now).is_some_and(|held| held.keys.get(kid).is_none()) {
            self.unknown_kid_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::LazyLock;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::verifier::tests::jwks;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// A moment this many seconds after the start, on both clocks.
    fn at(seconds: u64) -> Moment {
        at_clocks(seconds, seconds)
    }

    fn at_clocks(wall: u64, monotonic: u64) -> Moment {
        Moment { wall: UNIX_EPOCH + Duration::from_secs(wall), monotonic: *START + Duration::from_secs(monotonic) }
    }

    fn keys() -> Keys {
        Keys::parse(jwks(&["key"]).as_bytes()).unwrap().0
    }

    /// A state whose keys were fetched at the start.
    fn fetched() -> State {
        let mut state = State::default();
        state.end_fetch(Ok(keys()), None, at(0), at(0));
        state
    }

    /// The same, and the next fetch failed at this moment.
    fn failed_at(seconds: u64) -> State {
        let mut state = fetched();
        state.end_fetch(Err(()), None, at(seconds), at(seconds));
        state
    }

    /// A short name for a decision.
    fn decision(state: &State, kid: &str, now: Moment) -> String {
        let name = |answer: Result<Arc<Key>, NoKey>| match answer {
            Ok(_) => "key".to_owned(),
            Err(NoKey::Unknown) => "unknown".to_owned(),
            Err(NoKey::Unavailable { retry_after }) => format!("unavailable for {} s", retry_after.as_secs()),
        };
        match state.decide(kid, now) {
            Decision::Answer(answer) => name(answer),
            // `Fetched::refresh` starts no fetch then.
            Decision::AnswerAndRefresh(answer) if state.holds_back_fetches(now) => name(answer),
            Decision::AnswerAndRefresh(answer) => format!("{}, and a fetch", name(answer)),
            Decision::WaitForFetch => "wait".to_owned(),
        }
    }

    const MINUTE: u64 = 60;

    #[test]
    fn keys_serve_for_9_minutes_then_refresh_in_the_background_and_from_10_on_a_request_waits() {
        let state = fetched();
        for (seconds, expected) in [
            (0, "key"),
            (9 * MINUTE - 1, "key"),
            (9 * MINUTE, "key, and a fetch"),
            (10 * MINUTE - 1, "key, and a fetch"),
            (10 * MINUTE, "wait"),
            (59 * MINUTE, "wait"),
            (24 * 60 * MINUTE, "wait"),
        ] {
            assert_eq!(decision(&state, "key", at(seconds)), expected, "{seconds} s");
        }
    }

    #[test]
    fn age_counts_by_the_clock_that_shows_more_time() {
        let state = fetched();
        for (wall, monotonic) in [(2 * 60 * MINUTE, 1), (1, 2 * 60 * MINUTE)] {
            assert_eq!(decision(&state, "key", at_clocks(wall, monotonic)), "wait");
            assert!(state.usable(at_clocks(wall, monotonic)).is_none());
        }
        // The wall clock was set back.
        let mut state = State::default();
        state.end_fetch(Ok(keys()), None, at_clocks(5000, 0), at_clocks(5000, 0));
        assert_eq!(decision(&state, "key", at_clocks(1000, 11 * MINUTE)), "wait");
    }

    #[test]
    fn old_keys_serve_if_the_fetch_fails_for_at_most_60_minutes() {
        let state = failed_at(59 * MINUTE);
        assert!(state.answer("key", at(60 * MINUTE - 1)).is_ok());
        assert_eq!(state.answer("key", at(60 * MINUTE)).unwrap_err(), state.no_key(at(60 * MINUTE)));
        assert!(matches!(state.no_key(at(60 * MINUTE)), NoKey::Unavailable { .. }));
    }

    #[test]
    fn an_outage_delays_requests_once() {
        let state = failed_at(20 * MINUTE);
        for (seconds, expected) in
            [(0, "key"), (29, "key"), (30, "key, and a fetch"), (59, "key, and a fetch"), (60, "wait")]
        {
            assert_eq!(decision(&state, "key", at(20 * MINUTE + seconds)), expected, "{seconds} s");
        }
    }

    #[test]
    fn a_request_at_minute_59_waits_even_if_a_fetch_failed_at_minute_9() {
        assert_eq!(decision(&failed_at(9 * MINUTE), "key", at(59 * MINUTE)), "wait");
    }

    #[test]
    fn without_keys_a_failed_fetch_holds_back_the_next_for_1_s_then_longer_up_to_30() {
        let (mut state, mut now) = (State::default(), 0);
        assert_eq!(decision(&state, "key", at(now)), "wait");
        for hold_back in [1, 2, 4, 8, 16, 30, 30] {
            state.end_fetch(Err(()), Some("key"), at(now), at(now));
            assert_eq!(decision(&state, "key", at(now)), format!("unavailable for {hold_back} s"));
            assert_eq!(decision(&state, "key", at(now + hold_back - 1)), "unavailable for 1 s");
            now += hold_back;
            assert_eq!(decision(&state, "key", at(now)), "wait");
        }
        state.end_fetch(Ok(keys()), None, at(now), at(now));
        // The next outage begins with 1 s again.
        now += 61 * MINUTE;
        state.end_fetch(Err(()), None, at(now), at(now));
        assert_eq!(decision(&state, "key", at(now)), "unavailable for 1 s");
    }

    #[test]
    fn an_unknown_kid_causes_a_fetch_and_then_a_cooldown_of_30_s() {
        let mut state = fetched();
        assert_eq!(decision(&state, "other", at(1)), "wait");
        state.end_fetch(Ok(keys()), Some("other"), at(1), at(1));
        for kid in ["other", "another"] {
            assert_eq!(decision(&state, kid, at(30)), "unknown");
            assert_eq!(decision(&state, kid, at(31)), "wait");
        }
        assert_eq!(decision(&state, "key", at(2)), "key");
    }

    #[test]
    fn an_unknown_kid_is_unavailable_if_the_last_fetch_failed() {
        let mut state = fetched();
        state.end_fetch(Err(()), Some("other"), at(1), at(1));
        assert_eq!(decision(&state, "other", at(1)), "unavailable for 30 s");
        assert_eq!(decision(&state, "other", at(30)), "unavailable for 1 s");
        assert_eq!(decision(&state, "other", at(31)), "wait");
        // The failure of a background fetch holds back fetches for unknown `kid`s, too.
        assert_eq!(decision(&failed_at(9 * MINUTE), "other", at(9 * MINUTE + 29)), "unavailable for 1 s");
        assert_eq!(decision(&failed_at(9 * MINUTE), "other", at(9 * MINUTE + 30)), "wait");
    }

    #[test]
    fn unknown_kids_do_not_keep_old_keys_from_being_refreshed() {
        let mut state = fetched();
        state.record_unknown_kid("other", at(11 * MINUTE));
        assert_eq!(decision(&state, "other", at(11 * MINUTE)), "unknown, and a fetch");
    }

    #[test]
    fn a_kid_is_not_unknown_if_no_keys_were_held() {
        let mut state = State::default();
        state.end_fetch(Err(()), Some("key"), at(0), at(0));
        state.end_fetch(Ok(keys()), None, at(1), at(1));
        assert_eq!(decision(&state, "other", at(2)), "wait");
    }
}
