//! Why requests were refused lately: the last denials of this process, for "why was this 429". A bounded ring without a
//! clock; who may look is the admin API's matter.

use crate::domain::ids::{KeyId, RequestId, RouteId, TenantId};
use crate::domain::limit::Denial;
use crate::domain::units::WallMicros;
use crate::logic::quota::lines::MAX_LINES;
use std::collections::VecDeque;
use std::sync::Arc;

/// Denials that are remembered at most.
pub const MAX_DENIALS: usize = 16_384;
/// Figures that they may have together, 80 bytes each: with the names of tenants, models and routes the ring takes 25 MiB
/// at most. Denials with more than eight figures make older ones go earlier.
pub const MAX_FIGURES: usize = 131_072;
/// Letters of a model's name that are kept: callers choose it.
const MAX_MODEL: usize = 128;

/// A request that a limit refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// Which request.
    pub request_id: RequestId,
    /// When it was refused.
    pub at: WallMicros,
    /// Whose it was.
    pub tenant: TenantId,
    /// The key that it came by.
    pub key: Option<KeyId>,
    /// The model that it named, at most 128 letters.
    pub model: Option<String>,
    /// The route that it would have taken.
    pub route: Option<RouteId>,
    /// Which rule said no, and how all stood; at most [`MAX_LINES`] figures.
    pub denial: Denial,
}

/// The last denials.
#[derive(Debug, Default)]
pub struct Denials {
    kept: VecDeque<Arc<Denied>>,
    figures: usize,
}

impl Denials {
    /// Remembers one, and forgets as many of the oldest as the bounds ask for.
    pub fn push(&mut self, mut denied: Denied) {
        denied.denial.figures.truncate(MAX_LINES);
        denied.model = denied.model.map(|model| model.chars().take(MAX_MODEL).collect());
        self.figures += denied.denial.figures.len();
        self.kept.push_back(Arc::new(denied));
        while self.kept.len() > MAX_DENIALS || self.figures > MAX_FIGURES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.figures = self.figures.saturating_sub(oldest.denial.figures.len());
        }
    }

    /// The denial of a request; the latest are looked at first.
    #[must_use]
    pub fn find(&self, request: RequestId) -> Option<Arc<Denied>> {
        self.kept.iter().rev().find(|denied| denied.request_id == request).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::{Dimension, Figure, Mode};

    fn denied(number: u128, figures: usize) -> Denied {
        let figure = Figure {
            rule: "p.requests".into(),
            scope: "tenant",
            dimension: Dimension::Requests,
            mode: Mode::Enforce,
            limit: 1,
            remaining: 0,
            needed: 1,
            wait: None,
            without_store: false,
        };
        Denied {
            request_id: id(number),
            at: WallMicros(0),
            tenant: "acme".into(),
            key: None,
            model: Some("m".repeat(1_000)),
            route: None,
            denial: Denial {
                dimension: Dimension::Requests,
                rule: "p.requests".into(),
                scope: "tenant",
                retry_after: None,
                standings: vec![],
                figures: vec![figure; figures],
            },
        }
    }

    fn id(number: u128) -> RequestId {
        RequestId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut denials = Denials::default();
        for number in 0..=MAX_DENIALS as u128 {
            denials.push(denied(number, 1));
        }
        assert_eq!(denials.find(id(0)), None, "one too many: the first is forgotten");
        assert!(denials.find(id(1)).is_some() && denials.find(id(MAX_DENIALS as u128)).is_some(), "and no other");
    }

    #[test]
    fn long_denials_do_not_make_the_ring_larger() {
        let mut denials = Denials::default();
        let fit = MAX_FIGURES / MAX_LINES;
        for number in 0..=fit as u128 {
            denials.push(denied(number, MAX_LINES + 1));
        }
        assert_eq!(denials.find(id(0)), None, "its figures are needed");
        let last = denials.find(id(fit as u128)).expect("the last one");
        assert_eq!(last.denial.figures.len(), MAX_LINES, "no more than lines can be weighed");
        assert_eq!(last.model.as_ref().map(String::len), Some(MAX_MODEL), "callers choose this name");
        assert!(denials.figures <= MAX_FIGURES && denials.kept.len() == fit, "the bound holds");
    }
}
