//! Interest and readiness: what we ask of a poller and what it answers.

use std::fmt;
use std::ops::BitOr;

/// Which readiness to wait for. Combine with `|`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    /// There may be something to read, or a connection to accept.
    pub const READABLE: Self = Self(1);
    /// There may be room to write, or a connect has ended.
    pub const WRITABLE: Self = Self(2);

    /// Whether this includes reading.
    pub const fn is_readable(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether this includes writing.
    pub const fn is_writable(self) -> bool {
        self.0 & 2 != 0
    }
}

impl BitOr for Interest {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::READABLE, "READABLE"), (Self::WRITABLE, "WRITABLE")];
        let mut list = names.iter().filter(|(bit, _)| self.0 & bit.0 != 0).map(|(_, name)| *name);
        f.write_str(list.next().unwrap_or("NONE"))?;
        list.try_for_each(|name| write!(f, " | {name}"))
    }
}

/// What a poller reported about a descriptor: a hint that may be spurious, as a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Readiness(u8);

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Something to read, or a connection to accept, or the end of the stream.
    pub const READABLE: Self = Self(1);
    /// Room to write, or a connect has ended.
    pub const WRITABLE: Self = Self(2);
    /// The peer sends no more (its half is shut down). Sticky.
    pub const READ_CLOSED: Self = Self(4);
    /// Both halves are closed (hang-up). Sticky.
    pub const HANG_UP: Self = Self(8);
    /// An error is pending on the descriptor. Sticky until it is read.
    pub const ERROR: Self = Self(16);

    /// The bits, as they travel in a [`Completion`](crate::Completion).
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits; unknown ones are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 31)
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some bit of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no bit is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Readiness {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::READABLE, "READABLE"),
            (Self::WRITABLE, "WRITABLE"),
            (Self::READ_CLOSED, "READ_CLOSED"),
            (Self::HANG_UP, "HANG_UP"),
            (Self::ERROR, "ERROR"),
        ];
        let mut list = names.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| *name);
        f.write_str(list.next().unwrap_or("NONE"))?;
        list.try_for_each(|name| write!(f, " | {name}"))
    }
}
