//! The two attributes, and where they differ.

/// One of the attributes of this crate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// `#[fibra::main]`
    Main,
    /// `#[fibra::test]`
    Test,
}

impl Attribute {
    /// As the user writes it, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "#[fibra::main]",
            Self::Test => "#[fibra::test]",
        }
    }
}
