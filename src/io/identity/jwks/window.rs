//! When a request may have an issuer's keys fetched: joined while a fetch runs, else once in a while. Decides on the
//! time that is passed in.

use crate::domain::units::Micros;

/// Between two fetches for unknown `kid`s: whoever makes them up costs the issuer no more than this.
const BETWEEN: Micros = Micros(30_000_000);

/// What became of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// The fetch has to be started.
    Started,
    /// One runs already.
    Joined,
    /// Not now.
    Refused,
}

/// The fetches of one issuer.
#[derive(Debug)]
pub(super) struct Window {
    fetching: bool,
    /// When a fetch was last started for a request.
    wished: Option<Micros>,
    closed: bool,
}

impl Window {
    /// The first fetch is on its way.
    pub(super) fn fetching() -> Self {
        Self { fetching: true, wished: None, closed: false }
    }

    /// There is nothing to fetch, ever.
    pub(super) fn closed() -> Self {
        Self { fetching: false, wished: None, closed: true }
    }

    /// True where [`Window::want`] would not refuse.
    pub(super) fn may_fetch(&self, now: Micros) -> bool {
        !self.closed && (self.fetching || self.wished.is_none_or(|last| now - last >= BETWEEN))
    }

    /// A request wants newer keys.
    pub(super) fn want(&mut self, now: Micros) -> Wanted {
        if !self.may_fetch(now) {
            return Wanted::Refused;
        }
        if self.fetching {
            return Wanted::Joined;
        }
        self.fetching = true;
        self.wished = Some(now);
        Wanted::Started
    }

    /// A fetch begins, whoever wanted it.
    pub(super) fn begin(&mut self) {
        self.fetching = true;
    }

    /// A fetch has ended, well or not.
    pub(super) fn end(&mut self) {
        self.fetching = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_cost_one_fetch_in_thirty_seconds() {
        let mut window = Window::fetching();
        assert_eq!(window.want(Micros(0)), Wanted::Joined, "the first fetch is shared");
        window.end();
        assert_eq!(window.want(Micros(1)), Wanted::Started, "the first wish");
        assert_eq!(window.want(Micros(2)), Wanted::Joined, "single flight");
        window.end();
        let fetches = (3..30_000_000).step_by(3000).filter(|now| window.want(Micros(*now)) != Wanted::Refused).count();
        assert_eq!(fetches, 0, "10,000 requests in 30 s");
        assert!(!window.may_fetch(Micros(30_000_000)), "a microsecond too early");
        assert_eq!(window.want(Micros(30_000_001)), Wanted::Started, "then one more");
    }

    #[test]
    fn a_fixed_secret_is_never_fetched() {
        let mut window = Window::closed();
        assert!(!window.may_fetch(Micros(1)), "nothing to wait for");
        assert_eq!(window.want(Micros(1)), Wanted::Refused, "nothing to start");
    }
}
