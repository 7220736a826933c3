//! What must not compile, and what the compiler says about it.
//!
//! The expected messages are in `ui/*.stderr`. They are those of the toolchain in `rust-version`;
//! after an update: `TRYBUILD=overwrite cargo test -p fibra --test ui`, and read the difference.

#[test]
fn what_is_unsound_or_confused_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
