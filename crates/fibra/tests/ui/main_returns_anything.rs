//! What `main` returns must be something a process can end with.

#[fibra::main]
fn main() -> String {
    String::new()
}
