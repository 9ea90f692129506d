//! `tenants:` – who pays, by which plan, for which models.

use super::matcher::models;
use super::names::{Kind, Names, check_name};
use crate::config::field::Item;
use crate::config::snapshot::Tenant;
use crate::domain::ids::{PlanId, TenantId};
use std::collections::BTreeMap;

/// Reads `tenants:`; `default` exists without being named.
#[must_use]
pub fn tenants<'t>(item: &Item<'t>, names: &Names<'t>) -> BTreeMap<TenantId, Tenant> {
    let mut all = BTreeMap::from([(TenantId::new("default"), Tenant::default())]);
    for (entry, item) in item.named() {
        check_name(&item, &entry.key, entry.place);
        let fields =
            item.fields(&["plan", "models"], &["time_zone", "budget", "priority", "limits", "roles", "weight"]);
        let plan = fields.get("plan").and_then(|item| names.refer(&item, Kind::Plan)).map(PlanId::new);
        let (models, model_patterns) = fields.get("models").map(|item| models(&item)).unwrap_or_default();
        all.insert(TenantId::new(&entry.key), Tenant { plan, models, model_patterns });
    }
    all
}
