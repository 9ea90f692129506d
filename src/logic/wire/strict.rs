//! The strict gate for raw HTTP/1 heads, before any parser that is kinder (reliability.md "HTTP/1 strictness"), and
//! for request targets. Decides which headers never travel on. Does not route.

use crate::domain::refusal::Refusal;

/// How large a head may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes, the blank line included.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
}

/// The limits that [`check_head`] holds.
pub const HEAD_LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 100 };

/// Longest method that is a method.
const MAX_METHOD: usize = 32;

fn refuse(status: u16, detail: &'static str) -> Refusal {
    Refusal::MalformedRequest { status, detail }
}

fn bad(detail: &'static str) -> Refusal {
    refuse(400, detail)
}

/// Checks a raw HTTP/1 head that ends in CRLF CRLF.
///
/// # Errors
/// [`Refusal::MalformedRequest`] with 400, 405, 431, 501 or 505; the connection must be closed.
pub fn check_head(head: &[u8]) -> Result<(), Refusal> {
    if head.len() > HEAD_LIMITS.bytes {
        return Err(refuse(431, "the head is larger than 64 KiB"));
    }
    let lines = head.strip_suffix(b"\r\n\r\n").ok_or(bad("the head does not end in an empty line"))?;
    let mut lines = Lines(Some(lines));
    let version = check_request_line(lines.next().unwrap_or_default())?;
    let mut seen = Framing::default();
    for (index, line) in lines.enumerate() {
        if index >= HEAD_LIMITS.fields {
            return Err(refuse(431, "more than 100 header fields"));
        }
        seen.field(line)?;
    }
    seen.judge(version)
}

/// Splits at CRLF alone; other line ends stay in the line and are refused there.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.take()?;
        match memchr::memmem::find(rest, b"\r\n") {
            Some(end) => {
                self.0 = Some(&rest[end + 2..]);
                Some(&rest[..end])
            }
            None => Some(rest),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn check_request_line(line: &[u8]) -> Result<Version, Refusal> {
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(bad("a bare CR, LF or NUL in the request line"));
    }
    let parts: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(bad("the request line is not `METHOD target HTTP/1.x`"));
    };
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|byte| is_token(*byte)) {
        return Err(bad("the method is not a token"));
    }
    if method == b"CONNECT" {
        return Err(refuse(405, "CONNECT is not supported"));
    }
    check_raw_target(method, target)?;
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(refuse(505, "only HTTP/1.1 and HTTP/1.0 are supported here"))
        }
        _ => Err(bad("the request line has no HTTP version")),
    }
}

fn check_raw_target(method: &[u8], target: &[u8]) -> Result<(), Refusal> {
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(bad("a control, space or non-ASCII byte in the target"));
    }
    if target.contains(&b'#') {
        return Err(bad("a fragment in the target"));
    }
    let absolute = [&b"http://"[..], b"https://"].iter().any(|scheme| starts_with_ignoring_case(target, scheme));
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        _ if absolute => Err(bad("the target must be a path")),
        _ => Err(bad("the target does not start with `/`")),
    }
}

fn starts_with_ignoring_case(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// The fields that decide where a message ends and whom it is for.
#[derive(Default)]
struct Framing {
    hosts: usize,
    lengths: usize,
    codings: usize,
}

impl Framing {
    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(bad("a folded header line"));
        }
        let colon = memchr::memchr(b':', line).ok_or(bad("a header line without a colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(bad("a header name that is not a token"));
        }
        if line[colon + 1..].iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err(bad("a control byte in a header value"));
        }
        // A proxy that maps `_` to `-` behind us must not find a second framing header.
        let plain: Vec<u8> = name.iter().map(|byte| swap(*byte)).collect();
        match &plain[..] {
            b"host" => self.host(value),
            b"content-length" => self.length(value),
            b"transfer-encoding" => self.coding(value),
            _ => return Ok(()),
        }?;
        if name.contains(&b'_') { Err(bad("a framing header written with `_`")) } else { Ok(()) }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.hosts += 1;
        if self.hosts > 1 {
            return Err(bad("more than one Host"));
        }
        if is_host(value) { Ok(()) } else { Err(bad("the Host is not a host")) }
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.lengths += 1;
        if self.lengths > 1 {
            return Err(bad("more than one Content-Length"));
        }
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
        number.filter(|length| i64::try_from(*length).is_ok()).map(drop).ok_or(bad("Content-Length is not one number"))
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.codings += 1;
        if self.codings > 1 {
            return Err(bad("more than one Transfer-Encoding"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            return Ok(());
        }
        let single = !value.is_empty() && value.iter().all(|byte| is_token(*byte));
        let status = if single { 501 } else { 400 };
        Err(refuse(status, "Transfer-Encoding is not exactly `chunked`"))
    }

    fn judge(&self, version: Version) -> Result<(), Refusal> {
        if self.codings > 0 && self.lengths > 0 {
            return Err(bad("both Content-Length and Transfer-Encoding"));
        }
        match version {
            Version::Http10 if self.codings > 0 => Err(bad("Transfer-Encoding on HTTP/1.0")),
            Version::Http11 if self.hosts == 0 => Err(bad("no Host")),
            _ => Ok(()),
        }
    }
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Host and optional port: a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
        Some(_) => return false,
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let named = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let port_ok = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    named && port_ok
}

/// Checks a target's path before routing: what a backend might read as another path is refused, never rewritten.
/// A query, if there is one, is not looked at.
///
/// # Errors
/// [`Refusal::MalformedRequest`] with 400.
pub fn check_target(path: &str) -> Result<(), Refusal> {
    let path = path.split('?').next().unwrap_or_default();
    if !path.starts_with('/') && path != "*" {
        return Err(bad("the path does not start with `/`"));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains(['\\', '#']) {
        return Err(bad("a control, space, backslash, `#` or non-ASCII byte in the path"));
    }
    if path.contains("//") {
        return Err(bad("an empty segment in the path"));
    }
    check_escapes(path.as_bytes())?;
    let dots = |segment: &str| {
        let name = segment.split(';').next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
        matches!(name.as_str(), "." | "..") || (name.is_empty() && segment.contains(';'))
    };
    if path.split('/').any(dots) {
        return Err(bad("a dot segment in the path"));
    }
    Ok(())
}

/// Escapes must be whole, and must not hide what separates: controls, `/`, `\`, `%`, `;` and DEL.
fn check_escapes(path: &[u8]) -> Result<(), Refusal> {
    for (index, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = path.get(index + 1..index + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let hex = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or(bad("a broken escape in the path"))?;
        if byte < b' ' || matches!(byte, b'/' | b'\\' | b'%' | b';' | 0x7f) {
            return Err(bad("an escaped separator or control in the path"));
        }
    }
    Ok(())
}

/// Lower case, `_` as `-`.
fn swap(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

/// Compares a header's name with a list, in any case and with `_` for `-`.
fn is_one_of(name: &str, list: &[&str]) -> bool {
    list.iter().any(|known| known.len() == name.len() && name.bytes().map(swap).eq(known.bytes()))
}

/// True where two header names are the same to someone who maps `_` to `-`; in any case.
#[must_use]
pub fn same_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(swap).eq(other.bytes().map(swap))
}

/// True for headers that end at this hop (RFC 9110 §7.6.1), and `expect`, which Weir answers itself. What a
/// `Connection` header nominates must be removed as well: see [`nominated`].
#[must_use]
pub fn hop_by_hop(name: &str) -> bool {
    is_one_of(
        name,
        &[
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "trailers",
            "transfer-encoding",
            "upgrade",
            "expect",
            "http2-settings",
        ],
    )
}

/// True if a `Connection` header's value names this header.
#[must_use]
pub fn nominated(connection: &str, name: &str) -> bool {
    connection.split(',').any(|word| word.trim().eq_ignore_ascii_case(name))
}

/// True for headers that a client must not be able to set upstream: credentials, and what claims to come from a
/// gateway (reliability.md "Header spoofing"). In any case, and with `_` for `-`.
#[must_use]
pub fn spoofed(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "x-tenant-id",
        "forwarded",
        "x-real-ip",
        "x-request-priority",
        "x-worker-id",
        "x-data-parallel-rank",
        "x-request-id",
    ];
    const STARTS: [&str; 7] = ["x-user-", "x-org-", "x-quota-", "x-envoy-", "x-forwarded-", "x-gateway-", "x-weir-"];
    let starts =
        |start: &&str| name.len() >= start.len() && name.bytes().map(swap).zip(start.bytes()).all(|(a, b)| a == b);
    is_one_of(name, &NAMES) || STARTS.iter().any(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The status that a head gets; 200 if it passes. `⏎` is CRLF.
    fn status(head: &str) -> u16 {
        match check_head(head.replace('⏎', "\r\n").as_bytes()) {
            Ok(()) => 200,
            Err(refusal) => refusal.status(),
        }
    }

    #[test]
    fn every_row_of_the_strictness_table_holds() {
        for (fields, want) in [
            ("", 200),
            ("Content-Length: 3⏎", 200),
            ("Transfer-Encoding: chunked⏎", 200),
            ("Transfer-Encoding: Chunked ⏎", 200),
            ("X: a\tb é⏎", 200),
            ("Content-Length: 5⏎Transfer-Encoding: chunked⏎", 400),
            ("Transfer-Encoding: chunked⏎Content-Length: 5⏎", 400),
            ("Content-Length: 3⏎Content-Length: 5⏎", 400),
            ("Content-Length: 3⏎Content-Length: 3⏎", 400),
            ("Content-Length: 3, 3⏎", 400),
            ("Content-Length: 0x3⏎", 400),
            ("Content-Length: +3⏎", 400),
            ("Content-Length: -3⏎", 400),
            ("Content-Length:⏎", 400),
            ("Content-Length: 18446744073709551619⏎", 400),
            ("Content_Length: 3⏎", 400),
            ("Content-Length : 3⏎", 400),
            ("Transfer-Encoding: xchunked⏎", 501),
            ("Transfer-Encoding: identity, chunked⏎", 400),
            ("Transfer-Encoding: ,chunked⏎", 400),
            ("Transfer-Encoding:⏎ chunked⏎", 400),
            ("Transfer-Encoding: chunked, chunked⏎", 400),
            ("Transfer-Encoding: chunked⏎Transfer-Encoding: chunked⏎", 400),
            ("Transfer-Encoding: \x0bchunked⏎", 400),
            ("X-A: b\0c⏎", 400),
            ("X-A: b\rc⏎", 400),
            ("X-A: b\nY: c⏎", 400),
            (" X: y⏎", 400),
            ("X⏎", 400),
            (": x⏎", 400),
            ("Host: b⏎", 400),
        ] {
            assert_eq!(status(&format!("POST /x HTTP/1.1⏎Host: a⏎{fields}⏎")), want, "{fields:?}");
        }
    }

    #[test]
    fn request_lines_and_hosts_are_strict() {
        for (head, want) in [
            ("GET /x HTTP/1.0⏎⏎", 200),
            ("OPTIONS * HTTP/1.1⏎Host: a⏎⏎", 200),
            ("GET /x HTTP/1.1⏎Host: [::1]:8080⏎⏎", 200),
            ("GET /x%0d%0aX:%20y HTTP/1.1⏎Host: a.b:80⏎⏎", 200),
            ("GET /x HTTP/1.2⏎Host: a⏎⏎", 505),
            ("GET /x HTTP/2.0⏎Host: a⏎⏎", 505),
            ("GET /x⏎⏎", 400),
            ("GET  /x HTTP/1.1⏎Host: a⏎⏎", 400),
            ("GET /x y HTTP/1.1⏎Host: a⏎⏎", 400),
            ("GET /x HTTP/1.1 ⏎Host: a⏎⏎", 400),
            ("GET /é HTTP/1.1⏎Host: a⏎⏎", 400),
            ("GET x HTTP/1.1⏎Host: a⏎⏎", 400),
            ("G(T /x HTTP/1.1⏎Host: a⏎⏎", 400),
            ("CONNECT internal:22 HTTP/1.1⏎Host: a⏎⏎", 405),
            ("GET /x HTTP/1.1⏎⏎", 400),
            ("GET /x HTTP/1.1⏎Host:⏎⏎", 400),
            ("GET /x HTTP/1.1⏎Host: a b⏎⏎", 400),
            ("GET /x HTTP/1.1⏎Host: a/b⏎⏎", 400),
            ("GET /x HTTP/1.1⏎Host: a:99999⏎⏎", 400),
            ("GET /x HTTP/1.1⏎Host: a@b⏎⏎", 400),
            ("GET /x HTTP/1.1\nHost: a\n\n", 400),
            ("⏎GET /x HTTP/1.1⏎Host: a⏎⏎", 400),
            ("GET /x HTTP/1.0⏎Transfer-Encoding: chunked⏎⏎", 400),
        ] {
            assert_eq!(status(head), want, "{head:?}");
        }
    }

    #[test]
    fn heads_are_bounded() {
        let many = |count: usize| format!("GET / HTTP/1.1⏎Host: a⏎{}⏎", "X: y⏎".repeat(count - 1));
        assert_eq!((status(&many(100)), status(&many(101))), (200, 431), "100 fields");
        assert_eq!(status(&format!("GET / HTTP/1.1⏎Host: a⏎X: {}⏎⏎", "a".repeat(65_536))), 431, "64 KiB");
    }

    #[test]
    fn a_path_means_the_same_to_everyone_or_is_refused() {
        for good in ["/", "/v1/models", "/a.b/..c/", "/x%20y", "/v1;a=b/x", "/v1?a=//../", "/%c3%a9", "*"] {
            assert_eq!(check_target(good), Ok(()), "{good}");
        }
        for wrong in [
            "/v1/../admin",
            "/v1/%2e%2e/admin",
            "/v1/.%2E/a",
            "/v1/./a",
            "//admin",
            "/v1\\..\\a",
            "/v1;x/../",
            "/..;/a",
            "/v1/..",
            "/a%2fb",
            "/a%5Cb",
            "/a%00",
            "/a%0d%0a",
            "/a%252e",
            "/a%",
            "/a%g1",
            "/é",
            "/a b",
            "v1",
            "",
            "/;/a",
        ] {
            assert!(check_target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn claims_of_the_client_stop_here() {
        for name in ["Authorization", "x_api_key", "X-Forwarded-For", "x_forwarded_host", "X-USER-id", "Forwarded"] {
            assert!(spoofed(name), "{name}");
        }
        for name in ["x-weir-tenant", "X-Weir-User", "x_weir_key", "x-weir_signature", "X_WEIR-TEAM", "x-weir-"] {
            assert!(spoofed(name), "{name} is ours to say");
        }
        assert!(same_name("X_My-Key", "x-my_key") && !same_name("x-my-key", "x-my-keys"), "one name in many spellings");
        assert!(!spoofed("content-type") && !spoofed("x-user") && !spoofed("x-sim-fault"), "others pass");
        assert!(hop_by_hop("Transfer_Encoding") && hop_by_hop("TE") && !hop_by_hop("accept"), "hop by hop");
        assert!(nominated("close, X-Tenant-Id", "x-tenant-id") && !nominated("close", "x"), "nomination");
    }

    proptest! {
        #[test]
        fn what_passes_has_one_framing(
            fields in proptest::collection::vec("(Content-Length|Transfer-Encoding|Host|X)[ _]?:[ \r\n,chunked0-9]{0,9}\r\n", 0..4)
        ) {
            let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.concat());
            if check_head(head.as_bytes()).is_ok() {
                let lower = head.to_ascii_lowercase();
                let lines: Vec<&str> = lower.split("\r\n").collect();
                let count = |name: &str| lines.iter().filter(|line| line.split_once(':').is_some_and(|(start, _)| start == name)).count();
                prop_assert!(count("content-length") + count("transfer-encoding") <= 1, "{:?}", head);
                prop_assert_eq!(count("host"), 1, "{:?}", head);
                prop_assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])), "{:?}", head);
            }
        }
    }
}
