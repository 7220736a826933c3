//! What blocks runs on another thread.

use std::rc::Rc;

fn main() {
    fibra::run(|| {
        let shared = Rc::new(1);
        fibra::blocking(|| println!("{shared}"));
    });
}
