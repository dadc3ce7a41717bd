//! HTTP/2 by hand: frames that no HTTP/2 client would send (RFC 9113 section 4.1).

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::setup::Sidecar;
use super::within;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The error that whoever floods is told (RFC 9113 section 7).
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET https://localhost/` in HPACK: three indexed fields and a literal authority.
pub(crate) fn get_head() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x41, 9][..], b"localhost"].concat()
}

/// A whole request for a path, without a body.
pub(crate) fn get_path(stream: u32, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let path = [&[0x04, length][..], path.as_bytes()].concat();
    let head = [&[0x82, 0x87][..], &path, &[0x41, 9], b"localhost"].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)
}

/// The head of a POST.
pub(crate) fn post_head() -> Vec<u8> {
    [&[0x83, 0x87, 0x84, 0x41, 9][..], b"localhost"].concat()
}

/// A whole request without a body.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_head())
}

/// A literal field that is never indexed, 126 bytes long.
pub(crate) fn literal_field() -> Vec<u8> {
    [&[0x10, 3][..], b"x-a", &[120], &[b'v'; 120]].concat()
}

/// A frame that the sidecar sent.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    /// The error code of a GOAWAY or RST_STREAM.
    pub(crate) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A connection whose frames the test writes and reads.
pub(crate) struct RawHttp2 {
    pub(crate) writer: WriteHalf<TlsStream<TcpStream>>,
    pub(crate) reader: ReadHalf<TlsStream<TcpStream>>,
}

impl RawHttp2 {
    /// Begins with these settings, each an id and its value.
    pub(crate) async fn begin(sidecar: &Sidecar, caller: &str, settings: &[(u16, u32)]) -> Self {
        Self::over(sidecar.stream(caller, &["h2"]).await, settings).await
    }

    /// Begins on a connection that is there.
    pub(crate) async fn over(stream: TlsStream<TcpStream>, settings: &[(u16, u32)]) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let mut raw = Self { writer, reader };
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat();
        raw.send(&begin).await.unwrap();
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// The next frame; nothing once the sidecar has closed.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        let next = async {
            let mut head = [0; 9];
            self.reader.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.reader.read_exact(&mut payload).await.ok()?;
            Some(Received {
                kind: head[3],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            })
        };
        within("the next frame", next).await
    }

    /// The next frame that `wanted` agrees to; nothing where the sidecar closes without it.
    pub(crate) async fn find(&mut self, wanted: impl Fn(&Received) -> bool) -> Option<Received> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads to the end of the connection; the error of the GOAWAY, where there was one.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let mut told = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                told = Some(frame.error());
            }
        }
        told
    }
}
