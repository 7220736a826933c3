//! A fiber waits by calling; there is nothing to await.

#[fibra::main]
async fn main() {}
