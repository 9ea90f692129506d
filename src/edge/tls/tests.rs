use super::*;
use pingora_core::protocols::ALPN;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use tempfile::TempDir;

/// Longer than any handshake here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An authority and the files of a listener.
struct Site {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let site = Self { authority, folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(site.file("ca.pem"), site.authority.pem()).expect("a file");
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes NAME.pem and NAME.key for some DNS names.
    fn serve(&self, name: &str, dns: &[&str]) -> (PathBuf, PathBuf) {
        let params = CertificateParams::new(dns.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
        let key = KeyPair::generate().expect("a key");
        let (cert, file) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        std::fs::write(&cert, params.signed_by(&key, &self.authority).expect("a certificate").pem()).expect("a file");
        std::fs::write(&file, key.serialize_pem()).expect("a file");
        (cert, file)
    }

    /// A client's certificate that says who it is.
    fn identity(&self, spiffe: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names = vec![SanType::URI(spiffe.try_into().expect("IA5"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8"))
    }

    fn settings(&self) -> ListenerTls {
        ListenerTls {
            certificates: vec![self.serve("a", &["a.example"])],
            only_tls13: false,
            client_ca: None,
            client_required: false,
        }
    }

    fn asking(&self, required: bool) -> ListenerTls {
        ListenerTls { client_ca: Some(self.file("ca.pem")), client_required: required, ..self.settings() }
    }

    /// A client that trusts this authority and speaks both protocols.
    fn client(&self, identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).expect("an identity"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// What a client saw: `None` where the server ended it.
struct Seen {
    kind: Option<HandshakeKind>,
    version: Option<ProtocolVersion>,
    leaf: Vec<u8>,
}

/// Connects, waits for one byte of the server, and says what came of it.
fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Option<Seen> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let socket = TcpStream::connect(address).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(tls, socket);
    stream.write_all(b"x").ok()?;
    stream.read_exact(&mut [0]).ok()?;
    let leaf = stream.conn.peer_certificates()?.first()?.to_vec();
    Some(Seen { kind: stream.conn.handshake_kind(), version: stream.conn.protocol_version(), leaf })
}

/// Shakes hands once on each connection of `clients` in turn; what the server and the client made of it.
async fn shake(
    settings: &ListenerTls,
    clients: Vec<(Arc<ClientConfig>, &'static str)>,
) -> Vec<(Option<(Option<ALPN>, Option<ClientCertificate>)>, Option<Seen>)> {
    let tls = build(settings).expect("settings that can be used");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut all = Vec::new();
    for (config, name) in clients {
        let client = tokio::task::spawn_blocking(move || connect(address, &config, name));
        let (socket, _) = listener.accept().await.expect("a connection");
        let stream = tls.accept(Box::new(L4Stream::from(socket))).await;
        let server = match stream {
            Some(mut stream) => {
                let digest = stream.get_ssl_digest().expect("a digest");
                use tokio::io::AsyncWriteExt;
                // The client may have gone: what it saw says so.
                let _ = stream.write_all(b"y").await;
                let _ = stream.flush().await;
                Some((stream.selected_alpn_proto(), digest.extension.get::<ClientCertificate>().cloned()))
            }
            None => None,
        };
        all.push((server, client.await.expect("the client's thread")));
    }
    all
}

async fn one(
    settings: &ListenerTls,
    config: ClientConfig,
) -> (Option<(Option<ALPN>, Option<ClientCertificate>)>, Option<Seen>) {
    shake(settings, vec![(Arc::new(config), "a.example")]).await.pop().expect("one result")
}

fn leaf(file: &std::path::Path) -> Vec<u8> {
    files::certificates(file).expect("a certificate")[0].to_vec()
}

#[tokio::test]
async fn both_protocols_are_offered_and_http_2_is_preferred() {
    let site = Site::new();
    let (server, client) = one(&site.settings(), site.client(None)).await;
    assert_eq!(server.expect("a handshake").0, Some(ALPN::H2), "h2 is preferred");
    assert_eq!(client.expect("a handshake").version, Some(ProtocolVersion::TLSv1_3), "the newer version");
    let mut old = site.client(None);
    old.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert_eq!(one(&site.settings(), old).await.0.expect("a handshake").0, Some(ALPN::H1), "a client without h2");
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_asked_for_and_else_the_first() {
    let site = Site::new();
    let mut settings = site.settings();
    settings.certificates.push(site.serve("b", &["b.example", "*.wild.example"]));
    let config = Arc::new({
        let mut config = site.client(None);
        // Which certificate is shown is asked here, not whether it fits.
        config.dangerous().set_certificate_verifier(Arc::new(TakesAll));
        config
    });
    let names = ["a.example", "b.example", "B.EXAMPLE", "x.wild.example", "x.y.wild.example", "c.example"];
    let clients = names.iter().map(|name| (Arc::clone(&config), *name)).collect();
    let (a, b) = (leaf(&site.file("a.pem")), leaf(&site.file("b.pem")));
    let wanted = [&a, &b, &b, &b, &a, &a];
    for ((name, wanted), (_, seen)) in names.iter().zip(wanted).zip(shake(&settings, clients).await) {
        assert_eq!(&seen.expect("a handshake").leaf, wanted, "{name}");
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_unless_1_3_is_the_least() {
    let site = Site::new();
    let old = || {
        let mut roots = RootCertStore::empty();
        roots.add(site.authority.der().clone()).expect("a root");
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let (_, client) = one(&site.settings(), old()).await;
    assert_eq!(client.expect("a handshake").version, Some(ProtocolVersion::TLSv1_2), "by default");
    let (server, client) = one(&ListenerTls { only_tls13: true, ..site.settings() }, old()).await;
    assert!(server.is_none() && client.is_none(), "min_version 1.3 ends it");
}

#[tokio::test]
async fn a_client_certificate_of_the_authority_is_known_and_others_end_the_handshake() {
    let (site, foreign) = (Site::new(), Site::new());
    let ann = || site.client(Some(site.identity("spiffe://example.org/ann")));
    for required in [false, true] {
        let (server, _) = one(&site.asking(required), ann()).await;
        let certificate = server.expect("a handshake").1.expect("a certificate");
        assert_eq!(certificate.uris, ["spiffe://example.org/ann"], "required: {required}");
        let mallory = site.client(Some(foreign.identity("spiffe://example.org/ann")));
        assert!(one(&site.asking(required), mallory).await.0.is_none(), "of a foreign authority; required: {required}");
    }
    let (server, _) = one(&site.asking(false), site.client(None)).await;
    assert_eq!(server.expect("a handshake").1, None, "optional: nobody, and other credentials may do");
    assert!(one(&site.asking(true), site.client(None)).await.0.is_none(), "required: no connection without one");
    let (server, _) = one(&site.settings(), ann()).await;
    assert_eq!(server.expect("a handshake").1, None, "not asked for, so not seen");
}

#[tokio::test]
async fn a_connection_with_a_client_certificate_is_never_resumed() {
    let site = Site::new();
    let config = Arc::new(site.client(Some(site.identity("spiffe://example.org/ann"))));
    let twice = vec![(Arc::clone(&config), "a.example"), (config, "a.example")];
    for (_, seen) in shake(&site.asking(true), twice).await {
        assert_eq!(seen.expect("a handshake").kind, Some(HandshakeKind::Full), "each certificate is verified anew");
    }
    let config = Arc::new(site.client(None));
    let twice = vec![(Arc::clone(&config), "a.example"), (config, "a.example")];
    let second = shake(&site.settings(), twice).await.pop().and_then(|(_, seen)| seen).expect("a handshake");
    assert_eq!(second.kind, Some(HandshakeKind::Resumed), "without client certificates sessions are resumed");
}

#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_is_let_go() {
    let site = Site::new();
    let tls = Tls { patience: Duration::from_millis(20), ..build(&site.settings()).expect("settings") };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let _silent = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (socket, _) = listener.accept().await.expect("a connection");
    let ended = tokio::time::timeout(PATIENCE, tls.accept(Box::new(L4Stream::from(socket)))).await;
    assert!(ended.expect("an end").is_none(), "no stream");
}

#[test]
fn what_cannot_be_used_is_said_with_file_and_remedy() {
    let site = Site::new();
    let good = site.settings();
    let (cert, key) = good.certificates[0].clone();
    let other = site.serve("other", &["o.example"]);
    let (missing, empty) = (site.file("missing.pem"), site.file("empty.pem"));
    std::fs::write(&empty, "").expect("a file");
    let with =
        |cert: &PathBuf, key: &PathBuf| ListenerTls { certificates: vec![(cert.clone(), key.clone())], ..good.clone() };
    for (settings, words) in [
        (with(&missing, &key), ["missing.pem", "make it readable"]),
        (with(&cert, &missing), ["missing.pem", "make it readable"]),
        (with(&empty, &key), ["empty.pem", "no certificate"]),
        (with(&cert, &empty), ["empty.pem", "no private key"]),
        (with(&cert, &other.1), ["other.key", "the key that the certificate was made for"]),
        (ListenerTls { client_ca: Some(empty.clone()), ..good.clone() }, ["empty.pem", "no certificate"]),
        (ListenerTls { certificates: Vec::new(), ..good.clone() }, ["no certificate", "named"]),
    ] {
        let fault = build(&settings).expect_err("settings that cannot be used").to_string();
        for word in words {
            assert!(fault.contains(word), "{fault:?} should say {word:?}");
        }
    }
    assert!(build(&good).is_ok(), "and the good ones can");
}

#[test]
fn a_star_covers_one_whole_label() {
    for (own, name, wanted) in [
        ("a.example", "a.example", true),
        ("a.example", "b.example", false),
        ("*.example", "a.example", true),
        ("*.example", "a.b.example", false),
        ("*.example", "example", false),
        ("*.example", ".example", false),
    ] {
        assert_eq!(covers(own, name), wanted, "{own} for {name}");
    }
}

/// Takes every server certificate.
#[derive(Debug)]
struct TakesAll;

impl rustls::client::danger::ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
