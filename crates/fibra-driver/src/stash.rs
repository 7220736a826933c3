//! Stashes: what an abandoned op had won already, kept for the next one.
//!
//! An op that is dropped may have succeeded by the time the kernel hears of it. Its bytes are gone
//! from the socket then, the end of the stream has been seen, or an error that is reported only
//! once. All three go here, and the next op of that direction, from whatever model, clone or
//! thread, takes them before it asks the kernel.
//!
//! Rules:
//! 1. Oldest first: bytes come out in the order in which they arrived.
//! 2. [`Stashed::End`] stays: whoever asks is told again, as by the kernel.
//! 3. [`Stashed::Error`] is told once, as by the kernel.
//! 4. Push and take only inside the gate of the direction. Then at most one op's result is kept at
//!    a time, because the next op in that direction finds it: that is the bound of this queue.
//! 5. A connection that was accepted for nobody is closed only with the listener.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::op::Message;
use crate::sys::{self, OwnedFd};

/// What is kept.
#[derive(Debug)]
pub enum Stashed {
    /// Bytes that were received (and how many of them were taken since).
    Bytes(Vec<u8>, usize),
    /// The end of the stream.
    End,
    /// An error that the kernel reports only once, as a negated OS error number.
    Error(i32),
    /// A connection that was accepted.
    Accepted(OwnedFd),
}

/// Kept results of one direction of a socket, oldest first.
#[derive(Debug, Default)]
pub struct Stash {
    /// How many entries `kept` has. Changed under its lock; read without it. `Relaxed` is enough:
    /// by rule 4 the gate orders a push before the next look.
    count: AtomicUsize,
    kept: Mutex<VecDeque<Stashed>>,
}

impl Stash {
    /// Whether nothing is kept: one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Keeps a result. Empty bytes are nothing.
    pub fn push(&self, what: Stashed) {
        if matches!(&what, Stashed::Bytes(bytes, taken) if bytes.len() <= *taken) {
            return;
        }
        let mut kept = self.lock();
        kept.push_back(what);
        self.count.store(kept.len(), Ordering::Relaxed);
    }

    /// Keeps what a receive into a part of `bytes` gave: the beginning of that part, the end of the
    /// stream or an error. A cancelled receive gave nothing.
    pub fn push_received(&self, mut bytes: Vec<u8>, part: Range<usize>, result: i32) {
        match result {
            0 if !part.is_empty() => self.push(Stashed::End),
            sys::CANCELLED | sys::WOULD_BLOCK | sys::NO_BUFFERS => {}
            error @ ..0 => self.push(Stashed::Error(error)),
            count => {
                bytes.truncate(part.start + count as usize);
                self.push(Stashed::Bytes(bytes, part.start));
            }
        }
    }

    /// Keeps what an accept gave: a connection. Its errors concern nobody any more.
    ///
    /// # Safety
    /// If `result` is not negative, it is an open descriptor number that nobody else owns.
    pub unsafe fn push_accepted(&self, result: i32) {
        if result >= 0 {
            // SAFETY: open and nobody else's by the caller's promise.
            self.push(Stashed::Accepted(unsafe { sys::owned_fd(result) }));
        }
    }

    /// Copies kept bytes out, or takes a kept end or error, as the result of a receive.
    ///
    /// # Safety
    /// `buf` is valid for writes of `len` bytes.
    pub unsafe fn recv(&self, buf: *mut u8, len: usize, peek: bool) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        let mut kept = self.lock();
        let mut copied = 0;
        let result = self.take(&mut kept, peek, |bytes| {
            let count = bytes.len().min(len - copied);
            // SAFETY: `copied + count <= len`, and `buf` is valid for `len` by the caller's
            // promise; our own block cannot overlap memory that is lent to us exclusively.
            unsafe { buf.add(copied).copy_from_nonoverlapping(bytes.as_ptr(), count) };
            copied += count;
            count
        });
        self.count.store(kept.len(), Ordering::Relaxed);
        result
    }

    /// The same for a receive into several buffers.
    ///
    /// # Safety
    /// `message` and what it describes is valid for writes.
    pub unsafe fn recv_vectored(&self, message: *mut Message) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: valid by the caller's promise.
        let message = unsafe { &*message };
        let list = message.buffers.cast::<IoSliceMut<'_>>();
        let mut total = 0;
        for index in 0..message.count {
            // SAFETY: in range, and `IoSliceMut` promises the layout of an entry. The copy is only
            // looked at while we are lent the buffers.
            let mut entry = unsafe { list.add(index).read() };
            let (buf, len) = (entry.as_mut_ptr(), entry.len());
            // SAFETY: each buffer is valid for writes by the caller's promise.
            match unsafe { self.recv(buf, len, false) } {
                Some(count @ 1..) => total += count,
                // An end or error after some bytes waits for the next call; an error, told to us
                // now, must not be lost to it.
                Some(error) if error < 0 && total > 0 => {
                    self.push_front(Stashed::Error(error));
                    break;
                }
                Some(result) if total == 0 && len > 0 => return Some(result),
                Some(_) => {}
                None => break,
            }
        }
        (total > 0).then_some(total)
    }

    /// Takes a connection that was accepted for nobody: a descriptor number that the caller owns
    /// from now on, like the result of an accept.
    pub fn accept(&self) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        let mut kept = self.lock();
        let place = kept.iter().position(|what| matches!(what, Stashed::Accepted(_)))?;
        let taken = kept.remove(place);
        self.count.store(kept.len(), Ordering::Relaxed);
        match taken {
            Some(Stashed::Accepted(fd)) => Some(sys::into_raw_fd(fd)),
            _ => None,
        }
    }

    /// Takes an error that an abandoned send or connect was told, as the result of the next one.
    pub fn take_error(&self) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        let mut kept = self.lock();
        let place = kept.iter().position(|what| matches!(what, Stashed::Error(_)))?;
        let taken = kept.remove(place);
        self.count.store(kept.len(), Ordering::Relaxed);
        match taken {
            Some(Stashed::Error(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether something is kept that the kernel would not tell again: all but an end.
    pub fn holds_more_than_the_end(&self) -> bool {
        !self.is_empty() && self.lock().iter().any(|what| !matches!(what, Stashed::End))
    }

    /// How many bytes are kept: a metric.
    pub fn byte_count(&self) -> usize {
        let left = |what: &Stashed| match what {
            Stashed::Bytes(bytes, taken) => bytes.len() - taken,
            _ => 0,
        };
        self.lock().iter().map(left).sum()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Stashed>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_front(&self, what: Stashed) {
        let mut kept = self.lock();
        kept.push_front(what);
        self.count.store(kept.len(), Ordering::Relaxed);
    }

    /// Feeds kept bytes to `copy`, which says how many it took, until it is full or there are no
    /// more; if there were none, an end or error. `copy` is called at most once per entry.
    fn take(
        &self,
        kept: &mut VecDeque<Stashed>,
        peek: bool,
        mut copy: impl FnMut(&[u8]) -> usize,
    ) -> Option<i32> {
        let (mut index, mut total) = (0, None);
        while let Some(what) = kept.get_mut(index) {
            match what {
                Stashed::Bytes(bytes, taken) => {
                    let count = copy(&bytes[*taken..]);
                    *total.get_or_insert(0) += count as i32;
                    if *taken + count < bytes.len() {
                        *taken += if peek { 0 } else { count };
                        break;
                    }
                    if peek {
                        index += 1;
                    } else {
                        kept.pop_front();
                    }
                }
                Stashed::End => return total.or(Some(0)),
                Stashed::Error(error) if total.is_none() => {
                    let error = *error;
                    kept.remove(index);
                    return Some(error);
                }
                Stashed::Error(_) => break,
                Stashed::Accepted(_) => index += 1,
            }
        }
        total
    }
}

#[cfg(all(test, not(loom), unix))]
mod tests {
    use super::*;

    fn recv(stash: &Stash, len: usize, peek: bool) -> Option<Result<Vec<u8>, i32>> {
        let mut buf = vec![0; len];
        // SAFETY: the buffer has that length.
        let result = unsafe { stash.recv(buf.as_mut_ptr(), len, peek) }?;
        Some(usize::try_from(result).map_err(|_| result).map(|count| {
            buf.truncate(count);
            buf
        }))
    }

    #[test]
    fn bytes_come_first_then_an_error_once_then_the_end_for_ever() {
        let stash = Stash::default();
        assert!(stash.is_empty());
        stash.push_received(b"__ab__".to_vec(), 2..6, 2);
        stash.push_received(b"cdef".to_vec(), 0..4, 4);
        stash.push_received(vec![0; 4], 0..4, -libc::ECONNRESET);
        stash.push_received(vec![0; 4], 0..4, 0);
        assert_eq!(stash.byte_count(), 6);
        assert_eq!(recv(&stash, 5, true), Some(Ok(b"abcde".to_vec())), "peek takes nothing");
        assert_eq!(recv(&stash, 3, false), Some(Ok(b"abc".to_vec())));
        assert_eq!(recv(&stash, 9, false), Some(Ok(b"def".to_vec())));
        assert!(stash.holds_more_than_the_end());
        assert_eq!(recv(&stash, 9, false), Some(Err(-libc::ECONNRESET)));
        assert!(!stash.holds_more_than_the_end());
        for _ in 0..3 {
            assert_eq!(recv(&stash, 9, false), Some(Ok(Vec::new())));
        }
        assert!(!stash.is_empty(), "the end stays");
    }

    #[test]
    fn a_receive_that_gave_nothing_keeps_nothing() {
        let stash = Stash::default();
        stash.push_received(vec![0; 4], 0..4, -libc::ECANCELED);
        stash.push_received(vec![0; 4], 2..2, 0);
        stash.push(Stashed::Bytes(vec![1, 2], 2));
        assert!(stash.is_empty());
        assert_eq!(recv(&stash, 4, false), None);
    }

    #[test]
    fn several_buffers_are_filled_in_order_and_an_error_behind_the_bytes_is_not_lost() {
        let stash = Stash::default();
        stash.push(Stashed::Bytes(b"__abcdef".to_vec(), 2));
        stash.push(Stashed::Error(-libc::ECONNRESET));
        let (mut one, mut none, mut two) = ([0; 4], [0; 0], [0; 4]);
        let mut list =
            [IoSliceMut::new(&mut one), IoSliceMut::new(&mut none), IoSliceMut::new(&mut two)];
        let mut message = Message::to_receive(&mut list);
        // SAFETY: the list and its buffers live on this frame.
        assert_eq!(unsafe { stash.recv_vectored(&mut message) }, Some(6));
        // SAFETY: as above.
        let second = unsafe { stash.recv_vectored(&mut message) };
        assert_eq!(second, Some(-libc::ECONNRESET));
        assert!(stash.is_empty());
        assert_eq!((&one, &two[..2]), (b"abcd", &b"ef"[..]));
    }

    #[test]
    fn an_accepted_connection_is_handed_on_or_closed_with_the_stash() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (other, gone) = std::os::unix::net::UnixStream::pair().unwrap();
        let stash = Stash::default();
        stash.push(Stashed::Accepted(ours.into()));
        stash.push(Stashed::Accepted(other.into()));
        // SAFETY: no descriptor in it.
        unsafe { stash.push_accepted(-libc::ECONNABORTED) };
        let fd = stash.accept().unwrap();
        // SAFETY: the stash has handed it over.
        drop(unsafe { sys::owned_fd(fd) });
        let mut byte = [0];
        assert_eq!(std::io::Read::read(&mut &theirs, &mut byte).unwrap(), 0);
        drop(stash);
        assert_eq!(std::io::Read::read(&mut &gone, &mut byte).unwrap(), 0);
    }
}
