//! `main` has no arguments.

#[fibra::main]
fn main(words: Vec<String>) {
    drop(words);
}
