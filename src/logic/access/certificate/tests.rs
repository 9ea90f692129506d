use super::*;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

fn der(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
}

fn read(change: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
    ClientCertificate::read(&der(change)).expect("a certificate that can be read")
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("IA5"))
}

fn with_uris(uris: &[&str]) -> ClientCertificate {
    ClientCertificate { uris: uris.iter().map(ToString::to_string).collect(), ..ClientCertificate::default() }
}

#[test]
fn a_certificate_says_its_names_its_end_and_its_fingerprint() {
    let bytes = der(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names =
            vec![uri("spiffe://example.org/web"), SanType::DnsName("a.example".try_into().expect("IA5"))];
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
    });
    let read = ClientCertificate::read(&bytes).expect("a certificate");
    assert_eq!(read.subject, "CN=ann,O=Example", "RFC 4514: the last part first");
    assert_eq!(read.uris, ["spiffe://example.org/web"], "URIs");
    assert_eq!(read.dns, ["a.example"], "DNS names");
    assert_eq!(read.not_after, WallMicros(1_927_843_200_000_000), "2031-02-03T00:00:00Z");
    assert_eq!(read.fingerprint, hex(&Sha256::digest(&bytes)), "the SHA-256 of all its bytes");
    assert_eq!(read.fingerprint.len(), 64, "two letters for a byte");
    assert!(!read.authority, "a leaf");
}

#[test]
fn a_certificate_with_a_name_that_is_none_cannot_be_read() {
    let with_names = |names: &[u8]| {
        let names = names.to_vec();
        let bytes = der(move |params| {
            let content = [&[0x30, u8::try_from(names.len()).expect("short")], &names[..]].concat();
            let extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
            params.custom_extensions.push(extension);
        });
        ClientCertificate::read(&bytes).map(|read| read.dns)
    };
    assert_eq!(with_names(b"\x82\x01a"), Ok(vec!["a".to_owned()]), "a DNS name");
    assert_eq!(with_names(b"\x82\x01a\x82\x01\xff"), Err(Unreadable), "and one that is no IA5 text");
}

#[test]
fn a_subject_cannot_pass_for_another_by_what_stands_in_its_values() {
    for (value, want) in [
        ("ann,O=admins", r"CN=ann\,O=admins"),
        ("ann+UID=root", r"CN=ann\+UID=root"),
        (" ann ", r"CN=\ ann\ "),
        ("#ann", r"CN=\#ann"),
        (r"a\b", r"CN=a\\b"),
        ("a\nb", r"CN=a\0Ab"),
        ("ä", "CN=ä"),
    ] {
        let read = read(|params| params.distinguished_name.push(DnType::CommonName, value));
        assert_eq!(read.subject, want, "{value:?}");
    }
}

#[test]
fn what_is_no_text_is_written_as_bytes() {
    let read = read(|params| {
        let bmp = rcgen::string::BmpString::try_from("hi").expect("BMP");
        params.distinguished_name.push(DnType::CommonName, DnValue::BmpString(bmp));
        params.distinguished_name.push(DnType::from_oid(&[2, 5, 4, 12]), "boss");
    });
    assert_eq!(read.subject, "2.5.4.12=#0c04626f7373,CN=#1e0400680069", "type, or number, and the value's DER");
}

#[test]
fn who_may_sign_for_others_is_an_authority() {
    let by_constraint = read(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let by_usage = read(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let crl = read(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let leaf = read(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!([by_constraint, by_usage, crl, leaf].map(|it| it.authority), [true, true, true, false]);
}

#[test]
fn too_many_or_too_long_names_are_not_read() {
    let many = der(|params| params.subject_alt_names = vec![uri("u:x"); MAX_NAMES + 1]);
    let long = der(|params| params.subject_alt_names = vec![uri(&format!("u:{}", "x".repeat(MAX_NAME)))]);
    let most = der(|params| params.subject_alt_names = vec![uri("u:x"); MAX_NAMES]);
    assert_eq!(ClientCertificate::read(&many), Err(Unreadable), "too many");
    assert_eq!(ClientCertificate::read(&long), Err(Unreadable), "too long");
    assert!(ClientCertificate::read(&most).is_ok(), "as many as may be");
}

#[test]
fn bytes_behind_a_certificate_make_it_unreadable() {
    let mut bytes = der(|_| {});
    bytes.push(0);
    assert_eq!(ClientCertificate::read(&bytes), Err(Unreadable));
}

#[test]
fn a_spiffe_id_is_read_into_trust_domain_and_path() {
    let id = SpiffeId::parse("spiffe://example.org/ns/prod/sa/web-1").expect("an id");
    assert_eq!(id.trust_domain, "example.org");
    assert_eq!(id.path, ["ns", "prod", "sa", "web-1"]);
    assert_eq!(id.to_string(), "spiffe://example.org/ns/prod/sa/web-1", "and back");
}

#[test]
fn what_is_not_exactly_a_spiffe_id_is_none() {
    let long = format!("spiffe://example.org/{}", "a".repeat(MAX_NAME));
    let long_domain = format!("spiffe://{}/a", "a".repeat(MAX_TRUST_DOMAIN + 1));
    for text in [
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/./a",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/a%2Fb",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org/a b",
        "spiffe://example.org/ä",
        "spiffe://example.org/a\0",
        "spiffe://Example.org/a",
        "SPIFFE://example.org/a",
        "spiffe://user@example.org/a",
        "spiffe://example.org:443/a",
        "spiffe:///a",
        "spiffe:example.org/a",
        "https://example.org/a",
        " spiffe://example.org/a",
        "",
        &long,
        &long_domain,
    ] {
        assert_eq!(SpiffeId::parse(text), Err(SpiffeError::Form), "{text:?}");
    }
}

#[test]
fn a_certificate_with_a_spiffe_id_has_no_other_uri_and_is_a_leaf() {
    assert!(matches!(with_uris(&["spiffe://a/b"]).spiffe(), Ok(Some(_))), "the one URI");
    assert_eq!(with_uris(&["https://a/b"]).spiffe(), Ok(None), "no SPIFFE id");
    assert_eq!(with_uris(&[]).spiffe(), Ok(None), "no URI");
    for uris in [["spiffe://a/b", "spiffe://a/c"], ["https://a", "spiffe://a/b"]] {
        assert_eq!(with_uris(&uris).spiffe(), Err(SpiffeError::SeveralUris), "{uris:?}");
    }
    assert_eq!(with_uris(&["Spiffe://a/b"]).spiffe(), Err(SpiffeError::Form), "an id all the same, and a bad one");
    let authority = ClientCertificate { authority: true, ..with_uris(&["spiffe://a/b"]) };
    assert_eq!(authority.spiffe(), Err(SpiffeError::Authority));
}

#[test]
fn expressions_see_null_where_there_is_no_spiffe_id() {
    let certificate = with_uris(&["spiffe://a/b/c"]);
    let id = certificate.spiffe().expect("an id");
    let shown = document(&certificate, id.as_ref());
    assert_eq!(shown["spiffe"], json!({ "id": "spiffe://a/b/c", "trust_domain": "a", "path": ["b", "c"] }));
    assert_eq!(document(&certificate, None)["spiffe"], Value::Null);
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(cut in 0usize..400, at in 0usize..400, byte in any::<u8>()) {
        let mut bytes = FIXED.with(Clone::clone);
        let last = bytes.len() - 1;
        bytes[at.min(last)] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut));
        let _either = ClientCertificate::read(&bytes);
    }

    #[test]
    fn an_id_that_is_read_is_written_as_it_came(text in "spiffe://[a-zA-Z.:_@-]{0,6}(/[a-zA-Z.%_-]{0,3}){0,3}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}

thread_local! {
    /// Signed once: a signature for each case would be most of the time.
    static FIXED: Vec<u8> = der(|params| {
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
    });
}
