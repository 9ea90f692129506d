//! `tenants:` – who pays, by which plan, for which models; and the teams and users within.

use super::matcher::models;
use super::names::{Kind, Names, check_name, check_user, model_list};
use crate::config::diagnostic::Place;
use crate::config::field::{Fields, Item};
use crate::config::snapshot::Tenant;
use crate::domain::ids::{PlanId, TeamId, TenantId, UserId};
use crate::logic::access::directory::{Member, Origin};
use std::collections::BTreeMap;

/// Reads `tenants:`; `default` exists without being named.
#[must_use]
pub fn tenants<'t>(item: &Item<'t>, names: &Names<'t>) -> BTreeMap<TenantId, Tenant> {
    let mut all = BTreeMap::from([(TenantId::new("default"), Tenant::default())]);
    for (entry, item) in item.named() {
        check_name(&item, &entry.key, entry.place);
        all.insert(TenantId::new(&entry.key), tenant(&item, names));
    }
    all
}

fn tenant<'t>(item: &Item<'t>, names: &Names<'t>) -> Tenant {
    let known = ["plan", "models", "disabled", "teams", "users"];
    let fields = item.fields(&known, &["time_zone", "budget", "priority", "limits", "roles", "weight"]);
    let (models, model_patterns) = fields.get("models").map(|item| models(&item)).unwrap_or_default();
    Tenant {
        plan: plan(&fields, names),
        models,
        model_patterns,
        disabled: fields.or("disabled", Item::flag, false),
        teams: members(&fields.item("teams"), names, TeamId::new, check_name),
        users: members(&fields.item("users"), names, UserId::new, check_user),
        origin: Origin::Config,
    }
}

fn plan<'t>(fields: &Fields<'t>, names: &Names<'t>) -> Option<PlanId> {
    fields.get("plan").and_then(|item| names.refer(&item, Kind::Plan)).map(PlanId::new)
}

fn members<'t, Id: Ord>(
    item: &Item<'t>,
    names: &Names<'t>,
    id: fn(&str) -> Id,
    check: fn(&Item<'_>, &str, Place),
) -> BTreeMap<Id, Member> {
    let read = item.named().into_iter().map(|(entry, item)| {
        check(&item, &entry.key, entry.place);
        let fields = item.fields(&["plan", "models"], &["budget", "limits", "roles", "members"]);
        let models = fields.get("models").map(|item| model_list(&item));
        (id(&entry.key), Member { plan: plan(&fields, names), models, origin: Origin::Config })
    });
    read.collect()
}
