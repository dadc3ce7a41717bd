//! Somebody speaks HTTP without TLS where mutual TLS is asked for: a TLS alert would be noise to it
//! (curl: "Received HTTP/0.9 when not allowed"), so it is told in its own protocol, before anything
//! that it said is read. (A client of HTTP/2 with prior knowledge is told the same: that the server does
//! not speak HTTP/2 is what it takes from it.)

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// In logs and in `wayleave_handshakes_total`.
pub(crate) const REASON_CODE: &str = "plaintext";

/// A problem document (RFC 9457), as all that the sidecar says in an upstream's place.
const DOCUMENT: &str = concat!(
    r#"{"type":"about:blank","title":"Bad Request","status":400,"#,
    r#""detail":"this port takes mutual TLS alone: use https, with a client certificate","#,
    r#""reason_code":"plaintext"}"#,
);
/// What is read and thrown away, so that the answer is not lost to a reset of the connection.
const UNREAD: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a connection that begins with this byte could be HTTP: all methods begin with a letter, and
/// those in use with a capital one; no TLS record does (RFC 9110 section 9.1, RFC 8446 section 5.1).
pub(crate) fn is_http(first_byte: u8) -> bool {
    first_byte.is_ascii_uppercase()
}

/// Says so, and closes. That it cannot be said is nobody's loss.
pub(crate) async fn answer(mut socket: TcpStream) {
    let _ = tokio::time::timeout(PATIENCE, say(&mut socket)).await;
}

async fn say(socket: &mut TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\
         cache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{DOCUMENT}",
        DOCUMENT.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await?;
    let (mut piece, mut left) = ([0; 1024], UNREAD);
    while left > 0 {
        let read = socket.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_not_taken_for_http() {
        assert!(is_http(b'G') && is_http(b'P'));
        // TLS records have types from 20 to 24; SSL 2 begins with the high bit.
        assert!(!(20..=24).chain(0x80..=0xff).any(is_http));
    }

    #[test]
    fn the_document_is_one() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["status"], 400);
        assert_eq!(document["reason_code"], REASON_CODE);
    }
}
