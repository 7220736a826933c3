//! The main fiber runs on another thread than the caller of `run`.

use std::rc::Rc;

fn main() {
    let shared = fibra::run(|| Rc::new(1));
    println!("{shared}");
}
