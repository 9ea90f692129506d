//! `weir keys` as scripts call it: the same commands, answers and exit statuses on SQLite and on a real Postgres.

// Only tests and what they are made of: a broken world may end them.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "support/servers.rs"]
mod servers;

use serde_json::Value;
use servers::Postgres;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// A configuration with its store.
struct Office {
    name: &'static str,
    dir: TempDir,
    _server: Option<Arc<Postgres>>,
    url: String,
}

/// Both databases.
fn offices() -> [Office; 2] {
    let folder = || tempfile::tempdir().expect("a folder");
    let (sqlite, postgres) = (folder(), folder());
    let file = format!("{{ sqlite: {} }}", sqlite.path().join("weir.db").display());
    let server = Postgres::shared();
    let url = server.database();
    [
        Office::open("SQLite", sqlite, &file, None, String::new()),
        Office::open("Postgres", postgres, "{ postgres: { url: { env: KEYS_TEST_URL } } }", Some(server), url),
    ]
}

impl Office {
    fn open(name: &'static str, dir: TempDir, store: &str, server: Option<Arc<Postgres>>, url: String) -> Self {
        let pepper = dir.path().join("pepper");
        std::fs::write(&pepper, "0123456789abcdef0123456789abcdef").expect("a pepper");
        let yaml = format!(
            "version: 1\nserver: {{ state_dir: {state} }}\nlisteners: {{ http: {{ bind: [\"127.0.0.1:1\"] }} }}\n\
             pools: {{ p: {{ engine: vllm, backends: [{{ url: \"http://127.0.0.1:2\" }}] }} }}\n\
             routes: [{{ match: {{ path: {{ prefix: / }} }}, to: [{{ pool: p }}] }}]\n\
             auth: {{ keys: {{ api_key: {{ pepper: {{ file: {pepper} }} }} }} }}\n\
             tenants: {{ acme: {{}} }}\nroles: {{ developer: {{ scopes: [inference] }} }}\nstore: {store}\n",
            state = dir.path().join("state").display(),
            pepper = pepper.display(),
        );
        std::fs::write(dir.path().join("weir.yaml"), yaml).expect("the configuration");
        Self { name, dir, _server: server, url }
    }

    /// Exit status, standard output and standard error of a command.
    fn weir(&self, line: &str) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_weir"))
            .arg("keys")
            .args(line.split(' '))
            .args(["-c", &self.dir.path().join("weir.yaml").to_string_lossy()])
            .env("KEYS_TEST_URL", &self.url)
            .env("USER", "ann")
            .output()
            .expect("weir runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
    }

    fn json(&self, line: &str) -> Value {
        let (status, out, err) = self.weir(&format!("{line} --json"));
        assert_eq!(status, 0, "{} on {}: {err}", line, self.name);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line} on {}: {error} in {out}", self.name))
    }
}

#[test]
fn the_whole_life_of_a_key_is_the_same_on_both_stores() {
    for office in offices() {
        let on = office.name;
        let made = office.json("create --tenant acme --role developer --address 10.0.0.0/8 --endpoint /v1/*");
        let id = made["key_id"].as_str().expect("an id").to_owned();
        assert_eq!((&made["tenant_id"], &made["secret_gen"]), (&"acme".into(), &1.into()), "{on}: made");
        let rotated = office.json(&format!("rotate {id} --grace 1h"));
        assert_eq!((&rotated["key_id"], &rotated["secret_gen"]), (&id.clone().into(), &2.into()), "{on}: rotated");
        assert_ne!(rotated["key"], made["key"], "{on}: a new secret");
        let (status, _, err) = office.weir(&format!("rotate {id}"));
        assert!(status == 1 && err.contains("force"), "{on}: a third secret is a conflict: {status} {err}");
        assert_eq!(office.json(&format!("end-grace {id}"))["generations"].as_array().map(Vec::len), Some(1), "{on}");
        assert_eq!(office.json(&format!("disable {id}"))["status"], "disabled", "{on}");
        assert_eq!(office.json(&format!("enable {id}"))["status"], "active", "{on}");
        let updated = office.json(&format!("update {id} --name ci --clear addresses"));
        assert_eq!((&updated["name"], &updated["addresses"]), (&"ci".into(), &Value::Null), "{on}: rewritten");
        assert_eq!(office.json(&format!("revoke {id} --terminate-streams"))["status"], "revoked", "{on}");
        let shown = office.json(&format!("show {id}"));
        assert_eq!((&shown["status"], &shown["terminate_streams"]), (&"revoked".into(), &true.into()), "{on}: shown");
        let listed = office.json("list --tenant acme --status revoked");
        assert_eq!(listed["keys"].as_array().map(Vec::len), Some(1), "{on}: listed");
        let text = listed.to_string() + &shown.to_string();
        let secret = rotated["key"].as_str().and_then(|key| key.split('-').nth(3)).expect("a secret");
        assert!(!text.contains(&secret[..20]), "{on}: without its secret");
    }
}

#[test]
fn what_cannot_be_is_status_1_and_wrong_usage_is_2() {
    for office in offices() {
        for (line, status, words) in [
            ("create --tenant nobody", 1, "unknown tenant `nobody`"),
            ("create --role nobody", 1, "unknown role `nobody`"),
            ("revoke 0123456789AB", 1, "no key has the id `0123456789AB`"),
            ("revoke short", 1, "a key id is 12 letters or digits"),
            ("rotate 0123456789AB --grace 31d", 1, "30 days"),
            ("import --hash nothing", 1, "--hash"),
            ("list --status gone", 2, "active"),
            ("import", 2, "--hash"),
        ] {
            let (code, out, err) = office.weir(line);
            assert_eq!((code, out.as_str()), (status, ""), "{line} on {}: {err}", office.name);
            assert!(err.contains(words), "{line} on {} says {words}: {err}", office.name);
        }
        assert_eq!(office.json("list")["keys"].as_array().map(Vec::len), Some(0), "{}: nothing was made", office.name);
    }
}
