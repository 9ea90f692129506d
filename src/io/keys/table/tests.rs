use super::*;
use crate::io::keys::reader::Reader;
use crate::io::keys::tests::{NOW, key, pepper, secret, stored};
use crate::io::store::rows::{KeyStatus, StoredKey, StoredSecret};
use crate::logic::access::api_key::key_id;
use crate::logic::access::api_key::{self, FreshKey};
use crate::logic::access::digest::SecretHash;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

fn asker() -> Asker {
    Asker { pepper: pepper(), number: 0 }
}

fn reader() -> Reader {
    Reader::new(vec![pepper().id().to_owned()])
}

fn step(old: &Table, rest: Rest, keys: &[StoredKey]) -> Turn {
    let mut draft = Draft::new(old);
    let mut reader = reader();
    for key in keys {
        draft.put(reader.entry(key, NOW).expect("an id")).expect("room");
    }
    draft.turn(old, rest, &mut || ()).expect("room")
}

fn table(keys: &[StoredKey]) -> Table {
    step(&Table::empty(7), Rest::Gone, keys).table
}

fn ask_as(asker: &Asker, table: &Table, key: &FreshKey, now: WallMicros) -> Result<Principal, Rejection> {
    let parsed = api_key::parse(key.text.as_bytes()).expect("a key");
    table.authenticate(asker, &parsed.id, key.text.as_bytes(), now).verdict
}

/// As they are used again and again: key and hash by id and secret.
fn known(id: u8, with: u8) -> &'static (FreshKey, SecretHash) {
    static KNOWN: LazyLock<BTreeMap<(u8, u8), (FreshKey, SecretHash)>> = LazyLock::new(|| {
        let pairs = (0..3).flat_map(|id| (1..5).map(move |with| (id, with)));
        let made = pairs.map(|(id, with)| {
            let key = key(id, with);
            let hash = pepper().hash(key.text.as_bytes());
            ((id, with), (key, hash))
        });
        made.collect()
    });
    &KNOWN[&(id, with)]
}

fn ask(table: &Table, key: &FreshKey, now: WallMicros) -> Result<Principal, Rejection> {
    ask_as(&asker(), table, key, now)
}

fn generation(table: &Table, key: &FreshKey, now: WallMicros) -> Result<u32, Rejection> {
    ask(table, key, now).map(|principal| principal.secret_gen)
}

fn after(time: WallMicros, micros: i64) -> WallMicros {
    WallMicros(time.0 + micros)
}

#[test]
fn unknown_ids_and_wrong_secrets_get_the_same_answer() {
    let table = table(&[stored(&key(1, 1))]);
    assert_eq!(ask(&table, &key(1, 2), NOW).err(), Some(Rejection::Invalid), "wrong secret");
    assert_eq!(ask(&table, &key(2, 1), NOW).err(), Some(Rejection::Invalid), "unknown id, empty shard or not");
    assert_eq!(generation(&table, &key(1, 1), NOW), Ok(1), "and the right one is let in");
}

#[test]
fn a_key_is_let_in_as_whom_it_was_made_for() {
    let made = key(1, 1);
    let principal = ask(&table(&[stored(&made)]), &made, NOW).expect("let in");
    assert_eq!(principal.key, Some(made.id), "its id");
    assert_eq!(principal.profile.tenant.as_str(), "acme", "its tenant");
    assert_eq!(principal.profile.team.as_ref().map(|team| team.as_str()), Some("core"), "its team");
    assert_eq!(principal.profile.models.as_deref(), Some(&["llama-*".to_owned()][..]), "its models");
    assert_eq!(principal.profile.roles.as_deref().map(<[_]>::len), Some(1), "its roles");
    assert_eq!(principal.deprecated_until, None, "its secret is the newest");
}

#[test]
fn the_old_secret_of_a_rotated_key_ends_with_its_grace_to_the_microsecond() {
    let (old, new) = (key(1, 1), key(1, 2));
    let end = after(NOW, 10);
    let mut rotated = stored(&old);
    rotated.secrets = vec![StoredSecret { valid_until: Some(end), ..secret(&old, 1) }, secret(&new, 2)];
    let table = table(&[rotated]);
    let principal = ask(&table, &old, after(end, -1)).expect("in its grace");
    assert_eq!((principal.secret_gen, principal.deprecated_until), (1, Some(end)), "it says that it ends");
    assert_eq!(ask(&table, &old, end).err(), Some(Rejection::Invalid), "over, and like a wrong one");
    let principal = ask(&table, &new, end).expect("the new one");
    assert_eq!((principal.secret_gen, principal.deprecated_until), (2, None), "and does not end");
}

#[test]
fn disabled_and_expired_are_told_only_to_who_has_a_secret_that_is_good() {
    let (old, new, wrong) = (key(1, 1), key(1, 2), key(1, 3));
    let secrets = vec![StoredSecret { valid_until: Some(after(NOW, 5)), ..secret(&old, 1) }, secret(&new, 2)];
    let expired = StoredKey { expires_at: Some(NOW), secrets, ..stored(&old) };
    let one = table(std::slice::from_ref(&expired));
    assert_eq!(ask(&one, &new, after(NOW, -1)).map(|_| ()), Ok(()), "good just before its end");
    assert_eq!(ask(&one, &new, NOW).err(), Some(Rejection::Expired), "expired");
    assert_eq!(ask(&one, &old, NOW).err(), Some(Rejection::Expired), "also to the secret in its grace");
    assert_eq!(ask(&one, &old, after(NOW, 5)).err(), Some(Rejection::Invalid), "not to one that is over");
    assert_eq!(ask(&one, &wrong, NOW).err(), Some(Rejection::Invalid), "not to a wrong one");
    let disabled = table(&[StoredKey { status: KeyStatus::Disabled, ..expired }]);
    assert_eq!(ask(&disabled, &new, NOW).err(), Some(Rejection::Disabled), "disabled is the stronger word");
    assert_eq!(ask(&disabled, &wrong, NOW).err(), Some(Rejection::Invalid), "not to a wrong one");
}

#[test]
fn each_authenticator_knows_only_secrets_under_its_own_pepper_and_plain_ones() {
    let (one, other, plain) = (key(1, 1), key(2, 1), key(3, 1));
    let foreign = Pepper::new(b"other").expect("a pepper");
    let with =
        |key: &FreshKey, hash| StoredKey { secrets: vec![StoredSecret { hash, ..secret(key, 1) }], ..stored(key) };
    let keys = [
        stored(&one),
        with(&other, foreign.hash(other.text.as_bytes())),
        with(&plain, SecretHash::Plain(digest::plain(plain.text.as_bytes()))),
    ];
    let mut draft = Draft::new(&Table::empty(7));
    let mut reader = Reader::new(vec![pepper().id().to_owned(), foreign.id().to_owned()]);
    for key in &keys {
        draft.put(reader.entry(key, NOW).expect("an id")).expect("room");
    }
    let table = draft.turn(&Table::empty(7), Rest::Gone, &mut || ()).expect("room").table;
    let second = Asker { pepper: foreign, number: 1 };
    let opens = |asker: &Asker| [&one, &other, &plain].map(|key| ask_as(asker, &table, key, NOW).is_ok());
    assert_eq!(opens(&asker()), [true, false, true], "the first pepper's, and the imported");
    assert_eq!(opens(&second), [false, true, true], "the second's, and the imported");
}

#[test]
fn a_secret_under_a_pepper_that_nobody_has_is_refused_and_counted() {
    let made = key(1, 1);
    let hash = Pepper::new(b"lost").expect("a pepper").hash(made.text.as_bytes());
    let table = table(&[StoredKey { secrets: vec![StoredSecret { hash, ..secret(&made, 1) }], ..stored(&made) }]);
    assert_eq!(ask(&table, &made, NOW).err(), Some(Rejection::Invalid), "it cannot be checked");
    assert_eq!(table.foreign(), 1, "and an operator is told");
}

#[test]
fn a_revoked_key_never_comes_back() {
    let made = key(1, 1);
    let active = stored(&made);
    let revoked = StoredKey { status: KeyStatus::Revoked, ..active.clone() };
    let one = table(&[revoked]);
    let two = step(&one, Rest::Stays, std::slice::from_ref(&active));
    assert_eq!(ask(&two.table, &made, NOW).err(), Some(Rejection::Invalid), "a change brings it back");
    assert_eq!(two.defended.len(), 1, "and an operator is told");
    let three = step(&two.table, Rest::Gone, &[]);
    let four = step(&three.table, Rest::Gone, &[active]);
    assert_eq!(ask(&four.table, &made, NOW).err(), Some(Rejection::Invalid), "nor after the store had forgotten it");
}

#[test]
fn keys_that_a_copy_knows_to_be_revoked_are_so_known_or_not() {
    let (known, unknown) = (key(1, 1), key(2, 1));
    let ids = [&known, &unknown].map(|key| api_key::parse_id(key.id.as_str()).expect("an id"));
    let one = table(&[stored(&known)]).revoke(ids.into_iter()).expect("room");
    let two = step(&one.table, Rest::Gone, &[stored(&known), stored(&unknown)]).table;
    for key in [&known, &unknown] {
        assert_eq!(ask(&two, key, NOW).err(), Some(Rejection::Invalid), "{} stays revoked", key.id);
    }
}

#[test]
fn streams_are_cut_once_also_if_that_is_asked_for_later() {
    let made = key(1, 1);
    let revoked = StoredKey { status: KeyStatus::Revoked, ..stored(&made) };
    let cut = StoredKey { terminate_streams: true, ..revoked.clone() };
    let one = step(&table(&[stored(&made)]), Rest::Stays, std::slice::from_ref(&revoked));
    assert!(one.cut.is_empty(), "its streams may finish");
    let two = step(&one.table, Rest::Stays, std::slice::from_ref(&cut));
    assert_eq!(two.cut.iter().map(key_id).collect::<Vec<_>>(), [made.id], "now they may not");
    let three = step(&two.table, Rest::Gone, &[cut]);
    assert!(three.cut.is_empty(), "and that is said once");
    let four = step(&three.table, Rest::Stays, &[revoked]);
    assert!(four.cut.is_empty() && four.defended.is_empty(), "less than that changes nothing");
}

#[test]
fn a_change_copies_only_the_parts_that_it_touches() {
    let keys: Vec<StoredKey> = (0..40).map(|id| stored(&key(id, 1))).collect();
    let one = table(&keys);
    let two = step(&one, Rest::Stays, &[StoredKey { status: KeyStatus::Disabled, ..stored(&key(3, 1)) }]).table;
    let copied = one.shards.iter().zip(&two.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
    assert_eq!(copied, 1, "one key is in one part");
    assert_eq!(two.keys(), 40, "and none is lost");
}

#[test]
fn keys_with_the_same_words_share_one_profile() {
    let one = table(&[stored(&key(1, 1)), stored(&key(2, 1))]);
    let (a, b) = (ask(&one, &key(1, 1), NOW), ask(&one, &key(2, 1), NOW));
    assert!(Arc::ptr_eq(&a.expect("in").profile, &b.expect("in").profile), "a million keys hold few profiles");
    let other = table(&[stored(&key(1, 1)), StoredKey { addresses: None, ..stored(&key(2, 1)) }]);
    let (a, b) = (ask(&other, &key(1, 1), NOW), ask(&other, &key(2, 1), NOW));
    assert_ne!(a.expect("in").profile, b.expect("in").profile, "and never one that says something else");
}

#[test]
fn every_key_of_a_full_shard_is_found_and_no_other() {
    let entry = |number: u32| {
        let id: IdBytes = format!("{number:012}").as_bytes().try_into().expect("12 letters");
        Entry { id, ..Table::empty(7).stranger.clone() }
    };
    let shard = Shard::new((0..3_000).map(entry).collect(), 7);
    for number in 0..6_000 {
        let id = entry(number).id;
        let found = shard.find(&id, Hash::of(&id, 7)).expect("the shard is not empty");
        assert_eq!((found.known, found.entry.id == id), (number < 3_000, number < 3_000), "{number}");
    }
}

/// What may happen to a store, and to a follower of it.
#[derive(Clone, Debug)]
enum Event {
    Create(u8),
    Rotate(u8, u8, i64),
    Expire(u8, i64),
    Disable(u8, bool),
    Revoke(u8, bool),
    /// A backup is taken, or put back.
    Save,
    Restore,
    Later(i64),
    /// The follower is told what changed, or everything.
    Changes,
    Everything,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let id = 0..3u8;
    let one = prop_oneof![
        3 => id.clone().prop_map(Event::Create),
        3 => (id.clone(), 2..5u8, 0..20i64).prop_map(|(id, secret, grace)| Event::Rotate(id, secret, grace)),
        1 => (id.clone(), 0..20i64).prop_map(|(id, span)| Event::Expire(id, span)),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, off)| Event::Disable(id, off)),
        1 => (id, any::<bool>()).prop_map(|(id, cut)| Event::Revoke(id, cut)),
        1 => Just(Event::Save),
        1 => Just(Event::Restore),
        3 => (0..8i64).prop_map(Event::Later),
        4 => Just(Event::Changes),
        1 => Just(Event::Everything),
    ];
    prop::collection::vec(one, 1..40)
}

type World = BTreeMap<u8, StoredKey>;

fn happen(world: &mut World, event: &Event, now: WallMicros) -> Option<u8> {
    match event {
        Event::Create(id) if !world.contains_key(id) => {
            world.insert(*id, stored(&key(*id, 1)));
            Some(*id)
        }
        Event::Create(_) => None,
        Event::Rotate(id, with, grace) => {
            let known = world.get_mut(id).filter(|known| known.status != KeyStatus::Revoked)?;
            // At most two are good at once: what was old before ends.
            for old in &mut known.secrets {
                old.valid_until = Some(old.valid_until.unwrap_or(after(now, *grace)).min(after(now, *grace)));
            }
            if let [.., before, _] = known.secrets.as_mut_slice() {
                before.valid_until = before.valid_until.map(|until| until.min(now));
            }
            let next = known.generation() + 1;
            known.secrets.push(secret(&key(*id, *with), next));
            Some(*id)
        }
        Event::Expire(id, span) => {
            world.get_mut(id)?.expires_at = Some(after(now, *span));
            Some(*id)
        }
        Event::Disable(id, off) => {
            let known = world.get_mut(id).filter(|known| known.status != KeyStatus::Revoked)?;
            known.status = if *off { KeyStatus::Disabled } else { KeyStatus::Active };
            Some(*id)
        }
        Event::Revoke(id, cut) => {
            let known = world.get_mut(id)?;
            known.status = KeyStatus::Revoked;
            known.terminate_streams |= *cut;
            Some(*id)
        }
        _ => None,
    }
}

/// The simplest thing that could be right: looks through everything, remembers what was seen revoked.
fn naive(seen: &World, revoked: &BTreeSet<u8>, id: u8, with: u8, now: WallMicros) -> Result<u32, Rejection> {
    let hash = &self::known(id, with).1;
    let known = seen.get(&id).ok_or(Rejection::Invalid)?;
    let good = |secret: &&StoredSecret| secret.hash == *hash && secret.valid_until.is_none_or(|until| now < until);
    let secret = known.secrets.iter().rev().find(good).ok_or(Rejection::Invalid)?;
    if known.status == KeyStatus::Revoked || revoked.contains(&id) {
        return Err(Rejection::Invalid);
    }
    if known.status == KeyStatus::Disabled {
        return Err(Rejection::Disabled);
    }
    if known.expires_at.is_some_and(|end| end <= now) {
        return Err(Rejection::Expired);
    }
    Ok(secret.generation)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_happens_in_whatever_order_the_table_answers_as_the_naive_model(events in events()) {
        let (mut world, mut saved, mut seen) = (World::new(), World::new(), World::new());
        let (mut changed, mut revoked) = (BTreeSet::new(), BTreeSet::new());
        let (mut now, mut other_history) = (NOW, false);
        let (mut current, mut reader, asker) = (Table::empty(7), reader(), asker());
        for event in &events {
            match event {
                Event::Save => saved = world.clone(),
                Event::Restore => (world, other_history) = (saved.clone(), true),
                Event::Later(span) => now = after(now, *span),
                Event::Changes | Event::Everything => {
                    let all = other_history || matches!(event, Event::Everything);
                    let told: Vec<StoredKey> =
                        world.iter().filter(|(id, _)| all || changed.contains(*id)).map(|(_, key)| key.clone()).collect();
                    let mut draft = Draft::new(&current);
                    for key in &told {
                        draft.put(reader.entry(key, now).expect("an id")).expect("room");
                    }
                    let rest = if all { Rest::Gone } else { Rest::Stays };
                    current = draft.turn(&current, rest, &mut || ()).expect("room").table;
                    (seen, other_history) = (world.clone(), false);
                    changed.clear();
                    revoked.extend(seen.iter().filter(|(_, key)| key.status == KeyStatus::Revoked).map(|(id, _)| *id));
                }
                _ => changed.extend(happen(&mut world, event, now)),
            }
            for id in 0..3 {
                for with in 1..5 {
                    let right = naive(&seen, &revoked, id, with, now);
                    let got = ask_as(&asker, &current, &known(id, with).0, now).map(|principal| principal.secret_gen);
                    prop_assert_eq!(got, right, "key {} secret {}", id, with);
                }
            }
        }
    }
}

#[test]
fn a_key_that_is_in_the_store_no_longer_takes_no_other_keys_place() {
    assert!(fit(MAX_KEYS + 1, 1), "a full store, and what is left of a key that it had before");
    assert!(!fit(MAX_KEYS + 1, 0), "one more than a store may have");
    assert!(!fit(MAX_STUBS + 1, MAX_STUBS + 1), "what is left has a bound too");
    let gone = StoredKey { status: KeyStatus::Revoked, ..stored(&key(1, 1)) };
    let before = table(std::slice::from_ref(&gone));
    assert_eq!(before.shards.iter().map(|shard| shard.stubs()).sum::<usize>(), 0, "it is in the store");
    let after = step(&before, Rest::Gone, &[]).table;
    assert_eq!(after.shards.iter().map(|shard| shard.stubs()).sum::<usize>(), 1, "it is in the store no longer");
}
