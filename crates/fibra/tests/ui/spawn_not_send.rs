//! What is spawned starts on any worker, so it must be `Send`.

use std::rc::Rc;

fn main() {
    fibra::run(|| {
        let shared = Rc::new(1);
        fibra::spawn(move || println!("{shared}"));
    });
}
