//! Which alerts a budget owes: shares of it that are spent and that nobody was told of yet; and what an alert says. Whom
//! and how to tell is `io/alerts`.

use crate::domain::ids::TenantId;
use crate::domain::limit::{Scope, Window};
use crate::domain::units::WallMicros;
use crate::logic::quota::plan::LimitRule;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// The share at which a budget is spent. It is always told of, whatever `alert_at` says.
pub const SPENT: u8 = 100;
/// Bytes of an id before they are written as hex: enough that no two alerts ever have the same.
const ID_BYTES: usize = 16;

/// Shares of a budget, in whole percent from 1 to [`SPENT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shares(u128);

impl Shares {
    /// These; what is none of them is left out.
    #[must_use]
    pub fn of(percents: &[u8]) -> Self {
        Self(percents.iter().filter(|percent| (1..=SPENT).contains(percent)).fold(0, |all, one| all | 1 << one))
    }

    /// Those that are not in `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Those of either.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// True for none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, smallest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (1..=SPENT).filter(move |percent| self.0 & (1 << percent) != 0)
    }
}

/// The shares of a budget that are spent, of those that somebody wants to be told of. A budget of nothing has no shares:
/// it is closed on purpose, and nothing is ever spent of it.
#[must_use]
pub fn crossed(alert_at: &[u8], limit: u64, committed: u64) -> Shares {
    if limit == 0 {
        return Shares::default();
    }
    let wanted = Shares::of(alert_at).and(Shares::of(&[SPENT]));
    let spent = u128::from(committed) * u128::from(SPENT);
    let crossed = wanted.iter().filter(|percent| spent >= u128::from(limit) * u128::from(*percent));
    crossed.fold(Shares::default(), |all, percent| all.and(Shares::of(&[percent])))
}

/// How a budget stands of which a share is spent that somebody wants to be told of.
#[derive(Clone, PartialEq, Debug)]
pub struct Spent {
    /// Where it counts.
    pub scope: Scope,
    /// Its rule.
    pub rule: Arc<LimitRule>,
    /// What is committed, all replicas together.
    pub committed: u64,
    /// Where the period begins, in milliseconds since 1970.
    pub period: i64,
}

/// One share of one budget that is spent, in one period.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alert {
    /// Who pays; `None` where tenants share the count.
    pub tenant: Option<TenantId>,
    /// Where it counts.
    pub scope: Scope,
    /// The rule's name.
    pub rule: Arc<str>,
    /// Which share.
    pub percent: u8,
    /// The whole, in nano-dollars.
    pub limit: u64,
    /// What was spent when this was seen.
    pub spent: u64,
    /// Over what it is counted.
    pub window: Window,
    /// Where the period begins, in milliseconds since 1970; 0 for prepaid credit that counts all that was ever spent.
    pub period: i64,
    /// When this was seen.
    pub at: WallMicros,
}

impl Alert {
    /// The same for whoever sees the same share of the same amount crossed in the same period, so that who is told
    /// twice can tell.
    #[must_use]
    pub fn id(&self) -> String {
        let tenant = self.tenant.as_ref().map(TenantId::as_str);
        let said =
            json!([tenant, self.scope.name(), self.subject(), *self.rule, self.period, self.limit, self.percent]);
        let digest = Sha256::digest(said.to_string().as_bytes());
        let hex: String = digest.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        format!("evt_{hex}")
    }

    /// What is told, as JSON.
    #[must_use]
    pub fn event(&self) -> Value {
        json!({
            "id": self.id(),
            "type": if self.percent >= SPENT { "budget.exceeded" } else { "budget.threshold" },
            "tenant_id": self.tenant.as_ref().map(TenantId::as_str),
            "scope": self.scope.name(),
            "subject": self.subject(),
            "rule": *self.rule,
            "threshold_percent": self.percent,
            "limit_nano_usd": self.limit,
            "spent_nano_usd": self.spent,
            "period_start": (self.period != 0).then(|| time(self.period.saturating_mul(1000))),
            "occurred_at": time(self.at.0),
        })
    }

    /// Which key, user, team or pool; `None` where the scope has one of its kind.
    fn subject(&self) -> Option<&str> {
        match &self.scope {
            Scope::Key(key) => Some(key.as_str()),
            Scope::User(_, user) => Some(user.as_str()),
            Scope::Team(_, team) => Some(team.as_str()),
            Scope::Pool(pool) => Some(pool.as_str()),
            Scope::Tenant(_) | Scope::Global => None,
        }
    }
}

/// As RFC 3339 writes it, in UTC.
fn time(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(alert_at: &[u8], limit: u64, committed: u64) -> Vec<u8> {
        crossed(alert_at, limit, committed).iter().collect()
    }

    fn alert() -> Alert {
        Alert {
            tenant: Some("acme".into()),
            scope: Scope::Team("acme".into(), "core".into()),
            rule: Arc::from("budget.b1"),
            percent: 80,
            limit: 1_000,
            spent: 801,
            window: Window::Month,
            period: 1_793_491_200_000,
            at: WallMicros(1_795_000_000_000_000),
        }
    }

    #[test]
    fn a_share_is_crossed_when_it_is_spent_and_the_whole_always_counts() {
        assert_eq!(shares(&[80, 95], 1_000, 799), [0; 0], "a nano-dollar less");
        assert_eq!(shares(&[80, 95], 1_000, 800), [80], "all of it");
        assert_eq!(shares(&[95, 80], 1_000, 5_000), [80, 95, 100], "several at once, and the whole");
        assert_eq!(shares(&[], 1_000, 1_000), [100], "though nobody asked for any");
        assert_eq!(shares(&[0, 101, 255], 1_000, 5_000), [100], "what is no share is none");
        assert_eq!(shares(&[80], 0, 5), [0; 0], "of nothing there are no shares");
        assert_eq!(shares(&[99], u64::MAX, u64::MAX), [99, 100], "large amounts");
    }

    proptest! {
        #[test]
        fn who_spends_more_has_crossed_no_less(alert_at: Vec<u8>, limit: u64, a: u64, b: u64) {
            let (less, more) = (a.min(b), a.max(b));
            let (few, many) = (crossed(&alert_at, limit, less), crossed(&alert_at, limit, more));
            prop_assert!(few.without(many).is_empty(), "{few:?} of {many:?}");
        }
    }

    #[test]
    fn an_alert_has_one_id_whoever_sees_it_and_another_one_has_another() {
        let later = Alert { spent: 900, at: WallMicros(1_795_000_001_000_000), ..alert() };
        assert_eq!(alert().id(), later.id(), "what is seen differs, what it is about does not");
        let others = [
            Alert { tenant: Some("globex".into()), ..alert() },
            Alert { scope: Scope::User("acme".into(), "core".into()), ..alert() },
            Alert { scope: Scope::Team("acme".into(), "other".into()), ..alert() },
            Alert { rule: Arc::from("budget.b2"), ..alert() },
            Alert { percent: 95, ..alert() },
            Alert { limit: 2_000, ..alert() },
            Alert { period: 0, ..alert() },
        ];
        for other in others {
            assert_ne!(alert().id(), other.id(), "{other:?}");
        }
    }

    #[test]
    fn an_event_says_who_spent_what() {
        let wanted = json!({
            "id": alert().id(), "type": "budget.threshold", "tenant_id": "acme", "scope": "team", "subject": "core",
            "rule": "budget.b1", "threshold_percent": 80, "limit_nano_usd": 1000, "spent_nano_usd": 801,
            "period_start": "2026-11-01T00:00:00Z", "occurred_at": "2026-11-18T11:06:40Z",
        });
        assert_eq!(alert().event(), wanted, "a share");
        let whole =
            Alert { percent: 100, window: Window::Ever, period: 0, scope: Scope::Global, tenant: None, ..alert() };
        let event = whole.event();
        let told = [&event["type"], &event["period_start"], &event["tenant_id"], &event["subject"]];
        assert_eq!(told, [&json!("budget.exceeded"), &Value::Null, &Value::Null, &Value::Null], "prepaid, all of it");
    }
}
