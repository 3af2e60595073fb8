//! The issuer's keys: fetched, kept, replaced.
//!
//! [`KeySet`] fetches a JWK Set (RFC 7517, section 5) and answers for its keys. It guarantees that at most one fetch
//! runs at a time, that its result is shared by all who wait and survives whoever asked for it, that no answer waits
//! for a fetch it doesn't need, and that a bad document never replaces good keys. Time is tokio's, which tests can
//! move. How a document is fetched is [`fetch`](super::fetch)'s matter, how it is read [`jwk`](super::jwk)'s.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fetch::Source;
use super::jwk::{Key, Keys};

/// How long keys serve before a fetch replaces them in the background: so long, a key that the issuer has withdrawn is
/// still accepted.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long they serve at most when the issuer can't be reached: a function's token lasts no longer.
const USABLE: Duration = Duration::from_secs(60 * 60);
/// How long a failed background fetch, or one that an unknown `kid` caused in vain, holds back the next of its sort:
/// what a stranger can make this process ask of the issuer.
const COOLDOWN: Duration = Duration::from_secs(30);

/// The keys of one issuer. Clones share them.
#[derive(Clone, Debug)]
pub struct KeySet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    /// Never held across an `.await`, so that readers wait for nobody.
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// When the last fetch failed; none once one has succeeded.
    failed: Option<Instant>,
    /// When a fetch last ended without the `kid` that somebody had asked for.
    missed: Option<Instant>,
    /// Open while a fetch runs; its end, however it comes, is what waiters see.
    fetching: Option<watch::Receiver<()>>,
}

#[derive(Debug)]
struct Held {
    keys: Keys,
    since: Instant,
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer has answered, and its key set has no usable key of this `kid`: the token's fault.
    Unknown,
    /// The issuer's keys can't be had now, so nobody can tell.
    Unavailable {
        /// When asking again may help.
        retry_after: Duration,
    },
}

impl KeySet {
    /// The keys at this URL. Nothing is fetched before [`prefetch`](Self::prefetch) or the first token.
    ///
    /// Whoever can change what the URL answers decides who is let in: it must be `https`, or `http` to loopback, which
    /// is not checked here.
    pub fn new(url: Url) -> Self {
        Self(Arc::new(Shared { source: Source::new(url), state: RwLock::default() }))
    }

    /// Starts a fetch, unless keys are held, one is running, or one has failed just now. Doesn't wait for it.
    pub fn prefetch(&self) {
        let mut state = self.write();
        let now = Instant::now();
        if state.live(now).is_none() {
            self.refresh(&mut state, now);
        }
    }

    /// Whether usable keys are held.
    pub fn is_ready(&self) -> bool {
        self.read().live(Instant::now()).is_some()
    }

    /// The key of this `kid`, as of the newest document that this may need to wait for.
    ///
    /// # Errors
    ///
    /// [`NoKey::Unknown`] where the issuer doesn't have it, [`NoKey::Unavailable`] where the issuer can't be asked.
    pub(super) async fn key(&self, kid: &str) -> Result<Arc<Key>, NoKey> {
        if let Some(answer) = self.read().fresh_answer(kid, Instant::now()) {
            return answer;
        }
        // Rarely needed, and so large that it would double the size of everybody's future.
        Box::pin(self.ask(kid)).await
    }

    async fn ask(&self, kid: &str) -> Result<Arc<Key>, NoKey> {
        let mut fetch = {
            let mut state = self.write();
            let now = Instant::now();
            if state.live(now).is_some_and(|held| !held.is_fresh(now)) {
                self.refresh(&mut state, now);
            }
            match state.answer(kid, now) {
                Some(answer) => return answer,
                None => self.fetch(&mut state, Some(kid)),
            }
        };
        // Nothing is ever sent: the sender's end is the fetch's.
        let _ended = fetch.changed().await;
        let mut state = self.write();
        let now = Instant::now();
        match state.get(kid, now) {
            Some(key) => Ok(key.clone()),
            None => {
                state.miss(now);
                Err(state.no_key(now))
            }
        }
    }

    /// A fetch that nobody waits for.
    fn refresh(&self, state: &mut State, now: Instant) {
        if !within_cooldown(state.failed, now) {
            self.fetch(state, None);
        }
    }

    /// The fetch that runs, or else a new one, in a task of its own: a client that goes away must not take it along.
    /// The task knows the `kid` that it was started for, so that one asked for in vain counts as missed even then.
    fn fetch(&self, state: &mut State, wanted: Option<&str>) -> watch::Receiver<()> {
        if let Some(running) = state.fetching.as_ref().filter(|fetch| fetch.has_changed().is_ok()) {
            return running.clone();
        }
        let (end, fetch) = watch::channel(());
        state.fetching = Some(fetch.clone());
        let (key_set, wanted) = (self.clone(), wanted.map(String::from));
        tokio::spawn(async move {
            let began = Instant::now();
            let fetched = key_set.0.source.fetch().await;
            let duration_ms = began.elapsed().as_millis() as u64;
            let mut state = key_set.write();
            let now = Instant::now();
            match fetched {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), duration_ms, "fetched the issuer's keys");
                    (state.held, state.failed) = (Some(Held { keys, since: now }), None);
                }
                Err(error) => {
                    let url = key_set.0.source.url_to_show();
                    tracing::warn!(error = chain(&error), duration_ms, %url, "could not fetch the issuer's keys");
                    state.failed = Some(now);
                }
            }
            if wanted.is_some_and(|kid| state.get(&kid, now).is_none()) {
                state.miss(now);
            }
            drop(end);
        });
        fetch
    }

    // A poisoned lock is used as it is: no state of this struct is half-made between two statements.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn live(&self, now: Instant) -> Option<&Held> {
        self.held.as_ref().filter(|held| now < held.since + USABLE)
    }

    fn get(&self, kid: &str, now: Instant) -> Option<&Arc<Key>> {
        self.live(now)?.keys.get(kid)
    }

    /// What can be said without a fetch, if anything.
    fn answer(&self, kid: &str, now: Instant) -> Option<Result<Arc<Key>, NoKey>> {
        match self.live(now)?.keys.get(kid) {
            Some(key) => Some(Ok(key.clone())),
            None => within_cooldown(self.missed, now).then(|| Err(self.no_key(now))),
        }
    }

    /// The same, while the keys are so fresh that no fetch is due either.
    fn fresh_answer(&self, kid: &str, now: Instant) -> Option<Result<Arc<Key>, NoKey>> {
        if self.held.as_ref()?.is_fresh(now) { self.answer(kid, now) } else { None }
    }

    /// Somebody's `kid` was not to be had. While there are no keys at all, that says nothing about it.
    fn miss(&mut self, now: Instant) {
        if self.live(now).is_some() {
            self.missed = Some(now);
        }
    }

    fn no_key(&self, now: Instant) -> NoKey {
        match (self.failed, self.live(now)) {
            (None, Some(_)) => NoKey::Unknown,
            (_, Some(_)) => NoKey::Unavailable {
                retry_after: self.missed.map_or(COOLDOWN, |missed| COOLDOWN.saturating_sub(now - missed)),
            },
            // With no keys at all, the next token asks again.
            (_, None) => NoKey::Unavailable { retry_after: Duration::from_secs(1) },
        }
    }
}

impl Held {
    fn is_fresh(&self, now: Instant) -> bool {
        now < self.since + FRESH
    }
}

fn within_cooldown(event: Option<Instant>, now: Instant) -> bool {
    event.is_some_and(|event| now < event + COOLDOWN)
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
