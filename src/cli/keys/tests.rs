use super::*;
use crate::config::snapshot::{ApiKeyAuth, PepperSource, Push, Store as StoreSettings, StoreTarget};
use crate::io::keys::Keys;
use crate::io::pepper;
use crate::ports::{Clock, Rejection};
use clap::Parser;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// 2026-11-20T12:00:00Z and half a second.
const NOON: WallMicros = WallMicros(1_795_176_000_500_000);

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    keys: Args,
}

/// A configuration and the folder it is about.
struct Office {
    dir: TempDir,
    settings: KeySettings,
}

impl Office {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = KeySettings {
            store: StoreSettings {
                target: StoreTarget::Sqlite(dir.path().join("var/weir.db")),
                push: Push::None,
                poll: Duration::from_millis(500),
                replica: dir.path().join("var/replica.db"),
            },
            authenticators: BTreeMap::new(),
            default_pepper: dir.path().join("var/pepper"),
            tenants: vec!["acme".into(), "default".into()],
            teams: BTreeMap::from([("acme".into(), vec!["core".into()])]),
            plans: vec!["gold".into()],
            roles: vec!["developer".into(), "member".into()],
        };
        Self { dir, settings }
    }

    /// Runs a command line at `NOON`; what it printed, or what it says on standard error.
    fn weir(&self, line: &[&str]) -> Result<String, String> {
        self.weir_at(NOON, line)
    }

    fn weir_at(&self, now: WallMicros, line: &[&str]) -> Result<String, String> {
        let line = ["keys"].iter().chain(line);
        let args = CommandLine::try_parse_from(line).expect("right usage").keys;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let done = Desk { settings: &self.settings, now, out: &mut out, err: &mut err }.run(&args.command);
        done.map(|()| String::from_utf8(out).expect("UTF-8")).map_err(|error| error.to_string())
    }

    fn json(&self, line: &[&str]) -> Value {
        let text = self.weir(&[line, &["--json"]].concat()).expect("done");
        serde_json::from_str(&text).expect("one JSON document and nothing else")
    }

    fn ask(&self, key: &str, now: WallMicros) -> Result<(), Rejection> {
        struct Still;
        impl Clock for Still {
            fn wall(&self) -> WallMicros {
                NOON
            }
            fn mono(&self) -> crate::domain::units::Micros {
                crate::domain::units::Micros(0)
            }
        }
        let source = PepperSource::StateFile(self.settings.default_pepper.clone());
        let pepper = pepper::load(&source).expect("the pepper that create made");
        let keys = Keys::load(&self.settings.store, pepper, Duration::from_secs(1), Arc::new(Still)).expect("loaded");
        keys.authenticate(key.as_bytes(), now).map(|_principal| ())
    }
}

/// A secret that was made at noon.
fn generation(number: u32, valid_until: Option<&str>) -> Value {
    json!({"secret_gen": number, "created_at": "2026-11-20T12:00:00Z", "valid_until": valid_until})
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().expect("a string")
}

#[test]
fn create_prints_the_key_alone_and_a_proxy_lets_it_in() {
    let office = Office::new();
    let printed = office.weir(&["create", "--tenant", "acme"]).expect("made");
    let key = printed.strip_suffix('\n').expect("one line");
    assert!(key.starts_with("sk-weir-") && !key.contains(char::is_whitespace), "the key alone: {key:?}");
    assert_eq!(office.ask(key, NOON), Ok(()), "and it is good");
}

#[test]
fn json_of_create_has_the_members_that_scripts_rely_on_in_their_order() {
    let office = Office::new();
    let printed = office.weir(&["create", "--tenant", "acme", "--name", "ci", "--json"]).expect("made");
    let made: Value = serde_json::from_str(&printed).expect("JSON");
    let (key, id) = (text(&made, "key"), text(&made, "key_id"));
    let wanted = format!(
        "{{\"key\":\"{key}\",\"key_id\":\"{id}\",\"tenant_id\":\"acme\",\"team_id\":null,\"user_id\":null,\
         \"name\":\"ci\",\"models\":null,\"plan\":null,\"status\":\"active\",\"secret_gen\":1,\
         \"created_at\":\"2026-11-20T12:00:00Z\",\"expires_at\":null,"
    );
    assert!(printed.starts_with(&wanted), "design.md §2, byte for byte, new members behind: {printed}");
    let new = json!({"endpoints": null, "addresses": null, "roles": null, "revoked_at": null,
        "terminate_streams": false, "generations": [generation(1, None)]});
    let members = new.as_object().expect("an object").iter();
    assert!(members.clone().all(|(name, value)| made[name] == *value), "what was added: {printed}");
    assert_eq!(key.split('-').nth(2), Some(id), "the id is the third part of the key");
}

#[test]
fn every_flag_of_create_is_on_the_key() {
    let office = Office::new();
    let line = "create --tenant acme --team core --user ann --models llama-*,gpt-4o --plan gold --expires 30d \
                --role developer --role member --endpoint /v1/chat/* --address 10.1.2.3/8 --address ::1";
    let made = office.json(&line.split(' ').collect::<Vec<_>>());
    let got = json!({"team": made["team_id"], "user": made["user_id"], "models": made["models"],
        "plan": made["plan"], "expires": made["expires_at"], "roles": made["roles"],
        "endpoints": made["endpoints"], "addresses": made["addresses"]});
    let wanted = json!({"team": "core", "user": "ann", "models": ["llama-*", "gpt-4o"], "plan": "gold",
        "expires": "2026-12-20T12:00:00Z", "roles": ["developer", "member"], "endpoints": ["/v1/chat/*"],
        "addresses": ["10.0.0.0/8", "::1/128"]});
    assert_eq!(got, wanted, "as on the command line");
    let end = WallMicros(NOON.0 + 30 * 86_400 * 1_000_000);
    assert_eq!(office.ask(text(&made, "key"), end), Err(Rejection::Expired), "and the expiry is meant");
}

#[test]
fn a_team_must_exist_and_a_user_need_not() {
    let office = Office::new();
    let told = office.weir(&["create", "--tenant", "acme", "--team", "cor"]).expect_err("a slip");
    assert_eq!(told, "unknown team `cor`; the tenant `acme` has: core", "with the list");
    let none = office.weir(&["create", "--team", "core"]).expect_err("of another tenant");
    assert_eq!(none, "unknown team `core`: the tenant `default` has no teams", "teams are their tenant's");
    let id =
        text(&office.json(&["create", "--tenant", "acme", "--team", "core", "--user", "new"]), "key_id").to_owned();
    assert!(office.weir(&["update", &id, "--team", "cor"]).is_err(), "nor by an update");
    assert!(office.weir(&["list"]).expect("done").contains(&id), "and nothing else was made");
    let mut store = Store::open(&office.settings.store).expect("opens");
    let spec = crate::io::store::rows::MemberSpec::default();
    let put = |change: &mut crate::io::store::change::Change<'_>| {
        change.put_member(crate::io::store::rows::MemberKind::Team, "acme", "blue", &spec)
    };
    store.change(&actor(), NOON, put).expect("stored");
    assert!(office.weir(&["update", &id, "--team", "blue"]).is_ok(), "one of the store will do");
}

#[test]
fn show_list_and_revoke_say_the_same_without_the_secret() {
    let office = Office::new();
    let mut made = office.json(&["create", "--name", "ci"]);
    let secret = text(&made, "key")[21..64].to_owned();
    let id = text(&made, "key_id").to_owned();
    made.as_object_mut().expect("an object").remove("key");
    assert_eq!(office.json(&["show", &id]), made, "show is create without the key");
    assert_eq!(office.json(&["list"]), json!({ "keys": [made] }), "list is a list of these");
    for line in [vec!["show", &id], vec!["show", &id, "--json"], vec!["list"], vec!["list", "--json"]] {
        let printed = office.weir(&line).expect("done");
        assert!(printed.contains(&id) && !printed.contains(&secret), "{line:?} shows the id and no secret");
    }
    made["status"] = json!("revoked");
    made["revoked_at"] = json!("2026-11-20T12:00:00Z");
    made["generations"] = json!([]);
    assert_eq!(office.json(&["revoke", &id]), made, "revoke says that it is done");
    assert_eq!(office.json(&["revoke", &id]), made, "and again");
}

#[test]
fn a_revoked_key_is_not_let_in() {
    let office = Office::new();
    let made = office.json(&["create"]);
    office.weir(&["revoke", text(&made, "key_id")]).expect("revoked");
    assert_eq!(office.ask(text(&made, "key"), NOON), Err(Rejection::Invalid), "ended for good");
}

#[test]
fn an_expired_key_is_listed_as_expired() {
    let office = Office::new();
    office.weir(&["create", "--expires", "1s"]).expect("made");
    let later = WallMicros(NOON.0 + 1_000_000);
    let listed = office.weir_at(later, &["list", "--json"]).expect("listed");
    assert!(listed.contains("\"status\":\"expired\""), "its time is over: {listed}");
}

#[test]
fn names_that_do_not_exist_are_refused_with_the_one_that_was_meant() {
    let office = Office::new();
    let refused = |line: &[&str]| office.weir(line).expect_err("must be refused");
    assert_eq!(refused(&["create", "--tenant", "acne"]), "unknown tenant `acne`; did you mean `acme`?");
    assert_eq!(refused(&["create", "--tenant", "zzz"]), "unknown tenant `zzz`; the configuration has: acme, default");
    assert_eq!(refused(&["create", "--plan", "golf"]), "unknown plan `golf`; did you mean `gold`?");
    let roles = "the configuration has: developer, member";
    assert_eq!(refused(&["create", "--role", "admin"]), format!("unknown role `admin`; {roles}"));
    assert_eq!(
        refused(&["create", "--auth", "keys"]),
        "unknown authenticator `keys`: the configuration has no authenticator"
    );
    assert_eq!(refused(&["show", "0123456789AB"]), "no key has the id `0123456789AB`");
    assert_eq!(refused(&["revoke", "0123456789AB"]), "no key has the id `0123456789AB`");
    assert_eq!(office.json(&["list"]), json!({ "keys": [] }), "and nothing was made");
}

#[test]
fn a_whole_key_in_place_of_its_id_is_not_repeated() {
    let office = Office::new();
    let made = office.json(&["create"]);
    let error = office.weir(&["show", text(&made, "key")]).expect_err("must be refused");
    assert!(error.contains("whole key"), "says what is wrong: {error}");
    assert!(!error.contains(&text(&made, "key")[21..30]), "without the secret: {error}");
}

#[test]
fn with_several_authenticators_one_must_be_named() {
    let mut office = Office::new();
    for (name, tag) in [("staff", "staff"), ("partners", "part")] {
        let pepper = PepperSource::StateFile(office.dir.path().join(format!("var/{name}")));
        let auth = ApiKeyAuth { headers: vec![], tag: tag.into(), pepper, max_stale: Duration::from_secs(1) };
        office.settings.authenticators.insert(name.into(), auth);
    }
    let error = office.weir(&["create"]).expect_err("must be refused");
    assert!(error.contains("partners, staff") && error.contains("--auth"), "says which there are: {error}");
    let key = office.weir(&["create", "--auth", "partners"]).expect("made");
    assert!(key.starts_with("sk-part-"), "the key has the tag of its authenticator: {key}");
}

#[test]
fn a_list_for_people_has_its_columns_aligned() {
    let office = Office::new();
    assert_eq!(office.weir(&["list"]), Ok("no keys\n".into()), "no table without keys");
    office.weir(&["create", "--name", "a"]).expect("made");
    office.weir(&["create", "--name", "a longer näme", "--tenant", "acme"]).expect("made");
    let printed = office.weir(&["list"]).expect("listed");
    let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "a head and a line for each: {printed}");
    let status = column(lines[0], "STATUS").expect("a head");
    assert!(lines[1..].iter().all(|line| column(line, "active") == Some(status)), "aligned:\n{printed}");
}

#[test]
fn wrong_usage_is_status_2() {
    for line in [
        "keys create --expires soon",
        "keys create --models a,,b",
        "keys create --endpoint chat",
        "keys create --address here",
        "keys show",
        "keys create --tenantt a",
        "keys list --status gone",
        "keys rotate 0123456789AB --grace never",
        "keys update 0123456789AB --clear everything",
        "keys import",
    ] {
        let line: Vec<&str> = line.split(' ').collect();
        let error = CommandLine::try_parse_from(&line).err().expect("must be refused");
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_status_1() {
    let line = ["keys", "list", "-c", "no/such/file.yaml"];
    let args = CommandLine::try_parse_from(line).expect("right usage").keys;
    assert_eq!(format!("{:?}", run(&args)), format!("{:?}", ExitCode::from(1)), "refused, not wrong usage");
}

const HOUR: i64 = 3_600 * 1_000_000;

#[test]
fn a_rotated_key_keeps_its_id_and_its_old_secret_until_the_grace_ends() {
    let office = Office::new();
    let old = office.json(&["create", "--tenant", "acme"]);
    let id = text(&old, "key_id").to_owned();
    let new = office.json(&["rotate", &id, "--grace", "1h"]);
    assert_eq!((text(&new, "key_id"), text(&new, "tenant_id")), (id.as_str(), "acme"), "the same key");
    assert_eq!(new["generations"], json!([generation(1, Some("2026-11-20T13:00:00Z")), generation(2, None)]), "two");
    let ask = |key: &Value, after: i64| office.ask(text(key, "key"), WallMicros(NOON.0 + after));
    assert_eq!((ask(&old, HOUR - 1), ask(&new, HOUR - 1)), (Ok(()), Ok(())), "both are good in the grace");
    assert_eq!((ask(&old, HOUR), ask(&new, HOUR)), (Err(Rejection::Invalid), Ok(())), "then the new one alone");
}

#[test]
fn a_third_secret_must_be_forced() {
    let office = Office::new();
    let first = office.json(&["create"]);
    let id = text(&first, "key_id").to_owned();
    let second = office.json(&["rotate", &id]);
    let refused = office.weir(&["rotate", &id]).expect_err("two are good already");
    assert!(refused.contains("force"), "says what to do: {refused}");
    let third = office.json(&["rotate", &id, "--force"]);
    let ask = |key: &Value| office.ask(text(key, "key"), NOON);
    assert_eq!((ask(&first), ask(&second), ask(&third)), (Err(Rejection::Invalid), Ok(()), Ok(())), "the oldest ends");
}

#[test]
fn a_grace_can_be_none_or_ended_early() {
    let office = Office::new();
    let first = office.json(&["create"]);
    let id = text(&first, "key_id").to_owned();
    let second = office.json(&["rotate", &id, "--grace", "0s"]);
    assert_eq!(office.ask(text(&first, "key"), NOON), Err(Rejection::Invalid), "at once");
    let third = office.json(&["rotate", &id]);
    let ended = office.json(&["end-grace", &id]);
    assert_eq!(ended["generations"], json!([generation(3, None)]), "one secret is left");
    assert_eq!(office.ask(text(&second, "key"), NOON), Err(Rejection::Invalid), "ended early");
    assert_eq!(office.ask(text(&third, "key"), NOON), Ok(()), "the newest stays");
}

#[test]
fn a_key_can_be_switched_off_and_on_and_rewritten() {
    let office = Office::new();
    let made = office.json(&["create", "--name", "ci", "--endpoint", "/v1/*"]);
    let (id, key) = (text(&made, "key_id").to_owned(), text(&made, "key").to_owned());
    assert_eq!(office.json(&["disable", &id])["status"], "disabled", "off");
    assert_eq!(office.ask(&key, NOON), Err(Rejection::Disabled), "and refused");
    assert_eq!(office.json(&["enable", &id])["status"], "active", "on");
    assert_eq!(office.ask(&key, NOON), Ok(()), "and let in");
    let line = "update ID --clear endpoints,name --role developer --models m --expires 1h";
    let changed = office.json(&line.split(' ').map(|word| if word == "ID" { &id } else { word }).collect::<Vec<_>>());
    let got =
        json!([changed["endpoints"], changed["name"], changed["roles"], changed["models"], changed["expires_at"]]);
    assert_eq!(got, json!([null, null, ["developer"], ["m"], "2026-11-20T13:00:00Z"]), "as on the command line");
    let refused = office.weir(&["update", &id, "--name", "x", "--clear", "name"]).expect_err("both");
    assert!(refused.contains("contradict"), "{refused}");
    let refused = office.weir(&["update", &id, "--role", "gone"]).expect_err("no such role");
    assert!(refused.contains("unknown role"), "{refused}");
}

#[test]
fn nothing_brings_a_revoked_key_back() {
    let office = Office::new();
    let id = text(&office.json(&["create"]), "key_id").to_owned();
    assert_eq!(office.json(&["revoke", &id, "--terminate-streams"])["terminate_streams"], true, "streams end too");
    for line in [&["rotate", &id][..], &["enable", &id], &["update", &id, "--name", "x"], &["end-grace", &id]] {
        assert!(office.weir(line).is_err(), "{line:?}");
    }
    assert_eq!(office.json(&["show", &id])["status"], "revoked", "it stays ended");
}

#[test]
fn a_list_can_be_of_a_tenant_or_a_standing() {
    let office = Office::new();
    let id = |line: &[&str]| text(&office.json(line), "key_id").to_owned();
    let (acme, other) = (id(&["create", "--tenant", "acme"]), id(&["create"]));
    office.json(&["disable", &other]);
    for (flags, wanted) in [
        (&["--tenant", "acme"][..], vec![&acme]),
        (&["--status", "disabled"], vec![&other]),
        (&["--tenant", "acme", "--status", "disabled"], vec![]),
    ] {
        let listed = office.json(&[&["list"], flags].concat());
        let ids: Vec<&str> = listed["keys"].as_array().expect("keys").iter().map(|key| text(key, "key_id")).collect();
        assert_eq!(ids, wanted, "{flags:?}");
    }
}

/// A key of another installation: its text, its id, and `sha256:HEX` of it.
fn foreign(seed: u8) -> (String, String, String) {
    let fresh = api_key::generate("old", &[seed; api_key::RANDOM_BYTES]).expect("a key");
    let hex: String =
        crate::logic::access::digest::plain(fresh.text.as_bytes()).0.iter().map(|byte| format!("{byte:02x}")).collect();
    (fresh.text.to_string(), fresh.id.to_string(), format!("sha256:{hex}"))
}

#[test]
fn an_imported_key_is_let_in() {
    let office = Office::new();
    let (key, id, hash) = foreign(1);
    office.weir(&["create"]).expect("made, and with it the pepper");
    let line = ["import", "--hash", &hash, "--key-id", &id, "--tenant", "acme", "--name", "old"];
    let imported = office.json(&line);
    assert_eq!(text(&imported["keys"][0], "key_id"), id, "under its own id");
    assert_eq!(office.ask(&key, NOON), Ok(()), "and good as it is");
    let again = office.weir(&line).expect_err("it is there");
    assert!(again.contains(&id), "says which: {again}");
}

#[test]
fn a_key_of_another_form_is_imported_under_the_id_of_its_hash_and_let_in() {
    let office = Office::new();
    office.weir(&["create"]).expect("made, and with it the pepper");
    let key = "sk-4Hs8_kQz-1aBcDeFgHiJkLm";
    assert_eq!(office.ask(key, NOON), Err(Rejection::Invalid), "not yet");
    let hash = "sha256:9d70d26dc47ef2cf707d6e5dcdd4aca9947254986390d56950aa59e54af0c91f";
    let imported = office.json(&["import", "--hash", hash, "--tenant", "acme"]);
    assert_eq!(text(&imported["keys"][0], "key_id"), "mGSRYZVR0p9V", "whoever has the hash can tell");
    assert_eq!(office.ask(key, NOON), Ok(()), "and good as it is");
    assert!(office.weir(&["import", "--hash", hash]).is_err(), "once");
    office.weir(&["revoke", "mGSRYZVR0p9V"]).expect("revoked");
    assert_eq!(office.ask(key, NOON), Err(Rejection::Invalid), "and it ends like others");
}

#[test]
fn a_file_is_imported_whole_or_not_at_all() {
    let office = Office::new();
    let file = office.dir.path().join("keys.tsv");
    let path = file.to_string_lossy().into_owned();
    let ((_, one, first), (_, two, second)) = (foreign(1), foreign(2));
    std::fs::write(&file, format!("a\t{first}\t{one}\n\nb\tsha256:12\n")).expect("written");
    let refused = office.weir(&["import", "--file", &path]).expect_err("a bad line");
    assert!(refused.contains("line 3"), "says where: {refused}");
    assert_eq!(office.json(&["list"]), json!({"keys": []}), "nothing was made");
    std::fs::write(&file, format!("a\t{first}\t{one}\nb\t{second}\t{two}\r\n")).expect("written");
    let imported = office.json(&["import", "--file", &path, "--role", "developer"]);
    let names: Vec<&str> = imported["keys"].as_array().expect("keys").iter().map(|key| text(key, "name")).collect();
    assert_eq!(names, ["a", "b"], "each under its name");
    assert!(imported["keys"][1]["roles"] == json!(["developer"]), "with what the flags say");
}

#[test]
fn a_hash_that_is_none_is_not_repeated() {
    let office = Office::new();
    let (key, ..) = foreign(1);
    let refused = office.weir(&["import", "--hash", &key]).expect_err("a whole key in place of its hash");
    assert!(refused.contains("--hash") && !refused.contains(&key[20..40]), "without the secret: {refused}");
}

#[test]
fn tenants_and_plans_of_the_store_count_too() {
    let office = Office::new();
    let mut store = Store::open(&office.settings.store).expect("opened");
    let plan = r#"{"limits":{}}"#;
    store
        .change(&actor(), NOON, |change| {
            change.put_tenant("stored", &crate::io::store::rows::TenantSpec::default())?;
            change.put_plan("theirs", Some("stored"), plan)
        })
        .expect("changed");
    let made = office.json(&["create", "--tenant", "stored", "--plan", "theirs"]);
    assert_eq!((text(&made, "tenant_id"), text(&made, "plan")), ("stored", "theirs"), "known by the store");
    let refused = office.weir(&["create", "--tenant", "acme", "--plan", "theirs"]).expect_err("another's plan");
    assert!(refused.contains("unknown plan"), "a plan of another tenant is none: {refused}");
}

#[test]
fn every_change_is_written_down_with_who_made_it() {
    let office = Office::new();
    let id = text(&office.json(&["create"]), "key_id").to_owned();
    for line in [&["rotate", &id][..], &["end-grace", &id], &["disable", &id], &["revoke", &id]] {
        office.weir(line).expect("done");
    }
    let mut store = Store::open(&office.settings.store).expect("opened");
    let page = Page { after: None, limit: 10 };
    let log = store.read().and_then(|mut read| read.audit(&Default::default(), &page)).expect("the log");
    let actions: Vec<&str> = log.rows.iter().rev().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["key.create", "key.rotate", "key.end_grace", "key.update", "key.revoke"], "each, in order");
    assert!(log.rows.iter().all(|entry| entry.actor.kind == "cli" && !entry.actor.id.is_empty()), "by whom");
}
