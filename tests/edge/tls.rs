//! TLS as a client sees it: HTTPS over HTTP/1.1 and HTTP/2 by curl, client certificates as identity, and what a
//! handshake may not cost others.

use super::backend::{Act, Backends, Script};
use super::cases::eventually;
use super::proxy::{DEADLINE, Proxy, Setup, free_port};
use super::say::{self, DONE, ROLE, USAGE, delta};
use super::usage;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const NAME: &str = "api.example";
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
const STREAM: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;

/// An authority with the files of a server and its clients.
struct Site {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate with its issuer's name for a self-signed one.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let site = Self { authority, folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(site.path("ca.pem"), site.authority.pem()).expect("a file");
        site.certify("server", CertificateParams::new(vec![NAME.to_owned()]).expect("a name"));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    fn file(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Writes NAME.pem and NAME.key.
    fn certify(&self, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("a file");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    /// A client with a SPIFFE id.
    fn client(&self, name: &str, spiffe: &str) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(spiffe.try_into().expect("IA5"))];
        self.certify(name, params);
    }

    /// `tls` of the listener; `more`: further members.
    fn listener(&self, more: &str) -> String {
        let (cert, key) = (self.file("server.pem"), self.file("server.key"));
        format!("tls: {{ certificates: [{{ cert: \"{cert}\", key: \"{key}\" }}]{more} }}")
    }

    fn asking(&self, how: &str) -> String {
        self.listener(&format!(", client_ca: \"{}\", client_cert: {how}", self.file("ca.pem")))
    }

    /// A client over a socket, for what curl would not send; `protocols` are those that it offers.
    fn open(&self, address: SocketAddr, protocols: &[&str]) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("a root");
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(NAME).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        StreamOwned::new(connection, socket)
    }
}

/// What curl said: status and protocol of each answer (`200 2`), and all bodies; the words of an error where there was
/// no answer.
#[derive(Debug)]
struct Said {
    answers: Vec<String>,
    bodies: String,
    error: Option<String>,
}

/// A POST for each body, all with the same arguments.
fn curl(site: &Site, address: SocketAddr, bodies: &[&str], more: &[&str]) -> Said {
    let mut command = Command::new("curl");
    for (number, body) in bodies.iter().enumerate() {
        if number > 0 {
            command.arg("--next");
        }
        command.args(["-sS", "--max-time", "20", "--cacert", &site.file("ca.pem")]);
        command.args([
            "--resolve",
            &format!("{NAME}:{}:127.0.0.1", address.port()),
            "-w",
            "\n%{http_code} %{http_version}\n",
        ]);
        command.args(["-H", "content-type: application/json", "-d", body]).args(more);
        command.arg(format!("https://{NAME}:{}/v1/chat/completions", address.port()));
    }
    let output = command.output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_answer = |line: &&str| line.len() < 8 && line.starts_with(|letter: char| letter.is_ascii_digit());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Said {
        answers: text.lines().filter(is_answer).map(str::to_owned).collect(),
        error: (!output.status.success()).then_some(error),
        bodies: text,
    }
}

fn bearer(proxy: &Proxy) -> String {
    format!("authorization: Bearer {}", proxy.key)
}

/// Two outputs with time between them.
fn stream() -> Script {
    let mut script = say::open_stream(&[ROLE]);
    for word in ["<0>", "<1>"] {
        script.extend([Act::Say(say::chunk(&delta(word))), say::pause(20)]);
    }
    script.extend([USAGE, DONE].map(|event| Act::Say(say::chunk(event))));
    script.push(Act::Say(say::last_chunk()));
    script
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_http_1_1_and_http_2_on_one_port() {
    let (site, backends) = (Site::new(), Backends::start(1).await);
    let listener = [site.listener("")];
    let listener: Vec<&str> = listener.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&Setup { listener: &listener, ..Setup::of(&backends) });
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        backends.script(version, vec![stream()]);
        let case = format!("x-case: {version}");
        // Two on one connection: the second must find it as the first did.
        let said = curl(&site, proxy.address, &[STREAM, CHAT], &[flag, "-H", &bearer(&proxy), "-H", &case]);
        let wanted = format!("200 {version}");
        assert_eq!(said.answers, [wanted.clone(), wanted], "{flag}: {said:?}");
        assert!(said.bodies.contains("<1>") && said.bodies.contains("[DONE]"), "{flag}: the stream is whole: {said:?}");
        let none = curl(&site, proxy.address, &[CHAT], &[flag]);
        assert_eq!(none.answers, [format!("401 {version}")], "{flag} without a credential: {none:?}");
    }
    usage::rows(&proxy, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_head_behind_tls_is_held_to_the_strict_rules() {
    let (site, backends) = (Site::new(), Backends::start(1).await);
    let listener = site.listener("");
    let proxy = Proxy::start(&Setup { listener: &[&listener], ..Setup::of(&backends) });
    let good = format!("GET /x HTTP/1.1\r\nhost: {NAME}\r\n{}\r\n\r\n", bearer(&proxy));
    for bad in [
        "GET /x HTTP/1.1\nhost: a\n\n",
        "GET /x HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        let mut stream = site.open(proxy.address, &[]);
        stream.write_all(good.as_bytes()).expect("a request");
        assert!(read_until(&mut stream, "\"id\":\"c1\"").starts_with("HTTP/1.1 200"), "a good head first");
        stream.write_all(bad.as_bytes()).expect("a request");
        let mut answer = String::new();
        // The end may come without a farewell; what was said before it counts.
        let _ = stream.read_to_string(&mut answer);
        let last = answer.rfind("HTTP/1.1 ").map(|at| &answer[at..]).unwrap_or_default();
        assert!(last.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
    }
}

fn read_until(stream: &mut impl Read, word: &str) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.contains(word) {
        let count = stream.read(&mut piece).expect("an answer");
        assert!(count > 0, "ended after {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_who_pays_and_others_may_use_keys() {
    let (site, foreign, backends) = (Site::new(), Site::new(), Backends::start(1).await);
    site.client("ann", "spiffe://example.org/acme/ann");
    site.client("other", "spiffe://other.org/acme/ann");
    site.client("none", "spiffe://example.org");
    foreign.client("ann", "spiffe://example.org/acme/ann");
    let listener = site.asking("optional");
    let mesh = "mesh: { client_cert: { trust_domains: [example.org], tenant: \"cert.spiffe.path[0]\" } }";
    let setup =
        Setup { listener: &[&listener], auth: &[mesh], rest: &["tenants: { acme: {} }"], ..Setup::of(&backends) };
    let proxy = Proxy::start(&setup);
    let ask = |identity: &[String], more: &[&str]| {
        let arguments: Vec<&str> = identity.iter().map(String::as_str).chain(more.iter().copied()).collect();
        curl(&site, proxy.address, &[CHAT, CHAT], &arguments)
    };
    for (flag, answer) in [("--http1.1", "200 1.1"), ("--http2", "200 2")] {
        let said = ask(&identity(&site, "ann"), &[flag]);
        assert_eq!(said.answers, [answer, answer], "{flag}: both requests of the connection: {said:?}");
    }
    let rows = usage::rows(&proxy, 4);
    for row in rows.values() {
        let who = (row.tenant.as_str(), row.user.as_deref(), row.auth_method.as_str());
        assert_eq!(who, ("acme", Some("spiffe://example.org/acme/ann"), "client_cert"), "{row:?}");
    }
    for name in ["other", "none"] {
        let said = ask(&identity(&site, name), &["--http2"]);
        assert_eq!(said.answers, ["401 2", "401 2"], "{name} proves nobody: {said:?}");
        assert!(said.bodies.contains("\"invalid_token\""), "{name}: {said:?}");
    }
    let said = ask(&[], &["--http2", "-H", &bearer(&proxy)]);
    assert_eq!(said.answers, ["200 2", "200 2"], "a key instead of a certificate: {said:?}");
    assert_eq!(ask(&[], &["--http2"]).answers, ["401 2", "401 2"], "neither");
    let said = ask(&identity(&foreign, "ann"), &["--http1.1", "-H", &bearer(&proxy)]);
    assert!(said.error.is_some() && !said.bodies.contains("200"), "a certificate of a foreign authority: {said:?}");
}

/// A client's certificate for curl.
fn identity(site: &Site, name: &str) -> [String; 4] {
    ["--cert".into(), site.file(&format!("{name}.pem")), "--key".into(), site.file(&format!("{name}.key"))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_certificate_is_required_nobody_speaks_without_one() {
    let (site, backends) = (Site::new(), Backends::start(1).await);
    site.client("ann", "spiffe://example.org/acme/ann");
    let listener = site.asking("required");
    let proxy = Proxy::start(&Setup { listener: &[&listener], ..Setup::of(&backends) });
    let key = bearer(&proxy);
    let said = curl(&site, proxy.address, &[CHAT], &["--http1.1", "-H", &key]);
    assert!(said.error.is_some() && !said.bodies.contains("200"), "a key is not enough: {said:?}");
    let ann = identity(&site, "ann");
    let mut arguments: Vec<&str> = ann.iter().map(String::as_str).collect();
    arguments.extend(["-H", &key]);
    assert_eq!(curl(&site, proxy.address, &[CHAT], &arguments).answers, ["200 2"], "with both");
    assert_eq!(backends.total(), 1, "only one request came through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_finish_their_handshake_take_only_their_share() {
    let (site, backends) = (Site::new(), Backends::start(1).await);
    let listener = site.listener("");
    // A quarter of these may shake hands at once: two.
    let setup = Setup { listener: &[&listener], server: &["max_connections: 8"], ..Setup::of(&backends) };
    let proxy = Proxy::start(&setup);
    let good = format!("GET /x HTTP/1.1\r\nhost: {NAME}\r\n{}\r\n\r\n", bearer(&proxy));
    let mut open = site.open(proxy.address, &[]);
    open.write_all(good.as_bytes()).expect("a request");
    read_until(&mut open, "\"id\":\"c1\"");
    let mut silent = Vec::new();
    let closed = eventually(|| {
        let mut one = TcpStream::connect(proxy.address).expect("a connection");
        one.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let closed = match one.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        if !closed {
            silent.push(one);
        }
        // The probes of `/ready` shake hands too, for a moment.
        closed && silent.len() >= 2
    })
    .await;
    assert!(closed, "one more than two is closed unread");
    open.write_all(good.as_bytes()).expect("a request");
    read_until(&mut open, "\"id\":\"c1\"");
    drop(silent);
    let served =
        eventually(|| curl(&site, proxy.address, &[CHAT], &["-H", &bearer(&proxy)]).answers == ["200 2"]).await;
    assert!(served, "their places come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_agrees_on_http_2_and_never_speaks_is_closed() {
    let (site, backends) = (Site::new(), Backends::start(1).await);
    let listener = site.listener("");
    let setup = Setup { listener: &[&listener], limits: "{ idle_timeout: 1s }", ..Setup::of(&backends) };
    let proxy = Proxy::start(&setup);
    for preface in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = site.open(proxy.address, &["h2"]);
        stream.write_all(preface).expect("a beginning");
        stream.flush().expect("a handshake");
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]), "what was agreed on");
        let timed_out = matches!(ended, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(!timed_out, "still open after {DEADLINE:?}, having sent {preface:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_on_a_tls_port_gets_no_answer_and_harms_nobody() {
    let (site, backends) = (Site::new(), Backends::start(1).await);
    let listener = site.listener("");
    let mut proxy = Proxy::start(&Setup { listener: &[&listener], ..Setup::of(&backends) });
    let mut plain = TcpStream::connect(proxy.address).expect("a connection");
    plain.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // In one piece: the listener may hang up after the first bytes.
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n\r\n", bearer(&proxy));
    plain.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "no HTTP: {:?}", String::from_utf8_lossy(&answer));
    assert_eq!(curl(&site, proxy.address, &[CHAT], &["-H", &bearer(&proxy)]).answers, ["200 2"], "others go on");
    assert!(proxy.lives() && backends.total() == 1, "nothing came through");
}

#[test]
fn a_key_that_does_not_fit_is_said_at_start() {
    let site = Site::new();
    site.client("ann", "spiffe://example.org/ann");
    let listener = site.listener("").replace("server.key", "ann.key");
    let (bind, admin, state) = (free_port(), free_port(), site.file("state"));
    let yaml = format!(
        "version: 1\nserver: {{ state_dir: \"{state}\", admin: {{ bind: \"{admin}\" }} }}\n\
         listeners: {{ http: {{ bind: [\"{bind}\"], {listener} }} }}\n\
         pools: {{ p: {{ engine: vllm, backends: [{{ url: \"http://127.0.0.1:9\" }}] }} }}\n\
         routes: [{{ name: all, match: {{ path: {{ prefix: / }} }}, to: [{{ pool: p }}] }}]\n"
    );
    std::fs::write(site.path("weir.yaml"), yaml).expect("the configuration");
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(["serve", "-c", &site.file("weir.yaml")]).output();
    let output = output.expect("weir runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "it does not start: {said}");
    for word in ["listeners.http.tls", "ann.key", "the key that the certificate was made for"] {
        assert!(said.contains(word), "{word:?} in {said}");
    }
}
