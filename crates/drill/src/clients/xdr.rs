//! XDR (RFC 4506): just what NFS needs. Reading checks every length against what is there.

use anyhow::{Result, bail};

/// Appends XDR items.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend(v.to_be_bytes());
        self
    }

    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend(v.to_be_bytes());
        self
    }

    /// Variable-length opaque or string, padded to four bytes.
    pub fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// Takes XDR items from the front.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn skip(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.0.len() {
            bail!("the reply ends {} bytes early", n - self.0.len());
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let b = self.skip(4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    pub fn opaque(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()? as usize;
        let bytes = self.skip(len)?;
        self.skip(len.next_multiple_of(4) - len)?;
        Ok(bytes)
    }

    /// An optional fixed-size item (post-op attributes are 84 bytes).
    pub fn optional(&mut self, size: usize) -> Result<()> {
        if self.u32()? != 0 {
            self.skip(size)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Writer};

    #[test]
    fn opaque_is_padded_and_read_back() {
        let mut w = Writer::default();
        w.opaque(b"abcde").u32(7);
        assert_eq!(w.0.len(), 4 + 8 + 4);
        let mut r = Reader(&w.0);
        assert_eq!(r.opaque().unwrap(), b"abcde");
        assert_eq!(r.u32().unwrap(), 7);
    }

    #[test]
    fn a_lying_length_is_an_error() {
        let mut w = Writer::default();
        w.u32(1000).u32(1);
        assert!(Reader(&w.0).opaque().is_err());
        assert!(Reader(&[0, 0]).u32().is_err());
    }
}
