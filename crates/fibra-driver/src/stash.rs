//! Stashes: what an abandoned op had won already, kept for the next one. (Stub: being written.)

/// What is kept.
#[derive(Debug)]
pub enum Stashed {
    /// Bytes that were received (and how many of them were taken since).
    Bytes(Vec<u8>, usize),
    /// The end of the stream.
    End,
    /// An error that the kernel reports only once, as a negated OS error number.
    Error(i32),
}

/// Kept results of one direction of a socket, oldest first.
#[derive(Debug, Default)]
pub struct Stash;

impl Stash {
    /// Whether nothing is kept: one load.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Keeps a result.
    pub fn push(&self, _what: Stashed) {
        unimplemented!()
    }
    /// Copies kept bytes out, or takes a kept end or error, as the result of a receive.
    ///
    /// # Safety
    /// `buf` is valid for writes of `len` bytes.
    pub unsafe fn recv(&self, _buf: *mut u8, _len: usize, _peek: bool) -> Option<i32> {
        unimplemented!()
    }
}
