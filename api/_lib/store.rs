//! Tokens that were hard to come by: kept until they expire, obtained once however many want one.
//!
//! Guarantees: one `obtain` at a time for a key, its result (or failure) shared by all who wait; at most `capacity` tokens kept; none handed out
//! at or after its time; a failure, and a token without a time, is not kept. The work is a task of its own, so a request that is
//! abandoned neither stops it nor starts it anew. Expiry goes by the wall clock, as a token's does: a function may be frozen for hours, in
//! which a monotonic clock may stand still. (These two are why this is not a cache crate.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest;
use tokio::sync::watch;

use crate::token::Token;

/// What a token is kept under: a cryptographic digest, so that nobody can craft a key that fetches another's token, and no token lies about as a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn of(parts: &[&str]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            // The length keeps ("ab", "c") apart from ("a", "bc").
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }
}

/// The task that was to obtain a token ended without a result.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the work was interrupted: try again")]
pub(crate) struct Interrupted;

/// A token, and until when it is kept, if at all.
pub(crate) type Obtained = (Token, Option<SystemTime>);

type Flight<E> = watch::Receiver<Option<Result<Token, E>>>;

struct State<E> {
    kept: HashMap<Key, (Token, SystemTime)>,
    flights: HashMap<Key, Flight<E>>,
}

pub(crate) struct Store<E> {
    // A std mutex: never held across an await.
    state: Arc<Mutex<State<E>>>,
    capacity: usize,
}

impl<E: Clone + From<Interrupted> + Send + Sync + 'static> Store<E> {
    pub(crate) fn new(capacity: usize) -> Self {
        let state = State { kept: HashMap::new(), flights: HashMap::new() };
        Self { state: Arc::new(Mutex::new(state)), capacity }
    }

    /// Hands out the token kept under `key`, else the result of the one `obtain` under way for it.
    pub(crate) async fn get(
        &self,
        key: Key,
        now: SystemTime,
        obtain: impl Future<Output = Result<Obtained, E>> + Send + 'static,
    ) -> Result<Token, E> {
        let mut flight = {
            let mut state = lock(&self.state);
            if let Some((token, until)) = state.kept.get(&key)
                && *until > now
            {
                return Ok(token.clone());
            }
            match state.flights.get(&key) {
                // One whose task has panicked is still listed, but its sender is gone.
                Some(flight) if flight.has_changed().is_ok() => flight.clone(),
                _ => {
                    let (sender, flight) = watch::channel(None);
                    state.flights.insert(key, flight.clone());
                    let (shared, capacity) = (Arc::clone(&self.state), self.capacity);
                    tokio::spawn(async move {
                        let obtained = obtain.await;
                        let mut state = lock(&shared);
                        state.flights.remove(&key);
                        if let Ok((token, Some(until))) = &obtained {
                            state.keep(key, token.clone(), *until, now, capacity);
                        }
                        sender.send_replace(Some(obtained.map(|(token, _)| token)));
                    });
                    flight
                }
            }
        };
        let result = match flight.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        result.unwrap_or_else(|| Err(Interrupted.into()))
    }
}

impl<E> State<E> {
    fn keep(&mut self, key: Key, token: Token, until: SystemTime, now: SystemTime, capacity: usize) {
        self.kept.retain(|_, (_, until)| *until > now);
        if self.kept.len() >= capacity
            && let Some(first) = self.kept.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| *key)
        {
            self.kept.remove(&first);
        }
        if until > now {
            self.kept.insert(key, (token, until));
        }
    }
}

fn lock<E>(state: &Mutex<State<E>>) -> MutexGuard<'_, State<E>> {
    // No step under the lock leaves the maps half changed, so a panic elsewhere does not spoil them.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
