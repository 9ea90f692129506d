//! Tenants, teams, users, plans, budgets; the log of changes; answers kept for repeated requests.

use crate::world::{ALL, HOUR, NOW, World, actor, both, change, change_at, fresh, new_key, pepper};
use serde_json::json;
use weir::domain::units::{NanoUsd, WallMicros};
use weir::io::store::Store;
use weir::io::store::change::Idempotency;
use weir::io::store::error::Kind;
use weir::io::store::rows::{
    AuditEntry, AuditFilter, BudgetLevel, BudgetPeriod, BudgetSpec, MAX_ALERTS, MAX_BUDGET, MemberKind, MemberSpec,
    NewKey, OnExceed, Page, Rotation, Streams, TenantSpec,
};

const BOTH_KINDS: [MemberKind; 2] = [MemberKind::Team, MemberKind::User];

fn with_plan(plan: &str) -> MemberSpec {
    MemberSpec { plan: Some(plan.into()), ..MemberSpec::default() }
}

fn log(store: &mut Store) -> Vec<AuditEntry> {
    let listing = store.read().expect("open").audit(&AuditFilter::default(), &ALL).expect("read");
    assert!(listing.broken.is_empty(), "every line can be read");
    listing.rows
}

/// Oldest first: what was done to what.
fn deeds(store: &mut Store) -> Vec<String> {
    log(store).iter().rev().map(|line| format!("{} {}", line.action, line.target)).collect()
}

#[test]
fn a_tenant_is_what_was_put_last_and_keeps_its_beginning() {
    both(|world| {
        let mut store = world.open();
        let spec = TenantSpec {
            name: Some("Acme".into()),
            plan: Some("gold".into()),
            models: Some(vec!["llama-*".into()]),
            disabled: true,
            time_zone: Some("Europe/Berlin".into()),
        };
        change(&mut store, |change| change.put_tenant("acme", &spec));
        let found = store.read().expect("open").tenant("acme").expect("read").expect("there");
        assert_eq!((&found.spec, found.created_at), (&spec, NOW), "{}: all of it", world.name);
        let plain = TenantSpec::default();
        let later = NOW + HOUR;
        let put = change_at(&mut store, later, |change| change.put_tenant("acme", &plain)).expect("put");
        assert_eq!((&put.spec, put.created_at), (&plain, NOW), "{}: put is all of it, anew", world.name);
        let stamp = store.stamp().expect("read");
        change(&mut store, |change| change.put_tenant("acme", &plain));
        assert_eq!(store.stamp().expect("read"), stamp, "{}: what is so already is no change", world.name);
    });
}

#[test]
fn teams_and_users_of_one_name_are_different_and_are_their_tenants_own() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| {
            change.put_member(MemberKind::Team, "acme", "ann", &with_plan("small"))?;
            change.put_member(MemberKind::User, "acme", "ann", &with_plan("tiny"))?;
            change.put_member(MemberKind::User, "other", "ann", &with_plan("large"))
        });
        let mut plan = |kind, tenant| {
            let found = store.read().expect("open").member(kind, tenant, "ann").expect("read");
            found.and_then(|member| member.spec.plan)
        };
        assert_eq!(plan(MemberKind::Team, "acme").as_deref(), Some("small"), "{}: the team", world.name);
        assert_eq!(plan(MemberKind::User, "acme").as_deref(), Some("tiny"), "{}: the user", world.name);
        assert_eq!(plan(MemberKind::User, "other").as_deref(), Some("large"), "{}: another tenant's", world.name);
        assert_eq!(plan(MemberKind::Team, "other"), None, "{}: nobody's", world.name);
        let listing = store.read().expect("open").members(MemberKind::User, "acme", &ALL).expect("read");
        assert_eq!(listing.rows.len(), 1, "{}: a list is one tenant's", world.name);
    });
}

#[test]
fn what_has_living_keys_cannot_be_deleted() {
    both(|world| {
        let mut store = world.open();
        let new = NewKey { team: Some("core".into()), user: Some("ann".into()), ..new_key(1) };
        change(&mut store, |change| {
            change.put_tenant("acme", &TenantSpec::default())?;
            change.put_member(MemberKind::Team, "acme", "core", &MemberSpec::default())?;
            change.put_member(MemberKind::User, "acme", "ann", &MemberSpec::default())?;
            change.create_key(&new)
        });
        let tries = [
            change_at(&mut store, NOW, |change| change.delete_tenant("acme")),
            change_at(&mut store, NOW, |change| change.delete_member(MemberKind::Team, "acme", "core")),
            change_at(&mut store, NOW, |change| change.delete_member(MemberKind::User, "acme", "ann")),
        ];
        for done in tries {
            assert_eq!(done.expect_err("refused").kind(), Kind::Conflict, "{}: a key stands on it", world.name);
        }
        change(&mut store, |change| change.revoke_key(&new.key_id, Streams::Finish));
        change(&mut store, |change| change.delete_tenant("acme"));
        let mut reader = store.read().expect("open");
        assert_eq!(reader.tenant("acme").expect("read"), None, "{}: gone", world.name);
        for (kind, id) in [(MemberKind::Team, "core"), (MemberKind::User, "ann")] {
            assert_eq!(reader.member(kind, "acme", id).expect("read"), None, "{}: and its {id}", world.name);
        }
    });
}

#[test]
fn a_tenant_takes_all_that_it_owns_along_and_each_has_its_line() {
    both(|world| {
        let mut store = world.open();
        let gold = TenantSpec { plan: Some("gold".into()), ..TenantSpec::default() };
        change(&mut store, |change| {
            change.put_plan("gold", Some("acme"), "{}")?;
            change.put_plan("free", None, "{}")?;
            change.put_tenant("acme", &gold)?;
            change.put_member(MemberKind::Team, "acme", "core", &with_plan("gold"))?;
            change.put_budget("b1", &budget("acme"))?;
            change.put_budget("b2", &budget("other"))
        });
        change(&mut store, |change| change.delete_tenant("acme"));
        let lines = deeds(&mut store);
        let wanted = ["team.delete acme/core", "plan.delete gold", "budget.delete b1", "tenant.delete acme"];
        assert_eq!(lines[6..], wanted, "{}: in the log", world.name);
        let mut reader = store.read().expect("open");
        let plans = reader.plans(None, &ALL).expect("read").rows;
        assert_eq!(plans.iter().map(|plan| &*plan.plan).collect::<Vec<_>>(), ["free"], "{}", world.name);
        let budgets = reader.budgets(None, &ALL).expect("read").rows;
        assert_eq!(budgets.iter().map(|budget| &*budget.id).collect::<Vec<_>>(), ["b2"], "{}", world.name);
    });
}

#[test]
fn what_was_deleted_can_be_made_again_and_is_then_new() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| change.put_tenant("acme", &TenantSpec::default()));
        change(&mut store, |change| change.delete_tenant("acme"));
        let gone = change_at(&mut store, NOW, |change| change.delete_tenant("acme"));
        assert_eq!(gone.expect_err("gone").kind(), Kind::NotFound, "{}: once", world.name);
        let later = NOW + HOUR;
        let made = change_at(&mut store, later, |change| change.put_tenant("acme", &TenantSpec::default()));
        assert_eq!(made.expect("made").created_at, later, "{}: another one of that name", world.name);
    });
}

#[test]
fn a_plan_that_somebody_has_cannot_be_deleted() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| change.put_plan("gold", None, "{}"));
        let refused = |store: &mut Store, who: &str| {
            let done = change_at(store, NOW, |change| change.delete_plan("gold"));
            assert_eq!(done.expect_err("refused").kind(), Kind::Conflict, "{}: {who} has it", world.name);
        };
        let gold = TenantSpec { plan: Some("gold".into()), ..TenantSpec::default() };
        change(&mut store, |change| change.put_tenant("acme", &gold));
        refused(&mut store, "a tenant");
        change(&mut store, |change| change.delete_tenant("acme"));
        for kind in BOTH_KINDS {
            change(&mut store, |change| change.put_member(kind, "acme", "x", &with_plan("gold")));
            refused(&mut store, kind.name());
            change(&mut store, |change| change.delete_member(kind, "acme", "x"));
        }
        let new = NewKey { plan: Some("gold".into()), ..new_key(1) };
        change(&mut store, |change| change.create_key(&new));
        refused(&mut store, "a key");
        change(&mut store, |change| change.revoke_key(&new.key_id, Streams::Finish));
        change(&mut store, |change| change.delete_plan("gold"));
        assert_eq!(store.read().expect("open").plan("gold").expect("read"), None, "{}: now it is gone", world.name);
    });
}

#[test]
fn a_plan_has_one_owner_and_others_do_not_see_it() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| {
            change.put_plan("ours", Some("acme"), "{}")?;
            change.put_plan("theirs", Some("other"), "{}")?;
            change.put_plan("free", None, "{}")
        });
        for owner in [None, Some("acme")] {
            let done = change_at(&mut store, NOW, |change| change.put_plan("theirs", owner, "{}"));
            assert_eq!(done.expect_err("refused").kind(), Kind::Conflict, "{}: the name is taken", world.name);
        }
        let listing = store.read().expect("open").plans(Some("acme"), &ALL).expect("read");
        let names: Vec<&str> = listing.rows.iter().map(|plan| &*plan.plan).collect();
        assert_eq!(names, ["free", "ours"], "{}: its own, and those of the installation", world.name);
    });
}

fn budget(tenant: &str) -> BudgetSpec {
    BudgetSpec::of(tenant, NanoUsd(5_000_000_000_000), BudgetPeriod::Month)
}

#[test]
fn a_budget_is_what_was_put_last_and_what_was_deleted_can_be_anothers() {
    both(|world| {
        let mut store = world.open();
        let spec = BudgetSpec {
            period: BudgetPeriod::Prepaid,
            on_exceed: OnExceed::Warn,
            alert_at: vec![80, 95],
            strict: true,
            stop_streams: true,
            ..budget("acme")
        };
        change(&mut store, |change| change.put_budget("b", &spec));
        let found = |store: &mut Store| store.read().expect("open").budget("b").expect("read").map(|found| found.spec);
        assert_eq!(found(&mut store), Some(spec), "{}: all of it", world.name);
        change(&mut store, |change| change.put_budget("b", &budget("acme")));
        assert_eq!(found(&mut store), Some(budget("acme")), "{}: put is all of it, anew", world.name);
        change(&mut store, |change| change.delete_budget("b"));
        let gone = change_at(&mut store, NOW, |change| change.delete_budget("b"));
        assert_eq!(gone.expect_err("gone").kind(), Kind::NotFound, "{}: once", world.name);
        change(&mut store, |change| change.put_budget("b", &budget("other")));
        assert_eq!(found(&mut store), Some(budget("other")), "{}: the id is free again", world.name);
    });
}

#[test]
fn a_budget_names_a_subject_below_the_tenant_only_and_is_not_negative() {
    both(|world| {
        let mut store = world.open();
        let made = change(&mut store, |change| change.put_budget("b", &budget("acme")));
        assert_eq!(store.read().expect("open").budget("b").expect("read"), Some(made), "{}: as made", world.name);
        let of =
            |level, subject: Option<&str>| BudgetSpec { level, subject: subject.map(Into::into), ..budget("acme") };
        let bad = [
            of(BudgetLevel::Tenant, Some("core")),
            of(BudgetLevel::Team, None),
            BudgetSpec { amount: NanoUsd(-1), ..budget("acme") },
            BudgetSpec { amount: NanoUsd(MAX_BUDGET.0 + 1), ..budget("acme") },
            BudgetSpec { alert_at: vec![0], ..budget("acme") },
            BudgetSpec { alert_at: vec![101], ..budget("acme") },
            BudgetSpec { alert_at: vec![1; MAX_ALERTS + 1], ..budget("acme") },
        ];
        for spec in bad {
            let done = change_at(&mut store, NOW, |change| change.put_budget("c", &spec));
            assert_eq!(done.expect_err("refused").kind(), Kind::Refused, "{}: {spec:?}", world.name);
        }
        let done = change_at(&mut store, NOW, |change| change.put_budget("b", &budget("other")));
        assert_eq!(done.expect_err("refused").kind(), Kind::Conflict, "{}: a budget stays with its tenant", world.name);
        change(&mut store, |change| change.put_budget("t", &of(BudgetLevel::Team, Some("core"))));
        change(&mut store, |change| change.delete_budget("b"));
        let left = store.read().expect("open").budgets(Some("acme"), &ALL).expect("read").rows;
        assert_eq!(left.iter().map(|one| &*one.id).collect::<Vec<_>>(), ["t"], "{}: one is left", world.name);
    });
}

#[test]
fn the_log_says_who_did_what_with_before_and_after_and_no_hash() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        let new = pepper().hash(fresh(2).text.as_bytes());
        let rotation = Rotation { hash: new, grace: std::time::Duration::from_secs(60), forced: false };
        change(&mut store, |change| change.rotate_key(&id, &rotation));
        change(&mut store, |change| change.revoke_key(&id, Streams::Terminate));
        let lines = log(&mut store);
        assert_eq!(lines.iter().map(|line| line.id).collect::<Vec<_>>(), [3, 2, 1], "{}: newest first", world.name);
        let (last, first) = (&lines[0], &lines[2]);
        assert_eq!(
            (&last.actor, last.at, &*last.action),
            (&actor(), NOW, "key.revoke"),
            "{}: who and what",
            world.name
        );
        assert_eq!((&*last.target, last.tenant.as_deref()), (id.as_str(), Some("acme")), "{}: to what", world.name);
        let status = |json: &Option<serde_json::Value>| json.as_ref().map(|json| json["status"].clone());
        assert_eq!(status(&last.before), Some(json!("active")), "{}: how it was", world.name);
        assert_eq!(status(&last.after), Some(json!("revoked")), "{}: how it is", world.name);
        assert_eq!(first.before, None, "{}: before it was made there was none", world.name);
        let text = format!("{lines:?}");
        let digest = weir::logic::access::digest::hex(&pepper().digest(fresh(1).text.as_bytes()));
        for planted in [&digest[..12], "hash", "digest", &fresh(1).text[21..40]] {
            assert!(!text.contains(planted), "{}: nothing of a secret is in the log", world.name);
        }
    });
}

#[test]
fn nobody_can_change_or_shorten_the_log() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| change.create_key(&new_key(1)));
        let mut tries = vec!["UPDATE audit_log SET actor_id = 'x'", "DELETE FROM audit_log"];
        tries.push(if world.postgres.is_some() {
            "TRUNCATE audit_log"
        } else {
            "INSERT OR REPLACE INTO audit_log (id, at, actor_kind, actor_id, action, target) VALUES (1, 0, 'x', 'x', 'x', 'x')"
        });
        for sql in tries {
            let said = world.sql(sql).expect_err("refused");
            assert!(said.contains("append-only"), "{}: {sql}: {said}", world.name);
        }
        assert_eq!(log(&mut store)[0].actor, actor(), "{}: it says what it said", world.name);
    });
}

#[test]
fn a_failed_change_leaves_no_line() {
    both(|world| {
        let mut store = world.open();
        let done = change_at(&mut store, NOW, |change| {
            change.put_tenant("acme", &TenantSpec::default())?;
            change.delete_plan("none")
        });
        assert_eq!(done.expect_err("refused").kind(), Kind::NotFound, "{}", world.name);
        assert_eq!(deeds(&mut store), [""; 0], "{}: nothing was done", world.name);
    });
}

#[test]
fn the_log_is_read_in_pages_and_by_tenant() {
    both(|world| {
        let mut store = world.open();
        for tenant in ["a", "b", "c"] {
            change(&mut store, |change| change.put_tenant(tenant, &TenantSpec::default()));
        }
        let mut reader = store.read().expect("open");
        let page = Page { after: None, limit: 2 };
        let first = reader.audit(&AuditFilter::default(), &page).expect("read");
        assert_eq!(first.next.as_deref(), Some("2"), "{}: there is more", world.name);
        let rest = reader.audit(&AuditFilter::default(), &Page { after: first.next, limit: 2 }).expect("read");
        assert_eq!((rest.rows.len(), rest.next), (1, None), "{}: the rest", world.name);
        let only = AuditFilter { tenant: Some("b".into()), target: None };
        let own = reader.audit(&only, &ALL).expect("read").rows;
        assert_eq!(own.iter().map(|line| &*line.target).collect::<Vec<_>>(), ["b"], "{}: its own lines", world.name);
        let odd = reader.audit(&AuditFilter::default(), &Page { after: Some("x".into()), limit: 2 });
        assert_eq!(odd.expect_err("refused").kind(), Kind::Refused, "{}: no number", world.name);
    });
}

#[test]
fn a_repeated_request_gets_its_first_answer_for_a_day() {
    both(|world: &World| {
        let mut store = world.open();
        let what = Idempotency { scope: "acme", key: "k1", fingerprint: "f1" };
        let answer = json!({"key_id": "0123456789AB"});
        change(&mut store, |change| change.remember(&what, &answer));
        let ask = |store: &mut Store, what: Idempotency<'_>, now: WallMicros| {
            change_at(store, now, |change| change.recall(&what))
        };
        assert_eq!(ask(&mut store, what, NOW).expect("read"), Some(answer), "{}: the same again", world.name);
        let other = ask(&mut store, Idempotency { fingerprint: "f2", ..what }, NOW);
        assert_eq!(other.expect_err("refused").kind(), Kind::Conflict, "{}: another request", world.name);
        let others = ask(&mut store, Idempotency { scope: "other", ..what }, NOW).expect("read");
        assert_eq!(others, None, "{}: another caller's key is another key", world.name);
        let day = WallMicros(24 * HOUR.0);
        assert!(ask(&mut store, what, NOW + day - WallMicros(1)).expect("read").is_some(), "{}: a day", world.name);
        assert_eq!(ask(&mut store, what, NOW + day).expect("read"), None, "{}: and no longer", world.name);
        let new = Idempotency { fingerprint: "f2", ..what };
        change_at(&mut store, NOW + day, |change| change.remember(&new, &json!(1))).expect("free again");
    });
}

#[test]
fn an_answer_is_kept_only_with_the_change_that_it_is_of() {
    both(|world| {
        let mut store = world.open();
        let what = Idempotency { scope: "acme", key: "k1", fingerprint: "f1" };
        let done = change_at(&mut store, NOW, |change| {
            change.remember(&what, &json!(1))?;
            change.delete_plan("none")
        });
        assert!(done.is_err(), "{}: the change failed", world.name);
        let kept = change(&mut store, |change| change.recall(&what));
        assert_eq!(kept, None, "{}: so there is no answer to it", world.name);
    });
}
