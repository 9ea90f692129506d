//! One question at a time about one token: whoever asks the same while it is under way waits for the same answer.

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::Semaphore;

type Flight<T> = Shared<BoxFuture<'static, T>>;

/// Questions under way, by what they are about.
pub struct Flights<K, T: Clone> {
    under_way: Mutex<HashMap<K, WeakShared<BoxFuture<'static, T>>>>,
    slots: Arc<Semaphore>,
    most: usize,
}

/// Too many questions are under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl<K: Eq + Hash, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// At most `most` at once.
    pub fn new(most: usize) -> Self {
        Self { under_way: Mutex::new(HashMap::new()), slots: Arc::new(Semaphore::new(most)), most }
    }

    /// The answer about `key`: of the question that is under way, else of `question`. A question lives as long as
    /// anybody waits for it: it ends with its last asker, not with its first.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn join<F>(&self, key: K, question: impl FnOnce() -> F) -> Result<T, Full>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = self.flight(key, question)?;
        Ok(flight.await)
    }

    fn flight<F>(&self, key: K, question: impl FnOnce() -> F) -> Result<Flight<T>, Full>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock();
        if let Some(flight) = under_way.get(&key).and_then(WeakShared::upgrade) {
            // One that has its answer is over: what it knows is in the cache, or was not worth keeping.
            if flight.peek().is_none() {
                return Ok(flight);
            }
        }
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Full)?;
        let question = question();
        let flight = async move {
            let answer = question.await;
            drop(permit);
            answer
        }
        .boxed()
        .shared();
        if under_way.len() >= self.most {
            under_way.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        }
        if let Some(weak) = flight.downgrade() {
            under_way.insert(key, weak);
        }
        Ok(flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    type Word = &'static str;

    #[tokio::test]
    async fn askers_of_the_same_share_one_question() {
        let flights: Flights<u8, Word> = Flights::new(4);
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, waits) = oneshot::channel::<Word>();
        let waits = waits.shared();
        let ask = |key: u8| {
            let (asked, waits) = (Arc::clone(&asked), waits.clone());
            flights.join(key, move || async move {
                asked.fetch_add(1, Ordering::SeqCst);
                waits.await.expect("an answer")
            })
        };
        let send = async { answer.send("yes").expect("askers") };
        let (one, two, other, ()) = tokio::join!(ask(1), ask(1), ask(2), send);
        assert_eq!((one, two, other), (Ok("yes"), Ok("yes"), Ok("yes")));
        assert_eq!(asked.load(Ordering::SeqCst), 2, "one question for each key");
        assert_eq!(flights.join(1, || async { "again" }).await, Ok("again"), "a later asker asks anew");
    }

    #[tokio::test]
    async fn a_question_outlives_the_asker_who_began_it() {
        let flights: Flights<u8, Word> = Flights::new(4);
        let (answer, waits) = oneshot::channel::<Word>();
        let mut first = Box::pin(flights.join(1, || async { waits.await.expect("an answer") }));
        assert!(first.as_mut().now_or_never().is_none(), "it waits");
        let mut second = Box::pin(flights.join(1, || async { "a second question" }));
        assert!(second.as_mut().now_or_never().is_none(), "so does the second");
        drop(first);
        answer.send("yes").expect("an asker");
        assert_eq!(second.await, Ok("yes"), "the first one's question was not lost");
    }

    #[tokio::test]
    async fn over_the_bound_nobody_is_asked_and_a_place_comes_back_with_its_asker() {
        let flights: Flights<u8, Word> = Flights::new(1);
        let mut first = Box::pin(flights.join(1, std::future::pending));
        assert!(first.as_mut().now_or_never().is_none(), "it waits");
        assert_eq!(flights.join(2, || async { "yes" }).await, Err(Full), "no second question");
        drop(first);
        assert_eq!(flights.join(2, || async { "yes" }).await, Ok("yes"), "its place is free");
    }

    #[tokio::test]
    async fn what_is_over_takes_no_room() {
        let flights: Flights<u16, Word> = Flights::new(3);
        for key in 0..1000 {
            assert_eq!(flights.join(key, || async { "yes" }).await, Ok("yes"));
        }
        assert!(flights.under_way.lock().len() <= 3, "as many as may be under way");
    }
}
