//! A distinguished name as RFC 4514 writes it. Two different names never read the same.

use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Attribute types with a short name (RFC 4514 §3); all others are written as their number.
const SHORT: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// The name, its last part first.
pub fn text(name: &X509Name<'_>) -> String {
    let parts: Vec<String> =
        name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// `TYPE=value`. A type without a short name, and a value that is no text, are written as bytes (§2.4), so that no text
/// can pass for them.
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(id, _)| *id == number).map(|(_, short)| *short);
    match (short, attribute.as_str()) {
        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
        (short, _) => format!("{}=#{}", short.unwrap_or(&number), bytes(attribute.attr_value())),
    }
}

/// Escapes what would end a value or be taken for another (§2.4).
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', letter]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            letter if letter.is_ascii_control() => text.push_str(&format!("\\{:02X}", u32::from(letter))),
            letter => text.push(letter),
        }
    }
    text
}

/// The DER of a value in hex: tag, length, content.
fn bytes(value: &Any<'_>) -> String {
    let content = value.data;
    let mut der = vec![u8::try_from(value.tag().0).unwrap_or(0)];
    match u8::try_from(content.len()) {
        Ok(short) if short < 128 => der.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let digits: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
            der.push(0x80 | u8::try_from(digits.len()).unwrap_or(0));
            der.extend(digits);
        }
    }
    der.extend_from_slice(content);
    super::hex(&der)
}
