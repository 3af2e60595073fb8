//! The issuer's keys: static, or fetched and refreshed.
//!
//! [`KeySet`] guarantees: one fetch at a time, shared by all requests that wait for it, and independent of the request
//! that started it; a bad document never replaces good keys; what an attacker can make this process fetch is bounded.
//! [`State`] decides, as a function of its contents and the time given; [`Fetched`] locks it and runs the fetches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{BadDocument, FetchError, KeySetError, SkippedKey};
use crate::fetch::Endpoint;
use crate::jwk::{Key, Keys};

/// From this age on, a request starts a fetch in the background.
const REFRESH_AGE: Duration = Duration::from_secs(9 * 60);
/// From this age on, a request waits for a fetch. So a withdrawn key is accepted for at most this time while the issuer
/// can be reached.
const FRESH_AGE: Duration = Duration::from_secs(10 * 60);
/// Up to this age, keys serve if the issuer can't be reached.
const USABLE_AGE: Duration = Duration::from_secs(60 * 60);
/// The least time from a failed fetch to the next while keys are held, and between two fetches that unknown `kid`s
/// cause.
const COOLDOWN: Duration = Duration::from_secs(30);
/// For this long after a failed fetch, requests use old keys without waiting. So an outage delays requests once, and
/// not at each attempt.
const OUTAGE: Duration = Duration::from_secs(60);
/// The time from a failed fetch to the next while no keys are held. It doubles up to [`COOLDOWN`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// A document can hold thousands of keys that can't be used. The log names this many.
const MAX_SKIPPED_KEYS_LOGGED: usize = 100;

/// The keys of one issuer. Clones share them.
#[derive(Clone, Debug)]
pub struct KeySet(Source);

#[derive(Clone, Debug)]
enum Source {
    Static(Arc<Keys>),
    Fetched(Arc<Fetched>),
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The issuer has no usable key of this `kid`.
    Unknown,
    /// The issuer's keys are not available, so the token can't be verified.
    Unavailable { retry_after: Duration },
}

impl KeySet {
    /// The keys that an issuer publishes at its URL plus `/.well-known/jwks`, as Vercel does.
    ///
    /// Nothing is fetched before [`prefetch`](Self::prefetch), [`ready`](Self::ready) or the first token.
    ///
    /// ```
    /// use vercel_oidc_verifier::KeySet;
    ///
    /// let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
    /// # Ok::<_, vercel_oidc_verifier::KeySetError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`KeySetError::Url`]: the URL is neither `https` nor `http` to a loopback host.
    pub fn of_issuer(issuer: &str) -> Result<Self, KeySetError> {
        Self::from_url(&format!("{}/.well-known/jwks", issuer.trim_end_matches('/')))
    }

    /// The keys at this URL: a JWK Set (RFC 7517, section 5).
    ///
    /// # Errors
    ///
    /// [`KeySetError::Url`]: the URL is neither `https` nor `http` to a loopback host.
    pub fn from_url(url: &str) -> Result<Self, KeySetError> {
        let fetched = Fetched { endpoint: Endpoint::new(url)?, state: Mutex::default() };
        Ok(Self(Source::Fetched(Arc::new(fetched))))
    }

    /// The keys of this JWK Set, which never change. For tests, and for programs that ship keys.
    ///
    /// # Errors
    ///
    /// [`KeySetError::Document`]: the document has no usable key.
    pub fn from_jwks(document: &[u8]) -> Result<Self, KeySetError> {
        let (keys, skipped) = Keys::parse(document)?;
        log_skipped(&skipped);
        Ok(Self(Source::Static(Arc::new(keys))))
    }

    /// Starts a fetch in the background, unless usable keys are held or the last fetch failed just now.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    pub fn prefetch(&self, now: SystemTime) {
        if let Source::Fetched(fetched) = &self.0 {
            let mut state = fetched.lock();
            let now = Moment::at(now);
            if state.usable(now).is_none() {
                fetched.refresh(&mut state, now);
            }
        }
    }

    /// Returns whether usable keys are held. If the keys are not fresh, this starts a fetch; it waits for the fetch
    /// only if no usable keys are held.
    pub async fn ready(&self, now: SystemTime) -> bool {
        let Source::Fetched(fetched) = &self.0 else {
            return true;
        };
        let now = Moment::at(now);
        let mut fetch = {
            let mut state = fetched.lock();
            match state.usable(now) {
                Some(held) => {
                    if now.since(held.fetched) >= FRESH_AGE {
                        fetched.refresh(&mut state, now);
                    }
                    return true;
                }
                None if state.holds_back_fetches(now) => return false,
                None => fetched.fetch(&mut state, now, None),
            }
        };
        let _ended = fetch.changed().await;
        fetched.lock().usable(now.later()).is_some()
    }

    /// The least time until [`ready`](Self::ready) can change from false to true.
    pub fn retry_after(&self, now: SystemTime) -> Duration {
        match &self.0 {
            Source::Static(_) => Duration::ZERO,
            Source::Fetched(fetched) => fetched.lock().time_to_next_fetch(Moment::at(now)),
        }
    }

    pub(crate) async fn key(&self, kid: &str, now: SystemTime) -> Result<Arc<Key>, NoKey> {
        match &self.0 {
            Source::Static(keys) => keys.get(kid).cloned().ok_or(NoKey::Unknown),
            Source::Fetched(fetched) => fetched.key(kid, Moment::at(now)).await,
        }
    }
}

/// A moment on both clocks. The monotonic clock can stop while a machine is suspended, and the wall clock can be set
/// back.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: SystemTime,
    monotonic: Instant,
}

impl Moment {
    fn at(wall: SystemTime) -> Self {
        Self { wall, monotonic: Instant::now() }
    }

    /// This moment plus the monotonic time that has passed since.
    fn later(self) -> Self {
        let monotonic = Instant::now();
        let wall = self.wall.checked_add(monotonic - self.monotonic).unwrap_or(self.wall);
        Self { wall, monotonic }
    }

    /// The time since an earlier moment, by the clock that shows more time.
    fn since(self, earlier: Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        wall.max(self.monotonic - earlier.monotonic)
    }
}

/// What is known about the keys.
#[derive(Debug)]
struct State {
    held: Option<Held>,
    /// The last fetch, if it failed.
    failure: Option<Failure>,
    /// How long the next failure holds back fetches if no keys are held.
    backoff: Duration,
    /// When a fetch last ended without a `kid` that a request waited for.
    unknown_kid_at: Option<Moment>,
    /// The fetch in flight. The fetch has ended when the sender is dropped.
    in_flight: Option<watch::Receiver<()>>,
}

#[derive(Debug)]
struct Held {
    keys: Keys,
    /// When the fetch began, because the document may be as old as that.
    fetched: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Moment,
    /// How long this failure holds back the next fetch.
    hold_back: Duration,
}

/// How a request gets its key.
#[derive(Debug)]
enum Decision {
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
    fn decide(&self, kid: &str, now: Moment) -> Decision {
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
    fn answer(&self, kid: &str, now: Moment) -> Result<Arc<Key>, NoKey> {
        self.usable(now).and_then(|held| held.keys.get(kid)).cloned().ok_or_else(|| self.no_key(now))
    }

    fn no_key(&self, now: Moment) -> NoKey {
        match (self.usable(now), self.failure) {
            (Some(_), None) => NoKey::Unknown,
            _ => NoKey::Unavailable { retry_after: self.time_to_next_fetch(now) },
        }
    }

    fn usable(&self, now: Moment) -> Option<&Held> {
        self.held.as_ref().filter(|held| now.since(held.fetched) < USABLE_AGE)
    }

    /// Whether the last fetch failed so recently that no fetch may start.
    fn holds_back_fetches(&self, now: Moment) -> bool {
        self.failure.is_some_and(|failure| now.since(failure.at) < failure.hold_back)
    }

    fn time_to_next_fetch(&self, now: Moment) -> Duration {
        let after_failure =
            self.failure.map_or(FIRST_BACKOFF, |failure| failure.hold_back.saturating_sub(now.since(failure.at)));
        let after_unknown_kid = match (self.usable(now), self.unknown_kid_at) {
            (Some(_), Some(at)) => COOLDOWN.saturating_sub(now.since(at)),
            _ => Duration::ZERO,
        };
        after_failure.max(after_unknown_kid)
    }

    /// Records the result of a fetch that began at `began`.
    fn end_fetch(&mut self, fetched: Result<Keys, ()>, wanted: Option<&str>, began: Moment, now: Moment) {
        match fetched {
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
        if let Some(kid) = wanted {
            self.record_unknown_kid(kid, now);
        }
    }

    /// Starts the cooldown if a fetch did not bring this `kid`. If no keys are held, it is unknown whether the issuer
    /// has the `kid`.
    fn record_unknown_kid(&mut self, kid: &str, now: Moment) {
        if self.usable(now).is_some_and(|held| held.keys.get(kid).is_none()) {
            self.unknown_kid_at = Some(now);
        }
    }
}

/// Keys that are fetched.
#[derive(Debug)]
struct Fetched {
    endpoint: Endpoint,
    /// Never held across an `.await`.
    state: Mutex<State>,
}

impl Fetched {
    async fn key(self: &Arc<Self>, kid: &str, now: Moment) -> Result<Arc<Key>, NoKey> {
        let mut fetch = {
            let mut state = self.lock();
            match state.decide(kid, now) {
                Decision::Answer(answer) => return answer,
                Decision::AnswerAndRefresh(answer) => {
                    self.refresh(&mut state, now);
                    return answer;
                }
                Decision::WaitForFetch => self.fetch(&mut state, now, Some(kid)),
            }
        };
        let _ended = fetch.changed().await;
        let now = now.later();
        let mut state = self.lock();
        state.record_unknown_kid(kid, now);
        state.answer(kid, now)
    }

    /// Starts a fetch that no request waits for, unless one failed just now.
    fn refresh(self: &Arc<Self>, state: &mut State, now: Moment) {
        if !state.holds_back_fetches(now) {
            self.fetch(state, now, None);
        }
    }

    /// Returns a receiver that closes when the fetch in flight, or a new fetch, ends. A fetch runs in its own task, so
    /// a client that disconnects does not cancel it. The task knows the `kid` that caused the fetch, so it starts the
    /// cooldown even if no client is left.
    fn fetch(self: &Arc<Self>, state: &mut State, began: Moment, wanted: Option<&str>) -> watch::Receiver<()> {
        if let Some(in_flight) = state.in_flight.as_ref().filter(|fetch| fetch.has_changed().is_ok()) {
            return in_flight.clone();
        }
        let (ends, fetch) = watch::channel(());
        state.in_flight = Some(fetch.clone());
        let (shared, wanted) = (Arc::clone(self), wanted.map(String::from));
        tokio::spawn(async move {
            let fetched = shared.endpoint.fetch().await;
            let now = began.later();
            shared.log(&fetched, now.monotonic - began.monotonic);
            let keys = fetched.map(|(keys, _)| keys).map_err(drop);
            shared.lock().end_fetch(keys, wanted.as_deref(), began, now);
            drop(ends);
        });
        fetch
    }

    fn log(&self, fetched: &Result<(Keys, Vec<SkippedKey>), FetchError>, duration: Duration) {
        let duration_ms = duration.as_millis() as u64;
        match fetched {
            Ok((keys, skipped)) => {
                log_skipped(skipped);
                tracing::info!(keys = keys.len(), duration_ms, "fetched the issuer's keys");
            }
            Err(error) => {
                if let FetchError::Document(BadDocument::NoUsableKey { skipped }) = error {
                    log_skipped(skipped);
                }
                let url = self.endpoint.url_for_log();
                tracing::warn!(error = chain(error), duration_ms, %url, "failed to fetch the issuer's keys");
            }
        }
    }

    /// A panic elsewhere leaves no half-made state behind, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_skipped(skipped: &[SkippedKey]) {
    for key in skipped.iter().take(MAX_SKIPPED_KEYS_LOGGED) {
        tracing::info!("{key}");
    }
    if let Some(more @ 1..) = skipped.len().checked_sub(MAX_SKIPPED_KEYS_LOGGED) {
        tracing::info!(more, "more keys are skipped");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::LazyLock;
    use std::time::UNIX_EPOCH;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

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

    /// Serves these answers, one a connection, and hands out the head of each request before it answers.
    async fn issuer(
        answers: Vec<String>,
    ) -> (String, tokio::sync::mpsc::UnboundedReceiver<(String, TcpStream, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (requests, received) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                requests.send((String::from_utf8(head).unwrap(), stream, answer)).unwrap();
            }
        });
        (url, received)
    }

    fn ok(document: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{document}", document.len())
    }

    fn now() -> SystemTime {
        SystemTime::now()
    }

    #[tokio::test]
    async fn waiting_requests_share_one_fetch_even_if_the_first_disconnects() {
        let (url, mut requests) = issuer(vec![ok(&jwks(&["key"]))]).await;
        let keys = KeySet::from_url(&url).unwrap();
        let waits = |kid: &'static str| {
            let keys = keys.clone();
            tokio::spawn(async move { keys.key(kid, now()).await.map(|key| key.kid().to_owned()) })
        };
        let first = waits("key");
        let (head, mut stream, answer) = requests.recv().await.unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("get /keys http/1.1\r\n"), "{head}");
        assert!(head.contains("user-agent: vercel-oidc-verifier/") && head.contains("accept-encoding: identity"));
        first.abort();
        let others = [waits("key"), waits("other")];
        tokio::task::yield_now().await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        let [key, other] = others;
        assert_eq!(key.await.unwrap().as_deref(), Ok("key"));
        assert_eq!(other.await.unwrap(), Err(NoKey::Unknown));
        assert!(keys.ready(now()).await);
    }

    #[tokio::test]
    async fn a_bad_document_never_replaces_good_keys() {
        let good = ok(&jwks(&["key"]));
        for (bad, reason) in [
            (ok("{}"), "not a JSON object with an array"),
            (ok(r#"{"keys":[{"kty":"RSA","kid":"","n":"AQ","e":"AQAB"}]}"#), "has no `kid`"),
            ("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 500"),
            ("HTTP/1.1 302 X\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 302"),
            (good.replace("\r\n\r\n", "\r\ncontent-encoding: gzip\r\n\r\n"), "`Content-Encoding`"),
            (ok(&format!("{}{}", jwks(&["key"]), " ".repeat(256 * 1024))), "larger than 262144 bytes"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_owned(), "no answer"),
        ] {
            let (url, mut requests) = issuer(vec![good.clone(), bad.clone(), bad]).await;
            tokio::spawn(async move {
                while let Some((_, mut stream, answer)) = requests.recv().await {
                    // The other end closes early if the document is too large.
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            let fetched = Arc::new(Fetched { endpoint: Endpoint::new(&url).unwrap(), state: Mutex::default() });
            assert!(fetched.key("key", Moment::at(now())).await.is_ok());
            let other = fetched.key("other", Moment::at(now())).await;
            assert!(matches!(other, Err(NoKey::Unavailable { .. })), "{other:?}");
            assert!(fetched.key("key", Moment::at(now())).await.is_ok());
            let error = fetched.endpoint.fetch().await.map(drop).unwrap_err();
            assert!(chain(&error).contains(reason), "{}", chain(&error));
            assert!(!chain(&error).contains(&url), "{}", chain(&error));
        }
    }

    #[tokio::test]
    async fn after_an_idle_hour_ready_fetches_and_waits() {
        let answer = ok(&jwks(&["key"]));
        let (url, mut requests) = issuer(vec![answer.clone(), answer]).await;
        tokio::spawn(async move {
            while let Some((_, mut stream, answer)) = requests.recv().await {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let keys = KeySet::from_url(&url).unwrap();
        assert!(keys.ready(now()).await);
        assert!(keys.ready(now() + Duration::from_secs(2 * 60 * MINUTE)).await);
    }

    #[tokio::test]
    async fn ready_is_false_while_the_backoff_lasts_and_says_how_long() {
        // Nothing listens there.
        let keys = KeySet::from_url("http://127.0.0.1:9/").unwrap();
        assert!(!keys.ready(now()).await);
        assert!(!keys.ready(now()).await);
        assert!(keys.retry_after(now()) <= FIRST_BACKOFF);
        assert!(matches!(keys.key("key", now()).await, Err(NoKey::Unavailable { .. })));
    }
}
