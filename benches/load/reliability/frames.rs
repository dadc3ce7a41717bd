//! Frames of HTTP/2 (RFC 9113), written by hand: no client library sends what an attacker sends.

/// What a client begins with: the preface and empty settings.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(Kind::Settings, 0, 0, &[]));
    bytes
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Headers,
    Reset,
    Settings,
    Continuation,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Headers => 1,
            Self::Reset => 3,
            Self::Settings => 4,
            Self::Continuation => 9,
        }
    }
}

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// The largest payload that a peer takes without having said so.
pub(crate) const LARGEST: usize = 16_384;

/// One frame; a payload above [`LARGEST`] is cut there.
pub(crate) fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..LARGEST).unwrap_or(payload);
    let length = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_be_bytes();
    let mut bytes = length.into_iter().skip(1).collect::<Vec<u8>>();
    bytes.extend([kind.number(), flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is not kept in the table. Both texts are shorter than 127 bytes.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap_or_default() & 0x7f);
        bytes.extend(text);
    }
    bytes
}

/// The head of `GET /api/items`.
pub(crate) fn head() -> Vec<u8> {
    // `:method: GET` and `:scheme: https`, from the static table.
    let mut bytes = vec![0x82, 0x87];
    bytes.extend(field(b":path", b"/api/items"));
    bytes.extend(field(b":authority", b"localhost"));
    bytes
}

/// A head that unpacks to some `times` × 3 KiB: a field is put into the table once and then named
/// by one byte each.
pub(crate) fn unpacking_head(times: usize) -> Vec<u8> {
    let mut bytes = head();
    bytes.extend(field(
        super::witness::DENIED.0.as_bytes(),
        super::witness::DENIED.1.as_bytes(),
    ));
    // With indexing, name `x`, and a length of 3,000 as a prefix of seven bits and the rest.
    bytes.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    bytes.extend([b'w'; 3_000]);
    // The first entry of the dynamic table.
    bytes.extend(std::iter::repeat_n(0xbe, times));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_length_kind_flags_and_stream() {
        let bytes = frame(Kind::Headers, END_HEADERS, 5, &[1, 2, 3]);
        assert_eq!(bytes, [0, 0, 3, 1, 4, 0, 0, 0, 5, 1, 2, 3]);
        assert_eq!(
            frame(Kind::Continuation, 0, 1, &[0; 20_000]).len(),
            9 + LARGEST
        );
    }

    #[test]
    fn a_length_of_three_thousand_is_written_as_rfc_7541_has_it() {
        // Section 5.1: 3000 - 127 = 2873 = 0x39 + 0x16 * 128.
        assert_eq!(127 + 0x39 + 0x16 * 128, 3_000);
    }
}
