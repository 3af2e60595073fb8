//! Tokens that were hard to come by: kept until they expire, obtained once however many want one.
//!
//! Guarantees: one `obtain` at a time for a key, its result (or failure) shared by all who wait; at most `capacity`
//! tokens kept; none handed out at or after its time; a failure, and a token without a time, is not kept. The work is a
//! task of its own, so a request that is abandoned neither stops it nor starts it anew. Expiry goes by the wall clock,
//! as a token's does: a function may be frozen for hours, in which a monotonic clock may stand still. (These two are
//! why this is not a cache crate.)

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest;
use tokio::sync::watch;

use crate::token::Token;

/// What a token is kept under: a cryptographic digest, so that nobody can craft a key that fetches another's token, and
/// no token lies about as a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The same keys, in the order in which they expire.
    order: BTreeSet<(SystemTime, Key)>,
    flights: HashMap<Key, Flight<E>>,
}

pub(crate) struct Store<E> {
    // A std mutex: never held across an await.
    state: Arc<Mutex<State<E>>>,
    capacity: usize,
}

impl<E: Clone + From<Interrupted> + Send + Sync + 'static> Store<E> {
    pub(crate) fn new(capacity: usize) -> Self {
        let state = State { kept: HashMap::new(), order: BTreeSet::new(), flights: HashMap::new() };
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
                        if let Ok((token, Some(until))) = &obtained
                            && *until > now
                        {
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
    /// Keeps a token that has time left, and lets go of all that has none, and of what expires first where there is no
    /// room.
    fn keep(&mut self, key: Key, token: Token, until: SystemTime, now: SystemTime, capacity: usize) {
        while let Some((first, expired)) = self.order.first().copied()
            && (first <= now || self.kept.len() >= capacity)
        {
            self.order.pop_first();
            self.kept.remove(&expired);
        }
        self.order.insert((until, key));
        self.kept.insert(key, (token, until));
    }
}

fn lock<E>(state: &Mutex<State<E>>) -> MutexGuard<'_, State<E>> {
    // No step under the lock leaves the maps half changed, so a panic elsewhere does not spoil them.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use tokio::sync::{Notify, Semaphore};

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Failure {
        Own,
        Interrupted,
    }

    impl From<Interrupted> for Failure {
        fn from(_: Interrupted) -> Self {
            Self::Interrupted
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    async fn never() -> Result<Obtained, Failure> {
        panic!("it is kept, so this must not run")
    }

    #[tokio::test]
    async fn a_token_is_kept_until_its_time_and_not_a_moment_longer() {
        let (store, key) = (Store::new(2), Key::of(&["a"]));
        let first = ready(Ok((token("first"), Some(at(100)))));
        assert_eq!(store.get(key, at(10), first).await, Ok(token("first")));
        assert_eq!(store.get(key, at(99), never()).await, Ok(token("first")));
        let second = ready(Ok((token("second"), None)));
        assert_eq!(store.get(key, at(100), second).await, Ok(token("second")));
        let third: Result<Obtained, Failure> = Ok((token("third"), Some(at(200))));
        assert_eq!(store.get(key, at(100), ready(third)).await, Ok(token("third")), "one without a time is not kept");
    }

    #[tokio::test]
    async fn an_expired_token_leaves_when_another_comes() {
        let store: Store<Failure> = Store::new(10);
        for (name, now, until) in [("a", 0, 10), ("b", 0, 20), ("c", 10, 30)] {
            store.get(Key::of(&[name]), at(now), ready(Ok((token(name), Some(at(until)))))).await.unwrap();
        }
        let state = lock(&store.state);
        assert_eq!((state.kept.len(), state.kept.contains_key(&Key::of(&["a"]))), (2, false));
    }

    #[tokio::test]
    async fn after_a_hundred_thousand_tokens_the_store_is_at_its_bound() {
        let store: Store<Failure> = Store::new(1000);
        for number in 0..100_000_u64 {
            let name = number.to_string();
            let obtained = Ok((token(&name), Some(at(1000 + number))));
            store.get(Key::of(&[&name]), at(0), ready(obtained)).await.unwrap();
            assert!(lock(&store.state).kept.len() <= 1000);
        }
        {
            let state = lock(&store.state);
            assert_eq!((state.kept.len(), state.flights.len()), (1000, 0));
        }
        // What expires first has left first.
        assert_eq!(store.get(Key::of(&["99000"]), at(0), never()).await, Ok(token("99000")));
        let again = Err(Failure::Own);
        assert_eq!(store.get(Key::of(&["98999"]), at(0), ready(again)).await, Err(Failure::Own));
    }

    #[tokio::test]
    async fn all_who_wait_share_a_result_or_a_failure_which_is_not_kept() {
        for result in [Ok((token("shared"), None)), Err(Failure::Own)] {
            let (store, gate) = (Arc::new(Store::new(2)), Arc::new(Semaphore::new(0)));
            let (arrived, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let expected = result.clone().map(|(token, _)| token);
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..200 {
                let (store, gate, result) = (Arc::clone(&store), Arc::clone(&gate), result.clone());
                let (arrived, runs) = (Arc::clone(&arrived), Arc::clone(&runs));
                waiting.spawn(async move {
                    let obtain = async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        let _open = gate.acquire().await;
                        result
                    };
                    arrived.fetch_add(1, Ordering::SeqCst);
                    store.get(Key::of(&["a"]), at(0), obtain).await
                });
            }
            // Nothing lies between the count and the wait, so on one thread all that are counted wait.
            while arrived.load(Ordering::SeqCst) < 200 || runs.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(200);
            assert!(waiting.join_all().await.iter().all(|shared| *shared == expected));
            assert_eq!(runs.load(Ordering::SeqCst), 1);
            let later = ready(Ok((token("later"), None)));
            assert_eq!(store.get(Key::of(&["a"]), at(0), later).await, Ok(token("later")));
        }
    }

    #[tokio::test]
    async fn the_work_goes_on_when_whoever_began_it_leaves() {
        let (store, gate, runs) = (Arc::new(Store::new(2)), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (theirs, opened, begun) = (Arc::clone(&store), Arc::clone(&gate), Arc::clone(&runs));
        let first = tokio::spawn(async move {
            let obtain = async move {
                begun.notify_one();
                opened.notified().await;
                Ok((token("shared"), None))
            };
            theirs.get(Key::of(&["a"]), at(0), obtain).await
        });
        runs.notified().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        gate.notify_one();
        let second: Result<Token, Failure> = store.get(Key::of(&["a"]), at(0), never()).await;
        assert_eq!(second, Ok(token("shared")));
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_not_the_end() {
        let (store, key) = (Store::new(2), Key::of(&["a"]));
        let panics = async { panic!("on purpose") };
        assert_eq!(store.get(key, at(0), panics).await, Err(Failure::Interrupted));
        let later = ready(Ok((token("later"), None)));
        assert_eq!(store.get(key, at(0), later).await, Ok(token("later")));
    }

    #[tokio::test]
    async fn one_key_does_not_wait_for_another() {
        let store: Arc<Store<Failure>> = Arc::new(Store::new(2));
        let stuck = Arc::clone(&store);
        let stuck = tokio::spawn(async move { stuck.get(Key::of(&["a", ""]), at(0), pending()).await });
        while lock(&store.state).flights.is_empty() {
            tokio::task::yield_now().await;
        }
        let other = ready(Ok((token("other"), None)));
        let other = store.get(Key::of(&["", "a"]), at(0), other);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), other).await.unwrap(), Ok(token("other")));
        stuck.abort();
    }
}
