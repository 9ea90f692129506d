//! Which complaints about an installation are news: the same one about the same tenant is said once a minute, so that a
//! mistake that every request meets does not fill the log. Bounded, and without a clock.

use crate::domain::ids::TenantId;
use crate::domain::units::Micros;
use crate::logic::quota::lines::Unclear;
use rustc_hash::FxHashMap;

/// How long a complaint is no news.
pub const EVERY: Micros = Micros(60_000_000);
/// Complaints that are remembered; further ones are not said until the minute of one of these is over.
pub const MAX_COMPLAINTS: usize = 1_024;

/// When what was said.
#[derive(Debug, Default)]
pub struct Complaints {
    said: FxHashMap<(TenantId, Unclear), Micros>,
}

impl Complaints {
    /// True if it is to be said now.
    pub fn is_news(&mut self, tenant: &TenantId, unclear: &Unclear, now: Micros) -> bool {
        let is_over = |said: Micros| now - said >= EVERY;
        let about = (tenant.clone(), unclear.clone());
        if let Some(said) = self.said.get_mut(&about) {
            let news = is_over(*said);
            if news {
                *said = now;
            }
            return news;
        }
        if self.said.len() >= MAX_COMPLAINTS {
            self.said.retain(|_, said| !is_over(*said));
        }
        let room = self.said.len() < MAX_COMPLAINTS;
        if room {
            self.said.insert(about, now);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(plan: &str) -> Unclear {
        Unclear::MissingPlan { plan: plan.into(), level: "tenant" }
    }

    #[test]
    fn one_complaint_about_one_tenant_is_said_once_a_minute() {
        let mut complaints = Complaints::default();
        let mut said = |tenant: &str, unclear, at| complaints.is_news(&tenant.into(), &unclear, Micros(at));
        assert!(said("acme", missing("gold"), 0), "the first time");
        assert!(!said("acme", missing("gold"), EVERY.0 - 1), "within the minute");
        assert!(said("globex", missing("gold"), 1), "another tenant's");
        assert!(said("acme", missing("silver"), 1), "another plan");
        assert!(said("acme", Unclear::TooMany(300), 1), "another mistake");
        assert!(said("acme", missing("gold"), EVERY.0), "a minute later");
        assert!(!said("acme", missing("gold"), EVERY.0 + 1), "and that is a new minute");
    }

    #[test]
    fn mistakes_without_end_are_neither_remembered_nor_said() {
        let mut complaints = Complaints::default();
        let mut said = |at| {
            let tenants = 0..2 * MAX_COMPLAINTS;
            tenants
                .filter(|nth| complaints.is_news(&format!("t{nth}").as_str().into(), &missing("gold"), Micros(at)))
                .count()
        };
        assert_eq!(said(0), MAX_COMPLAINTS, "as many as are remembered");
        assert_eq!(said(1), 0, "none in the same minute");
        assert_eq!(said(EVERY.0), MAX_COMPLAINTS, "and again a minute later");
    }
}
