//! What a fiber returns is joined on any thread.

use std::rc::Rc;

fn main() {
    fibra::run(|| {
        let _ = fibra::spawn(|| Rc::new(1)).join();
    });
}
