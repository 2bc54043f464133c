//! Many records in pieces, so that nobody has to hold all of them at once.

/// Bytes of a piece, about.
const PIECE: usize = 256 * 1024;

/// Collects, and gives a piece on whenever it is large enough.
pub(super) struct Pieces<T, G: FnMut(Vec<T>, bool)> {
    items: Vec<T>,
    bytes: usize,
    give: G,
}

impl<T, G: FnMut(Vec<T>, bool)> Pieces<T, G> {
    pub(super) fn new(give: G) -> Self {
        Self { items: Vec::new(), bytes: 0, give }
    }

    /// One more, of so many bytes.
    pub(super) fn push(&mut self, item: T, bytes: usize) {
        // An entry takes some room in a packet beside its key and value.
        const AROUND: usize = 32;
        self.items.push(item);
        self.bytes += bytes + AROUND;
        if self.bytes >= PIECE {
            self.bytes = 0;
            (self.give)(std::mem::take(&mut self.items), false);
        }
    }

    /// That was all.
    pub(super) fn finish(mut self) {
        (self.give)(self.items, true);
    }
}
