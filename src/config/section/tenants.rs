//! `tenants:` – who pays, by which plan, for which models; and the teams and users within.

use super::budgets::budget;
use super::names::{Kind, Names, check_name, check_user, model_list};
use super::patterns::models;
use crate::config::codes::Code;
use crate::config::diagnostic::Place;
use crate::config::field::{Fields, Item};
use crate::config::snapshot::Tenant;
use crate::domain::ids::{PlanId, TeamId, TenantId, UserId};
use crate::domain::limit::OnStoreError;
use crate::logic::access::directory::{Member, Origin};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// Reads `tenants:`; `default` exists without being named.
#[must_use]
pub fn tenants<'t>(item: &Item<'t>, names: &Names<'t>, fallback: OnStoreError) -> BTreeMap<TenantId, Tenant> {
    let mut all = BTreeMap::from([(TenantId::new("default"), Tenant::default())]);
    for (entry, item) in item.named() {
        check_name(&item, &entry.key, entry.place);
        all.insert(TenantId::new(&entry.key), tenant(&entry.key, &item, names, fallback));
    }
    all
}

fn tenant<'t>(name: &str, item: &Item<'t>, names: &Names<'t>, fallback: OnStoreError) -> Tenant {
    let known = ["plan", "models", "disabled", "teams", "users", "time_zone", "budget"];
    let fields = item.fields(&known, &["priority", "limits", "roles", "weight"]);
    let (models, model_patterns) = fields.get("models").map(|item| models(&item)).unwrap_or_default();
    let members = Members { names, path: format!("tenants.{name}"), fallback };
    Tenant {
        plan: plan(&fields, names),
        models,
        model_patterns,
        disabled: fields.or("disabled", Item::flag, false),
        teams: members.read(&fields.item("teams"), "teams", (TeamId::new, check_name)),
        users: members.read(&fields.item("users"), "users", (UserId::new, check_user)),
        zone: fields.or("time_zone", time_zone, TimeZone::UTC),
        budgets: budget(&format!("tenants.{name}.budget"), &fields.item("budget"), fallback),
        origin: Origin::Config,
        ..Tenant::default()
    }
}

fn plan<'t>(fields: &Fields<'t>, names: &Names<'t>) -> Option<PlanId> {
    fields.get("plan").and_then(|item| names.refer(&item, Kind::Plan)).map(PlanId::new)
}

/// What the teams and users of one tenant have in common.
struct Members<'m, 't> {
    names: &'m Names<'t>,
    path: String,
    fallback: OnStoreError,
}

/// How a member's name becomes an id, and how it is checked.
type Naming<Id> = (fn(&str) -> Id, fn(&Item<'_>, &str, Place));

impl<'t> Members<'_, 't> {
    fn read<Id: Ord>(&self, item: &Item<'t>, kind: &str, naming: Naming<Id>) -> BTreeMap<Id, Member> {
        let (id, check) = naming;
        let read = item.named().into_iter().map(|(entry, item)| {
            check(&item, &entry.key, entry.place);
            (id(&entry.key), self.member(&format!("{}.{kind}.{}", self.path, in_header(&entry.key)), &item))
        });
        read.collect()
    }

    fn member(&self, path: &str, item: &Item<'t>) -> Member {
        let fields = item.fields(&["plan", "models", "budget"], &["limits", "roles", "members"]);
        Member {
            plan: plan(&fields, self.names),
            models: fields.get("models").map(|item| model_list(&item)),
            budgets: budget(&format!("{path}.budget"), &fields.item("budget"), self.fallback),
            origin: Origin::Config,
        }
    }
}

/// Rules are named in a header, where a user's name may not be able to stand: other bytes are written as `%41`.
fn in_header(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(one).collect()
}

fn time_zone(item: &Item<'_>) -> Option<TimeZone> {
    let zone = zone(item.text()?);
    if zone.is_none() {
        let hint = Some("write an IANA name, such as `Europe/Berlin`".to_owned());
        item.error(Code::BadWord, format!("`{}` is not a time zone", item.shown()), hint);
    }
    zone
}

/// The time zone of an IANA name: the system's idea of it, or that which is built in.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok().filter(|zone| !zone.is_unknown() && zone.iana_name().is_some())
}
