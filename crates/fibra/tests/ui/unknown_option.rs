//! Options are checked where they stand.

#[fibra::main(threads = 2)]
fn main() {}
