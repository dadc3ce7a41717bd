//! As much of the protocol buffers wire format as the Workload API needs: fields that are
//! strings, bytes or messages. Fields of other kinds are passed over, as protobuf asks.

/// Why bytes are not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A number has more than ten bytes.
    #[error("a number in the message is too long")]
    Varint,
    /// A field is of a kind that does not exist or is no longer used.
    #[error("a field is of the unknown wire type {0}")]
    WireType(u64),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// Walks over the length-delimited fields of a message.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next string, bytes or message, with its field number.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &'a [u8])>, WireError> {
        while !self.rest.is_empty() {
            let key = self.varint()?;
            match key & 7 {
                VARINT => drop(self.varint()?),
                FIXED64 => drop(self.take(8)?),
                FIXED32 => drop(self.take(4)?),
                LENGTH_DELIMITED => {
                    let length = self.varint()?;
                    let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
                    return Ok(Some((key >> 3, self.take(length)?)));
                }
                other => return Err(WireError::WireType(other)),
            }
        }
        Ok(None)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = u64::from(*self.take(1)?.first().ok_or(WireError::Truncated)?);
            let bits = byte & 0x7f;
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(WireError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Varint)
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError::NotUtf8)
}

/// Appends a string, bytes or message field; empty ones are left out, as in proto3.
pub(super) fn put(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_always(message, field, bytes);
    }
}

/// Appends a field also when it is empty: an element of a list.
pub(super) fn put_always(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(message, field << 3 | LENGTH_DELIMITED);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(message: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, WireError> {
        let mut walk = Fields::new(message);
        let mut found = Vec::new();
        while let Some((field, bytes)) = walk.next()? {
            found.push((field, bytes.to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn passes_over_fields_of_other_kinds() {
        let message = [
            0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1d, 1, 2, 3, 4, 0x22, 1, 9,
        ];
        assert_eq!(fields(&message), Ok(vec![(4, vec![9])]));
    }

    #[test]
    fn refuses_what_is_cut_off_or_unknown() {
        assert_eq!(fields(&[0x0a]), Err(WireError::Truncated));
        assert_eq!(fields(&[0x0a, 5, 1]), Err(WireError::Truncated));
        assert_eq!(fields(&[0x0b]), Err(WireError::WireType(3)));
        assert_eq!(fields(&[0xff; 11]), Err(WireError::Varint));
        let huge = [&[0x0a][..], &[0xff; 9], &[0x01]].concat();
        assert_eq!(fields(&huge), Err(WireError::Truncated));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(list in prop::collection::vec((1_u64..5000, ".{0,300}"), 0..8)) {
            let mut message = Vec::new();
            for (field, value) in &list {
                put_always(&mut message, *field, value.as_bytes());
            }
            let list: Vec<_> = list.into_iter().map(|(f, v)| (f, v.into_bytes())).collect();
            prop_assert_eq!(fields(&message).unwrap(), list);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = fields(&bytes);
        }
    }
}
