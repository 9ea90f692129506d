//! `roles:` – what a role allows: scopes, models, and whose tenant. Credentials name roles; nothing in the file does.

use super::names::{check_name, model_list};
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::domain::ids::RoleId;
use crate::logic::access::scopes::{Reach, Role, Roles, Scope, Scopes, built_in};

/// Reads `roles:`; the built-in ones exist without being named.
#[must_use]
pub fn roles(item: &Item<'_>) -> Roles {
    let mut all = built_in();
    for (entry, item) in item.named() {
        check_name(&item, &entry.key, entry.place);
        let fields = item.fields(&["scopes", "models", "tenants"], &["inherits", "endpoints"]);
        let scopes = fields.need("scopes", "for example `scopes: [inference, \"models:list\"]`");
        let reach = fields.get("tenants").and_then(|item| item.choice(&["own", "all"], &[]));
        let role = Role {
            scopes: scopes.map_or(Scopes::NONE, |item| scope_list(&item)),
            models: fields.get("models").map(|item| model_list(&item)),
            reach: if reach == Some("all") { Reach::All } else { Reach::Own },
        };
        if all.insert(RoleId::new(&entry.key), role).is_some() {
            let message = format!("this replaces the built-in role `{}`", entry.key);
            let hint = Some("choose another name, unless that is what you want".to_owned());
            item.findings.add(Code::ReplacesBuiltIn, (entry.place, &item.path), message, hint);
        }
    }
    all
}

fn scope_list(item: &Item<'_>) -> Scopes {
    let names = Scope::ALL.map(Scope::name);
    let listed = item.list();
    if listed.is_empty() {
        item.error(Code::EmptyPool, "a role without a scope allows nothing".into(), None);
    }
    let chosen = listed.iter().filter_map(|item| item.choice(&names, &[]));
    let scopes: Vec<Scope> = chosen.filter_map(|name| Scope::ALL.into_iter().find(|one| one.name() == name)).collect();
    Scopes::of(&scopes)
}
