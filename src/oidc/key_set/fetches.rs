//! Runs the fetches that the policy asks for.
//!
//! Guarantees: one fetch at a time, shared by all requests that wait for it, and independent of the request that started
//! it; each has a time limit and a size limit, from any source.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::policy::{Decision, FRESH_AGE, InFlight, Moment, NoKey, State, Stopwatch};
use crate::error::{BadDocument, FetchError, SkippedKey, chain};
use crate::jwk::{Key, Keys};

/// The bytes of a JWK Set.
pub(super) type Document = Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
/// Fetches the document once.
pub(super) type Fetch = dyn Fn() -> Pin<Box<dyn Future<Output = Document> + Send>> + Send + Sync;

pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Vercel's document has about 1 KiB.
pub(super) const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// A document can hold thousands of keys that can't be used. The log names this many.
const MAX_SKIPPED_KEYS_LOGGED: usize = 100;

/// Keys that are fetched.
pub(super) struct Fetches {
    pub(super) fetch: Box<Fetch>,
    /// Where the keys come from, for the log.
    origin: String,
    /// Never held across an `.await`.
    state: Mutex<State>,
}

impl Fetches {
    pub(super) fn new(origin: String, fetch: Box<Fetch>) -> Self {
        Self { fetch, origin, state: Mutex::default() }
    }

    pub(super) async fn key(self: &Arc<Self>, kid: &str, mut now: Moment) -> Result<Arc<Key>, NoKey> {
        loop {
            let fetch = {
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
            let is_current;
            (now, is_current) = fetch.end(now).await;
            if is_current {
                let mut state = self.lock();
                state.record_unknown_kid(kid, now);
                return state.answer(kid, now);
            }
        }
    }

    pub(super) fn prefetch(self: &Arc<Self>, now: Moment) {
        let mut state = self.lock();
        if state.usable(now).is_none() {
            self.refresh(&mut state, now);
        }
    }

    pub(super) async fn ready(self: &Arc<Self>, mut now: Moment) -> bool {
        loop {
            let fetch = {
                let mut state = self.lock();
                match state.usable(now) {
                    Some(held) => {
                        if now.since(held.fetched) >= FRESH_AGE {
                            self.refresh(&mut state, now);
                        }
                        return true;
                    }
                    None if state.holds_back_fetches(now) => return false,
                    None => self.fetch(&mut state, now, None),
                }
            };
            let is_current;
            (now, is_current) = fetch.end(now).await;
            if is_current {
                return self.lock().usable(now).is_some();
            }
        }
    }

    pub(super) fn time_to_next_fetch(&self, now: Moment) -> Duration {
        self.lock().time_to_next_fetch(now)
    }

    /// Starts a fetch that no request waits for, unless one failed just now.
    fn refresh(self: &Arc<Self>, state: &mut State, now: Moment) {
        if !state.holds_back_fetches(now) {
            self.fetch(state, now, None);
        }
    }

    /// Returns the fetch in flight, or starts one. A fetch runs in its own task, so a client that disconnects does not
    /// cancel it. The task knows the `kid` that caused the fetch, so it starts the cooldown even if no client is left.
    fn fetch(self: &Arc<Self>, state: &mut State, began: Moment, wanted: Option<&str>) -> InFlight {
        if let Some(in_flight) = state.in_flight.as_ref().filter(|fetch| !fetch.has_ended()) {
            return in_flight.clone();
        }
        let (ends, ended) = watch::channel(());
        let stopwatch = Stopwatch::start();
        let in_flight = InFlight { stopwatch, ended };
        state.in_flight = Some(in_flight.clone());
        let Ok(runtime) = Handle::try_current() else {
            self.log(&Err(FetchError::NoRuntime), Duration::ZERO);
            state.end_fetch(Err(()), wanted, began, began);
            return in_flight;
        };
        let (shared, wanted) = (Arc::clone(self), wanted.map(String::from));
        runtime.spawn(async move {
            let source = Arc::clone(&shared);
            // A separate task turns a panic of the source into a failed fetch.
            let document = tokio::spawn(async move { tokio::time::timeout(FETCH_TIMEOUT, (source.fetch)()).await });
            let fetched = document
                .await
                .map_err(|_| FetchError::Panicked)
                .and_then(|document| read(document.map_err(|_| FetchError::Timeout { limit: FETCH_TIMEOUT })?));
            let duration = stopwatch.elapsed();
            shared.log(&fetched, duration);
            let keys = fetched.map(|(keys, _)| keys).map_err(drop);
            shared.lock().end_fetch(keys, wanted.as_deref(), began, began.after(duration));
            drop(ends);
        });
        in_flight
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
                tracing::warn!(
                    error = chain(error),
                    duration_ms,
                    url = self.origin,
                    "failed to fetch the issuer's keys"
                );
            }
        }
    }

    /// A panic elsewhere leaves no half-made state behind, so a poisoned lock is used as it is.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fetches {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Fetches").field("origin", &self.origin).field("state", &self.state).finish_non_exhaustive()
    }
}

pub(super) fn read(document: Document) -> Result<(Keys, Vec<SkippedKey>), FetchError> {
    let document = document.map_err(FetchError::Source)?;
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(FetchError::TooLarge { max_bytes: MAX_DOCUMENT_BYTES });
    }
    Ok(Keys::parse(&document)?)
}

pub(super) fn log_skipped(skipped: &[SkippedKey]) {
    for key in skipped.iter().take(MAX_SKIPPED_KEYS_LOGGED) {
        tracing::info!("{key}");
    }
    if let Some(more @ 1..) = skipped.len().checked_sub(MAX_SKIPPED_KEYS_LOGGED) {
        tracing::info!(more, "more keys are skipped");
    }
}
