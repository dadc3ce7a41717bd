//! The server name in a TLS ClientHello that is only passed on. It says whom the caller means, not
//! where its bytes go: that is up to whoever resolves the name.

use rustls::server::Acceptor;

/// The largest ClientHello that is waited for: one TLS record.
const MOST: usize = 16 * 1024 + 5;
/// How a TLS handshake begins: its record type and the major version.
const HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// What the first bytes of a connection say about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// They are for this server.
    Names(String),
    /// They name no server, or are no TLS at all.
    NamesNobody,
    /// More bytes are needed to tell.
    Unsure,
}

/// Reads the server name in the first bytes of a connection.
pub(crate) fn server_name(bytes: &[u8]) -> Hello {
    let begins = bytes.get(..HANDSHAKE.len()).unwrap_or(bytes);
    if !HANDSHAKE.starts_with(begins) || bytes.len() > MOST {
        return Hello::NamesNobody;
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Hello::NamesNobody;
        }
    }
    match acceptor.accept() {
        Ok(None) => Hello::Unsure,
        Ok(Some(accepted)) => match accepted.client_hello().server_name() {
            Some(name) => Hello::Names(name.to_ascii_lowercase()),
            None => Hello::NamesNobody,
        },
        Err(_) => Hello::NamesNobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_client_names_the_server_that_it_means() {
        let bytes = hello("Api.example");
        assert_eq!(server_name(&bytes), Hello::Names("api.example".into()));
        assert_eq!(server_name(&hello("192.0.2.1")), Hello::NamesNobody);
        for length in 0..bytes.len() {
            assert_eq!(server_name(&bytes[..length]), Hello::Unsure, "{length}");
        }
    }

    #[test]
    fn what_is_no_handshake_names_nobody() {
        for bytes in [
            &b"SSH-2.0"[..],
            b"\x16\x04",
            b"\x17\x03\x03",
            b"\x16\x03\x03\0\x04\x02\0\0\0",
        ] {
            assert_eq!(server_name(bytes), Hello::NamesNobody, "{bytes:?}");
        }
        let endless = [&HANDSHAKE[..], &[0x03; MOST]].concat();
        assert_eq!(server_name(&endless), Hello::NamesNobody);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            let _ = server_name(&[&HANDSHAKE[..], &bytes].concat());
        }
    }
}
