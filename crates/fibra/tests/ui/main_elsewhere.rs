//! The attribute is for `main` only.

#[fibra::main]
fn serve() {}

fn main() {}
