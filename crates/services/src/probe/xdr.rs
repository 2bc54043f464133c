//! XDR (RFC 4506), as much as the probes need. Reading never trusts a length.

use thiserror::Error;

/// The bytes end before the value does, or a length is larger than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum XdrError {
    #[error("the answer ends early")]
    Truncated,
    #[error("a field claims {claimed} bytes, at most {allowed} are possible")]
    TooLong { claimed: u32, allowed: usize },
}

/// Builds XDR.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    /// Several u32 in a row.
    #[must_use]
    pub fn u32s(self, values: &[u32]) -> Self {
        values.iter().fold(self, |writer, value| writer.u32(*value))
    }

    /// Variable-length opaque or string, padded to four bytes. Longer than 4 GiB cannot be said in XDR and
    /// cannot occur here: every caller's value comes from a checked configuration or a bounded answer.
    #[must_use]
    pub fn opaque(mut self, value: &[u8]) -> Self {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self = self.u32(len);
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// What `other` holds, as it is.
    #[must_use]
    pub fn raw(mut self, other: &Self) -> Self {
        self.bytes.extend(&other.bytes);
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads XDR from a bounded answer.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn u32(&mut self) -> Result<u32, XdrError> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(XdrError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*first))
    }

    /// Variable-length opaque of at most `most` bytes.
    pub fn opaque(&mut self, most: usize) -> Result<&'a [u8], XdrError> {
        let claimed = self.u32()?;
        let len = usize::try_from(claimed).unwrap_or(usize::MAX);
        if len > most {
            return Err(XdrError::TooLong { claimed, allowed: most });
        }
        let (value, rest) = self.rest.split_at_checked(len).ok_or(XdrError::Truncated)?;
        let padding = len.next_multiple_of(4) - len;
        self.rest = rest.get(padding..).ok_or(XdrError::Truncated)?;
        Ok(value)
    }

    /// A counted array of u32, at most `most` of them.
    pub fn u32s(&mut self, most: usize) -> Result<Vec<u32>, XdrError> {
        let claimed = self.u32()?;
        if usize::try_from(claimed).unwrap_or(usize::MAX) > most {
            return Err(XdrError::TooLong { claimed, allowed: most });
        }
        (0..claimed).map(|_| self.u32()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_with_padding() {
        let bytes = Writer::new().u32(7).opaque(b"abcde").u32s(&[2, 8, 9]).finish();
        assert_eq!(bytes.len(), 4 + 4 + 8 + 12);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u32(), Ok(7));
        assert_eq!(reader.opaque(64), Ok(&b"abcde"[..]));
        assert_eq!(reader.u32s(4), Ok(vec![8, 9]));
        assert_eq!(reader.u32(), Err(XdrError::Truncated));
    }

    #[test]
    fn lying_lengths_are_refused() {
        let lie = Writer::new().u32(u32::MAX).finish();
        assert_eq!(Reader::new(&lie).opaque(64), Err(XdrError::TooLong { claimed: u32::MAX, allowed: 64 }));
        assert_eq!(Reader::new(&lie).u32s(8), Err(XdrError::TooLong { claimed: u32::MAX, allowed: 8 }));
        let short = Writer::new().u32(60).u32(1).finish();
        assert_eq!(Reader::new(&short).opaque(64), Err(XdrError::Truncated));
        let unpadded = [0, 0, 0, 1, b'x'];
        assert_eq!(Reader::new(&unpadded).opaque(64), Err(XdrError::Truncated));
    }
}
