use super::*;
use crate::config::snapshot::{ApiKeyAuth, PepperSource};
use crate::io::keys::Keys;
use crate::io::pepper;
use crate::ports::{Clock, KeyRejection, KeyStore};
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
            store: dir.path().join("var/weir.db"),
            authenticators: BTreeMap::new(),
            default_pepper: dir.path().join("var/pepper"),
            tenants: vec!["acme".into(), "default".into()],
            plans: vec!["gold".into()],
            roles: vec![],
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

    fn ask(&self, key: &str, now: WallMicros) -> Result<(), KeyRejection> {
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
         \"created_at\":\"2026-11-20T12:00:00Z\",\"expires_at\":null}}\n"
    );
    assert_eq!(printed, wanted, "design.md §2, byte for byte");
    assert_eq!(key.split('-').nth(2), Some(id), "the id is the third part of the key");
}

#[test]
fn every_flag_of_create_is_on_the_key() {
    let office = Office::new();
    let line = "create --tenant acme --team core --user ann --models llama-*,gpt-4o --plan gold --expires 30d";
    let made = office.json(&line.split(' ').collect::<Vec<_>>());
    let got = json!({"team": made["team_id"], "user": made["user_id"], "models": made["models"],
        "plan": made["plan"], "expires": made["expires_at"]});
    let wanted = json!({"team": "core", "user": "ann", "models": ["llama-*", "gpt-4o"], "plan": "gold",
        "expires": "2026-12-20T12:00:00Z"});
    assert_eq!(got, wanted, "as on the command line");
    let end = WallMicros(NOON.0 + 30 * 86_400 * 1_000_000);
    assert_eq!(office.ask(text(&made, "key"), end), Err(KeyRejection::Expired), "and the expiry is meant");
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
    assert_eq!(office.json(&["revoke", &id]), made, "revoke says that it is done");
    assert_eq!(office.json(&["revoke", &id]), made, "and again");
}

#[test]
fn a_revoked_key_is_not_let_in() {
    let office = Office::new();
    let made = office.json(&["create"]);
    office.weir(&["revoke", text(&made, "key_id")]).expect("revoked");
    assert_eq!(office.ask(text(&made, "key"), NOON), Err(KeyRejection::Invalid), "ended for good");
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
    assert_eq!(refused(&["create", "--role", "admin"]), "unknown role `admin`: the configuration has no role");
    assert_eq!(
        refused(&["create", "--auth", "keys"]),
        "unknown authenticator `keys`: the configuration has no authenticator"
    );
    assert!(refused(&["create", "--models", "a,,b"]).contains("--models"), "the flag at fault is named");
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
    for line in [&["keys", "create", "--expires", "soon"][..], &["keys", "show"], &["keys", "create", "--tenantt", "a"]]
    {
        let error = CommandLine::try_parse_from(line).err().expect("must be refused");
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_status_1() {
    let line = ["keys", "list", "-c", "no/such/file.yaml"];
    let args = CommandLine::try_parse_from(line).expect("right usage").keys;
    assert_eq!(format!("{:?}", run(&args)), format!("{:?}", ExitCode::from(1)), "refused, not wrong usage");
}
