//! Alerts that wait to be delivered. Decides which of them is due, and which one goes when there are too many.

use crate::logic::quota::alert::Alert;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Alerts that wait at most: about a megabyte.
pub const MOST: usize = 1_024;

/// How far an alert is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is to be delivered.
    Deliver,
    /// Another replica has it; it is looked after in case that one falls silent.
    Watch,
    /// It was delivered; the other replicas are to know.
    Confirm,
}

/// An alert that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// What is told.
    pub alert: Arc<Alert>,
    /// How far it is.
    pub step: Step,
    /// Tries of this step so far.
    pub tries: u32,
    /// Since when it waits.
    pub since: Instant,
    /// When it is to be looked at.
    pub due: Instant,
}

impl Waiting {
    /// A new one, due now.
    #[must_use]
    pub fn new(alert: Alert, now: Instant) -> Self {
        Self { alert: Arc::new(alert), step: Step::Deliver, tries: 0, since: now, due: now }
    }
}

/// The queue. Puts never wait; one task takes.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    changed: Notify,
}

impl Queue {
    /// Puts an alert in. Gives the one that had to go for it: one that another replica looks after, else the oldest.
    pub fn put(&self, waiting: Waiting) -> Option<Waiting> {
        let mut queue = self.waiting.lock();
        let gone = if queue.len() < MOST { None } else { take_least(&mut queue) };
        queue.push_back(waiting);
        drop(queue);
        self.changed.notify_one();
        gone
    }

    /// Takes the one that has been due the longest.
    pub fn take_due(&self, now: Instant) -> Option<Waiting> {
        let mut queue = self.waiting.lock();
        let (at, due) = queue.iter().map(|waiting| waiting.due).enumerate().min_by_key(|(_, due)| *due)?;
        if due <= now { queue.remove(at) } else { None }
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.lock().iter().map(|waiting| waiting.due).min()
    }

    /// Waits until one is put in.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn take_least(queue: &mut VecDeque<Waiting>) -> Option<Waiting> {
    let watched = queue.iter().position(|waiting| waiting.step != Step::Deliver);
    let oldest = || queue.iter().enumerate().min_by_key(|(_, waiting)| waiting.since).map(|(at, _)| at);
    let at = watched.or_else(oldest)?;
    queue.remove(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::{Scope, Window};
    use crate::domain::units::WallMicros;
    use std::time::Duration;

    fn alert(percent: u8) -> Alert {
        Alert {
            tenant: None,
            scope: Scope::Global,
            rule: Arc::from("r"),
            percent,
            limit: 1,
            spent: 1,
            window: Window::Ever,
            period: 0,
            at: WallMicros(0),
        }
    }

    fn waiting(percent: u8, since: Instant) -> Waiting {
        Waiting::new(alert(percent), since)
    }

    #[test]
    fn the_one_that_is_due_longest_comes_first_and_none_before_its_time() {
        let (queue, now) = (Queue::default(), Instant::now());
        let later = |percent, seconds| waiting(percent, now + Duration::from_secs(seconds));
        assert!(queue.put(later(1, 2)).is_none() && queue.put(later(2, 1)).is_none(), "there is room");
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(1)), "the first of them");
        assert!(queue.take_due(now).is_none(), "not yet");
        let taken = queue.take_due(now + Duration::from_secs(5)).map(|taken| taken.alert.percent);
        assert_eq!(taken, Some(2), "the one that has waited longest");
    }

    #[test]
    fn a_full_queue_lets_go_what_another_replica_has_and_then_the_oldest() {
        let (queue, now) = (Queue::default(), Instant::now());
        for age in 0..MOST as u64 {
            let since = now + Duration::from_millis(MOST as u64 - age);
            assert!(queue.put(waiting(1, since)).is_none(), "there is room");
        }
        let watched = Waiting { step: Step::Watch, ..waiting(2, now + Duration::from_secs(9)) };
        let gone = queue.put(watched).expect("full");
        assert_eq!(gone.since, now + Duration::from_millis(1), "the oldest, which was put in last");
        let gone = queue.put(waiting(3, now)).expect("full");
        assert_eq!(gone.alert.percent, 2, "the one that somebody else delivers");
    }
}
