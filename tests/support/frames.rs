//! HTTP/2 as bytes, for requests that no client library would send: frames, header blocks
//! without compression, and what the other side answers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::within;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a frame may carry where the other side has not said otherwise.
const LARGEST: usize = 16_384;

/// A field with its value, as they are put into a header block.
pub(crate) type Field = (&'static str, &'static str);

/// One request: its header block, its body and its trailers, if it has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) head: Vec<Field>,
    pub(crate) data: Option<&'static str>,
    pub(crate) trailers: Vec<Field>,
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer with this status; only those that HPACK's static table has.
    Answered(u16),
    /// An answer with another status.
    AnsweredOther,
    /// RST_STREAM, GOAWAY, or the end of the connection.
    Ended,
}

/// Sends one request on a connection of its own, with `case` as its `x-case` field.
pub(crate) async fn exchange(
    mut stream: TlsStream<TcpStream>,
    request: &Request,
    case: &str,
) -> Outcome {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(encode(request, case));
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    within("the outcome", outcome(&mut stream)).await
}

fn encode(request: &Request, case: &str) -> Vec<u8> {
    let mut head = block(&request.head);
    head.extend(literal("x-case", case));
    let (data, trailers) = (request.data, &request.trailers);
    let end = |last: bool| if last { END_STREAM } else { 0 };
    let last = data.is_none() && trailers.is_empty();
    let mut bytes = headers(end(last), &head);
    if let Some(data) = data {
        bytes.extend(frame(DATA, end(trailers.is_empty()), 1, data.as_bytes()));
    }
    if !trailers.is_empty() {
        bytes.extend(headers(END_STREAM, &block(trailers)));
    }
    bytes
}

/// A header block in as many frames as it takes.
fn headers(flags: u8, block: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = block.chunks(LARGEST).collect();
    let last = parts.len() - 1;
    let mut bytes = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        let first = if number == 0 { flags } else { 0 };
        let ends = if number == last { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, first | ends, 1, part));
    }
    bytes
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn block(fields: &[Field]) -> Vec<u8> {
    let fields = fields.iter();
    fields
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

/// A literal field without indexing (RFC 7541 section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        integer(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(bytes: &mut Vec<u8>, value: usize) {
    let mut rest = match u8::try_from(value) {
        Ok(small) if small < 127 => return bytes.push(small),
        _ => value - 127,
    };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

async fn outcome(stream: &mut TlsStream<TcpStream>) -> Outcome {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Outcome::Ended;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            return Outcome::Ended;
        }
        match head[3] {
            RST_STREAM | GOAWAY => return Outcome::Ended,
            HEADERS => return status(&payload),
            _ => {}
        }
    }
}

/// The indexed status at the beginning of an answer (RFC 7541 appendix A).
fn status(block: &[u8]) -> Outcome {
    let block = match block.first() {
        // A size update of the dynamic table.
        Some(byte) if byte >> 5 == 1 => block.get(1..).unwrap_or_default(),
        _ => block,
    };
    match block.first() {
        Some(0x88) => Outcome::Answered(200),
        Some(0x8c) => Outcome::Answered(400),
        _ => Outcome::AnsweredOther,
    }
}
