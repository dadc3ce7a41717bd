//! Distinguished names as text (RFC 4514, which RFC 2253 became), the form that Envoy and
//! OpenSSL write and that `x-forwarded-client-cert` carries.
//!
//! The most specific attribute comes first. Whatever is not printable ASCII is escaped, so
//! that a name can neither break a header nor a log line.

use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Writes a name; empty when it has no attributes.
pub(crate) fn to_text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|set| set.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    match (short_name(&oid), attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escape(value)),
        // RFC 4514 §2.4: an unknown type or a value that is not text is written as its bytes.
        (_, _) => format!("{oid}=#{}", crate::svid::hex(attribute.as_slice())),
    }
}

/// The short names of RFC 4514 §3 and the few more that OpenSSL knows.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => escaped(&mut text, byte),
            b'#' | b' ' if place == 0 => escaped(&mut text, byte),
            b' ' if place == last => escaped(&mut text, byte),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:02X}")),
        }
    }
    text
}

fn escaped(text: &mut String, byte: u8) {
    text.push('\\');
    text.push(char::from(byte));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn printed(attributes: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let parsed = crate::profile::parse(certificate.der()).unwrap();
        to_text(parsed.subject())
    }

    #[test]
    fn writes_the_most_specific_attribute_first() {
        let name = [(DnType::CountryName, "US"), (DnType::CommonName, "cart")];
        assert_eq!(printed(&name), "CN=cart,C=US");
        assert_eq!(printed(&[]), "");
    }

    #[test]
    fn escapes_what_would_break_a_header_or_a_log_line() {
        let name = [(DnType::CommonName, "#a,b\r\nX: \"ö\\ ")];
        assert_eq!(printed(&name), r#"CN=\#a\,b\0D\0AX: \"\C3\B6\\\ "#);
    }

    #[test]
    fn writes_an_unknown_attribute_as_bytes() {
        let name = [(DnType::CustomDnType(vec![1, 2, 3]), "ab")];
        assert_eq!(printed(&name), "1.2.3=#6162");
    }
}
