//! Reading and writing of C structures, with every length checked.

/// Why bytes are no packet, or no payload of the kind that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field or payload goes beyond the end.
    #[error("{what} needs {needs} bytes at offset {offset}, but only {left} are left")]
    Short { what: &'static str, offset: usize, needs: usize, left: usize },
    /// A field has a value that it cannot have.
    #[error("{what} is {value:#x}")]
    Value { what: &'static str, value: u64 },
    /// Text without its final NUL, or with one inside, or not UTF-8.
    #[error("{what} is no NUL-terminated text")]
    Text { what: &'static str },
    /// A payload of another size than its kind has.
    #[error("{what} has {got} bytes, not {wants}")]
    Size { what: &'static str, wants: usize, got: usize },
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes, at: 0 }
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.all.len() - self.at
    }

    /// The next `needs` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, needs: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let left = self.left();
        if needs > left {
            return Err(WireError::Short { what, offset: self.at, needs, left });
        }
        let bytes = &self.all[self.at..self.at + needs];
        self.at += needs;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// None is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.array(what).map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.array(what).map(u16::from_ne_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_ne_bytes)
    }

    /// Four bytes with a sign.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, WireError> {
        self.array(what).map(i32::from_ne_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_ne_bytes)
    }

    /// A length field, as one counts in memory.
    ///
    /// # Errors
    /// Fewer than four bytes are left.
    pub fn len(&mut self, what: &'static str) -> Result<usize, WireError> {
        // usize has at least 32 bits wherever this daemon runs.
        self.u32(what).map(|n| n as usize)
    }

    /// `u32` length, then as many bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn counted(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let len = self.len(what)?;
        self.take(len, what)
    }

    /// `u32` length that includes a final NUL, then the text; length 0 is the empty text.
    ///
    /// # Errors
    /// Too short, no NUL at the end, one inside, or not UTF-8.
    pub fn counted_text(&mut self, what: &'static str) -> Result<&'a str, WireError> {
        let bytes = self.counted(what)?;
        if bytes.is_empty() { Ok("") } else { text(bytes, what) }
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let bytes = &self.all[self.at..];
        self.at = self.all.len();
        bytes
    }
}

/// Text with its final NUL; what comes after the first NUL is padding.
///
/// # Errors
/// No NUL, or not UTF-8.
pub fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, WireError> {
    let end = bytes.iter().position(|b| *b == 0).ok_or(WireError::Text { what })?;
    std::str::from_utf8(&bytes[..end]).map_err(|_| WireError::Text { what })
}

/// Writes fields one after the other.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty one with room.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, n: u8) -> &mut Self {
        self.raw(&[n])
    }

    /// Two bytes.
    pub fn u16(&mut self, n: u16) -> &mut Self {
        self.raw(&n.to_ne_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, n: u32) -> &mut Self {
        self.raw(&n.to_ne_bytes())
    }

    /// Four bytes with a sign.
    pub fn i32(&mut self, n: i32) -> &mut Self {
        self.raw(&n.to_ne_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, n: u64) -> &mut Self {
        self.raw(&n.to_ne_bytes())
    }

    /// A length field.
    ///
    /// # Panics
    /// Never for what this daemon makes: a packet is limited to [`super::MAX_PACKET`].
    pub fn len_of(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
    }

    /// `u32` length, then the bytes.
    pub fn counted(&mut self, bytes: &[u8]) -> &mut Self {
        self.len_of(bytes).raw(bytes)
    }

    /// Text and its final NUL.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes()).u8(0)
    }

    /// `u32` length with the final NUL, then text and NUL.
    pub fn counted_text(&mut self, text: &str) -> &mut Self {
        let len = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
        self.u32(len).text(text)
    }

    /// As many zero bytes.
    pub fn zeros(&mut self, n: usize) -> &mut Self {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    /// Zero bytes up to a multiple of `n`.
    pub fn pad_to(&mut self, n: usize) -> &mut Self {
        let len = self.0.len().next_multiple_of(n);
        self.0.resize(len, 0);
        self
    }

    /// Bytes so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.0.len()
    }

    pub(super) fn put_u32_at(&mut self, at: usize, n: u32) {
        self.0[at..at + 4].copy_from_slice(&n.to_ne_bytes());
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
