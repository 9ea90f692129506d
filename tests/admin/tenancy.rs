//! Tenants cannot reach each other, nobody hands out more than they have, and the configuration wins.

use super::api::{self, Api};
use serde_json::{Value, json};

/// The id of a new key.
fn made(api: &Api, who: &str, body: &Value) -> String {
    api.good(who, "POST", "/keys", Some(body))["key_id"].as_str().expect("an id").to_owned()
}

#[test]
fn the_admin_listener_tells_of_tenants_to_operators_only() {
    let api = Api::start();
    let ask = |who: &str, method: &str, path: &str| {
        let key = if who.is_empty() { "" } else { api.proxy.key_of(who) };
        api::speak(api.proxy.admin, key, (method, path), None, &[])
    };
    for (who, status) in [("", 401), ("member", 403), ("issuer", 403), ("acme", 403), ("globex", 403)] {
        for path in ["/tenants/acme", "/tenants/nobody"] {
            let reply = ask(who, "GET", path);
            assert_eq!(
                (reply.status, &reply.json["plan"]),
                (status, &Value::Null),
                "{path} for `{who}`: {}",
                reply.json
            );
        }
    }
    let told = ask("operator", "GET", "/tenants/acme");
    assert_eq!((told.status, &told.json["plan"]), (200, &json!("gold")), "as requests meet it: {}", told.json);
    for (method, path, status) in [
        ("GET", "/tenants/nobody", 404),
        ("GET", "/tenants/acme/teams", 404),
        ("GET", "/tenants/", 404),
        ("DELETE", "/tenants/acme", 405),
    ] {
        assert_eq!(ask("operator", method, path).status, status, "{method} {path}");
    }
    assert_eq!(ask("operator", "GET", "/tenants/acme").status, 200, "and nothing was changed");
}

#[test]
fn an_administrator_sees_and_changes_their_own_tenant_only() {
    let api = Api::start();
    let key = made(&api, "acme", &json!({"name": "ours"}));
    api.good("acme", "PUT", "/tenants/acme/teams/blue", Some(&json!({})));
    api.good(
        "operator",
        "PUT",
        "/budgets/b",
        Some(&json!({"tenant_id": "acme", "level": "team", "subject": "blue",
        "amount_nano_usd": 1, "period": "month"})),
    );
    let other = made(&api, "globex", &json!({"name": "theirs"}));
    assert_ne!(key, other, "two keys");
    // As if it were not there, whatever is asked: the same answer as for what is not there at all.
    let nothing = api.call("globex", "GET", "/keys/000000000000", None);
    for (method, path, body) in [
        ("GET", format!("/keys/{key}"), None),
        ("PATCH", format!("/keys/{key}"), Some(json!({"name": "x"}))),
        ("POST", format!("/keys/{key}/rotate"), Some(json!({}))),
        ("POST", format!("/keys/{key}/end-grace"), None),
        ("POST", format!("/keys/{key}/revoke"), None),
    ] {
        let reply = api.call("globex", method, &path, body.as_ref());
        assert_eq!((reply.status, &reply.json), (404, &nothing.json), "{method} {path}");
    }
    for (method, path, body) in [
        ("GET", "/tenants/acme", None),
        ("GET", "/tenants/acme/teams", None),
        ("GET", "/tenants/acme/users", None),
        ("GET", "/tenants/acme/teams/blue", None),
        ("PUT", "/tenants/acme/teams/blue", Some(json!({}))),
        ("DELETE", "/tenants/acme/teams/blue", None),
        ("GET", "/budgets/b", None),
        ("DELETE", "/budgets/b", None),
        ("GET", "/keys?tenant=acme", None),
        ("GET", "/usage/records?tenant=acme", None),
        ("GET", "/usage/summary?tenant=acme", None),
        ("GET", "/audit?tenant=acme", None),
    ] {
        assert_eq!(api.status("globex", method, path, body.as_ref()), 404, "{method} {path}");
    }
    let tenants = |path: &str, list: &str| -> Vec<String> {
        let page = api.good("globex", "GET", path, None);
        let entries = page[list].as_array().expect("a list").clone();
        entries.iter().map(|entry| entry["tenant_id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for (path, list) in [("/tenants", "tenants"), ("/keys", "keys"), ("/budgets", "budgets"), ("/audit", "entries")] {
        let seen = tenants(path, list);
        assert!(seen.iter().all(|tenant| tenant == "globex"), "{path} shows {seen:?}");
    }
    assert_eq!(tenants("/keys", "keys").len(), 2, "theirs, and the one that asks");
    assert!(api.good("operator", "GET", "/keys", None)["keys"].as_array().is_some_and(|keys| keys.len() >= 7), "all");
    let reply = api.call("globex", "POST", "/keys", Some(&json!({"tenant_id": "acme"})));
    let unknown = api.call("globex", "POST", "/keys", Some(&json!({"tenant_id": "nobody"})));
    assert_eq!((reply.status, &reply.json), (422, &unknown.json), "another's tenant is like none");
    for path in ["/tenants/new", "/plans/new"] {
        let body = if path.contains("plans") { json!({"limits": {}}) } else { json!({}) };
        assert_eq!(api.status("globex", "PUT", path, Some(&body)), 403, "{path}: operators do");
    }
    let budget = json!({"level": "tenant", "amount_nano_usd": 1, "period": "month"});
    assert_eq!(api.status("globex", "PUT", "/budgets/own", Some(&budget)), 403, "nobody sets their own budget");
}

#[test]
fn a_budget_says_all_that_it_does_and_names_a_key_that_there_is() {
    let api = Api::start();
    let plain = json!({"tenant_id": "acme", "level": "tenant", "amount_nano_usd": 5, "period": "day"});
    let made = api.good("operator", "PUT", "/budgets/plain", Some(&plain));
    let members = ["on_exceed", "alert_at", "strict", "stop_streams", "enforced"].map(|name| made[name].clone());
    assert_eq!(members, [json!("reject"), json!([]), json!(false), json!(false), json!(true)], "unless told: {made}");
    let full = json!({"tenant_id": "acme", "level": "team", "subject": "soon", "amount_nano_usd": 5, "period": "prepaid",
        "on_exceed": "warn", "alert_at": [95, 80, 80], "strict": true, "stop_streams": true});
    api.good("acme", "PUT", "/budgets/full", Some(&full));
    let shown = api.good("acme", "GET", "/budgets/full", None);
    let members = ["on_exceed", "alert_at", "strict", "stop_streams"].map(|name| shown[name].clone());
    assert_eq!(members, [json!("warn"), json!([80, 95]), json!(true), json!(true)], "shares in order, once: {shown}");
    let (ours, theirs) = (made_key(&api, "acme"), made_key(&api, "globex"));
    let of = |key: &str| json!({"level": "key", "subject": key, "amount_nano_usd": 5, "period": "day"});
    api.good("acme", "PUT", "/budgets/key", Some(&of(&ours)));
    for key in [&*theirs, "000000000000", "no key at all"] {
        let reply = api.call("acme", "PUT", "/budgets/other", Some(&of(key)));
        assert_eq!((reply.status, reply.param()), (422, "/subject"), "{key}: {}", reply.json);
    }
    for (member, value) in [
        ("amount_nano_usd", json!(9_000_000_000_000_001_i64)),
        ("alert_at", json!([0])),
        ("alert_at", json!([101])),
        ("alert_at", json!(vec![1; 17])),
        ("on_exceed", json!("explode")),
    ] {
        let mut body = plain.clone();
        body[member] = value;
        assert_eq!(api.status("operator", "PUT", "/budgets/bad", Some(&body)), 422, "{body}");
    }
}

fn made_key(api: &Api, who: &str) -> String {
    made(api, who, &json!({}))
}

#[test]
fn nobody_gives_or_takes_over_more_than_they_have() {
    let api = Api::start();
    for (who, roles, status) in [
        ("acme", json!(null), 201),
        ("acme", json!(["tenant-admin"]), 201),
        ("acme", json!(["operator"]), 403),
        ("acme", json!(["member", "operator"]), 403),
        ("issuer", json!(["issuer"]), 201),
        ("issuer", json!([]), 201),
        ("issuer", json!(null), 403),
        ("issuer", json!(["tenant-admin"]), 403),
        ("operator", json!(["operator"]), 201),
    ] {
        let reply = api.call(who, "POST", "/keys", Some(&json!({"roles": roles})));
        assert_eq!(reply.status, status, "{who} gives {roles}: {}", reply.json);
    }
    // An operator's key in the tenant is not the tenant administrator's to take over: not by a new secret, not by an
    // edit.
    let strong = made(&api, "operator", &json!({"tenant_id": "acme", "roles": ["operator"]}));
    let weak = made(&api, "issuer", &json!({"roles": ["issuer"]}));
    for (method, path, body) in [
        ("POST", format!("/keys/{strong}/rotate"), json!({})),
        ("POST", format!("/keys/{strong}/revoke"), json!({})),
        ("PATCH", format!("/keys/{strong}"), json!({"roles": ["member"]})),
        ("PATCH", format!("/keys/{weak}"), json!({"roles": ["operator"]})),
    ] {
        assert_eq!(api.status("acme", method, &path, Some(&body)), 403, "{method} {path}");
    }
    let path = format!("/keys/{weak}");
    assert_eq!(api.status("issuer", "PATCH", &path, Some(&json!({"roles": ["tenant-admin"]}))), 403, "nor upwards");
    let roles = api.good("operator", "GET", &path, None)["roles"].clone();
    assert_eq!(roles, json!(["issuer"]), "what was refused was taken back whole");
    assert_eq!(api.status("issuer", "GET", "/audit", None), 403, "who writes keys does not read the log");
}

#[test]
fn who_only_writes_keys_does_not_get_off_their_plan_past_their_end_or_on_again() {
    let api = Api::start();
    let own = json!({"tenant_id": "acme", "roles": ["issuer"], "plan": "gold", "expires_at": "2099-01-01T00:00:00Z"});
    let issuer = api.good("operator", "POST", "/keys", Some(&own));
    let (key, id) = (issuer["key"].as_str().expect("a key"), issuer["key_id"].as_str().expect("an id"));
    let ask = |method: &str, path: &str, body: Value| {
        let body = body.to_string();
        api::speak(api.proxy.admin, key, (method, &format!("/admin/v1{path}")), Some(&body), &[]).status
    };
    let same = json!({"roles": [], "plan": "gold", "expires_at": "2098-01-01T00:00:00Z"});
    api.waits_for(key);
    assert_eq!(ask("POST", "/keys", same), 201, "a key like their own");
    assert_eq!(ask("POST", "/keys", json!({"roles": [], "expires_at": "2098-01-01T00:00:00Z"})), 403, "no plan");
    assert_eq!(ask("POST", "/keys", json!({"roles": [], "plan": "gold"})), 403, "no end");
    for edit in [json!({"plan": null}), json!({"expires_at": null}), json!({"expires_at": "2100-01-01T00:00:00Z"})] {
        assert_eq!(ask("PATCH", &format!("/keys/{id}"), edit.clone()), 403, "their own key: {edit}");
    }
    let weak = made(&api, "issuer", &json!({"roles": []}));
    let path = format!("/keys/{weak}");
    api.good("issuer", "PATCH", &path, Some(&json!({"disabled": true})));
    assert_eq!(api.status("issuer", "PATCH", &path, Some(&json!({"disabled": false}))), 403, "not on again");
    api.good("acme", "PATCH", &path, Some(&json!({"disabled": false})));
}

#[test]
fn who_does_not_reach_all_tenants_makes_keys_for_their_own_authenticator_only() {
    let api = Api::start_with(&["other: { api_key: { tag: other } }"]);
    let tag = |who: &str, auth: Option<&str>| {
        let mut body = json!({"roles": []});
        if let Some(auth) = auth {
            body["auth"] = auth.into();
        }
        let reply = api.call(who, "POST", "/keys", Some(&body));
        reply.json["key"]
            .as_str()
            .and_then(|key| key.split('-').nth(1))
            .map_or_else(|| Err(reply.status), |tag| Ok(tag.to_owned()))
    };
    for who in ["acme", "issuer"] {
        assert_eq!(tag(who, None).as_deref(), Ok("weir"), "{who}: their own, without naming it");
        assert_eq!(tag(who, Some("keys")).as_deref(), Ok("weir"), "{who}: their own");
        assert_eq!(tag(who, Some("other")), Err(422), "{who}: another");
    }
    assert_eq!(tag("operator", Some("other")).as_deref(), Ok("other"), "an operator chooses");
    assert_eq!(tag("operator", None), Err(422), "and has to");
    let key = made(&api, "issuer", &json!({"roles": []}));
    let rotation = json!({"auth": "other"});
    assert_eq!(api.status("issuer", "POST", &format!("/keys/{key}/rotate"), Some(&rotation)), 422, "nor by a rotation");
    // A plain hash is under no pepper: it holds for all of them.
    let plain = json!({"roles": [], "hash": format!("sha256:{}", "2".repeat(64))});
    assert_eq!(api.status("issuer", "POST", "/keys", Some(&plain)), 403, "an issuer imports nothing");
    assert_eq!(api.status("issuer", "POST", "/keys/import", Some(&json!({"keys": [plain]}))), 403, "in no way");
    assert_eq!(api.status("acme", "POST", "/keys", Some(&plain)), 201, "an administrator does");
}

#[test]
fn a_key_is_of_a_team_that_exists_and_of_any_user() {
    let api = Api::start();
    let slip = api.call("acme", "POST", "/keys", Some(&json!({"team_id": "cor"})));
    assert_eq!((slip.status, slip.param()), (422, "/team_id"), "a misspelt team: {}", slip.json);
    assert!(slip.json.to_string().contains("Known: core."), "with the list: {}", slip.json);
    let import = json!({"keys": [{"team_id": "cor", "hash": format!("sha256:{}", "3".repeat(64))}]});
    let reply = api.call("acme", "POST", "/keys/import", Some(&import));
    assert_eq!((reply.status, reply.param()), (422, "/keys/0/team_id"), "at its place: {}", reply.json);
    let key = made(&api, "acme", &json!({"team_id": "core", "user_id": "whoever"}));
    let path = format!("/keys/{key}");
    assert_eq!(api.status("acme", "PATCH", &path, Some(&json!({"team_id": "cor"}))), 422, "nor by an edit");
    api.good("acme", "PUT", "/tenants/acme/teams/blue", Some(&json!({})));
    api.good("acme", "PATCH", &path, Some(&json!({"team_id": "blue"})));
}

#[test]
fn two_roles_of_a_key_make_no_operator() {
    let api = Api::start();
    let both = json!({"tenant_id": "acme", "roles": ["tenant-admin", "reader"]});
    let made = api.good("operator", "POST", "/keys", Some(&both));
    let key = made["key"].as_str().expect("a key");
    api.waits_for(key);
    let ask = |path: &str| api::speak(api.proxy.admin, key, ("GET", &format!("/admin/v1{path}")), None, &[]).status;
    assert_eq!(ask("/tenants/acme"), 200, "their own tenant");
    assert_eq!(ask("/tenants/globex"), 404, "no other");
}

#[test]
fn what_is_configured_wins_and_is_read_only() {
    let api = Api::start();
    for (method, path, body) in [
        ("PUT", "/tenants/acme", Some(json!({"models": []}))),
        ("DELETE", "/tenants/acme", None),
        ("PUT", "/tenants/acme/teams/core", Some(json!({}))),
        ("DELETE", "/tenants/acme/teams/core", None),
        ("PUT", "/plans/gold", Some(json!({"limits": {}}))),
        ("DELETE", "/plans/gold", None),
    ] {
        let reply = api.call("operator", method, path, body.as_ref());
        assert_eq!((reply.status, reply.code()), (409, "configured_in_file"), "{method} {path}");
        assert!(reply.json.to_string().contains("weir.yaml"), "the file is named: {}", reply.json);
    }
    let reply = api.call("acme", "PUT", "/tenants/acme/teams/core", Some(&json!({})));
    assert_eq!((reply.status, reply.code()), (409, "configured_in_file"), "a tenant's administrator too");
    assert!(!reply.json.to_string().contains("weir.yaml"), "without the file's place: {}", reply.json);
    let tenant = api.good("operator", "GET", "/tenants/acme", None);
    assert_eq!((&tenant["origin"], &tenant["plan"]), (&json!("config"), &json!("gold")), "as configured: {tenant}");
    let zone = |tenant: &str| api.good("operator", "GET", &format!("/tenants/{tenant}"), None)["time_zone"].clone();
    assert_eq!((zone("globex"), zone("acme")), (json!("Europe/Berlin"), json!(null)), "their days");
    api.good("operator", "PUT", "/tenants/initech", Some(&json!({"plan": "gold"})));
    let page = api.good("operator", "GET", "/tenants", None);
    let origins: Vec<(&str, &str)> = page["tenants"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|tenant| (tenant["tenant_id"].as_str().unwrap_or(""), tenant["origin"].as_str().unwrap_or("")))
        .collect();
    let all = [("acme", "config"), ("default", "config"), ("globex", "config"), ("initech", "store")];
    assert_eq!(origins, all, "both, in order, and where from");
    let now = api::speak(api.proxy.admin, api.proxy.key_of("operator"), ("GET", "/tenants/acme"), None, &[]);
    assert_eq!(now.json["origin"], json!("config"), "as requests meet it: {}", now.json);
    // A team of the store beside one of the file.
    api.good("acme", "PUT", "/tenants/acme/teams/blue", Some(&json!({"plan": "gold"})));
    let teams = api.good("acme", "GET", "/tenants/acme/teams", None);
    let names: Vec<&str> =
        teams["teams"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(names, ["blue", "core"], "teams of both");
    let plan = api.good("globex", "GET", "/plans/gold", None);
    assert_eq!(plan["limits"]["requests"], json!([{"limit": "600/min", "burst": 10}]), "as the file writes it: {plan}");
}

#[test]
fn a_plan_has_limits_budget_priority_and_models_and_a_fault_is_told_at_its_member() {
    let api = Api::start();
    let plan = json!({
        "limits": {"requests": [{"limit": "600/min", "reserve": "20%", "when": "auth.user != null"}], "input_tokens": "5k/h"},
        "budget": [{"usd": "0.50/day", "on_exceed": "warn", "alert_at": ["80%"]}, {"usd": 100, "stop_streams": true}],
        "priority": "high",
        "models": {"llama-*": {"output_tokens": {"limit": "1M/month", "mode": "shadow"}}},
    });
    let made = api.good("operator", "PUT", "/plans/pro", Some(&plan));
    for shown in [made, api.good("operator", "GET", "/plans/pro", None)] {
        for (member, wanted) in plan.as_object().expect("an object") {
            assert_eq!(&shown[member], wanted, "{member} as it was written: {shown}");
        }
    }
    let plain = api.good("operator", "PUT", "/plans/plain", Some(&json!({"limits": {"requests": "5/s"}})));
    let rest = (&plain["budget"], &plain["priority"], &plain["models"]);
    assert_eq!(rest, (&json!(null), &json!("normal"), &json!({})), "what is left out: {plain}");
    let configured = api.good("operator", "GET", "/plans/gold", None);
    assert_eq!(configured["priority"], json!("normal"), "one of the file too: {configured}");
    for (body, param) in [
        (json!({"limits": {"requests": "5"}}), "/limits"),
        (json!({"budget": "5/min"}), "/budget"),
        (json!({"budget": 0.5}), "/budget"),
        (json!({"budget": {"usd": 5, "on_exceed": "stop"}}), "/budget"),
        (json!({"priority": "urgent"}), "/priority"),
        (json!({"models": {"a": {"requests": "0/s"}}}), "/models"),
        (json!({"modles": {}}), "/modles"),
    ] {
        let reply = api.call("operator", "PUT", "/plans/pro", Some(&body));
        assert_eq!((reply.status, reply.param()), (422, param), "{body}: {}", reply.json);
    }
    assert_eq!(api.status("operator", "PUT", "/plans/limits.a", Some(&json!({}))), 400, "a name of other limits");
}
