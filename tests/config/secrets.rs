//! What is secret in the configuration: upstream credentials, signing keys, TLS files, programs that give secrets.

use super::identity::{Secrets, comes_back, each_is_told, told};
use super::{GOOD, text};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use weir::config::snapshot::Credential;

fn with_pool(settings: &str) -> String {
    GOOD.replace("engine: vllm,", &format!("engine: vllm, {settings},"))
}

fn with_tls(settings: &str) -> String {
    GOOD.replace("bind:", &format!("tls: {{ {settings} }}, bind:"))
}

/// A certificate, its key (mode 0600), the key of another one (mode 0644), and a file that is neither.
fn certificates(folder: &Path) {
    let name = || vec!["weir.test".to_owned()];
    let put = |name: &str, text: &str, mode: u32| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let own = rcgen::generate_simple_self_signed(name()).unwrap();
    let other = rcgen::generate_simple_self_signed(name()).unwrap();
    put("a.pem", &own.cert.pem(), 0o644);
    put("a.key", &own.signing_key.serialize_pem(), 0o600);
    put("open.key", &own.signing_key.serialize_pem(), 0o644);
    put("b.key", &other.signing_key.serialize_pem(), 0o600);
    put("text", "no PEM", 0o600);
}

#[test]
fn credentials_and_identity_come_back_and_are_shown_as_references() {
    let (env, bearer) =
        ("{ env: CARGO_PKG_DESCRIPTION }", "credentials: { bearer: { command: [printf, \"%s\", hush] } }");
    let loaded = comes_back(&with_pool(bearer), "*** t.yaml:5");
    let Some(Credential::Bearer(secret)) = &loaded.snapshot.pools[0].credential else { panic!("a bearer") };
    assert_eq!(secret.0.as_slice(), b"hush", "what the program printed");
    assert!(loaded.effective.plain.contains("command: [printf, \"%s\", hush]"), "{}", loaded.effective.plain);

    let header =
        format!("credentials: {{ header: {{ name: X-Key, value: {env} }} }}, identity: {{ signed: {{ key: {env} }} }}");
    let pool = &comes_back(&with_pool(&header), "env: CARGO_PKG_DESCRIPTION").snapshot.pools[0];
    let Some(Credential::Header(name, secret)) = &pool.credential else { panic!("a header") };
    assert_eq!((name.as_str(), &secret.0[..14]), ("x-key", &b"A programmable"[..]), "a name in small letters");
    assert!(pool.identity.as_ref().is_some_and(|identity| identity.sign.is_some()), "signed");
    let plain = &comes_back(&with_pool("identity: plain"), "identity: plain").snapshot.pools[0];
    assert!(plain.identity.as_ref().is_some_and(|identity| identity.sign.is_none()), "plain");
}

#[test]
fn a_wrong_credential_is_told_at_its_place() {
    let cases = [
        ("credentials: { bearer: hush }", "E010", "must not be written"),
        ("credentials: { header: { name: x-key, value: hush } }", "E010", "must not be written"),
        ("credentials: { header: { name: x-key } }", "E006", "`value` is required"),
        ("credentials: { header: { name: host, value: <key> } }", "E028", "cannot carry a credential"),
        ("credentials: { header: { name: x-weir-tenant, value: <key> } }", "E028", "cannot carry"),
        ("credentials: { header: { name: \"a b\", value: <key> } }", "E028", "not a header name"),
        ("credentials: { bearer: <key>, header: { name: a, value: <key> } }", "E027", "one credential"),
        ("credentials: { bearer: { command: [printf, \"a\\nb\"] } }", "E010", "cannot stand in a header"),
        ("identity: signed", "E006", "`signed` needs a key"),
        ("identity: { signed: {} }", "E006", "`key` is required"),
        ("identity: { signed: { key: hush } }", "E010", "must not be written"),
        ("identity: { signed: { key: <short> } }", "E010", "at least 32 bytes"),
        ("identity: signd", "E012", "did you mean `signed`?"),
    ];
    each_is_told(&cases, with_pool);
}

#[test]
fn a_wrong_command_is_told_with_its_program_and_status_and_never_with_its_output() {
    let cases = [
        ("command: [/no/such/program]", "E010", "the program `/no/such/program` cannot be run"),
        (
            "command: [sh, \"-c\", \"echo hush; echo hush >&2; exit 7\"]",
            "E010",
            "the program `sh` failed with exit status: 7",
        ),
        ("command: [sleep, \"60\"], timeout: 20ms", "E010", "did not end within 20ms"),
        ("command: [cat, /dev/zero]", "E010", "wrote more than 65536 bytes"),
        ("command: [\"true\"]", "E010", "the secret is empty"),
        ("command: vault read x", "E005", "no shell"),
        ("command: [echo, \"${CARGO_PKG_NAME}\"]", "E010", "no variables in a command"),
        ("command: [echo, x], timeout: 10m", "E008", "at most 60s"),
        ("command: [echo, x], env: X", "E004", "unknown key `env`"),
        ("env: X, file: y", "E005", "exactly one of env, file, command"),
    ];
    each_is_told(&cases, |piece| with_pool(&format!("credentials: {{ bearer: {{ {piece} }} }}")));
}

#[test]
fn a_torn_file_shows_no_new_secret_either() {
    for piece in ["credentials: { header: { name: a, value: hush-1 } }", "identity: { signed: { key: hush-2 } }"] {
        let torn = text(&with_pool(&format!("{piece}, x: ]"))).unwrap_err();
        assert!(!torn.to_text().contains("hush"), "{torn}");
    }
    let torn =
        text(&format!("{GOOD}auth: {{ a: {{ introspection: {{ client_secret: hush-3, x: ] }} }} }}\n")).unwrap_err();
    assert!(!torn.to_text().contains("hush"), "{torn}");
}

#[test]
fn tls_comes_back_and_a_listener_with_authorities_makes_client_certificates_count() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let pair = format!("certificates: [{{ cert: \"{}\", key: \"{}\" }}]", at("a.pem"), at("a.key"));
    let plain = comes_back(&with_tls(&pair), "min_version: '1.2'").snapshot;
    let tls = plain.listeners[0].tls.clone().unwrap();
    assert!(!tls.only_tls13 && tls.client_ca.is_none() && !tls.client_required, "defaults: {tls:?}");

    let client = format!("{pair}, min_version: 1.3, client_ca: \"{}\"", at("a.pem"));
    let mesh = |tls: &str| format!("{}auth: {{ mesh: {{ client_cert: {{}} }} }}\n", with_tls(tls));
    let loaded = comes_back(&mesh(&client), "client_cert: required");
    assert!(loaded.warnings.is_empty(), "the certificates are asked for: {:?}", loaded.warnings);
    assert!(loaded.snapshot.listeners[0].tls.as_ref().is_some_and(|tls| tls.only_tls13), "TLS 1.3");
    let optional = comes_back(&mesh(&format!("{client}, client_cert: optional")), "client_cert: optional").snapshot;
    assert!(optional.listeners[0].tls.as_ref().is_some_and(|tls| !tls.client_required), "others may come too");
}

#[test]
fn several_authorities_that_may_vouch_for_several_domains_are_told() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let one = std::fs::read_to_string(folder.path().join("a.pem")).unwrap();
    std::fs::write(folder.path().join("two.pem"), one.repeat(2)).unwrap();
    let source = |authorities: &str, domains: &str| {
        let at = |name: &str| folder.path().join(name).display().to_string();
        let certificates = format!("certificates: [{{ cert: \"{}\", key: \"{}\" }}]", at("a.pem"), at("a.key"));
        let tls = with_tls(&format!("{certificates}, client_ca: \"{}\"", at(authorities)));
        format!("{tls}auth: {{ mesh: {{ client_cert: {{ trust_domains: [{domains}] }} }} }}\n")
    };
    for domains in ["", "one.example, two.example"] {
        let (codes, first) = told(&source("two.pem", domains));
        assert_eq!(codes, ["W008"], "[{domains}]: {first}");
        assert!(first.contains("any identity"), "[{domains}]: {first}");
    }
    for (authorities, domains) in [("two.pem", "one.example"), ("a.pem", ""), ("a.pem", "one.example, two.example")] {
        let (codes, first) = told(&source(authorities, domains));
        assert!(codes.is_empty(), "{authorities} [{domains}]: {first}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_when_the_file_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let place = |source: &str| source.replace('@', &format!("{}/", folder.path().display()));
    let cases = [
        ("{}", "E006", "`certificates` is required"),
        ("{ certificates: [] }", "E023", "TLS needs a certificate"),
        ("{ certificates: [{ cert: @a.pem }] }", "E006", "`key` is required"),
        ("{ certificates: [{ cert: @none.pem, key: @a.key }] }", "E003", "No such file"),
        ("{ certificates: [{ cert: @text, key: @a.key }] }", "E030", "no certificate in"),
        ("{ certificates: [{ cert: @a.pem, key: @text }] }", "E030", "no private key in"),
        ("{ certificates: [{ cert: @a.pem, key: @b.key }] }", "E030", "is not the key of"),
        ("{ certificates: [{ cert: @a.pem, key: @open.key }] }", "W006", "chmod 600"),
        ("{ certificates: [{ cert: @a.pem, key: @a.key }], min_version: 1.1 }", "E011", "not supported"),
        ("{ certificates: [{ cert: @a.pem, key: @a.key }], client_cert: required }", "E027", "without authorities"),
        ("{ certificates: [{ cert: @a.pem, key: @a.key }], client_ca: @text }", "E030", "no certificate in"),
    ];
    let mut wrong = String::new();
    for (piece, code, words) in cases {
        let (codes, first) = told(&place(&GOOD.replace("bind:", &format!("tls: {piece}, bind:"))));
        if codes != [code] || !first.contains(words) {
            wrong += &format!("{piece}\n  wanted {code} `{words}`, found {codes:?} `{first}`\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_parts_of_the_full_example_that_need_files_load_with_them() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let mut source = std::fs::read_to_string("conf/full.yaml").unwrap();
    for (commented, with_files) in [
        ("# tls:", "tls:".to_owned()),
        ("# mesh:", "mesh:".to_owned()),
        ("cert: a.pem, key: a.key", format!("cert: \"{0}/a.pem\", key: \"{0}/a.key\"", folder.path().display())),
        ("client_ca: ca.pem", format!("client_ca: \"{}/a.pem\"", folder.path().display())),
    ] {
        assert_eq!(source.matches(commented).count(), 1, "`{commented}` is in the example once");
        source = source.replace(commented, &with_files);
    }
    let loaded = comes_back(&source, "client_cert: required");
    assert!(loaded.warnings.is_empty(), "nothing is odd about it: {:?}", loaded.warnings);
}

#[test]
fn every_yaml_block_of_the_documentation_loads_and_comes_back() {
    let secrets = Secrets::new();
    certificates(secrets.folder.path());
    let at = |name: &str| format!("\"{}\"", secrets.folder.path().join(name).display());
    let document = std::fs::read_to_string("docs/configuration.md").unwrap();
    let blocks: Vec<&str> = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 8, "the blocks are found: {}", blocks.len());
    for block in blocks {
        let mut block = block.replace("{ env: DATABASE_URL }", "<postgres>").replace("{ env: REDIS_URL }", "<redis>");
        for reference in ["PORTAL_SECRET", "CLIENT_SECRET", "ENGINE_KEY", "SIGNING_KEY", "ALERT_SECRET"] {
            block = block.replace(&format!("{{ env: {reference} }}"), "<key>");
        }
        let block = block.replace("{ file: /run/secrets/pepper }", "<key>");
        let block = block.replace("{ env: ALERT_URL }", "{ command: [echo, \"https://hooks.example.com/\"] }");
        let block =
            block.replace(": a.pem", &format!(": {}", at("a.pem"))).replace(": a.key", &format!(": {}", at("a.key")));
        std::fs::write(secrets.folder.path().join("block.yaml"), secrets.fill(&block)).unwrap();
        comes_back(&format!("{GOOD}include: {}\n", at("block.yaml")), "version: 1");
    }
}
