//! Keys: made, changed, rotated, revoked.

use crate::world::{ALL, HOUR, NOW, both, change, change_at, fresh, new_key, pepper};
use std::time::Duration;
use weir::domain::ids::KeyId;
use weir::domain::units::WallMicros;
use weir::io::store::Store;
use weir::io::store::error::{Kind, StoreError};
use weir::io::store::rows::{KeyEdit, KeyFilter, KeyStatus, NewKey, Page, Rotation, StoredKey, Streams};
use weir::logic::access::api_key;
use weir::logic::access::digest::{Digest, SecretHash};

fn key(store: &mut Store, key_id: &KeyId) -> StoredKey {
    store.read().expect("open").key(key_id).expect("read").expect("there")
}

fn rotation(byte: u8, grace: Duration) -> Rotation {
    Rotation { hash: pepper().hash(fresh(byte).text.as_bytes()), grace, forced: false }
}

fn generations(key: &StoredKey) -> Vec<(u32, Option<WallMicros>)> {
    key.secrets.iter().map(|secret| (secret.generation, secret.valid_until)).collect()
}

const GRACE: Duration = Duration::from_secs(3_600);

#[test]
fn what_was_created_is_found_with_all_that_is_on_it() {
    both(|world| {
        let new = NewKey {
            team: Some("core".into()),
            user: Some("ann".into()),
            name: Some("ci ✓".into()),
            models: Some(vec!["llama-*".into()]),
            endpoints: Some(vec!["/v1/chat/*".into()]),
            addresses: Some(vec!["10.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")]),
            plan: Some("gold".into()),
            roles: Some(vec!["developer".into()]),
            expires_at: Some(NOW + HOUR),
            ..new_key(1)
        };
        let made = change(&mut world.open(), |change| change.create_key(&new));
        let found = key(&mut world.open(), &new.key_id);
        assert_eq!(found, made, "{}: another look gives what the change gave", world.name);
        let got = (&found.team, &found.user, &found.name, &found.models, &found.endpoints, &found.addresses);
        let wanted = (&new.team, &new.user, &new.name, &new.models, &new.endpoints, &new.addresses);
        assert_eq!(got, wanted, "{}: as it was asked for", world.name);
        assert_eq!(
            (&found.plan, &found.roles, found.expires_at),
            (&new.plan, &new.roles, new.expires_at),
            "also these"
        );
        assert_eq!((found.status, found.created_at, found.revoked_at), (KeyStatus::Active, NOW, None), "and it is new");
        assert_eq!(found.secrets[0].hash, new.hash, "{}: the hash of its secret", world.name);
        assert_eq!(generations(&found), [(1, None)], "{}: its first secret has no end", world.name);
    });
}

#[test]
fn a_key_without_restrictions_has_none_after_the_store_either() {
    both(|world| {
        let made = change(&mut world.open(), |change| change.create_key(&new_key(1)));
        let got = (&made.models, &made.endpoints, &made.addresses, &made.roles);
        assert_eq!(got, (&None, &None, &None, &None), "{}: no list is not an empty list", world.name);
        let empty = NewKey { roles: Some(vec![]), ..new_key(2) };
        let made = change(&mut world.open(), |change| change.create_key(&empty));
        assert_eq!(made.roles, Some(vec![]), "{}: an empty list is not no list", world.name);
    });
}

#[test]
fn a_plain_hash_is_kept_as_what_it_is() {
    both(|world| {
        let imported = NewKey { hash: SecretHash::Plain(Digest([7; 32])), ..new_key(1) };
        let made = change(&mut world.open(), |change| change.create_key(&imported));
        assert_eq!(made.secrets[0].hash, imported.hash, "{}: SHA-256 without a pepper", world.name);
    });
}

#[test]
fn changes_happen_all_or_none() {
    both(|world| {
        let mut store = world.open();
        let before = store.stamp().expect("read");
        let done = change_at(&mut store, NOW, |change| {
            change.create_key(&new_key(1))?;
            change.create_key(&new_key(2))?;
            change.create_key(&new_key(1))
        });
        assert_eq!(done.expect_err("an id exists once").kind(), Kind::Conflict, "{}", world.name);
        let keys = store.read().expect("open").keys(&KeyFilter::default(), &ALL).expect("read");
        assert_eq!(keys.rows.len(), 0, "{}: nothing of a failed change stays", world.name);
        assert_eq!(store.stamp().expect("read"), before, "{}: and nobody hears of it", world.name);
        change(&mut store, |change| change.create_key(&new_key(1)));
    });
}

#[test]
fn revoking_ends_all_generations_and_doing_it_again_changes_nothing() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        change(&mut store, |change| change.rotate_key(&id, &rotation(2, GRACE)));
        let revoked = change(&mut store, |change| change.revoke_key(&id, Streams::Finish));
        assert_eq!((revoked.status, revoked.standing(NOW)), (KeyStatus::Revoked, "revoked"), "{}", world.name);
        let stamp = store.stamp().expect("read");
        let later = NOW + HOUR;
        let again = change_at(&mut store, later, |change| change.revoke_key(&id, Streams::Finish)).expect("done");
        assert_eq!(again, revoked, "{}: the first revocation counts", world.name);
        assert_eq!(store.stamp().expect("read"), stamp, "{}: and there is nothing to tell", world.name);
    });
}

#[test]
fn a_revocation_may_be_widened_to_open_streams_and_never_narrowed() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        let revoked = change(&mut store, |change| change.revoke_key(&id, Streams::Finish));
        assert!(!revoked.terminate_streams, "{}: open streams run on", world.name);
        let cut = change(&mut store, |change| change.revoke_key(&id, Streams::Terminate));
        assert!(cut.terminate_streams && cut.revoked_at == Some(NOW), "{}: now they are cut", world.name);
        let still = change(&mut store, |change| change.revoke_key(&id, Streams::Finish));
        assert!(still.terminate_streams, "{}: and stay so", world.name);
    });
}

#[test]
fn a_revoked_key_never_comes_back() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        change(&mut store, |change| change.revoke_key(&id, Streams::Finish));
        let on = KeyEdit { disabled: Some(false), ..KeyEdit::default() };
        let tries = [
            change_at(&mut store, NOW, |change| change.update_key(&id, &on)),
            change_at(&mut store, NOW, |change| change.rotate_key(&id, &rotation(2, GRACE))),
            change_at(&mut store, NOW, |change| change.end_grace(&id)),
            change_at(&mut store, NOW, |change| change.create_key(&new_key(1))),
        ];
        for done in tries {
            assert_eq!(done.expect_err("refused").kind(), Kind::Conflict, "{}: ended for good", world.name);
        }
        assert_eq!(key(&mut store, &id).status, KeyStatus::Revoked, "{}", world.name);
    });
}

#[test]
fn an_unknown_key_is_not_found_by_any_operation() {
    both(|world| {
        let mut store = world.open();
        let id = fresh(9).id;
        assert!(store.read().expect("open").key(&id).expect("read").is_none(), "{}: nothing to see", world.name);
        let tries = [
            change_at(&mut store, NOW, |change| change.revoke_key(&id, Streams::Finish)),
            change_at(&mut store, NOW, |change| change.update_key(&id, &KeyEdit::default())),
            change_at(&mut store, NOW, |change| change.rotate_key(&id, &rotation(2, GRACE))),
            change_at(&mut store, NOW, |change| change.end_grace(&id)),
        ];
        for done in tries {
            assert_eq!(done.expect_err("refused").kind(), Kind::NotFound, "{}", world.name);
        }
    });
}

#[test]
fn a_rotation_keeps_the_key_and_ends_its_old_secret_after_the_grace() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        let named = NewKey { name: Some("ci".into()), ..new_key(1) };
        change(&mut store, |change| change.create_key(&named));
        let rotated = change(&mut store, |change| change.rotate_key(&id, &rotation(2, GRACE)));
        assert_eq!(generations(&rotated), [(1, Some(NOW + HOUR)), (2, None)], "{}: both, one with an end", world.name);
        assert_eq!(rotated.name, named.name, "{}: the rest is as it was", world.name);
        assert_eq!(rotated.previous(NOW).map(|old| old.generation), Some(1), "{}: good until its end", world.name);
        assert_eq!(rotated.previous(NOW + HOUR), None, "{}: and not at it", world.name);
    });
}

#[test]
fn without_grace_the_old_secret_ends_at_once() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        let rotated = change(&mut store, |change| change.rotate_key(&id, &rotation(2, Duration::ZERO)));
        assert_eq!(generations(&rotated), [(2, None)], "{}: only the new one is left", world.name);
    });
}

#[test]
fn a_grace_beyond_thirty_days_is_refused() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        let days = Duration::from_secs(30 * 86_400);
        let long = rotation(2, days + Duration::from_secs(1));
        let done = change_at(&mut store, NOW, |change| change.rotate_key(&id, &long));
        assert_eq!(done.expect_err("refused").kind(), Kind::Refused, "{}", world.name);
        change(&mut store, |change| change.rotate_key(&id, &rotation(2, days)));
    });
}

#[test]
fn a_third_live_secret_is_a_conflict_unless_it_is_forced() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        change(&mut store, |change| change.rotate_key(&id, &rotation(2, GRACE)));
        let third = rotation(3, GRACE);
        let done = change_at(&mut store, NOW, |change| change.rotate_key(&id, &third));
        assert_eq!(done.expect_err("refused").kind(), Kind::Conflict, "{}: two are good already", world.name);
        let forced = Rotation { forced: true, ..third };
        let rotated = change(&mut store, |change| change.rotate_key(&id, &forced));
        let wanted = [(2, Some(NOW + HOUR)), (3, None)];
        assert_eq!(generations(&rotated), wanted, "{}: the oldest has ended", world.name);
    });
}

#[test]
fn when_the_grace_is_over_a_rotation_needs_no_force() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        change(&mut store, |change| change.rotate_key(&id, &rotation(2, GRACE)));
        let later = NOW + HOUR;
        let rotated = change_at(&mut store, later, |change| change.rotate_key(&id, &rotation(3, GRACE))).expect("done");
        let wanted = [(2, Some(later + HOUR)), (3, None)];
        assert_eq!(generations(&rotated), wanted, "{}: the first is gone", world.name);
    });
}

#[test]
fn a_grace_that_is_ended_early_leaves_the_new_secret_alone() {
    both(|world| {
        let mut store = world.open();
        let id = new_key(1).key_id;
        change(&mut store, |change| change.create_key(&new_key(1)));
        change(&mut store, |change| change.rotate_key(&id, &rotation(2, GRACE)));
        let ended = change(&mut store, |change| change.end_grace(&id));
        assert_eq!(generations(&ended), [(2, None)], "{}: the old one is gone", world.name);
        let stamp = store.stamp().expect("read");
        assert_eq!(change(&mut store, |change| change.end_grace(&id)), ended, "{}: nothing to end", world.name);
        assert_eq!(store.stamp().expect("read"), stamp, "{}: nothing to tell", world.name);
    });
}

#[test]
fn an_edit_changes_what_it_names_and_nothing_else() {
    both(|world| {
        let mut store = world.open();
        let new = NewKey { name: Some("old".into()), team: Some("core".into()), ..new_key(1) };
        let made = change(&mut store, |change| change.create_key(&new));
        let edit = KeyEdit {
            name: Some(Some("new".into())),
            team: Some(None),
            models: Some(Some(vec!["a".into()])),
            disabled: Some(true),
            ..KeyEdit::default()
        };
        let edited = change(&mut store, |change| change.update_key(&new.key_id, &edit));
        let wanted = StoredKey {
            name: Some("new".into()),
            team: None,
            models: Some(vec!["a".into()]),
            status: KeyStatus::Disabled,
            epoch: made.epoch + 1,
            ..made
        };
        assert_eq!(edited, wanted, "{}", world.name);
        let stamp = store.stamp().expect("read");
        change(&mut store, |change| change.update_key(&new.key_id, &edit));
        assert_eq!(store.stamp().expect("read"), stamp, "{}: an edit that changes nothing is none", world.name);
        let on = KeyEdit { disabled: Some(false), ..KeyEdit::default() };
        let on = change(&mut store, |change| change.update_key(&new.key_id, &on));
        assert_eq!(on.status, KeyStatus::Active, "{}: what was switched off can be switched on", world.name);
    });
}

#[test]
fn pages_hold_every_key_once_in_the_order_of_ids() {
    both(|world| {
        let mut store = world.open();
        let mut wanted: Vec<String> = (0..7).map(|byte| new_key(byte * 30).key_id.as_str().to_owned()).collect();
        for byte in 0..7 {
            change(&mut store, |change| change.create_key(&new_key(byte * 30)));
        }
        wanted.sort();
        let (mut found, mut page) = (Vec::new(), Page { after: None, limit: 3 });
        loop {
            let listing = store.read().expect("open").keys(&KeyFilter::default(), &page).expect("read");
            assert!(listing.rows.len() <= 3, "{}: no more than was asked for", world.name);
            found.extend(listing.rows.iter().map(|key| key.key_id.as_str().to_owned()));
            let Some(next) = listing.next else { break };
            page.after = Some(next);
        }
        assert_eq!(found, wanted, "{}", world.name);
    });
}

#[test]
fn a_filter_lets_its_own_keys_through_only() {
    both(|world| {
        let mut store = world.open();
        let mut made = Vec::new();
        for (byte, tenant, team) in [(1, "acme", Some("core")), (2, "acme", None), (3, "other", Some("core"))] {
            let new = NewKey { tenant: tenant.into(), team: team.map(Into::into), ..new_key(byte) };
            made.push(change(&mut store, |change| change.create_key(&new)).key_id);
        }
        let mut ask = |tenant: Option<&str>, team: Option<&str>| -> Vec<KeyId> {
            let filter = KeyFilter { tenant: tenant.map(Into::into), team: team.map(Into::into), user: None };
            let listing = store.read().expect("open").keys(&filter, &ALL).expect("read");
            listing.rows.into_iter().map(|key| key.key_id).collect()
        };
        assert_eq!(ask(Some("acme"), None).len(), 2, "{}: both of a tenant", world.name);
        assert_eq!(ask(Some("acme"), Some("core")), [made[0].clone()], "{}: one of its team", world.name);
        assert_eq!(ask(None, Some("core")).len(), 2, "{}: of a team of any tenant", world.name);
        assert_eq!(ask(Some("nobody"), None), [], "{}: of nobody", world.name);
    });
}

#[test]
fn a_row_that_is_no_key_takes_no_other_key_with_it() {
    both(|world| {
        let mut store = world.open();
        for byte in [1, 2] {
            change(&mut store, |change| change.create_key(&new_key(byte)));
        }
        let broken = new_key(1).key_id;
        world.sql(&format!("UPDATE api_keys SET models = '[1]' WHERE key_id = '{broken}'")).expect("set");
        let listing = store.read().expect("open").keys(&KeyFilter::default(), &ALL).expect("read");
        assert_eq!((listing.rows.len(), listing.broken.len()), (1, 1), "{}: one good, one reported", world.name);
        let error = store.read().expect("open").key(&broken).expect_err("asked for by name");
        assert!(error.to_string().contains(broken.as_str()), "{}: it is an error that names it: {error}", world.name);
        let done = change_at(&mut store, NOW, |change| change.revoke_key(&broken, Streams::Finish));
        assert!(done.is_err(), "{}: nor is it changed without being understood", world.name);
    });
}

#[test]
fn a_value_that_no_column_can_hold_is_refused_and_not_repeated() {
    both(|world| {
        let mut store = world.open();
        // SQLite keeps a zero byte, Postgres has none: neither may break.
        let odd = NewKey { name: Some("planted\0secret".into()), ..new_key(1) };
        if let Err(error) = change_at(&mut store, NOW, |change| change.create_key(&odd)) {
            assert_eq!(error.kind(), Kind::Refused, "{}: the caller's fault: {error}", world.name);
            assert!(!error.to_string().contains("planted"), "{}: not repeated: {error}", world.name);
        }
        change(&mut store, |change| change.create_key(&new_key(2)));
    });
}

#[test]
fn ids_of_keys_are_what_a_key_can_have() {
    both(|world| {
        let bad = NewKey { key_id: KeyId::new("short"), ..new_key(1) };
        let done = change_at(&mut world.open(), NOW, |change| change.create_key(&bad));
        assert_eq!(done.expect_err("refused").kind(), Kind::Refused, "{}: not 12 letters", world.name);
        assert!(api_key::parse_id("short").is_none(), "as the rest of Weir sees it");
    });
}

#[test]
fn a_full_store_takes_no_further_key() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| change.create_key(&new_key(1)));
        world.sql("UPDATE meta SET key_count = 999999").expect("set");
        let done = change_at(&mut store, NOW, |change| {
            change.create_key(&new_key(2))?;
            change.create_key(&new_key(3))
        });
        assert!(matches!(done, Err(StoreError::TooManyKeys)), "{}: a million, also in one change", world.name);
        change(&mut store, |change| change.create_key(&new_key(2)));
    });
}
