//! Children of a scope borrow what is outside of it, not what lives inside its closure.

fn main() {
    fibra::run(|| {
        fibra::scope(|scope| {
            let inside = String::from("gone when the closure ends");
            scope.spawn(|| println!("{inside}"));
        });
    });
}
